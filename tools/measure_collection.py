"""Does the test collection tell systems apart? Measure BM25, the bi-encoder, its reranked hits, and chance.

    python tools/measure_collection.py --out rrhelpers/data/mini-ai-arxiv/baselines.json

Test queries that some passage answers; the first 100 of BM25 and of the bi-encoder, of which the
first 25 are reranked. Prints and writes the measures with intervals, nDCG@10 for each kind of query,
for how many queries each system is the best of the three, and how much of each run's first ten was judged.
"""

import argparse
import json
from pathlib import Path

import bm25s
import numpy as np
import torch

import rrhelpers as rr
from rrhelpers.evaluating import MEASURES, RELEVANT

DEPTH, RERANKED = 100, 25


def bm25(passages: list[str]):
    """Return a function from queries to BM25's hits (Lucene's variant, k1 1.5, b 0.75, stop words, no stemming)."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)

    def find(queries: list[str]) -> list[list[rr.Hit]]:
        asked = bm25s.tokenize(queries, stopwords="en", show_progress=False)
        rows, scores = index.retrieve(asked, k=DEPTH, show_progress=False)
        return [
            [rr.Hit(int(i), float(s), rank) for rank, (i, s) in enumerate(zip(*pair, strict=True), start=1)]
            for pair in zip(rows, scores, strict=True)
        ]

    return find


def bm25_run(passages: list[str], queries: list[str]) -> list[list[rr.Hit]]:
    """Return BM25's hits from an index made for the occasion."""
    return bm25(passages)(queries)


def reranked_run(reranker, queries, hits, passages, **options) -> list[list[rr.Hit]]:
    """Return the first hits reranked, and the others below them in their order."""
    best = rr.rerank(reranker, queries, [found[:RERANKED] for found in hits], passages, **options)
    return [top + found[RERANKED:] for top, found in zip(best, hits, strict=True)]


def matched_run(late, queries, hits, matrices) -> list[list[rr.Hit]]:
    """Return hits ordered anew by late interaction; `matrices` has the vectors of each passage's tokens."""
    lists = []
    for query, found in zip(late.encode_query(queries), hits, strict=True):
        sums = late.similarity(query, [matrices[hit.corpus_id] for hit in found])[0].float().cpu().numpy()
        order = np.argsort(-sums, kind="stable")
        best = [(found[i], float(sums[i])) for i in order]
        lists.append([rr.Hit(h.corpus_id, s, rank, h.score, h.rank) for rank, (h, s) in enumerate(best, start=1)])
    return lists


def random_run(n: int, queries: list[str], seed: int) -> list[list[rr.Hit]]:
    """Return passages in random order."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n)[:DEPTH] for _ in queries]
    return [[rr.Hit(int(i), 0.0, rank) for rank, i in enumerate(order, start=1)] for order in orders]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    papers, asked, qrels = rr.load_papers(), rr.load_queries(args.split), rr.load_qrels(args.split)
    passages, ids, queries = papers["chunk"][:], rr.passage_ids(papers), asked["query"][:]
    # In full precision, and nothing from the cache, which may hold what half precision gave: a record is
    # to be the same wherever it's made.
    model, reranker = rr.load_bi_encoder(dtype=torch.float32), rr.load_reranker(dtype=torch.float32)
    vectors = rr.encode(model, passages, cache=False)
    hits = rr.search(rr.encode(model, queries, cache=False), vectors, top_k=DEPTH)
    lists = {
        "bi-encoder": hits,
        "BM25": bm25_run(passages, queries),
        "bi-encoder, reranked": reranked_run(reranker, queries, hits, passages),
        "reranked, logit alone": reranked_run(reranker, queries, hits, passages, fuse=False),
        "random order": random_run(len(passages), queries, seed=1),
    }
    runs = {name: dict(zip(asked["qid"], found, strict=True)) for name, found in lists.items()}
    table = rr.evaluate(runs, qrels, ids)
    ndcg = {name: rr.per_query(run, qrels, ids, "nDCG@10") for name, run in runs.items()}
    kinds = dict(zip(asked["qid"], asked["kind"], strict=True))
    by_kind = {
        kind: {"queries": len(own := [q for q in ndcg["BM25"] if kinds[q] == kind])}
        | {name: round(float(np.mean([scores[q] for q in own])), 4) for name, scores in ndcg.items()}
        for kind in dict.fromkeys(kinds[q] for q in ndcg["BM25"])
    }
    real = ["bi-encoder", "BM25", "bi-encoder, reranked"]
    wins = {
        name: sorted(q for q in ndcg[name] if all(ndcg[name][q] > ndcg[other][q] for other in real if other != name))
        for name in real
    }
    judged = {
        name: round(float(np.mean([ids[h.corpus_id] in qrels[q] for q in ndcg[name] for h in run[q][:10]])), 4)
        for name, run in runs.items()
    }
    result = {
        "split": args.split,
        "queries": len(ndcg["BM25"]),
        "relevant": f"grade {RELEVANT} or more",
        "measures": [{k: v if isinstance(v, str) else round(v, 4) for k, v in row.items()}
                     for row in table.astype(object).where(table.notna(), None).to_dict("records")
                     for row in [{k: v for k, v in row.items() if v is not None}]],
        "ndcg@10 by kind": by_kind,
        "best of three": wins,
        "judged among the first ten": judged,
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table.pivot(index="run", columns="measure", values="mean")[list(MEASURES)].loc[list(runs)].round(3))
    print(json.dumps({k: v for k, v in result.items() if k != "measures"}, indent=1))
    print({name: len(won) for name, won in wins.items()})


if __name__ == "__main__":
    main()
