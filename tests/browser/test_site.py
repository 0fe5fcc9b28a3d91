"""The built site, page by page: it stands alone, it can be read, and what should move moves."""

import json
import re
from contextlib import suppress
from itertools import pairwise
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from chapters import ROOT, WIDGET_VIEW, chapters, tags
from conftest import DESKTOP, desktop
from playwright.sync_api import TimeoutError

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
FILES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
PAGES = [f"{file}.html" for file in FILES]
PHONE = {"width": 400, "height": 800}
CHAPTERS = [pytest.param(path, id=path.stem[:2]) for path in chapters()]
EXPLORER = next(path for path in chapters() if path.stem.startswith("04-"))
MAP = next(path for path in chapters() if path.stem.startswith("01-"))

every_chapter = pytest.mark.parametrize("chapter", CHAPTERS)

# Everything that is drawn by a script has been drawn: figures, formulas, saved widgets.
SETTLED = """() => document.readyState === 'complete'
  && [...document.querySelectorAll('.plotly-graph-div')].every(d => d.querySelector('.main-svg'))
  && document.querySelectorAll('.math').length <= document.querySelectorAll('.math mjx-container').length
  && [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')]
       .every(s => s.parentElement.querySelector('.jupyter-widgets'))"""

# Texts whose contrast with what lies behind them is too low: 4.5 to 1, or 3 to 1 for large ones (WCAG AA).
UNREADABLE = """() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgba = color => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below, share = 1) => {
    const a = top[3] * share;
    return [0, 1, 2].map(i => top[i] * a + below[i] * (1 - a)).concat(1);
  };
  const luminance = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const FIELDS = 'select, textarea, input:not([type=checkbox], [type=radio], [type=range])';
  const bad = new Map();
  for (const element of document.body.querySelectorAll('*')) {
    const text = element.matches(FIELDS) ? 'what is typed or chosen'
      : [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();
    if (!text || element.closest('script, style, noscript, option, mjx-container')) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;  // for screen readers only
    const style = getComputedStyle(element), back = behind(element);
    let share = 1;
    for (let e = element; e; e = e.parentElement) share *= getComputedStyle(e).opacity;
    const front = over(rgba(element.closest('svg') ? style.fill : style.color), back, share);
    const [dark, light] = [luminance(front), luminance(back)].sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5))
      bad.set(`${element.tagName}.${element.getAttribute('class')} ${style.color}`,
              `${ratio.toFixed(2)}: "${text.slice(0, 40)}" in <${element.tagName.toLowerCase()} class="` +
              `${element.getAttribute('class') ?? ''}">, rgb(${front.slice(0, 3).map(Math.round)}) on ` +
              `rgb(${back.slice(0, 3).map(Math.round)})`);
  }
  return [...bad.values()];
}"""

# Make everything visible: what is folded, and what a quiz says to right and to wrong answers.
UNFOLD = """() => {
  document.querySelectorAll('details').forEach(details => { details.open = true; });
  const quizzes = document.querySelectorAll('.Quiz');
  quizzes.forEach((quiz, i) => quiz.querySelector(`label[data-correct=${i % 2 > 0}]`)?.click());
}"""

# Pictures without a name: images, what calls itself one, drawings and figures of the chapters.
NAMELESS = """() => {
  const named = e => ['alt', 'aria-label'].some(a => e.getAttribute(a)?.trim())
    || e.querySelector(':scope > title')?.textContent.trim()
    || (e.getAttribute('aria-labelledby') ?? '').split(' ').some(id => document.getElementById(id)?.textContent.trim());
  return [...document.querySelectorAll('img, [role=img], article svg, .js-plotly-plot')]
    .filter(e => !e.closest('mjx-container, [aria-hidden=true], button[aria-label]'))
    .filter(e => { for (let up = e; up; up = up.parentElement) if (named(up) && (up === e || up.matches('[role=img]')))
                     return false; return true; })
    .map(e => e.outerHTML.slice(0, 120));
}"""

# What sticks out of the page to the right and is in no box that scrolls by itself.
STICKS_OUT = """() => [...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility())
  .filter(e => { for (let up = e.parentElement; up !== document.body; up = up.parentElement)
                   if (getComputedStyle(up).overflowX !== 'visible' || getComputedStyle(up).position === 'fixed')
                     return false; return true; })
  .map(e => e.outerHTML.slice(0, 120)).slice(0, 5)"""


# The shapes of the lines that a figure draws.
LINES = "plot => [...plot.querySelectorAll('.scatterlayer path.js-line')].map(p => p.getAttribute('d')).join()"


def show(page, site, name: str) -> None:
    """Open a page of the site and wait until its scripts have drawn everything; the tests say what is missing."""
    page.goto(f"{site.url}/{name}")
    with suppress(TimeoutError):
        page.wait_for_function(SETTLED, timeout=15_000)


@pytest.fixture(scope="module", params=PAGES)
def visit(browser, site, request):
    """Open a page of the site once for all the tests that only look at it: (page, log)."""
    with desktop(browser) as (page, log):
        show(page, site, request.param)
        page.wait_for_load_state("networkidle")
        page.evaluate(UNFOLD)
        yield page, log


@pytest.fixture(scope="module", params=CHAPTERS)
def reading(browser, site, request):
    """Open a chapter once for all the tests that use what is in it: (page, chapter)."""
    with desktop(browser) as (page, _):
        show(page, site, page_of(request.param))
        yield page, request.param


def page_of(chapter) -> str:
    return f"book/{chapter.stem}.html"


def quiz_of(chapter) -> list[dict]:
    path = ROOT / "rrhelpers" / "data" / "quizzes" / f"{chapter.stem}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(chapter) -> str:
    return "\n".join(cell.source for cell in nbformat.read(chapter, as_version=4).cells if cell.cell_type == "code")


def figures_of(chapter) -> list[str]:
    """Return the names of the figures that the chapter's saved outputs hold."""
    outputs = [output for cell in nbformat.read(chapter, as_version=4).cells for output in cell.get("outputs", [])]
    pages = [output.get("data", {}).get("text/html", "") for output in outputs]
    return re.findall(r'id="([\w-]+)" class="plotly-graph-div"', "".join(pages))


def solutions_of(chapter) -> list:
    cells = nbformat.read(chapter, as_version=4).cells
    return [cell for cell in cells if "solution" in tags(cell)]


def test_page_stands_alone(visit):
    _, log = visit
    assert not log.problems(), "\n".join(log.problems())


def test_page_is_well_formed(visit):
    page, _ = visit
    page.set_viewport_size(DESKTOP)
    assert page.title().strip()
    assert page.locator("header:visible, .bd-header-article:visible").count() == 1, "there should be one header"
    headings = page.locator("article :is(h1, h2, h3, h4, h5, h6)")
    levels = headings.evaluate_all("all => all.map(h => [Number(h.tagName[1]), h.textContent])")
    assert [level for level, _ in levels].count(1) == 1, "a page has one title"
    for (above, _), (level, text) in pairwise(levels):
        assert level <= above + 1, f"the heading {text!r} skips a level, from {above} to {level}"
    nameless = page.evaluate(NAMELESS)
    assert not nameless, "pictures without words for those who can't see them:\n" + "\n".join(nameless)


def test_page_fits_a_phone(visit):
    page, _ = visit
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(300)  # figures follow the width of the window with a delay
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{width} pixels wide; too wide are\n" + "\n".join(page.evaluate(STICKS_OUT))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_is_readable(visit, theme):
    page, _ = visit
    page.set_viewport_size(DESKTOP)
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    page.wait_for_timeout(300)  # for colours that fade in
    unreadable = page.evaluate(UNREADABLE)
    assert not unreadable, "too little contrast:\n" + "\n".join(unreadable)


def test_links_lead_somewhere(site):
    documents = {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in site.folder.rglob("*.html")
        if "_static" not in path.parts
    }
    assert {site.folder / name for name in PAGES} <= set(documents)
    anchors = {
        path: {e[key] for key in ("id", "name") for e in document.find_all(attrs={key: True})}
        for path, document in documents.items()
    }
    broken, inside = [], 0
    for path, document in documents.items():
        here = path.relative_to(site.folder).as_posix()
        for element in document.find_all(lambda e: e.has_attr("href") or e.has_attr("src")):
            link = element.get("href") or element.get("src") or ""
            address, anchor = urldefrag(urljoin(f"{site.url}/{here}", link))
            if not address.startswith(f"{site.url}/"):
                if urlparse(address).scheme not in ("https", "mailto", "data"):
                    broken.append(f"{here}: {link}")
                continue
            inside += 1
            target = site.folder / unquote(urlparse(address).path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in anchors and unquote(anchor) not in anchors[target]):
                broken.append(f"{here}: {link}")
    assert inside > 100
    assert not broken


def test_first_address_leads_to_the_landing_page(page, site):
    page.goto(f"{site.url}/")
    page.wait_for_url(f"{site.url}/{PAGES[0]}")
    for name in PAGES[1:]:
        assert page.locator(f'nav a[href$="{name.split("/")[-1]}"]').first.is_visible()


def test_theme_button_switches_and_is_remembered(page, site):
    page.goto(f"{site.url}/{PAGES[0]}")
    seen = set()
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").click()
        seen.add(page.evaluate("document.documentElement.dataset.mode"))
        page.reload()
        assert page.evaluate("document.documentElement.dataset.mode") in seen
    assert seen == {"light", "dark", "auto"}


def test_search_finds_pages(page, site):
    page.goto(f"{site.url}/search.html?q=rerank")
    results = page.locator("#search-results li a")
    results.first.wait_for()
    page.wait_for_function("document.querySelector('#search-results').textContent.includes('found')")
    assert any(EXPLORER.stem in link for link in results.evaluate_all("all => all.map(a => a.href)"))
    page.goto(f"{site.url}/search.html?q=zyzzyva")
    page.wait_for_function("document.querySelector('#search-results').textContent.includes('did not match')")
    assert results.count() == 0


def test_solutions_open(reading):
    page, chapter = reading
    codes = [cell.source for cell in solutions_of(chapter) if cell.cell_type == "code"]
    boxes = page.locator("details.hide", has_text="Show code cell content")
    assert boxes.count() == len(codes) > 0
    for box, code in zip(boxes.all(), codes, strict=True):
        source = box.locator(".cell_input pre")
        assert not source.is_visible()
        box.locator("summary").click()
        assert source.is_visible()
        assert source.inner_text().strip() == code.strip()


def test_quiz_answers(reading):
    page, chapter = reading
    boxes, questions = page.locator(".Quiz[id^=quizWrap]"), quiz_of(chapter)
    assert boxes.count() == len(questions) > 0
    for box, question in zip(boxes.all(), questions, strict=True):
        feedback = box.locator(".Feedback")
        assert feedback.inner_text() == ""
        # Wrong answers first; a right one must follow, and be told apart.
        for answer in sorted(question["answers"], key=lambda answer: answer.get("correct", False)):
            if question["type"] == "numeric":
                value = {"value": answer.get("value"), "range": sum(answer.get("range", [0])) / 2, "default": -987}
                box.locator("input").fill(str(value[answer["type"]]))
                box.locator("input").press("Enter")
            else:
                box.locator("label.MCButton", has_text=re.compile(f"^{re.escape(answer['answer'])}$")).click()
            assert feedback.inner_text() == answer["feedback"]
            assert ("incorrect" in feedback.get_attribute("class")) != answer.get("correct", False)


def test_quizzes_have_right_and_wrong_answers():
    for chapter in chapters():
        for question in quiz_of(chapter):
            verdicts = {answer.get("correct", False) for answer in question["answers"]}
            assert verdicts == {True, False}, question["question"]


def test_figures_are_drawn_and_react(reading):
    page, chapter = reading
    names = figures_of(chapter)
    assert len(names) >= code_of(chapter).count("rr.book.show(")
    figures = page.locator(".js-plotly-plot")
    assert [figure.get_attribute("id") for figure in figures.all()] == names
    for figure in figures.all():
        figure.scroll_into_view_if_needed()
        assert figure.locator(".main-svg").first.bounding_box()["height"] > 100
        x, y = figure.evaluate("""plot => {
          const trace = plot._fullData.find(t => t.visible === true);
          const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
          const points = Array.from(trace.x, (x, i) => [xaxis.d2p(x), yaxis.d2p(trace.y[i])]);
          const far = ([, y]) => Math.abs(y - yaxis._length / 2);  // on the edge there is no hovering
          const [x, y] = points.filter(p => p.every(isFinite)).sort((a, b) => far(a) - far(b))[0];
          const inside = 2 * Math.sign(yaxis.d2p(0) - y);  // of a bar
          return [box.x + xaxis._offset + x, box.y + yaxis._offset + y + (trace.type === "bar" ? inside : 0)];
        }""")
        page.mouse.move(x - 3, y - 3)
        page.mouse.move(x, y)
        figure.locator(".hoverlayer .hovertext").first.wait_for()
        page.mouse.move(0, 0)


def test_sliders_of_figures_change_them(reading):
    page, chapter = reading
    figures = page.locator(".js-plotly-plot:has(.slider-container)")
    assert figures.count() == code_of(chapter).count("sliders=")
    for figure in figures.all():
        figure.scroll_into_view_if_needed()
        before, rail = figure.evaluate(LINES), figure.locator(".slider-rail-touch-rect")
        rail.click(position={"x": rail.bounding_box()["width"] - 2, "y": 5}, force=True)
        changed = f"([plot, before]) => ({LINES})(plot) !== before"
        page.wait_for_function(changed, arg=[figure.element_handle(), before])


def test_formulas_and_widgets_are_drawn(reading, site):
    page, chapter = reading
    formulas = page.locator("article .math")
    for formula in formulas.all():
        assert formula.locator("mjx-container svg").bounding_box()["width"] > 5
        assert formula.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    cells = nbformat.read(chapter, as_version=4).cells
    shown = sum(WIDGET_VIEW in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    if (site.folder / "_static" / "vendor" / "embed.js").exists():
        widgets = page.locator(".cell_output .widget-subarea > .jupyter-widgets")
        assert widgets.count() == shown
        assert all(widget.is_visible() for widget in widgets.all())


def test_some_page_has_formulas(site):
    assert any("math notranslate" in (site.folder / name).read_text(encoding="utf-8") for name in PAGES)


def test_explorer_changes_what_it_shows(page, site):
    show(page, site, page_of(EXPLORER))
    explorer = page.locator("#explorer")
    panels, seen = explorer.locator(".rr-panel:visible"), set()
    options = explorer.locator("option").all_inner_texts()
    assert len(options) >= 5
    for option in options:
        explorer.get_by_label("Query").select_option(label=option)
        assert panels.count() == 1, option
        assert panels.locator("ol").count() == 2, option
        assert panels.locator("li").count() == 10, option
        seen.add(panels.inner_text())
    assert len(seen) == len(options), "two queries show the same"


def test_map_joins_a_paper_to_its_neighbours(page, site):
    show(page, site, page_of(MAP))
    chart = page.locator(".rr-map")
    chooser = chart.locator("select")
    titles = {o.get_attribute("value"): o.inner_text() for o in chooser.locator("option").all()}
    assert len(titles) == chart.locator("circle").count() > 50

    def look():
        """Return the chosen point's number, and check that the picture and the words agree with the list."""
        chosen = chart.locator(".rr-chosen").get_attribute("data-number")
        assert chooser.input_value() == chosen
        assert chart.locator("b").inner_text() == titles[chosen].strip()
        near = chooser.locator(f"option[value='{chosen}']").get_attribute("data-near")
        names = [titles[one.split(":")[0]].strip() for one in near.split()]
        items = chart.locator("li").all_inner_texts()
        assert len(items) == 5
        assert all(item.startswith(name) for item, name in zip(items, names, strict=True))
        start = chart.locator(".rr-chosen")
        assert {line.get_attribute("x1") for line in chart.locator("line").all()} == {start.get_attribute("cx")}
        return chosen

    seen = [look()]
    chooser.focus()
    page.keyboard.press("ArrowDown")
    seen.append(look())
    chart.locator("circle:not([class*=rr-])").first.dispatch_event("click")
    seen.append(look())
    assert len(set(seen)) == 3


@every_chapter
def test_exercise_version_holds_no_solution(site, chapter):
    exercises = nbformat.read(site.folder / "exercises" / chapter.name, as_version=4)
    nbformat.validate(exercises)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in exercises.cells)
    assert "widgets" not in exercises.metadata
    text = "\n".join(cell.source for cell in exercises.cells)
    shared = "\n".join(c.source for c in nbformat.read(chapter, as_version=4).cells if "solution" not in tags(c))
    solutions = solutions_of(chapter)
    for cell in solutions:
        telling = [line for line in cell.source.splitlines() if len(line) > 20 and line not in shared]
        assert telling, "a solution that tells nothing"
        assert not [line for line in telling if line in text]
    assert text.count("# Your solution") == sum(cell.cell_type == "code" for cell in solutions) > 0
    assert all(f"**Exercise {number}.**" in text for number in (1, 2, 3))
