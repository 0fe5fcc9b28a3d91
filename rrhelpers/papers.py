"""The corpus of AI papers."""

import json
from pathlib import Path

from datasets import Dataset, Features, Value, load_dataset

from .hub import HubUnreachable, snapshot
from .registry import Spec, spec

COLUMNS = (
    "doi", "chunk-id", "chunk", "id", "title", "summary", "source", "authors", "categories", "comment",
    "journal_ref", "primary_category", "published", "updated", "references",
)  # fmt: skip
_MINI = Path(__file__).parent / "data" / "mini-ai-arxiv"


def load_papers(name: str = "papers"):
    """Load the papers, one row a chunk.

    In the embedded profile the book's own mini ai-arxiv; in the hub profile
    https://huggingface.co/datasets/jamescalam/ai-arxiv-chunked. Both have the same 15 columns, so
    that code need not know which one it has.

    Parameters
    ----------
    name : str
        The role, or an id of the registry.

    Returns
    -------
    datasets.Dataset
        ``chunk`` is the passage, ``title`` its paper's title, ``references`` the papers it cites.

    Raises
    ------
    HubUnreachable
        If the dataset is neither here nor to be had.
    ValueError
        If what was loaded lacks one of the 15 columns.
    """
    one = spec(name)
    if one.kind != "dataset":
        raise ValueError(f"{name!r} is a {one.kind}, not a dataset")
    papers = _mini() if one.profile == "embedded" else _from_hub(one)
    missing = [column for column in COLUMNS if column not in papers.column_names]
    if missing:
        raise ValueError(f"{one.id} lacks the column(s) {', '.join(missing)}")
    return papers.select_columns(list(COLUMNS))


def _mini():
    papers = {row["id"]: row for row in _lines(_MINI / "papers.jsonl")}
    rows = [papers[row["id"]] | row for row in _lines(_MINI / "chunks.jsonl")]
    text = Value("string")
    features = dict.fromkeys(COLUMNS, text)
    features |= {"authors": [text], "categories": [text], "references": [{"id": text}]}
    return Dataset.from_list(rows, features=Features(features))


def _lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _from_hub(one: Spec):
    folder = snapshot(one)
    files = sorted(str(path) for kind in ("*.jsonl", "*.parquet") for path in folder.rglob(kind))
    if not files:
        raise HubUnreachable(f"{one.id} at {one.revision} holds neither JSON lines nor Parquet files")
    return load_dataset("parquet" if files[0].endswith("parquet") else "json", data_files=files, split="train")
