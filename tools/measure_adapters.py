"""Train chapter 8's adapters on five splits of the papers and judge them on what was held out.

    python tools/measure_adapters.py --out rrhelpers/data/adapters.json

Two minutes on one CPU core. For each seed 30 of the 100 papers are held out, and on the others are
trained: an adapter on citation triplets (proximity), one on topics (classification), a linear map of the
frozen vectors on the same triplets, for comparison, and an adapter for queries on the dev queries
(against the papers' vectors with the proximity adapter). Search is measured on the test queries. Settings
were chosen on splits of other seeds (0 and 1).
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from scipy.stats import t
from tqdm.auto import tqdm

import rrhelpers as rr
from rrhelpers import citations
from rrhelpers.evaluating import RELEVANT

SEEDS = (10, 11, 12, 13, 14)
FIRST = 4  # the lowest layer with a bottleneck
STEPS = {"proximity": 10, "classification": 5, "query": 20, "linear map": 20}
LINEAR_RATE = 5e-4
SAMPLES = 10_000


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    started = perf_counter()
    chunks = rr.load_papers("rrhelpers/data/mini-ai-arxiv")
    papers, model = citations.load_citations(chunks), rr.load_bi_encoder("science", device="cpu", dtype=torch.float32)
    known = rr.Precomputed(model, papers.texts(), first=FIRST)
    queries = {split: Queries(model, chunks, papers, split) for split in ("dev", "test")}
    runs = [measure(seed, papers, known, queries) for seed in tqdm(SEEDS, desc="seeds")]
    measures = [run.pop("papers") for run in runs]
    found = {name: np.array([run["queries"][name] for run in runs]) for name in runs[0]["queries"]}
    adapter = rr.new_adapter(model, leave_out=range(FIRST))
    result = {
        "made by": "tools/measure_adapters.py",
        "papers": len(papers.ids),
        "held out": len(citations.hold_out(len(papers.ids), SEEDS[0])[1]),
        "seeds": list(SEEDS),
        "steps": STEPS,
        "parameters": {
            "adapter": sum(p.numel() for p in adapter.parameters()),
            "linear map": int(model.get_embedding_dimension()) ** 2,
            "backbone": sum(p.numel() for p in model.parameters()),
        },
        "tasks": {task: summary(measures, task) for task in measures[0]["frozen"]},
        "search": {"queries": len(queries["test"].relevant), "nDCG@10": search_summary(found)},
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    tqdm.write(f"{perf_counter() - started:.0f} s, written to {out}")


class Queries:
    """The answerable queries of a split: which papers answer them, and what they are before any adapter."""

    def __init__(self, model, chunks, papers, split):
        qids, self.grades = citations.paper_qrels(rr.load_qrels(split), chunks, papers.ids)
        texts = {row["qid"]: row["query"] for row in rr.load_queries(split)}
        self.qids, self.relevant = qids, self.grades >= RELEVANT
        self.known = rr.Precomputed(model, [texts[qid] for qid in qids], first=FIRST)

    def score(self, vectors, paper_vectors) -> list[float]:
        """Return nDCG@10 of each query over the papers."""
        names = [str(i) for i in range(len(paper_vectors))]
        run = dict(zip(self.qids, rr.search(vectors, paper_vectors, top_k=10), strict=True))
        qrels = {
            qid: dict(zip(names, map(int, row), strict=True)) for qid, row in zip(self.qids, self.grades, strict=True)
        }
        return list(rr.per_query(run, qrels, names, "nDCG@10").values())


def measure(seed: int, papers, known, queries) -> dict:
    """Train everything on one split; return the measures of the papers' tasks, and nDCG@10 of each query."""
    torch.manual_seed(seed)
    train, test = citations.hold_out(len(papers.ids), seed)
    topics = [rr.load_topics()[paper] for paper in papers.ids]
    triplets = citations.CitationTriplets(papers.cites[np.ix_(train, train)])
    vectors = {"frozen": numbers(known, None)}
    frozen = torch.from_numpy(vectors["frozen"])

    proximity, classification, query = (rr.new_adapter(known.model, leave_out=range(FIRST)) for _ in range(3))
    rr.train_adapter(known, proximity, triplets, rows=train, steps=STEPS["proximity"], progress=False)
    vectors["proximity"] = numbers(known, proximity)
    classifier = citations.TopicClassifier([topics[i] for i in train], frozen[train])
    rr.train_adapter(known, classification, classifier, rows=train, steps=STEPS["classification"], progress=False)
    vectors["classification"] = numbers(known, classification)
    vectors["linear map"] = linear_map(frozen, train, triplets)

    found = torch.from_numpy(vectors["proximity"])
    dev, asked = queries["dev"], queries["test"]
    goal = citations.QueriesToPapers(found, dev.relevant)
    rr.train_adapter(dev.known, query, goal, steps=STEPS["query"], progress=False)
    return {
        "papers": {name: citations.judge(v, papers, topics, train, test) for name, v in vectors.items()},
        "queries": {
            "frozen": asked.score(numbers(asked.known, None), vectors["frozen"]),
            "proximity for both": asked.score(numbers(asked.known, proximity), vectors["proximity"]),
            "query and proximity": asked.score(numbers(asked.known, query), vectors["proximity"]),
        },
    }


def numbers(known, adapter) -> np.ndarray:
    """Return the vectors as numpy."""
    with torch.no_grad():
        return known(adapter).numpy()


def linear_map(frozen: torch.Tensor, train, loss) -> np.ndarray:
    """Train a matrix on the frozen vectors, from the identity on; return the vectors that it makes."""
    matrix = torch.nn.Parameter(torch.eye(frozen.shape[1]))
    optimizer = torch.optim.AdamW([matrix], lr=LINEAR_RATE)
    for _ in range(STEPS["linear map"]):
        value = loss(torch.nn.functional.normalize(frozen[train] @ matrix, dim=1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return torch.nn.functional.normalize(frozen @ matrix, dim=1).detach().numpy()


def summary(measures: list[dict], task: str) -> dict:
    """Return each system's values by seed, their mean, and its gain over the frozen backbone with an interval.

    The splits share papers, so the seeds aren't independent: the variance of the gain is multiplied by
    1/seeds + held out/trained on (Nadeau and Bengio 2003, https://doi.org/10.1023/A:1024068626366).
    """
    values = {name: np.array([one[name][task] for one in measures]) for name in measures[0]}
    train, test = citations.hold_out(100, 0)
    factor = 1 / len(measures) + len(test) / len(train)
    rows = {}
    for name, own in values.items():
        rows[name] = {"mean": float(own.mean()), "by seed": own.tolist()}
        if name != "frozen":
            gain = own - values["frozen"]
            half = t.ppf(0.975, len(gain) - 1) * np.sqrt(factor * gain.var(ddof=1))
            rows[name] |= {"gain": gain.mean(), "gain_95%": [gain.mean() - half, gain.mean() + half]}
    return rows


def search_summary(found: dict[str, np.ndarray]) -> dict:
    """Return each system's mean over seeds and queries, and its gain with an interval by bootstrap over queries."""
    baseline = found["frozen"].mean(axis=0)
    draws = np.random.default_rng(0).integers(0, len(baseline), (SAMPLES, len(baseline)))
    rows = {}
    for name, values in found.items():
        rows[name] = {"mean": float(values.mean()), "by seed": values.mean(axis=1).tolist()}
        if name != "frozen":
            gain = values.mean(axis=0) - baseline
            low, high = np.percentile(gain[draws].mean(axis=1), [2.5, 97.5])
            rows[name] |= {"gain": float(gain.mean()), "gain_95%": [float(low), float(high)]}
    return rows


if __name__ == "__main__":
    main()
