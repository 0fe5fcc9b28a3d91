"""Copy the third-party scripts that the site needs out of pinned packages into assets/vendor.

So a page needs no other host, and the repository holds only what we wrote. MathJax and Plotly come
from the Python packages in requirements.txt. ipywidgets' HTML manager is on npm alone: it is taken
where there is an npm client, at a pinned version, and checked against a pinned hash.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "assets" / "vendor"
HTML_MANAGER = "@jupyter-widgets/html-manager@1.0.15"
HTML_MANAGER_SHA512 = "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA=="


def main() -> bool:
    """Fill assets/vendor; return whether the widgets' script is there."""
    VENDOR.mkdir(parents=True, exist_ok=True)
    shutil.copy(_file_of("plotly", "plotly/package_data/plotly.min.js"), VENDOR / "plotly.min.js")
    shutil.copy(
        _file_of("sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax/tex-svg.js"),
        VENDOR / "tex-svg.js",  # one file: its glyphs are drawn, so it fetches no fonts
    )
    return (VENDOR / "embed.js").exists() or _widgets()


def _file_of(package: str, name: str) -> Path:
    return Path(distribution(package).locate_file(name))


def _widgets() -> bool:
    if shutil.which("npm") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", "--silent", HTML_MANAGER], cwd=folder, capture_output=True, text=True, check=False
        )
        if packed.returncode:
            return False  # no registry in reach
        archive = Path(folder) / packed.stdout.strip().splitlines()[-1]
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != HTML_MANAGER_SHA512:
            raise SystemExit(f"{HTML_MANAGER} is not what was pinned: sha512-{digest}")
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                path = Path(member.name)
                if path.parent.name == "dist" and (path.name == "embed.js" or path.suffix == ".woff2"):
                    (VENDOR / path.name).write_bytes(tar.extractfile(member).read())
    return True


if __name__ == "__main__":
    main()
