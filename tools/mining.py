"""Training groups for rerankers and other retrieval models: a query, a passage that answers, and hard negatives.

Read from `--data` of the training tools (see the model cards page for what is in it); vectors are
kept in `--work`. The texts themselves go into no result.
"""

import csv
import gzip
import hashlib
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import rrhelpers as rr

ROOT = Path(__file__).parents[1]
CHUNK_WORDS = 150
NEGATIVES = 3
DEPTH = 30
# A negative that the bi-encoder puts far above the positive often answers the question too.
TOO_GOOD = 0.05
# Written for this, in no collection: terms with passages that explain and passages that only mention them, by the
# same number of times on average; facts with sentences that say them and sentences about the same thing that don't.
# Training texts, not a source: many of the reports in them are made up.
SHORT_QUESTIONS = Path(__file__).with_name("short_questions.jsonl")
FORMS = ("what is {}?", "what is {}?", "what does {} mean?", "how does {} work?", "explain {}", "{}")


@dataclass
class Group:
    """One query with its positive passage first, then negatives, and the bi-encoder's cosines."""

    query: str
    passages: list[str]
    cosines: list[float]


@dataclass
class Papers:
    """AI papers cut into chunks; `owner` counts the papers, `vectors` has a row for each chunk."""

    papers: list[dict]
    chunks: list[str]
    owner: np.ndarray
    vectors: np.ndarray

    def numbers(self, split: str) -> list[int]:
        """Return the numbers of the papers of a split."""
        return [number for number, paper in enumerate(self.papers) if split_of(paper["id"]) == split]


def bucket(name: str) -> int:
    """Return one of ten numbers, fixed for ever by a hash of the name."""
    return int(hashlib.sha256(f"rrhelpers {name}".encode()).hexdigest(), 16) % 10


def split_of(paper_id: str) -> str:
    """Return the paper's split, fixed for ever by its id: test 10%, dev 10%, train 80%."""
    return {0: "test", 1: "dev"}.get(bucket(paper_id), "train")


def chunk(text: str) -> list[str]:
    """Cut into pieces of at most CHUNK_WORDS words, of nearly equal length."""
    words = text.split()
    pieces = max(1, -(-len(words) // CHUNK_WORDS))
    size = -(-len(words) // pieces)
    return [" ".join(words[i : i + size]) for i in range(0, len(words), size)]


def load_papers(model, path: Path, work: Path, count: int = 8000) -> Papers:
    """Return the same papers for every training run, and their chunks: all test papers, the rest at random."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        everything = [json.loads(line) for line in lines]
    random.Random(13).shuffle(everything)
    everything.sort(key=lambda p: split_of(p["id"]) != "test")  # stable: the shuffle stays
    chosen = everything[:count]
    if split_of(chosen[-1]["id"]) == "test":
        raise SystemExit(f"{count} papers are held-out ones only: take more, none is left to train on")
    pieces = [(piece, n) for n, paper in enumerate(chosen) for text in paper["passages"] for piece in chunk(text)]
    chunks, owner = map(list, zip(*pieces, strict=True))
    return Papers(chosen, chunks, np.array(owner), encode(model, chunks, work))


def encode(model, texts: list[str], work: Path) -> np.ndarray:
    """Encode once; later calls with the same texts read the file in `work`."""
    return np.array(rr.encode(model, texts, cache=work))  # in memory, and writable: for torch


def top_ranks(queries: np.ndarray, corpus: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and corpus rows of the first k of each query, best first."""
    corpus_t = torch.from_numpy(corpus)
    scores, rows = [], []
    for block in torch.from_numpy(queries).split(256):
        best = (block @ corpus_t.T).topk(k)
        scores.append(best.values.numpy())
        rows.append(best.indices.numpy())
    return np.concatenate(scores), np.concatenate(rows)


def group(asked: list[tuple[str, int]], queries, passages: list[str], owner, vectors, rng) -> list[Group]:
    """Keep the queries that the bi-encoder finds consistent, and draw negatives for them.

    A query is consistent if one of the first ten passages is its owner's: that one is the positive.
    Negatives are other owners' passages of the first 30.
    """
    groups = []
    scores, rows = top_ranks(queries, vectors, DEPTH)
    for (query, number), score, row in zip(asked, scores, rows, strict=True):
        own = np.flatnonzero(owner[row[:10]] == number)
        if not len(own):
            continue
        others = [i for i in np.flatnonzero(owner[row] != number) if score[i] < score[own[0]] + TOO_GOOD]
        if len(others) >= NEGATIVES:
            picked = [own[0], *rng.sample(others, NEGATIVES)]
            groups.append(Group(query, [passages[row[i]] for i in picked], [float(score[i]) for i in picked]))
    return groups


def questions(model, papers: Papers, work: Path, rng, split: str = "train", per_paper: int = 4) -> list[Group]:
    """Group questions and titles of a split's papers."""
    asked = []
    for number in papers.numbers(split):
        own = papers.papers[number]["questions"]
        asked += [(q, number) for q in [*rng.sample(own, min(per_paper, len(own))), papers.papers[number]["title"]]]
    queries = encode(model, [q for q, _ in asked], work)
    return group(asked, queries, papers.chunks, papers.owner, papers.vectors, rng)


def xquad(model, path: Path, work: Path, rng) -> list[Group]:
    """Group questions over Wikipedia paragraphs."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [p for article in articles for p in article["paragraphs"]]
    texts = [" ".join(p["context"].split()[:CHUNK_WORDS]) for p in paragraphs]
    asked = [(q["question"], n) for n, p in enumerate(paragraphs) for q in p["qas"]]
    queries = encode(model, [q for q, _ in asked], work)
    return group(asked, queries, texts, np.arange(len(texts)), encode(model, texts, work), rng)


def trec_qa(model, path: Path, work: Path, rng) -> list[Group]:
    """Group questions with sentences that do and don't answer them, as labelled."""
    by_query: dict[str, dict[str, list[str]]] = {}
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            by_query.setdefault(row["qtext"], {"0": [], "1": []})[row["label"]].append(row["atext"])
    drawn = [
        (query, [positive, *rng.sample(s["0"], NEGATIVES)])
        for query, s in by_query.items()
        if len(s["0"]) >= NEGATIVES
        for positive in s["1"]
    ]
    return with_cosines(model, drawn, work)


def short_questions(kind: str, *, held_out: bool) -> list[dict]:
    """Return the lines of `SHORT_QUESTIONS` of a kind, "term" or "question"; a fifth of what is asked is held out."""
    with SHORT_QUESTIONS.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if kind in row]
    return [row for row in rows if (bucket(row[kind].lower()) < 2) == held_out]


def held_out_questions(kind: str) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return the short questions of a kind that are held out, with their texts, labelled 1 if they answer, else 0."""
    form = {"term": "what is {}?", "question": "{}"}[kind]
    return [
        (form.format(row[kind]), [(t, 1) for t in row["answers"]] + [(t, 0) for t in row["others"]])
        for row in short_questions(kind, held_out=True)
    ]


def written(model, kind: str, work: Path) -> list[Group]:
    """Group the short questions of a kind that aren't held out, a group for each answer; always the same groups."""
    rng, drawn = random.Random(13), []
    for row in short_questions(kind, held_out=False):
        for answer in row["answers"]:
            query = rng.choice(FORMS).format(row["term"]) if kind == "term" else row["question"]
            drawn.append((rng.choice([query, query.lower()]), [answer, *rng.sample(row["others"], NEGATIVES)]))
    return with_cosines(model, drawn, work)


def with_cosines(model, drawn: list[tuple[str, list[str]]], work: Path) -> list[Group]:
    """Group queries with the passages that were drawn for them, the same number for each."""
    queries = encode(model, [query for query, _ in drawn], work)
    passages = encode(model, [text for _, texts in drawn for text in texts], work)
    cosines = np.einsum("qd,qnd->qn", queries, passages.reshape(len(drawn), -1, passages.shape[1]))
    return [Group(query, texts, list(map(float, c))) for (query, texts), c in zip(drawn, cosines, strict=True)]


def logits_of(reranker, lists: list[tuple[str, list[str]]]) -> np.ndarray:
    """Return the logit of every pair of a query and one of its texts, in their order, in one row."""
    texts = [text for _, own in lists for text in own]
    rows = iter(range(len(texts)))
    hits = [[rr.Hit(next(rows), 0.0, 1) for _ in own] for _, own in lists]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some texts are cut
        found = rr.rerank(reranker, [query for query, _ in lists], hits, texts, fuse=False)
    logits = np.zeros(len(texts), dtype=np.float32)
    for hit in (hit for best in found for hit in best):
        logits[hit.corpus_id] = hit.score
    return logits


def sentence_pairs(path: Path) -> list[tuple[str, str, float]]:
    """Return the pairs of an STS benchmark file with their scores, 0 to 5."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [(a, b, float(score)) for a, b, score in csv.reader(lines)]


class Batches:
    """Endless batches of groups, each from one source (so that lengths are alike), in fixed shares."""

    def __init__(self, sources: list[tuple[float, list[Group]]], size: int, rng: random.Random):
        self.sources, self.size, self.rng = sources, size, rng
        self.queues: list[list[Group]] = [[] for _ in sources]

    def next(self) -> list[Group]:
        """Return `size` groups; a source is reshuffled when it is used up."""
        which = self.rng.choices(range(len(self.sources)), [share for share, _ in self.sources])[0]
        groups = self.sources[which][1]
        while len(self.queues[which]) < self.size:
            self.queues[which] += self.rng.sample(groups, len(groups))
        return [self.queues[which].pop() for _ in range(self.size)]
