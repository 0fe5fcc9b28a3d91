"""A search box for a notebook with a kernel, and a table of precomputed queries for a page without."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from threading import Lock

from .encoding import encode
from .hits import Hit
from .reranking import rerank
from .searching import search

_SHOWN = 5


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
