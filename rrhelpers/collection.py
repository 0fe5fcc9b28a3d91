"""The book's test collection: judged queries over the mini ai-arxiv, and scored pairs of sentences.

How they were made, how far two judges agree, and what they aren't good for: the data card.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset

from .backbone import adapter_folder
from .hits import Hit
from .papers import load_papers
from .registry import spec

SPLITS = ("dev", "test")
PAIR_SPLITS = ("train", "dev", "test")
_DATA = Path(__file__).parent / "data"
_QUERIES = _DATA / "mini-ai-arxiv"
_SCORED = _QUERIES / "scored.json"
_PAIRS = _DATA / "ai-pairs"


def passage_ids(papers) -> list[str]:
    """Return a name for each passage, in the order of `papers`: its paper's id, ``#``, its chunk id.

    Qrels and run files use these names, so that they stay right when the corpus is filtered or grows.

    Parameters
    ----------
    papers : datasets.Dataset
        From `load_papers`.
    """
    return [f"{paper}#{chunk}" for paper, chunk in zip(papers["id"], papers["chunk-id"], strict=True)]


def load_topics() -> dict[str, str]:
    """Return the subject of each paper of the mini ai-arxiv: paper id to one of eleven topics."""
    return json.loads((_QUERIES / "topics.json").read_text(encoding="utf-8"))


def load_queries(split: str | None = None):
    """Load the judged queries of the mini ai-arxiv.

    Parameters
    ----------
    split : {"dev", "test"}, optional
        Tune on dev, report on test. Both if not given.

    Returns
    -------
    datasets.Dataset
        ``qid``, ``query``, ``kind`` (keyword, question, acronym, claim, vague, comparison, figure,
        unanswerable), ``need`` (what the judges were told is wanted) and ``split``.

    Raises
    ------
    ValueError
        If there is no such split.
    """
    _check(split, SPLITS)
    rows = _lines(_QUERIES / "queries.jsonl")
    return Dataset.from_list([row for row in rows if split in (None, row["split"])])


def load_qrels(split: str | None = None) -> dict[str, dict[str, int]]:
    """Load the judgements of those queries.

    Parameters
    ----------
    split : {"dev", "test"}, optional

    Returns
    -------
    dict
        Query id to passage id (see `passage_ids`) to grade: 3 answers fully, 2 answers in good
        part, 1 on the subject without answering, 0 none of these. What isn't judged isn't listed.

    Raises
    ------
    ValueError
        If there is no such split.
    """
    _check(split, SPLITS)
    wanted = {row["qid"] for row in _lines(_QUERIES / "queries.jsonl") if split in (None, row["split"])}
    qrels = read_qrels(_QUERIES / "qrels.txt")
    return {qid: grades for qid, grades in qrels.items() if qid in wanted}


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgements in TREC's format: query, ``0``, passage, grade, a line each.

    Raises
    ------
    ValueError
        If a line has another form; the message says which.
    """
    qrels = defaultdict(dict)
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            qid, _, passage, grade = line.split()
            qrels[qid][passage] = int(grade)
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected 'query 0 passage grade', got {line!r}") from None
    return dict(qrels)


def write_run(path: str | Path, run: Mapping[str, Sequence[Hit]], ids: Sequence[str], tag: str) -> None:
    """Write a run in TREC's format: query, ``Q0``, passage, rank, score, tag, a line each.

    Parameters
    ----------
    path : path
    run : mapping of str to sequence of Hit
        Query id to its hits.
    ids : sequence of str
        The passages' names, from `passage_ids`.
    tag : str
        The system's name.
    """
    lines = [f"{q} Q0 {ids[h.corpus_id]} {h.rank} {h.score:.6f} {tag}\n" for q, hits in run.items() for h in hits]
    Path(path).write_text("".join(lines), encoding="utf-8")


def load_scored(role: str, split: str) -> dict[str, list[Hit]]:
    """Load what an embedded second stage said of the first hits of the judged queries, instead of asking for minutes.

    Recorded by ``tools/measure_depth.py``: the bi-encoder's first 200 for each test query, the first
    25 for each dev query.

    Parameters
    ----------
    role : str
        ``reranker``, ``reranker-small`` or ``late-interaction``, or an id.
    split : {"dev", "test"}

    Returns
    -------
    dict of str to list of Hit
        Query id to hits, best first, as `rerank` returns them with ``fuse=False``; scores are rounded:
        the reranker's logits, or the sums of late interaction. Empty where nothing is recorded of the
        model that plays this role in the profile in force.

    Raises
    ------
    ValueError
        If there is no such role or split, or the passages or the weights have changed since.
    """
    _check(split, SPLITS)
    record, model = json.loads(_SCORED.read_text(encoding="utf-8")), spec(role).id
    if model not in record["made of"]:
        return {}
    for name, digest in fingerprints([model]).items():
        if record["made of"][name] != digest:
            raise ValueError(f"{name} has changed since the scores were recorded: run tools/measure_depth.py again")
    scored = {}
    for qid, one in record[split].items():
        rows = sorted(enumerate(one[model]), key=lambda item: -item[1])  # stable: equal logits keep retrieval's order
        scored[qid] = [
            Hit(one["rows"][place], logit, rank, one["cosine"][place], place + 1)
            for rank, (place, logit) in enumerate(rows, start=1)
        ]
    return scored


def load_timings() -> dict:
    """Load how long a query takes, as ``tools/measure_depth.py`` has measured it on one machine.

    Returns
    -------
    dict
        ``machine``, ``precision``, ``queries`` (how many were timed) and ``ms``: for each system
        (BM25, bi-encoder, and a second stage's role with ``@`` and the depth) the median, the least
        and the most milliseconds a query. A second stage's are its own, without retrieval.
    """
    return json.loads(_SCORED.read_text(encoding="utf-8"))["timing"]


def fingerprints(models: Sequence[str]) -> dict[str, str]:
    """Return a sha256 of the mini ai-arxiv's passages, and of what is shipped of each embedded model, by id."""
    texts = "\n".join(load_papers("rrhelpers/data/mini-ai-arxiv")["chunk"]).encode()
    found = {"passages": hashlib.sha256(texts).hexdigest()}
    for model in models:
        weights = sorted(adapter_folder(spec(model)).glob("*.safetensors"))
        found[model] = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()
    return found


def load_pairs(split: str | None = None):
    """Load pairs of sentences about AI research, scored by how far they mean the same.

    Parameters
    ----------
    split : {"train", "dev", "test"}, optional
        No sentence is in two splits. All if not given.

    Returns
    -------
    datasets.Dataset
        ``sentence1``, ``sentence2``, ``score`` (0 to 5), ``kind`` and ``split``.

    Raises
    ------
    ValueError
        If there is no such split.
    """
    _check(split, PAIR_SPLITS)
    return Dataset.from_list([row for row in _lines(_PAIRS / "pairs.jsonl") if split in (None, row["split"])])


def load_sentences() -> list[str]:
    """Return the whole sentences of the mini ai-arxiv, each once: a pool without labels.

    Sentences that a chunk's edge cuts, headings and very short ones are left out.
    """
    sentences = {}
    for chunk in load_papers("rrhelpers/data/mini-ai-arxiv")["chunk"]:
        for sentence in re.split(r"(?<=[.?!]) +(?=[A-Z\"])", chunk):
            if sentence[0].isupper() and sentence[-1] in ".?!" and 6 <= len(sentence.split()) <= 45:
                sentences[sentence] = None
    return list(sentences)


def _check(split: str | None, splits: tuple[str, ...]) -> None:
    if split is not None and split not in splits:
        raise ValueError(f"there is no split {split!r}; use one of {', '.join(splits)}")


def _lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
