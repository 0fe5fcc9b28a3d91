"""Re-execute all chapters and save them: `make notebooks`.

Saved notebooks are normalised, so that running this twice changes no line. Outputs of cells tagged
`nbval-ignore-output` (times, widgets) differ at every run; where nothing else of a chapter has
changed, its file is left as it was.
"""

import sys

import nbformat
from chapters import ROOT, execute_all, normalise, notebooks, unchanged
from tqdm.auto import tqdm


def main() -> None:
    """Execute the chapters named on the command line (parts of their file names), or all."""
    chosen = [p for p in notebooks() if not sys.argv[1:] or any(word in p.name for word in sys.argv[1:])]
    if not chosen:
        raise SystemExit(f"no chapter matches {sys.argv[1:]}")
    for path, (book, _) in execute_all(chosen).items():
        new, old = normalise(book), nbformat.read(path, as_version=4)
        if unchanged(new, old):
            tqdm.write(f"  {path.relative_to(ROOT)}: nothing has changed")
        else:
            nbformat.write(new, path)
            tqdm.write(f"  {path.relative_to(ROOT)}: saved")


if __name__ == "__main__":
    main()
