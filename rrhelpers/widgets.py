"""A search box for a notebook with a kernel; a table of precomputed queries and a map for a page without."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from threading import Lock

import numpy as np

from .encoding import encode
from .hits import Hit
from .reranking import rerank
from .searching import search

_SHOWN = 5
_WIDTH, _HEIGHT, _MARGIN = 560, 420, 24  # of the map, in pixels at full size
# It carries its style along, since Jupyter and Colab don't have the book's.
_STYLE = """
.rr-map select { max-width: 100%; padding: 0.3rem; }
.rr-map svg { display: block; width: 100%; max-width: 700px; margin: 0.5rem 0; }
.rr-map circle { fill: #7f7f7f; fill-opacity: 0.45; cursor: pointer; }
.rr-map .rr-topic { fill: currentColor; fill-opacity: 0.9; }
.rr-map .rr-near { stroke: var(--rr-bi-encoder-text, #0072b2); stroke-width: 3; }
.rr-map .rr-chosen { fill: var(--rr-bi-encoder-text, #0072b2); fill-opacity: 1; r: 10px; }
.rr-map line { stroke: var(--rr-bi-encoder-text, #0072b2); stroke-width: 1.5; }
.rr-map text { fill: currentColor; font-size: 17px; font-weight: 600; pointer-events: none;
  text-anchor: middle; dominant-baseline: central; }
"""
# What choosing a paper changes: the marks of the points, the lines and numbers, and the list in words.
_CHOOSE = """
const map = this.closest('.rr-map'), options = [...this.options], chosen = this.selectedOptions[0];
const topic = option => option.parentElement.label;
const point = number => map.querySelector(`circle[data-number='${number}']`), from = point(this.value);
for (const option of options)
  point(option.value).setAttribute('class', topic(option) === topic(chosen) ? 'rr-topic' : '');
from.setAttribute('class', 'rr-chosen');
chosen.dataset.near.split(' ').forEach((found, i) => {
  const [number, cosine] = found.split(':'), to = point(number);
  const [[x1, y1], [x2, y2]] = [from, to].map(end => [+end.getAttribute('cx'), +end.getAttribute('cy')]);
  const beyond = 1 + 18 / Math.max(Math.hypot(x2 - x1, y2 - y1), 1);
  const option = options.find(option => option.value === number);
  const set = (element, values) => Object.entries(values).forEach(([name, value]) => element.setAttribute(name, value));
  to.classList.add('rr-near');
  set(map.querySelectorAll('line')[i], {x1, y1, x2, y2});
  set(map.querySelectorAll('text')[i], {x: x1 + beyond * (x2 - x1), y: y1 + beyond * (y2 - y1)});
  map.querySelectorAll('li')[i].textContent = `${option.text} (cosine ${cosine}; ${topic(option)})`;
});
map.querySelector('b').textContent = chosen.text;
map.querySelector('i').textContent = topic(chosen);
"""
_CLICK = """
const number = event.target.dataset.number, select = this.closest('.rr-map').querySelector('select');
if (number) { select.value = number; select.dispatchEvent(new Event('change')); }
"""


def results_html(hits: Sequence[Hit], passages: Sequence[str], titles: Sequence[str]) -> str:
    """Return the first hits as HTML: rank, where it came from, paper, and the start of the passage."""
    items = []
    for hit in hits[:_SHOWN]:
        moved = "" if hit.retrieval_rank is None else f", retrieved at rank {hit.retrieval_rank}"
        items.append(
            f"<li><b>{escape(titles[hit.corpus_id])}</b> <small>(passage {hit.corpus_id}, score "
            f"{hit.score:.3f}{moved})</small><br>{escape(passages[hit.corpus_id][:280])}…</li>"
        )
    return f"<ol>{''.join(items)}</ol>" if items else "<p>Nothing found.</p>"


def search_box(model, reranker, vectors, passages: Sequence[str], titles: Sequence[str], top_k: int = 25):
    """Return a box to type a query into; with the tick set, results are reranked.

    Needs a running kernel: JupyterLab, Colab or Voila. What goes wrong in a search is shown in the
    box, since a widget has nowhere else to say it.

    Returns
    -------
    ipywidgets.VBox
    """
    import ipywidgets as widgets

    query = widgets.Text(
        placeholder="Type a question and press Enter", continuous_update=False, layout={"width": "min(32em, 95%)"}
    )
    reranked = widgets.Checkbox(value=True, description="rerank", indent=False)
    button = widgets.Button(description="Search")
    answer = widgets.HTML()
    passages, titles = list(passages), list(titles)

    one_at_a_time, shown = Lock(), None

    def run(_=None):
        # JupyterLab runs the events of different widgets in different threads: a click of the button
        # and the text that was typed before it may come at once, and in either order. So the values
        # are read when it is our turn, and whoever comes last shows the newest.
        nonlocal shown
        with one_at_a_time:
            text, with_reranker = asked = query.value.strip(), reranked.value
            if asked == shown:
                return
            if not text:
                answer.value, shown = "<p>Type a question first.</p>", asked
                return
            answer.value = "<p>Searching…</p>"
            try:
                hits = search(encode(model, text), vectors, top_k=top_k)
                if with_reranker:
                    hits = rerank(reranker, text, hits, passages)
                answer.value = results_html(hits, passages, titles)
            except (ValueError, TypeError) as error:
                answer.value = f"<p>{escape(str(error))}</p>"
            shown = asked

    button.on_click(run)
    query.observe(run, "value")
    reranked.observe(run, "value")
    return widgets.VBox([query, widgets.HBox([button, reranked]), answer])


def explorer(
    results: Mapping[str, tuple[Sequence[Hit], Sequence[Hit]]],
    passages: Sequence[str],
    titles: Sequence[str],
    name: str,
):
    """Return a chooser of precomputed queries with what was found before and after reranking.

    Plain HTML and a line of script, so it works in the static page too.

    Parameters
    ----------
    results : mapping of query to (hits, reranked hits)
    name : str
        Identifies it in its page: letters, digits and hyphens.

    Returns
    -------
    IPython.display.HTML
    """
    from IPython.display import HTML

    options, panels = [], []
    for number, (query, (found, best)) in enumerate(results.items()):
        options.append(f'<option value="{number}">{escape(query)}</option>')
        hidden = "" if number == 0 else " hidden"
        panels.append(
            f'<div class="rr-panel" data-number="{number}"{hidden}>'
            f"<div><h3>Bi-encoder</h3>{results_html(found, passages, titles)}</div>"
            f"<div><h3>Reranked</h3>{results_html(best, passages, titles)}</div></div>"
        )
    script = (
        f"for (const p of document.querySelectorAll('#{name} .rr-panel')) p.hidden = p.dataset.number !== this.value"
    )
    return HTML(
        f'<div class="rr-explorer" id="{name}"><label>Query <select onchange={json.dumps(script)}>'
        f"{''.join(options)}</select></label>{''.join(panels)}</div>"
    )


def paper_map(
    points: np.ndarray, vectors: np.ndarray, titles: Sequence[str], topics: Sequence[str], name: str, alt: str
):
    """Return a map of texts on which one can be chosen to see its nearest neighbours.

    A list of all texts chooses, by mouse or keyboard, and so does a click on a point. The chosen
    text's five nearest by cosine are joined to it, numbered, and named in a list below, which says
    all that the picture shows. Plain HTML and a little script, so it works in the static page too.

    Parameters
    ----------
    points : array of shape (n, 2)
        Where each text stands; one scale for both axes.
    vectors : array of shape (n, d)
        The rows, of length 1, that the neighbours are taken from: not the map's two numbers.
    titles, topics : sequences of n str
    name : str
        Identifies it in its page: letters, digits and hyphens.
    alt : str
        What the picture shows, for those who can't see it.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    ValueError
        If the numbers of points, vectors, titles and topics differ, or there are fewer than six.
    """
    from IPython.display import HTML

    count = len(titles)
    if not (len(points) == len(vectors) == len(topics) == count):
        raise ValueError(f"{len(points)} points, {len(vectors)} vectors, {count} titles, {len(topics)} topics")
    if count <= _SHOWN:
        raise ValueError(f"{count} texts are too few for {_SHOWN} neighbours")
    places = _on_the_page(np.asarray(points, dtype=np.float64))
    cosines = np.asarray(vectors, dtype=np.float64) @ np.asarray(vectors, dtype=np.float64).T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :_SHOWN]
    order = sorted(range(count), key=lambda i: (topics[i], titles[i]))
    first = order[0]

    def option(i: int) -> str:
        near = " ".join(f"{j}:{cosines[i, j]:.2f}" for j in nearest[i])
        return f'<option value="{i}" data-near="{near}">{escape(titles[i])}</option>'

    def mark(i: int) -> str:
        marks = {"rr-topic": topics[i] == topics[first], "rr-near": i in nearest[first]}
        kind = "rr-chosen" if i == first else " ".join(one for one, given in marks.items() if given)
        (x, y), title = places[i], f"{titles[i]} ({topics[i]})"
        return (
            f'<circle data-number="{i}" class="{kind}" cx="{x}" cy="{y}" r="6"><title>{escape(title)}</title></circle>'
        )

    groups = {topic: "".join(option(i) for i in order if topics[i] == topic) for topic in sorted(set(topics))}
    options = "".join(f'<optgroup label="{escape(topic)}">{inside}</optgroup>' for topic, inside in groups.items())
    x1, y1 = places[first]
    lines = "".join(f'<line x1="{x1}" y1="{y1}" x2="{x}" y2="{y}"/>' for x, y in (places[j] for j in nearest[first]))
    numbers = "".join(_number(rank, places[first], places[j]) for rank, j in enumerate(nearest[first], 1))
    items = "".join(
        f"<li>{escape(titles[j])} (cosine {cosines[first, j]:.2f}; {escape(topics[j])})</li>" for j in nearest[first]
    )
    return HTML(
        f'<style>{_STYLE}</style><div class="rr-map" id="{name}">'
        f'<label>Paper <select onchange="{_attribute(_CHOOSE)}">{options}</select></label>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(alt)}" onclick="{_attribute(_CLICK)}">'
        f"{lines}{''.join(map(mark, range(count)))}{numbers}</svg>"
        f'<div aria-live="polite"><p>Nearest to <b>{escape(titles[first])}</b> '
        f"(<i>{escape(topics[first])}</i>):</p><ol>{items}</ol></div></div>"
    )


def _on_the_page(points: np.ndarray) -> list[tuple[int, int]]:
    """Scale points to the picture's size, both axes alike, its y pointing down."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.array([_WIDTH, _HEIGHT])
    scale = ((size - 2 * _MARGIN) / np.maximum(high - low, 1e-12)).min()
    centred = (points - (low + high) / 2) * scale * [1, -1] + size / 2
    return [(int(x), int(y)) for x, y in centred.round()]


def _number(rank: int, start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return a neighbour's number, written a little beyond its point as seen from the chosen one."""
    (x1, y1), (x2, y2) = start, end
    beyond = 1 + 18 / max(np.hypot(x2 - x1, y2 - y1), 1)
    return f'<text x="{x1 + beyond * (x2 - x1):.0f}" y="{y1 + beyond * (y2 - y1):.0f}">{rank}</text>'


def _attribute(script: str) -> str:
    return escape(" ".join(script.split()))
