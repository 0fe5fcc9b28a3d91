"""The chapters as files: their rules, what saving them keeps, the exercise versions, the public address."""

import copy
import json
import re
import shutil
import subprocess
import sys

import address
import nbformat
import pytest
from chapters import ROOT, VARIES, WIDGET_STATE, WIDGET_VIEW, chapters, normalise, tags, unchanged

NAMES = [path.stem for path in chapters()]


@pytest.fixture(params=chapters(), ids=NAMES)
def chapter(request):
    """Return each chapter's notebook."""
    return nbformat.read(request.param, as_version=4)


def test_a_chapter_is_saved_normalised(chapter):
    assert nbformat.writes(normalise(chapter)) == nbformat.writes(chapter)


def test_a_chapter_ran_from_its_first_line(chapter):
    code = [cell for cell in chapter.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_a_chapter_keeps_the_house_rules(chapter):
    opening, setup = chapter.cells[0].source, chapter.cells[1]
    assert re.match(r"# \d+ ", opening)
    for promise in ("After this chapter you can", "You need", "Time"):
        assert promise in opening
    assert tags(setup) == ["setup", "remove-cell"]
    assert "## Key points" in "".join(cell.source for cell in chapter.cells)
    for cell in chapter.cells[2:]:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.source
            assert "colab" not in cell.source.lower(), "the first cell is the only one that knows of Colab"
            assert "trust_remote_code" not in cell.source
            assert not re.search(r"[\w-]+/[\w.-]*(MiniLM|TinyBERT|bge|mpnet)", cell.source), "roles, not model ids"


def test_every_chapter_has_a_quiz_that_explains():
    for name in NAMES:
        questions = json.loads((ROOT / "rrhelpers/data/quizzes" / f"{name}.json").read_text(encoding="utf-8"))
        assert len(questions) >= 3
        for question in questions:
            assert all(answer["feedback"] for answer in question["answers"]), question["question"]


def widget_notebook(ids):
    """Return a notebook with a box that shows a slider, under the given widget ids."""
    box, slider = ids
    state = {
        slider: {"model_name": "IntSliderModel", "state": {"value": 3}},
        box: {"model_name": "VBoxModel", "state": {"children": [f"IPY_MODEL_{slider}"]}},
        "unused": {"model_name": "LayoutModel", "state": {}},
    }
    view = nbformat.v4.new_output("display_data", {WIDGET_VIEW: {"model_id": box, "version_major": 2}})
    cell = nbformat.v4.new_code_cell("show(box)", outputs=[view], execution_count=1, id="whatever")
    return nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {WIDGET_STATE: {"state": state}}})


def test_random_widget_ids_leave_no_trace():
    one, other = normalise(widget_notebook(["b" * 32, "a" * 32])), normalise(widget_notebook(["1" * 32, "2" * 32]))
    assert nbformat.writes(one) == nbformat.writes(other)
    state = one.metadata["widgets"][WIDGET_STATE]["state"]
    assert len(state) == 2, "what is not shown is dropped"
    shown = state[one.cells[0].outputs[0].data[WIDGET_VIEW]["model_id"]]
    assert state[shown["state"]["children"][0].removeprefix("IPY_MODEL_")]["state"] == {"value": 3}


def test_normalising_keeps_what_a_reader_sees():
    text = "encode: 100%|███| 5/5 [00:01<00:00, 3.2text/s]\n"
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="0.42 [00:01]\n"),
        nbformat.v4.new_output("stream", name="stderr", text=text),
    ]
    cell = nbformat.v4.new_code_cell("x", outputs=outputs, metadata={"tags": ["solution"], "execution": {"t": "1"}})
    saved = normalise(nbformat.v4.new_notebook(cells=[cell])).cells[0]
    assert saved.metadata == {"tags": ["solution"]}
    assert saved.outputs[0].text == "0.42 [00:01]\n"
    assert saved.outputs[1].text == "encode: 100%|███| 5/5 \n"


def test_only_outputs_that_vary_by_nature_may_differ():
    def book(value, tagged):
        outputs = [nbformat.v4.new_output("stream", text=value)]
        cell = nbformat.v4.new_code_cell("x", outputs=outputs, metadata={"tags": [VARIES] if tagged else []}, id="c")
        return nbformat.v4.new_notebook(cells=[cell])

    assert unchanged(book("1 s", True), book("2 s", True))
    assert not unchanged(book("1", False), book("2", False))


@pytest.fixture
def clone(tmp_path):
    """Return a copy of everything that the address tool reads and writes."""
    for name in ("pyproject.toml", "README.md", "_toc.yml", "book", "tools"):
        copy_ = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy_(ROOT / name, tmp_path / name)
    return tmp_path


def set_address(clone, *args):
    """Run the address tool of the copy."""
    command = [sys.executable, str(clone / "tools/address.py"), *args]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)


def test_the_address_is_set_everywhere_and_taken_back(clone):
    def everything():
        return {p: p.read_text(encoding="utf-8") for p in clone.rglob("*") if p.suffix in (".md", ".ipynb", ".toml")}

    before, url = everything(), "https://github.com/someone/class-of-2027"
    assert set_address(clone, url).returncode == 0
    assert set_address(clone, "--check").returncode == 0
    changed = {path.name for path, text in everything().items() if text != before[path]}
    assert changed == {"pyproject.toml", "README.md", *(path.name for path in chapters())}
    assert f'git+{url}"' in json.loads((clone / "book" / f"{NAMES[0]}.ipynb").read_text())["cells"][1]["source"][3]
    if not address.repository():
        assert set_address(clone, "").returncode == 0
        assert everything() == before


def test_a_wrong_address_changes_nothing(clone):
    before = (clone / "pyproject.toml").read_text()
    done = set_address(clone, "github.com/someone")
    assert done.returncode != 0
    assert "https://github.com/OWNER/NAME" in done.stderr
    assert (clone / "pyproject.toml").read_text() == before


def test_a_disagreement_is_found(clone):
    path = clone / "book" / f"{NAMES[0]}.ipynb"
    book = nbformat.read(path, as_version=4)
    changed = copy.deepcopy(book)
    changed.cells[1].source += "\npass"
    nbformat.write(changed, path)
    done = set_address(clone, "--check")
    assert done.returncode != 0
    assert path.name in done.stderr
