"""What all tools need to know: where the chapters are, how they are run, and what of a run is kept."""

import copy
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
VARIES = "nbval-ignore-output"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# One environment for every execution: no network, one precision and one engine, so that the figures that
# a chapter prints are the same on every CPU.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RRHELPERS_PROFILE": "embedded",
    "RRHELPERS_PRECISION": "float32",
    "RRHELPERS_ENGINE": "torch",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    # Two chapters run at a time: each gets half of the cores, or they would wait for each other.
    "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
}


def notebooks() -> list[Path]:
    """Return the notebooks of the table of contents, in its order: the chapters, and pages with figures."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    return [path for file in files if (path := ROOT / f"{file}.ipynb").exists()]


def chapters() -> list[Path]:
    """Return the chapters: the notebooks whose names begin with a number."""
    return [path for path in notebooks() if path.name[:2].isdigit()]


def tags(cell) -> list[str]:
    """Return the cell's tags."""
    return cell.metadata.get("tags", [])


def execute(path: Path):
    """Run a chapter from its first line in an empty folder, with an empty cache, and return the notebook.

    Raises
    ------
    RuntimeError
        If a cell fails; the message names the chapter and shows the cell and its error.
    """
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | ENVIRONMENT | {"RRHELPERS_CACHE": f"{folder}/.cache"}
        client = NotebookClient(
            book,
            timeout=300,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(env=environment, cleanup_kc=True)
        except CellExecutionError as error:
            raise RuntimeError(f"{path.name} failed:\n{error}") from None
    return book


def execute_all(paths: list[Path]) -> dict[Path, tuple[object, float]]:
    """Run chapters two at a time; return each one's notebook and seconds."""

    def timed(path):
        started = monotonic()
        return path, execute(path), monotonic() - started

    results = {}
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(paths), desc="chapters", unit="chapter") as bar:
        for path, book, seconds in pool.map(timed, paths):
            tqdm.write(f"  {path.stem}: {seconds:.0f} s")
            results[path] = book, seconds
            bar.update()
    return results


def normalise(book):
    """Return the notebook without what differs from run to run though nothing has changed."""
    book = copy.deepcopy(book)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        **({"widgets": book.metadata["widgets"]} if "widgets" in book.metadata else {}),
    }
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = {"tags": tags(cell)} if tags(cell) else {}
        if cell.cell_type == "code":
            cell.outputs = [_without_progress_times(output) for output in cell.outputs]
    _renumber_widgets(book)
    return book


def _without_progress_times(output):
    """Drop tqdm's rate and seconds from what a bar left on standard error."""
    if output.get("output_type") == "stream" and output.get("name") == "stderr":
        output.text = _progress(output.text)
    return output


def _progress(text: str) -> str:
    return re.sub(r"\[\d+:\d+(:\d+)?(<[\d:?]+)?, *[^\]]*\]", "", text)


def _renumber_widgets(book) -> None:
    """Give widget models numbers in order of appearance, keep only what is shown, and drop times."""
    states = book.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    names: dict[str, str] = {}

    def visit(model_id: str) -> None:
        if model_id in names or model_id not in states:
            return
        names[model_id] = f"{len(names):032x}"
        for reference in re.findall(r"IPY_MODEL_(\w+)", nbformat.v4.writes(_as_notebook(states[model_id]))):
            visit(reference)

    for cell in book.cells:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(WIDGET_VIEW)
            if view:
                visit(view["model_id"])
                view["model_id"] = names.get(view["model_id"], view["model_id"])
    if not names:
        book.metadata.pop("widgets", None)
        return
    kept = {}
    for old, new in names.items():
        state = states[old]
        for key, value in state["state"].items():
            if isinstance(value, str):
                for one, other in names.items():
                    value = value.replace(f"IPY_MODEL_{one}", f"IPY_MODEL_{other}")
                state["state"][key] = _progress(value)
            elif isinstance(value, list):
                state["state"][key] = [
                    f"IPY_MODEL_{names[item.removeprefix('IPY_MODEL_')]}"
                    if isinstance(item, str) and item.removeprefix("IPY_MODEL_") in names
                    else item
                    for item in value
                ]
        kept[new] = state
    book.metadata["widgets"][WIDGET_STATE]["state"] = kept


def _as_notebook(state):
    return nbformat.v4.new_notebook(metadata={"state": state})


def unchanged(new, old) -> bool:
    """Say whether two normalised notebooks differ at most in the outputs that vary by nature."""

    def comparable(book):
        book = copy.deepcopy(book)
        book.metadata.pop("widgets", None)
        for cell in book.cells:
            if VARIES in tags(cell):
                cell.outputs = []
        return nbformat.writes(book)

    return comparable(new) == comparable(old)
