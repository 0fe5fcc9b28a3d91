"""Find how `rr.rerank` weighs an embedded reranker's logit with the bi-encoder's cosine.

    python tools/fit_fusion.py --data DIR --work DIR --backbone DIR --reranker reranker

Two steps, on three collections that the reranker wasn't trained on: the dev queries of the mini
ai-arxiv, questions on AI papers held out for development, and TREC-QA's dev questions.
1. Order: logit + r * cosine. A reranker knows its own field best, and does harm in others, from which a
   large r protects. The mean gain over the three collections, of which only one is the reranker's own
   field, hardly depends on r near its best. So r is the *largest* that keeps 95% of the best mean gain.
2. Scale: a logistic regression of "is relevant" on that sum, each collection with the same total
   weight, makes it a log-odds. It changes no order.
Writes `fusion.json` beside the adapter: the weights, the gains by r, the expected calibration error
and reliability on the mini ai-arxiv's dev queries (by cross-validation over queries), and what the
sum gains on held-out papers.
"""

import csv
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import mining
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from train_reranker import TOP_K, gain, prepare, reciprocal_rank, score_held_out, sources

import rrhelpers as rr
from rrhelpers.evaluating import RELEVANT

BINS = np.linspace(0, 1, 11)
QUESTIONS = (200, 1000)  # of held-out papers: for development, and to measure
KEPT = 0.95  # of the best mean gain
RATIOS = [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 40]


@dataclass
class Scored:
    """Pairs of one collection: cosine and logit, whether the passage is relevant, and the query's number."""

    logits: np.ndarray
    cosines: np.ndarray
    labels: np.ndarray
    queries: np.ndarray

    def sums(self, ratio: float) -> np.ndarray:
        """Return logit + ratio * cosine of every pair."""
        return self.logits + ratio * self.cosines

    def mrr(self, scores: np.ndarray) -> float:
        """Return MRR@10 of an order by the scores, over the queries with a relevant passage."""
        found = []
        for query in np.unique(self.queries):
            own = self.queries == query
            if self.labels[own].any():
                found.append(reciprocal_rank(self.labels[own][np.argsort(-scores[own], kind="stable")]))
        return float(np.mean(found))


def scored(model, reranker, query: str, passages, vectors, top_k: int) -> list[rr.Hit]:
    """Return the first hits with the reranker's logit and the cosine."""
    hits = rr.search(rr.encode(model, query), vectors, top_k=top_k)
    return rr.rerank(reranker, query, hits, passages, fuse=False, progress=False)


def judged(model, reranker, split: str) -> Scored:
    """Return the judged ones of the first 25 for each query of the mini ai-arxiv."""
    papers, queries, qrels = rr.load_papers(), rr.load_queries(split), rr.load_qrels(split)
    passages, ids = papers["chunk"][:], rr.passage_ids(papers)
    vectors, rows = rr.encode(model, passages), []
    for number, row in enumerate(queries):
        for hit in scored(model, reranker, row["query"], passages, vectors, TOP_K):
            grade = qrels[row["qid"]].get(ids[hit.corpus_id])
            if grade is not None:
                rows.append((hit.score, hit.retrieval_score, grade >= RELEVANT, number))
    return as_arrays(rows)


def trec_qa(model, reranker, path: Path) -> Scored:
    """Return all sentences of each of TREC-QA's questions."""
    by_question, rows = defaultdict(list), []
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            by_question[row["qtext"]].append((row["atext"], row["label"] == "1"))
    for number, (question, sentences) in enumerate(by_question.items()):
        texts, labels = zip(*sentences, strict=True)
        vectors = rr.encode(model, texts, progress=False)
        hits = scored(model, reranker, question, texts, vectors, len(texts))
        rows += [(hit.score, hit.retrieval_score, labels[hit.corpus_id], number) for hit in hits]
    return as_arrays(rows)


def as_arrays(rows) -> Scored:
    """Split rows of logit, cosine, label, query into columns."""
    table = np.array(rows, dtype=np.float64)
    return Scored(table[:, 0], table[:, 1], table[:, 2].astype(bool), table[:, 3].astype(int))


def held_out(reranker, folder: Path, encoder, papers, split: str, count: int, work: Path) -> Scored:
    """Return the first 25 chunks for questions of held-out papers; scored once for each adapter."""
    weights = (folder / "adapter_model.safetensors").read_bytes()
    path = work / f"scores-{split}-{count}-{hashlib.sha256(weights).hexdigest()[:16]}.npz"
    if not path.exists():
        device = reranker.model.device
        scores = score_held_out(reranker.model, reranker.tokenizer, encoder, papers, split, count, work, device)
        np.savez(path, **scores)
    stored = np.load(path)
    numbers = np.repeat(np.arange(len(stored["labels"])), stored["labels"].shape[1])
    return Scored(stored["logits"].ravel(), stored["cosines"].ravel(), stored["labels"].ravel(), numbers)


def choose(collections: dict[str, Scored]) -> tuple[int, list[dict]]:
    """Return the largest ratio that keeps `KEPT` of the best mean gain over the collections, and the gains by ratio."""
    rows = []
    for ratio in RATIOS:
        gains = {name: round(c.mrr(c.sums(ratio)) - c.mrr(c.cosines), 4) for name, c in collections.items()}
        rows.append({"ratio": ratio} | gains | {"mean": round(float(np.mean([*gains.values()])), 4)})
    best = max(row["mean"] for row in rows)
    return max(row["ratio"] for row in rows if row["mean"] >= min(best, KEPT * best)), rows


def scale(sums: list[np.ndarray], labels: list[np.ndarray]) -> LogisticRegression:
    """Fit one regression on all collections, each with the same total weight."""
    weights = np.concatenate([np.full(len(y), 1000 / len(y)) for y in labels])
    return LogisticRegression(C=1e4).fit(np.concatenate(sums)[:, None], np.concatenate(labels), weights)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> tuple[list[dict], float]:
    """Return for each tenth of probability how often it is right, and the expected calibration error.

    The error is the mean over pairs of the distance between a bin's mean probability and its share
    of relevant passages (https://arxiv.org/abs/1706.04599).
    """
    which = np.clip(np.digitize(probabilities, BINS) - 1, 0, len(BINS) - 2)
    bins = [
        {
            "pairs": int((which == b).sum()),
            "probability": round(float(probabilities[which == b].mean()), 4),
            "relevant": round(float(labels[which == b].mean()), 4),
        }
        for b in np.unique(which)
    ]
    error = sum(b["pairs"] * abs(b["probability"] - b["relevant"]) for b in bins) / len(labels)
    return bins, round(error, 4)


def dev_collections(model, reranker, folder: Path, encoder, papers, args) -> dict[str, Scored]:
    """Return what the reranker, whose adapter is in `folder`, says of the three collections for development."""
    return {
        "mini ai-arxiv": judged(model, reranker, "dev"),
        "held-out papers": held_out(reranker, folder, encoder, papers, "dev", args.questions[0], args.work),
        "TREC-QA": trec_qa(model, reranker, args.data / "general_qa" / "trecqa-dev.csv"),
    }


def main() -> None:
    """Score, fit, measure, write."""
    parser = sources(__doc__.splitlines()[0])
    parser.add_argument("--reranker", default="reranker")
    parser.add_argument("--questions", type=int, nargs=2, default=QUESTIONS, help="dev and test, of held-out papers")
    args = parser.parse_args()
    folder = mining.ROOT / "rrhelpers" / "weights" / args.reranker
    model, reranker = rr.load_bi_encoder(), rr.load_reranker(args.reranker)
    _, encoder, papers = prepare(args)
    collections = dev_collections(model, reranker, folder, encoder, papers, args)
    own, dev, general = collections.values()
    test = held_out(reranker, folder, encoder, papers, "test", args.questions[1], args.work)

    ratio, gains = choose(collections)
    others = [dev.sums(ratio), general.sums(ratio)], [dev.labels, general.labels]
    final = scale([own.sums(ratio), *others[0]], [own.labels, *others[1]])
    slope, bias = float(final.coef_[0, 0]), float(final.intercept_[0])
    left_out = np.zeros(len(own.labels))
    for train, rest in GroupKFold(5).split(own.logits, own.labels, own.queries):
        part = scale([own.sums(ratio)[train], *others[0]], [own.labels[train], *others[1]])
        left_out[rest] = part.predict_proba(own.sums(ratio)[rest][:, None])[:, 1]
    bins, error = reliability(left_out, own.labels)
    shape = (-1, TOP_K)
    result = {
        "weights": {"logit": round(slope, 4), "cosine": round(slope * ratio, 4), "bias": round(bias, 4)},
        "ratio": ratio,
        "gain in MRR@10 on the dev collections": gains,
        "pairs": {name: len(c.labels) for name, c in collections.items()},
        "calibration on the mini ai-arxiv's dev queries": {"pairs": len(own.labels), "error": error, "bins": bins},
        "held-out papers": {
            "chunks": len(papers.chunks),
            "questions": args.questions[1],
            "recall@25": round(float(test.labels.reshape(shape).any(1).mean()), 3),
            "logit alone": gain(*(a.reshape(shape) for a in (test.logits, test.cosines, test.labels))),
            "fused": gain(*(a.reshape(shape) for a in (test.sums(ratio), test.cosines, test.labels))),
        },
    }
    (folder / "fusion.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
