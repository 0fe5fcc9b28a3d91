"""The repository's public address, and everything that is derived from it.

    python tools/address.py https://github.com/OWNER/NAME    set it (`make address URL=…`)
    python tools/address.py ""                               take it back
    python tools/address.py --check                          fail if anything disagrees

The one place is `[tool.rrhelpers] repository` in pyproject.toml. Derived from it, and rewritten
here: the package's metadata, the README's badges, and each chapter's first cell. The site's buttons
are derived at build time.
"""

import re
import sys
from pathlib import Path

import nbformat
from chapters import ROOT, chapters, tags

_URL = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
_BADGES = re.compile(r"(<!-- address -->\n).*?(<!-- /address -->)", re.S)
_URLS = re.compile(r"\n\[project\.urls\]\n(?:[^\n\[]+\n)*")


def repository(root: Path = ROOT) -> str:
    """Return the address, or an empty string."""
    return re.search(r'^repository = "(.*)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]


def setup_cell(url: str) -> str:
    """Return the source of the chapters' first code cell, the only one that knows of Colab."""
    install = (
        f'    %pip install -q "rrhelpers @ git+{url}"\n    %env RRHELPERS_PROFILE=hub'
        if url
        else '    raise RuntimeError("This copy of the book has no public address to install rrhelpers from: "\n'
        '                       "in a clone, set one with `make address URL=...`, push, and open the chapter again")'
    )
    return f'import sys\n\nif "google.colab" in sys.modules:  # elsewhere this cell does nothing\n{install}'


def derived(root: Path, url: str) -> dict[Path, str]:
    """Return the text that each derived file should have."""
    texts = {}
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    project = re.sub(r'^repository = ".*"$', f'repository = "{url}"', project, flags=re.M)
    project = _URLS.sub("", project)
    if url:
        urls = f'\n[project.urls]\nRepository = "{url}"\nIssues = "{url}/issues"\n'
        project = project.replace("\n# Written by `make address`", f"{urls}\n# Written by `make address`")
    texts[root / "pyproject.toml"] = project

    readme = root / "README.md"
    texts[readme] = _BADGES.sub(lambda m: m[1] + _badges(url) + m[2], readme.read_text(encoding="utf-8"))
    for path in chapters():
        path = root / path.relative_to(ROOT)
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            if "setup" in tags(cell):
                cell.source = setup_cell(url)
        texts[path] = nbformat.writes(book) + "\n"
    return texts


def _badges(url: str) -> str:
    if not url:
        return ""
    slug = url.removeprefix("https://github.com/")
    first = chapters()[0].relative_to(ROOT)
    return (
        f"[![Tests]({url}/actions/workflows/test.yml/badge.svg)]({url}/actions/workflows/test.yml)\n"
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{slug}/blob/main/{first})\n"
    )


def main() -> None:
    """Set, take back, or check the address."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    if sys.argv[1] == "--check":
        wrong = [p for p, text in derived(ROOT, repository()).items() if p.read_text(encoding="utf-8") != text]
        if wrong:
            names = ", ".join(str(p.relative_to(ROOT)) for p in wrong)
            raise SystemExit(f"these disagree with pyproject.toml's repository: {names}; run make address URL=…")
        return
    url = sys.argv[1].rstrip("/").removesuffix(".git")
    if url and not _URL.fullmatch(url):
        raise SystemExit(f"{url!r} is not of the form https://github.com/OWNER/NAME")
    for path, text in derived(ROOT, url).items():
        path.write_text(text, encoding="utf-8")
    print(f"The public address is {url or 'none'}.")


if __name__ == "__main__":
    main()
