"""What the chapters share and no search needs: figures, quizzes, and the published results."""

import json
from base64 import b64decode
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from .registry import profile

# Okabe and Ito's colour-blind-safe palette (https://jfly.uni-koeln.de/color/), one colour a method
# in every figure of the book.
COLORS = {
    "bi-encoder": "#0072B2",
    "cross-encoder": "#D55E00",
    "sparse": "#009E73",
    "late interaction": "#CC79A7",
    "neutral": "#7F7F7F",
}
# Figures are transparent: their text must be read on white and on black alike.
_TEXT = "#757575"
_QUIZ_COLORS = {
    "--jq-multiple-choice-bg": "#1d4e7e",
    "--jq-numeric-bg": "#1d4e7e",
    "--jq-numeric-input-bg": "#12304f",
    "--jq-numeric-input-label": "#757575",
    "--jq-mc-button-bg": "#fafafa",
    "--jq-text-color": "#fafafa",
    "--jq-correct-color": "#2e7d32",
    "--jq-incorrect-color": "#666666",
}
_DATA = Path(__file__).parent / "data"
_PLOTLY_IN_SITE = "../_static/vendor/plotly.min.js"
_GRID = "rgba(127,127,127,0.25)"


def published() -> dict:
    """Return the published results that the book's hub profile reproduces: figures only.

    They come from the post "Sentence Embeddings. Cross-encoders and Re-ranking"
    (https://osanseviero.github.io/hackerllama/blog/posts/sentence_embeddings2/) and from the
    sentence-transformers documentation (https://sbert.net/docs/quickstart.html).
    """
    return json.loads((_DATA / "published_results.json").read_text(encoding="utf-8"))


def compare(published: Sequence[float], ours: Sequence[float], labels: Sequence[str], tolerance: float = 1e-3):
    """Put published figures and ours side by side.

    In the hub profile the models are the published ones, and the last column says whether the
    figure was reproduced to within `tolerance`. In the embedded profile the models are others, so
    there is nothing to reproduce, and the column says so.

    Returns
    -------
    pandas.DataFrame
        One row a figure.
    """
    import pandas as pd

    table = pd.DataFrame({"published": list(published), "ours": [float(x) for x in ours]}, index=list(labels))
    table = table.round(4)
    table["difference"] = (table["ours"] - table["published"]).round(4) + 0.0  # no negative zero
    same = table["difference"].abs() <= tolerance
    table["reproduced"] = same.map({True: "yes", False: "no"}) if profile() == "hub" else "another model"
    return table


def quiz(name: str) -> None:
    """Show the self-check of a chapter; a wrong answer is told why it is wrong.

    Raises
    ------
    ValueError
        If there is no such quiz.
    """
    from jupyterquiz import display_quiz

    display_quiz(json.loads(_read("quizzes", f"{name}.json")), colors=_QUIZ_COLORS)


def diagram(name: str) -> None:
    """Show one of the book's drawings; it takes the page's text colour, so it reads on light and dark.

    Raises
    ------
    ValueError
        If there is no such drawing.
    """
    from IPython.display import HTML, display

    display(HTML(f'<figure class="rr-figure">{_read("diagrams", f"{name}.svg")}</figure>'))


def _read(folder: str, name: str) -> str:
    path = _DATA / folder / name
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.iterdir()))
        raise ValueError(f"there is no {path.stem!r} in {folder}; there are {there}")
    return path.read_text(encoding="utf-8")


def show(figure, name: str, alt: str, digits: int = 4) -> None:
    """Show a Plotly figure that works in a notebook and in the static page, on light and on dark.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
    name : str
        Identifies the figure in its page: letters, digits and hyphens.
    alt : str
        What the picture shows, for those who can't see it.
    digits : int
        Significant digits of the data that are kept, so that re-running changes no output.
    """
    import plotly.graph_objects as go
    from IPython.display import display

    figure = go.Figure(_rounded(figure.to_plotly_json(), digits))
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _TEXT, "size": 14},
        colorway=list(COLORS.values()),
        hoverlabel={"font": {"color": "white"}},
        autosize=True,
    )
    if figure.layout.margin.t is None:
        figure.update_layout(margin={"t": 20, "r": 20})
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True)
    if _in_colab():
        figure.show()
        return
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=_PLOTLY_IN_SITE,
        div_id=name,
        config={"responsive": True, "displayModeBar": False},
    )
    display(
        {
            "application/vnd.plotly.v1+json": json.loads(figure.to_json()),
            "text/html": f'<figure class="rr-figure" role="img" aria-label="{escape(alt)}">{html}</figure>',
            "text/plain": alt,
        },
        raw=True,
    )


def _rounded(value, digits: int):
    if isinstance(value, dict) and "bdata" in value:  # an array, which Plotly 6 and later hands over in base64
        array = np.frombuffer(b64decode(value["bdata"]), value["dtype"])
        shape = [int(length) for length in value.get("shape", "-1").split(",")]
        return _rounded(array.reshape(shape).tolist(), digits)
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item, digits) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers, and arrays where Plotly is older
        return _rounded(value.tolist(), digits)
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _in_colab() -> bool:
    import sys

    return "google.colab" in sys.modules
