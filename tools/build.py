"""Build the site into _build/html: `make book` (executes every chapter) and `make site` (doesn't).

The work is done on a copy of the sources, so the working tree stays as it was.
"""

import argparse
import copy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import vendor
import yaml
from address import repository
from chapters import ROOT, WIDGET_VIEW, chapters, execute_all, normalise, notebooks, tags

OUT = ROOT / "_build" / "html"
SOURCES = ("_config.yml", "_toc.yml", "book", "assets")


def main() -> None:
    """Build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--execute", action="store_true", help="run the chapters instead of using saved outputs")
    args = parser.parse_args()
    has_widgets = vendor.main()
    if not has_widgets:
        print("No npm registry in reach: widgets are shown as text in this build.", flush=True)
    if args.execute:
        print("Executing the chapters, two at a time:", flush=True)
        try:
            books = {path: normalise(book) for path, (book, _) in execute_all(notebooks()).items()}
        except RuntimeError as error:
            raise SystemExit(str(error)) from None
    else:
        books = {path: nbformat.read(path, as_version=4) for path in notebooks()}

    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "source"
        stage.mkdir()
        for name in SOURCES:
            place = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            place(ROOT / name, stage / name)
        for path, book in books.items():
            nbformat.write(_for_the_site(book, path, has_widgets), stage / "book" / path.name)
        _configure(stage / "_config.yml", has_widgets)
        command = [str(Path(sys.executable).parent / "jupyter-book"), "build", ".", "-W", "--keep-going", "-n", "-q"]
        if subprocess.run(command, cwd=stage, check=False).returncode:
            raise SystemExit("The site was not built: see the warnings above.")
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.parent.mkdir(exist_ok=True)
        shutil.move(stage / "_build" / "html", OUT)
    for path in chapters():
        target = OUT / "exercises" / path.name
        target.parent.mkdir(exist_ok=True)
        nbformat.write(exercise_version(books[path]), target)
    print(f"The site is in {OUT.relative_to(ROOT)}: open {OUT.relative_to(ROOT)}/index.html, or `make serve`.")


def exercise_version(book):
    """Return the chapter without its solutions and outputs, with an empty cell where a solution stood."""
    exercises = nbformat.v4.new_notebook(metadata={k: v for k, v in book.metadata.items() if k != "widgets"})
    for cell in book.cells:
        if cell.cell_type == "code":
            solved = "solution" in tags(cell)
            source = "# Your solution\n" if solved else cell.source
            kept = [tag for tag in tags(cell) if tag not in ("solution", "hide-cell")]
            exercises.cells.append(nbformat.v4.new_code_cell(source, id=cell.id, metadata={"tags": kept}))
        elif "solution" not in tags(cell):
            exercises.cells.append(nbformat.v4.new_markdown_cell(cell.source, id=cell.id))
    return exercises


def _for_the_site(book, path: Path, has_widgets: bool):
    """Add a chapter's link to its exercises, fold its solutions; show widgets as text where their script is missing."""
    book = copy.deepcopy(book)
    if path in chapters():
        book.cells[0].source += (
            f'\n\n<p class="rr-downloads"><a href="../exercises/{path.name}" download>'
            "Exercise version of this notebook</a> (without solutions and outputs)</p>"
        )
    for cell in book.cells:
        if cell.cell_type == "markdown" and "solution" in tags(cell):
            cell.source = f":::{{admonition}} Solution\n:class: dropdown\n\n{cell.source}\n:::"
        for output in cell.get("outputs", []):
            if not has_widgets and WIDGET_VIEW in output.get("data", {}):
                del output.data[WIDGET_VIEW]
    if not has_widgets:
        book.metadata.pop("widgets", None)
    return book


def _configure(path: Path, has_widgets: bool) -> None:
    """Put what depends on this machine and on the public address into the copied configuration."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not has_widgets:
        config["sphinx"]["config"]["nb_ipywidgets_js"] = {}
    if address := repository():
        config["repository"] = {"url": address, "path_to_book": "", "branch": "main"}
        config["launch_buttons"] |= {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
        }
        config["html"] |= {"use_repository_button": True, "use_issues_button": True}
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
