"""Record what the embedded second stages say of the first hits of every judged query, and how long it takes them.

    python tools/measure_depth.py --out rrhelpers/data/mini-ai-arxiv/scored.json

Chapter 5 asks how deep to rerank, which takes 200 passages a query: a quarter of an hour on two cores, and more than
a chapter may take. So this records the scores, `rr.load_scored` reads them, and the chapter makes every depth and
every fusion from them, and checks some queries against models that it runs itself. Test queries to a depth of 200;
dev queries to 25, for choosing a threshold. Then the time a query takes, by system and depth, all in turn.

The file names the passages and the weights that it was made from; `rr.load_scored` refuses it when they change.
`--roles reranker-small` records this one alone; what the file has of the others stays, and so does the check of it.
`--every 10` records every tenth query only, to try it out.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from measure_collection import bm25, matched_run
from timing import machine, timed
from tqdm.auto import tqdm

import rrhelpers as rr
from rrhelpers.collection import fingerprints

DEPTHS = {"test": 200, "dev": 25}
TIMED = (1, 5, 10, 25, 50, 100, 200)
TIMED_QUERIES = 10
ROLES = ("late-interaction", "reranker-small", "reranker")


def second_stage(role: str, passages: list[str], dtype: torch.dtype | None):
    """Return a function that orders a query's hits anew; what can be encoded beforehand is."""
    if role == "late-interaction":
        late = rr.load_late_interaction(dtype=dtype)
        matrices = late.encode_document(passages, batch_size=16)
        return lambda query, hits: matched_run(late, [query], [hits], matrices)[0]
    reranker = rr.load_reranker(role, dtype=dtype)
    return lambda query, hits: rr.rerank(reranker, query, hits, passages, fuse=False, progress=False)


def scored(model, stages: dict, vectors, split: str, every: int, before: dict[str, dict]) -> dict[str, dict]:
    """Return each query's first hits, in retrieval's order: their rows, cosines, and scores of each second stage.

    What was recorded before of a query stays, its hits among it.
    """
    result = {}
    for row in tqdm(list(rr.load_queries(split))[::every], desc=split):
        if one := before.get(row["qid"]):
            hits = [rr.Hit(*pair, rank) for rank, pair in enumerate(zip(one["rows"], one["cosine"], strict=True), 1)]
        else:
            hits = rr.search(rr.encode(model, row["query"]), vectors, top_k=DEPTHS[split])
            one = {"rows": [hit.corpus_id for hit in hits], "cosine": [round(hit.score, 4) for hit in hits]}
        for role, stage in stages.items():
            scores = {hit.corpus_id: round(hit.score, 3) for hit in stage(row["query"], hits)}
            one[rr.spec(role).id] = [scores[hit.corpus_id] for hit in hits]
        result[row["qid"]] = one
    return result


def timings(passages: list[str], vectors, queries: list[str]) -> dict:
    """Return milliseconds a query: median, least and most over the queries, each query asked of all systems in turn."""
    model, words = rr.load_bi_encoder(), bm25(passages)
    stages = {role: second_stage(role, passages, None) for role in ROLES}
    hits = {query: rr.search(rr.encode(model, query), vectors, top_k=max(TIMED)) for query in queries}
    works = {"BM25": lambda query: words([query])}
    works["bi-encoder"] = lambda query: rr.search(rr.encode(model, query), vectors, top_k=max(TIMED))
    for role, stage in stages.items():
        for depth in TIMED:
            works[f"{role}@{depth}"] = lambda query, stage=stage, depth=depth: stage(query, hits[query][:depth])
    found = {name: [] for name in works}
    for work in works.values():
        work(queries[0])
    for query in tqdm(queries, desc="timing"):
        for name, work in works.items():
            found[name].append(1000 * timed(lambda query=query, work=work: work(query)))
    return {
        name: [round(float(v), 2) for v in (np.median(values), np.min(values), np.max(values))]
        for name, values in found.items()
    }


def write(path: Path, head: dict, splits: dict[str, dict]) -> None:
    """Write the record, a line a query, so that a diff can be read."""
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for split, queries in splits.items():
        lines = ",\n".join(f"{json.dumps(q)}: {json.dumps(one, separators=(',', ':'))}" for q, one in queries.items())
        parts.append(f"{json.dumps(split)}: {{\n{lines}\n}}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--roles", nargs="+", default=ROLES, choices=ROLES)
    parser.add_argument("--every", type=int, default=1, help="record every so many-th query")
    parser.add_argument("--precision", default="float32", help="of the recorded scores; the timing takes the default's")
    args = parser.parse_args()
    passages = rr.load_papers()["chunk"][:]
    model = rr.load_bi_encoder(dtype=torch.float32)
    vectors = rr.encode(model, passages, cache=False)  # which may hold what another precision gave
    stages = {role: second_stage(role, passages, getattr(torch, args.precision)) for role in args.roles}
    before = {} if set(args.roles) == set(ROLES) else json.loads(args.out.read_text(encoding="utf-8"))
    if before and fingerprints([])["passages"] != before["made of"]["passages"]:
        raise SystemExit("the passages have changed: record all roles anew")
    splits = {split: scored(model, stages, vectors, split, args.every, before.get(split, {})) for split in DEPTHS}
    asked = rr.load_queries("test")["query"][:: rr.load_queries("test").num_rows // TIMED_QUERIES]
    asked = asked[: max(1, TIMED_QUERIES // args.every)]
    head = {
        "made of": before.get("made of", {}) | fingerprints([rr.spec(role).id for role in args.roles]),
        "precision": args.precision,
        "timing": {
            "machine": machine(),
            "precision": str(rr.pick_dtype()).removeprefix("torch."),
            "queries": len(asked),
            "ms": timings(passages, vectors, asked),
        },
    }
    write(args.out, head, splits)
    print(json.dumps(head, indent=1))
    print({split: len(queries) for split, queries in splits.items()}, args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
