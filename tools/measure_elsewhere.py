"""Measure a reranker away from home, on collections that it wasn't trained on.

    python tools/measure_elsewhere.py --data DIR --out rrhelpers/weights/reranker/elsewhere.json

`--data` holds `cisi/` (the CISI test collection: documents and queries on information science) and
`general_qa/trecqa-test.csv` (TREC's answer sentences). The third and fourth are the short questions that are held
out: "what is X?" with what explains X and what only mentions it, and facts. In CISI the first 25 of the bi-encoder
are reranked and judged by nDCG@10; in the others all texts of a question are, by the reciprocal rank of the first
that answers. Questions whose texts all answer, or none, say nothing and are left out.
Both as `rr.rerank` does by default (with the model's fusion, if it has one) and by the logit alone.
"""

import argparse
import csv
import json
import re
import warnings
from collections import defaultdict
from pathlib import Path

import mining
import numpy as np
from tqdm.auto import tqdm

import rrhelpers as rr
from rrhelpers.evaluating import RELEVANT

TOP_K = 25


def read_cisi(folder: Path) -> tuple[dict[int, str], dict[int, str], dict[int, set[int]]]:
    """Return documents, queries and relevant documents by number."""

    def entries(name):
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        for entry in re.split(r"^\.I ", text, flags=re.M)[1:]:
            number, rest = entry.split("\n", 1)
            fields = dict(re.findall(r"^\.([TW])\s*\n(.*?)(?=^\.[A-Z]\s*$|\Z)", rest, flags=re.M | re.S))
            yield int(number), " ".join(f"{fields.get('T', '')} {fields.get('W', '')}".split())

    relevant = defaultdict(set)
    for line in (folder / "CISI.REL").read_text().splitlines():
        query, document = line.split()[:2]
        relevant[int(query)].add(int(document))
    return dict(entries("CISI.ALL")), dict(entries("CISI.QRY")), relevant


def scores_of(model, reranker, query: str, passages, vectors, relevant: set[int], top_k: int, measure: str) -> tuple:
    """Return one query's score before reranking, after it, and by the logit alone."""
    hits = rr.search(rr.encode(model, query), vectors, top_k=top_k)
    # Some of CISI's queries are essays, and the passage needs room: of 256 tokens 120 words may be the query's.
    query = " ".join(query.split()[: reranker.max_seq_length * 120 // 256])
    runs = hits, *(rr.rerank(reranker, query, hits, passages, fuse=fuse, progress=False) for fuse in (True, False))
    ids = [str(row) for row in range(len(passages))]
    qrels = {"q": {ids[row]: RELEVANT for row in relevant}}
    return tuple(rr.per_query({"q": run}, qrels, ids, measure)["q"] for run in runs)


def cisi(model, reranker, folder: Path) -> list[tuple[float, float, float]]:
    """Return nDCG@10 before reranking, after it, and by the logit alone, for each query with judgements."""
    documents, queries, relevant = read_cisi(folder)
    texts, rows = list(documents.values()), {number: row for row, number in enumerate(documents)}
    vectors = rr.encode(model, texts)
    scores = []
    for number, own in tqdm(relevant.items(), desc="CISI"):
        query = " ".join(queries[number].split()[:120])
        found = {rows[document] for document in own}
        scores.append(scores_of(model, reranker, query, texts, vectors, found, TOP_K, "nDCG@10"))
    return scores


def trec_qa(path: Path) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return questions with their sentences, each labelled 1 if it answers and else 0."""
    by_question = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            by_question[row["qtext"]].append((row["atext"], int(row["label"])))
    return list(by_question.items())


def first_answer(model, reranker, questions, name: str) -> list[tuple[float, float, float]]:
    """Return the reciprocal rank before reranking, after it, and by the logit alone, for each question."""
    scores = []
    for question, labelled in tqdm(questions, desc=name):
        texts, labels = zip(*labelled, strict=True)
        if 0 < sum(labels) < len(labels):
            vectors = rr.encode(model, texts, progress=False)
            own = {row for row, label in enumerate(labels) if label}
            measure = f"MRR@{len(texts)}"
            scores.append(scores_of(model, reranker, question, texts, vectors, own, len(texts), measure))
    return scores


def summary(scores: list[tuple[float, float, float]], metric: str) -> dict:
    """Return means, mean differences, and their 95% intervals from 10,000 bootstrap samples of queries."""
    before, *reranked = np.array(scores).T
    result = {"queries": len(before), "metric": metric, "bi_encoder": round(float(before.mean()), 4)}
    for name, after in zip(("reranked", "logit alone"), reranked, strict=True):
        draws = np.random.default_rng(0).choice(after - before, (10_000, len(before))).mean(1)
        result[name] = {
            "mean": round(float(after.mean()), 4),
            "gain": round(float((after - before).mean()), 4),
            "gain_95%": [round(float(v), 4) for v in np.percentile(draws, [2.5, 97.5])],
        }
    return result


def main() -> None:
    """Measure both and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--reranker", default="reranker", help="role, id or folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # truncated documents
    model, reranker = rr.load_bi_encoder(), rr.load_reranker(args.reranker)
    questions = {
        "trec_qa": trec_qa(args.data / "general_qa" / "trecqa-test.csv"),
        "terms": mining.held_out_questions("term"),
        "facts": mining.held_out_questions("question"),
    }
    result = {"cisi": summary(cisi(model, reranker, args.data / "cisi"), "nDCG@10")}
    for name, asked in questions.items():
        result[name] = summary(first_answer(model, reranker, asked, name), "MRR")
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
