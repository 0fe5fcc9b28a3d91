"""Measure every embedded model's quality and speed beside BM25 and the bi-encoder: `make bench-quality`.

Quality: on the mini ai-arxiv's test queries, in float32, so that it is the same on every
machine. Speed: in one run, all systems in turn within each of several rounds, at the precision that readers get by
default. Writes `bench/quality.json` and the table between the markers of `book/model-cards.md`.
"""

import json
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import rrhelpers as rr
from rrhelpers.backbone import adapter_folder

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from measure_collection import bm25, matched_run, reranked_run  # noqa: E402
from timing import in_turn, machine, put_between, spread, versions  # noqa: E402

DEPTH, RERANKED = 100, 25
ROUNDS, QUERIES, PASSAGES = 5, 20, 64  # of the timing
SHIPPED = ("reranker", "reranker-small", "pair-scorer", "sparse", "late-interaction")
MEASURES = ("nDCG@10", "MRR@10", "Recall@25")
BEGIN, END = "<!-- written by make bench-quality: begin -->", "<!-- written by make bench-quality: end -->"


class Systems:
    """All models at one precision, and how each of them searches the same passages."""

    def __init__(self, passages: list[str], dtype: torch.dtype | None, weights: np.ndarray | None = None):
        self.passages = passages
        self.bm25 = bm25(passages)
        self.bi_encoder = rr.load_bi_encoder(dtype=dtype)
        self.rerankers = {role: rr.load_reranker(role, dtype=dtype) for role in ("reranker-small", "reranker")}
        self.scorer = rr.load_pair_scorer(dtype=dtype)
        self.sparse, self.late = rr.load_sparse_encoder(), rr.load_late_interaction(dtype=dtype)
        # Without the cache, which may hold what another precision gave.
        self.vectors = rr.encode(self.bi_encoder, passages, progress=False, cache=False)
        if weights is None:  # those of the sparse encoder, which is in float32 always
            weights = self.sparse.encode_document(passages, batch_size=8, convert_to_sparse_tensor=False).numpy()
        self.weights = weights
        self.matrices = self.late.encode_document(passages)

    def cosine(self, queries):
        """Return the bi-encoder's hits."""
        return rr.search(rr.encode(self.bi_encoder, queries, progress=False), self.vectors, top_k=DEPTH)

    def words(self, queries):
        """Return the sparse encoder's hits."""
        asked = self.sparse.encode_query(queries, convert_to_sparse_tensor=False)
        return rr.search(asked.numpy(), self.weights, top_k=DEPTH)

    def maxsim(self, queries):
        """Return the late-interaction model's hits, by exact MaxSim."""
        best = self.late.similarity(self.late.encode_query(queries), self.matrices).topk(DEPTH)
        return [
            [rr.Hit(row, score, rank) for rank, (row, score) in enumerate(zip(*pair, strict=True), start=1)]
            for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def reranked(self, role, queries):
        """Return the bi-encoder's hits, the first 25 reranked."""
        return reranked_run(self.rerankers[role], queries, self.cosine(queries), self.passages)

    def reordered(self, queries):
        """Return the bi-encoder's hits, the first 25 ordered anew by MaxSim."""
        hits = self.cosine(queries)
        best = matched_run(self.late, queries, [found[:RERANKED] for found in hits], self.matrices)
        return [top + found[RERANKED:] for top, found in zip(best, hits, strict=True)]

    def all(self) -> dict:
        """Return what finds hits, by the system's name."""
        return {
            "BM25": self.bm25,
            "bi-encoder": self.cosine,
            "sparse": self.words,
            "late-interaction": self.maxsim,
            "bi-encoder, then late-interaction": self.reordered,
        } | {f"bi-encoder, then {role}": partial(self.reranked, role) for role in self.rerankers}

    def reading(self) -> dict:
        """Return what reads texts or pairs in bulk, by the model's name."""
        texts = self.passages[:PASSAGES]
        pairs = [("how are reward models trained?", text) for text in texts]
        return {
            "bi-encoder": lambda: self.bi_encoder.encode(texts, show_progress_bar=False),
            "sparse": lambda: self.sparse.encode_document(texts, batch_size=8),
            "late-interaction": lambda: self.late.encode_document(texts),
        } | {
            role: lambda model=model: model.predict(pairs, show_progress_bar=False)
            for role, model in self.rerankers.items()
        }


def search_quality(systems: Systems, ids: list[str]) -> list[dict]:
    """Return a row for each system: its measures, and its gain in nDCG@10 over the bi-encoder."""
    asked = rr.load_queries("test")
    runs = {name: dict(zip(asked["qid"], find(asked["query"][:]), strict=True)) for name, find in systems.all().items()}
    table = rr.evaluate(runs, rr.load_qrels("test"), ids, measures=MEASURES, baseline="bi-encoder")
    rows = []
    for name in runs:
        own = table[table["run"] == name].set_index("measure")
        first = own.loc["nDCG@10"]
        rows.append(
            {"system": name}
            | {measure: round(float(own.loc[measure, "mean"]), 4) for measure in MEASURES}
            | {"interval": [round(float(first[end]), 4) for end in ("low", "high")]}
            | ({} if name == "bi-encoder" else {key: round(float(first[key]), 4) for key in ("gain", "p")})
        )
    return rows


def pair_quality(systems: Systems) -> dict:
    """Return Spearman's correlation with the scores of the book's test pairs, with its 95% interval."""
    rows = rr.load_pairs("test")
    one, other, wanted = (np.array(rows[name]) for name in ("sentence1", "sentence2", "score"))
    vectors = [rr.encode(systems.bi_encoder, side, progress=False, cache=False) for side in (one, other)]
    scores = {
        "bi-encoder": (vectors[0] * vectors[1]).sum(1),
        "pair-scorer": systems.scorer.predict(list(zip(one, other, strict=True))),
    }
    draws = np.random.default_rng(0).integers(0, len(wanted), (2000, len(wanted)))
    whole = {name: spearmanr(values, wanted)[0] for name, values in scores.items()}
    drawn = {name: np.array([spearmanr(v[rows], wanted[rows])[0] for rows in draws]) for name, v in scores.items()}
    whole["gain"], drawn["gain"] = (each["pair-scorer"] - each["bi-encoder"] for each in (whole, drawn))
    found = {
        name: [round(float(v), 4) for v in (whole[name], *np.percentile(drawn[name], [2.5, 97.5]))] for name in whole
    }
    return {"pairs": len(wanted), "gain": found.pop("gain"), "spearman": found}


def pair_speed(systems: Systems) -> dict:
    """Return what scores the book's test pairs, from both sentences, by the system's name."""
    rows = rr.load_pairs("test")[: 2 * PASSAGES]
    one, other = rows["sentence1"], rows["sentence2"]
    pairs = list(zip(one, other, strict=True))
    return {
        "bi-encoder": lambda: [systems.bi_encoder.encode(side, show_progress_bar=False) for side in (one, other)],
        "pair-scorer": lambda: systems.scorer.predict(pairs, show_progress_bar=False),
    }


def megabytes(role: str) -> float:
    """Return the size of what is shipped beside the backbone."""
    folder = adapter_folder(rr.spec(role))
    return round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6, 2)


def measure() -> dict:
    """Measure everything."""
    papers = rr.load_papers()
    passages, ids = papers["chunk"][:], rr.passage_ids(papers)
    exact = Systems(passages, torch.float32)
    fast = Systems(passages, None, exact.weights)
    queries = rr.load_queries("test")["query"][:QUERIES]
    latency = in_turn({n: lambda find=f: [find([q]) for q in queries] for n, f in fast.all().items()}, ROUNDS)
    reading = in_turn(fast.reading(), ROUNDS)
    scoring = in_turn(pair_speed(fast), ROUNDS)
    active = (fast.weights > 0).sum(1)
    return {
        "machine": machine(),
        "precision": str(rr.pick_dtype()).removeprefix("torch."),
        "versions": versions(),
        "passages": len(passages),
        "queries": len(rr.per_query({}, rr.load_qrels("test"), ids, "nDCG@10")),
        "search": search_quality(exact, ids),
        "sentence pairs": pair_quality(exact)
        | {"pairs per second": {name: spread(2 * PASSAGES / np.array(s)) for name, s in scoring.items()}},
        "ms per query": {name: spread(np.array(s) / len(queries) * 1000) for name, s in latency.items()},
        "texts per second": {name: spread(PASSAGES / np.array(s)) for name, s in reading.items()},
        "sparse, active word pieces": {
            "a passage": round(float(active.mean()), 1),
            "the most": int(active.max()),
            "of": fast.weights.shape[1],
        },
        "late-interaction, vectors a passage": round(float(np.mean([len(m) for m in fast.matrices])), 1),
        "times the reranker's pairs per second": spread(
            np.array(reading["reranker"]) / np.array(reading["reranker-small"])
        ),
        "megabytes": {role: megabytes(role) for role in SHIPPED},
    }


def table(result: dict) -> str:
    """Return the page's part: a table and how it was made."""
    lines = [
        "| | beside the backbone | nDCG@10 | gain over the bi-encoder | MRR@10 | Recall@25 | ms a query | reads/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["search"]:
        name = row["system"]
        role = name.removeprefix("bi-encoder, then ")
        size = f"{result['megabytes'][role]:.2f} MB" if role in result["megabytes"] else "nothing"
        gain = f"{row['gain']:+.3f}, p = {row['p']:.3f}" if "gain" in row else ""
        ms, low, high = result["ms per query"][name]
        speed = result["texts per second"].get(role)
        lines.append(
            f"| {name} | {size} | {row['nDCG@10']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}] | {gain} "
            f"| {row['MRR@10']:.3f} | {row['Recall@25']:.3f} | {short(ms)} [{short(low)}, {short(high)}] "
            f"| {'' if speed is None else f'{speed[0]:.0f} [{speed[1]:.0f}, {speed[2]:.0f}]'} |"
        )
    return "\n".join([*lines, "", how(result), "", *pair_table(result)])


def short(value: float) -> str:
    """Return milliseconds with one decimal below ten."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def pair_table(result: dict) -> list[str]:
    """Return the lines of the table of what scores sentence pairs."""
    own = result["sentence pairs"]
    lines = [
        "| | beside the backbone | Spearman's correlation | pairs/s |",
        "|---|---|---|---|",
    ]
    for name, (value, low, high) in own["spearman"].items():
        size = f"{result['megabytes'][name]:.2f} MB" if name in result["megabytes"] else "nothing"
        speed, slowest, fastest = own["pairs per second"][name]
        lines.append(
            f"| {name} | {size} | {value:.3f} [{low:.3f}, {high:.3f}] | {speed:.0f} [{slowest:.0f}, {fastest:.0f}] |"
        )
    gain, low, high = own["gain"]
    return [
        *lines,
        "",
        f"{own['pairs']} test pairs of sentences about AI research, this book's own. The pair scorer's gain: "
        f"{gain:.3f} [{low:.3f}, {high:.3f}], by bootstrap over the pairs.",
    ]


def how(result: dict) -> str:
    """Return the sentences on how the table was made."""
    active = result["sparse, active word pieces"]
    times, least, most = result["times the reranker's pairs per second"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{result['queries']} test queries over {result['passages']} passages. "
        "Brackets behind quality: 95% intervals by bootstrap; p: paired bootstrap with Holm's correction; "
        f"brackets behind speed: the slowest and the fastest of {ROUNDS} rounds that all systems took in turn. "
        f"`sparse` gives a passage {active['a passage']:.0f} of {active['of']:,} word pieces a weight, at most "
        f"{active['the most']}; `late-interaction` gives it {result['late-interaction, vectors a passage']:.0f} "
        f"vectors. `reranker-small` reads {times:.1f} times [{least:.1f}, {most:.1f}] as many pairs a second as "
        f"`reranker`. Speed: {result['machine']}, {result['precision']}, {versions}."
    )


def main() -> None:
    """Measure, write the figures, and put the table into the page."""
    warnings.simplefilter("ignore")  # of passages that the small reranker can't read to their end
    result = measure()
    (ROOT / "bench" / "quality.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    put_between(ROOT / "book" / "model-cards.md", BEGIN, END, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
