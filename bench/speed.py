"""Measure rrhelpers beside sentence-transformers, in one run: `make bench`.

Encoding, reranking and search as a reader calls them, with each library's defaults, all in turn within each of
several rounds. Beside each time stands what it was paid with: how far vectors, orders and ids differ from those of
float32. Writes `bench/speed.json` and the table between the markers of `book/speed.md`.

    python bench/speed.py [--data DIR] [--quick]

`--data` may hold `ai_qa/papers.jsonl.gz` (see the model cards), whose longer passages then are encoded instead of
the mini ai-arxiv's. `--quick` takes a few texts, to see that it works, and writes nothing.
"""

import argparse
import gzip
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from sentence_transformers import util
from tqdm.auto import tqdm

import rrhelpers as rr

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from timing import in_turn, machine, put_between, spread, versions  # noqa: E402

BEGIN, END = "<!-- written by make bench: begin -->", "<!-- written by make bench: end -->"
THEIRS, OURS, WITH_OPENVINO = "sentence-transformers", "rrhelpers", "rrhelpers, OpenVINO"
WORDS = (60, 200)  # of a passage


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int = 3
    texts: int = 2048
    lists: tuple[tuple[int, int], ...] = ((1, 100), (64, 25))  # queries, passages each
    corpora: tuple[int, ...] = (41_584, 1_000_000)
    queries: tuple[int, ...] = (1, 256)
    starts: int = 5
    compressed: int = 20_000  # passages
    growing: tuple[int, ...] = (10_000, 31_623, 100_000, 316_228, 1_000_000)


QUICK = Sizes(2, 64, ((1, 8),), (2_000,), (1, 4), 2, 300, (1_000, 2_000, 4_000))


def texts(count: int, data: Path | None) -> list[str]:
    """Return passages of 60 to 200 words: those of `data` where it is there, else the mini ai-arxiv's, over again."""
    found = rr.load_papers("rrhelpers/data/mini-ai-arxiv")["chunk"][:]
    if data is not None:
        with gzip.open(data / "ai_qa" / "papers.jsonl.gz", "rt", encoding="utf-8") as lines:
            found = [text for line in lines for text in json.loads(line)["passages"]]
    found = [text for text in dict.fromkeys(found) if WORDS[0] <= len(text.split()) <= WORDS[1]]
    return found[:count]


def run_by(engine: str, work, *given):
    """Return what `work` returns with this engine."""
    with patch.dict(os.environ, RRHELPERS_ENGINE=engine):
        return work(*given)


def by_engine(work) -> dict:
    """Return `work`, a function, for each engine that is there, under the name of its row."""
    engines = {OURS: "torch"}
    if find_spec("openvino") and rr.pick_device().type == "cpu":
        engines[WITH_OPENVINO] = "openvino"

    return {name: partial(run_by, engine, work) for name, engine in engines.items()}


def encoding(sizes: Sizes, passages: list[str]) -> dict:
    """Compare `rr.encode` with `SentenceTransformer.encode`; vectors and first tens with those of float32."""
    plain, ours = rr.load_bi_encoder(dtype=torch.float32), rr.load_bi_encoder()
    works = by_engine(lambda some=passages: rr.encode(ours, some, cache=False, progress=False))
    all_works = {THEIRS: lambda some=passages: plain.encode(some, show_progress_bar=False)} | works
    for work in all_works.values():
        work(passages[:32])
    seconds = in_turn(all_works, sizes.rounds, warm_up=False)
    exact = plain.encode(passages, show_progress_bar=False, normalize_embeddings=True)
    queries = [passage[:80] for passage in passages[:200]]
    of_queries = plain.encode(queries, show_progress_bar=False, normalize_embeddings=True)
    firsts = nearest(of_queries, exact)
    lengths = [len(ids) for ids in plain.tokenizer(passages, truncation=True)["input_ids"]]
    result = {
        "texts": len(passages),
        "tokens a text": round(float(np.mean(lengths)), 1),
        "texts per second": {name: spread(len(passages) / np.array(own)) for name, own in seconds.items()},
        "of the processor's limit": {},
        "ratio": {},
        "lowest cosine": {},
        "first ten the same": {},
    }
    limit, needed = multiplications(rr.pick_dtype()), flops(plain, lengths)
    for name, work in works.items():
        vectors = work()
        found = nearest(of_queries, vectors)
        same = [len(a & b) / 10 for a, b in zip(firsts, found, strict=True)]
        result["of the processor's limit"][name] = round(needed / np.median(seconds[name]) / limit, 3)
        result["ratio"][name] = ratio(seconds, name)
        result["lowest cosine"][name] = round(float((exact * vectors).sum(1).min()), 5)
        result["first ten the same"][name] = round(float(np.mean(same)), 4)
    return result | {"limit, TFLOP/s": round(limit / 1e12, 3)}


def nearest(queries: np.ndarray, corpus: np.ndarray) -> list[set[int]]:
    """Return each query's first ten."""
    return [{hit.corpus_id for hit in hits} for hits in rr.search(queries, corpus, top_k=10)]


def multiplications(dtype: torch.dtype, size: int = 2048, rounds: int = 8) -> float:
    """Return the most floating-point operations a second that this device's matrix product reaches."""
    device = rr.pick_device()
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def work():
        for _ in range(4):
            product = a @ b
        return product.flatten()[0].item()  # on a GPU: when it is done

    return 4 * 2 * size**3 / min(in_turn({"product": work}, rounds)["product"])


def flops(model, lengths: list[int]) -> float:
    """Return the floating-point operations that texts of these lengths need at least: no padding, products alone."""
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    config = model[0].auto_model.config
    attention = 2 * config.num_hidden_layers * config.hidden_size  # of each token to each
    return float(2 * sum(length * linear + length**2 * attention for length in lengths))


def reranking(sizes: Sizes, passages: list[str]) -> dict:
    """Compare `rr.rerank` with `CrossEncoder.predict`; orders with those of float32."""
    plain, ours = rr.load_reranker(dtype=torch.float32), rr.load_reranker()
    results = {}
    for count, depth in sizes.lists:
        queries = rr.load_queries("test")["query"][:count]
        rows = np.random.default_rng(0).choice(len(passages), (count, depth))
        pairs = [(query, passages[i]) for query, own in zip(queries, rows, strict=True) for i in own]
        hits = [[rr.Hit(int(i), 0.0, place) for place, i in enumerate(own, start=1)] for own in rows]

        def read(model, count=count, queries=queries, hits=hits):
            return rr.rerank(model, queries[:count], hits[:count], passages, fuse=False, progress=False)

        def predict(count=count, pairs=pairs, depth=depth):
            return plain.predict(pairs[: count * depth], show_progress_bar=False)

        works = by_engine(partial(read, ours))
        all_works = {THEIRS: predict} | works
        for work in all_works.values():
            work(1)
        seconds = in_turn(all_works, sizes.rounds, warm_up=False)
        exact = run_by("torch", read, plain)
        wrong = {
            name: [gap for a, b in zip(exact, work(), strict=True) for gap in swapped(a, b)]
            for name, work in works.items()
        }
        results[f"{count} × {depth}"] = {
            "pairs per second": {name: spread(len(pairs) / np.array(own)) for name, own in seconds.items()},
            "ratio": {name: ratio(seconds, name) for name in works},
            "pairs of passages in another order": {
                name: round(len(gaps) / (count * depth * (depth - 1) / 2), 5) for name, gaps in wrong.items()
            },
            "their largest difference of logits": {
                name: round(float(max(gaps, default=0.0)), 3) for name, gaps in wrong.items()
            },
        }
    return results


def swapped(exact: list[rr.Hit], fast: list[rr.Hit]) -> list[float]:
    """Return by how much the exact scores differ of passages that the fast ones put the other way round."""
    place = {hit.retrieval_rank: hit.rank for hit in fast}
    return [a.score - b.score for a, b in combinations(exact, 2) if place[a.retrieval_rank] > place[b.retrieval_rank]]


def searching(sizes: Sizes) -> dict:
    """Compare `rr.search` with `util.semantic_search` and, where it is installed, with FAISS's flat index."""
    results = {}
    for size in sizes.corpora:
        corpus = unit_vectors(size, seed=0)
        for count in sizes.queries:
            # Queries near to some rows, so that there is something to find.
            queries = util.normalize_embeddings(torch.from_numpy(corpus[:count] + 0.5 * unit_vectors(count, seed=1)))
            queries = queries.numpy()
            works = {
                THEIRS: lambda q=queries, c=corpus: util.semantic_search(q, c, top_k=10),
                OURS: lambda q=queries, c=corpus: rr.search(q, c, top_k=10),
            }
            if find_spec("faiss"):
                import faiss

                index = faiss.IndexFlatIP(corpus.shape[1])
                index.add(corpus)
                works["FAISS, flat"] = lambda q=queries, i=index: i.search(q, 10)
            seconds = in_turn(works, sizes.rounds)
            found = [[hit["corpus_id"] for hit in hits] for hits in works[THEIRS]()]
            ids = [[hit.corpus_id for hit in hits] for hits in works[OURS]()]
            results[f"{count} of {size:,}"] = {
                "ms": {name: spread(1000 * np.array(own)) for name, own in seconds.items()},
                "ratio": ratio(seconds),
                "ids the same": round(float(np.mean(np.array(found) == np.array(ids))), 5),
            }
    return results


def compressed(sizes: Sizes, passages: list[str]) -> dict:
    """Compare searches through codes with the exact one: passages of papers, the test queries one by one."""
    model = rr.load_bi_encoder()
    corpus = rr.encode(model, passages)
    queries = rr.encode(model, rr.load_queries("test")["query"][:])
    forms = {"float32": corpus} | {kind: rr.quantize(corpus, kind) for kind in ("int8", "binary")}
    works = {
        name: lambda form=form: [rr.search(query, form, top_k=25) for query in queries] for name, form in forms.items()
    }
    seconds = in_turn(works, sizes.rounds)
    found = {name: [{hit.corpus_id for hit in hits} for hits in work()] for name, work in works.items()}
    return {
        "vectors": len(corpus),
        "queries": len(queries),
        "forms": {
            name: {
                "ms a query": spread(1000 * np.array(seconds[name]) / len(queries)),
                "bytes a vector": forms[name].nbytes // len(corpus),
                "Recall@25": round(
                    float(np.mean([len(a & b) / len(b) for a, b in zip(own, found["float32"], strict=True)])), 4
                ),
            }
            for name, own in found.items()
        },
    }


def growing(sizes: Sizes) -> dict:
    """Measure one query's search among more and more vectors, and fit by which power of their number time grows."""
    corpus, query = unit_vectors(sizes.growing[-1], seed=0), unit_vectors(1, seed=1)[0]
    works = {size: lambda c=corpus[:size]: rr.search(query, c, top_k=10) for size in sizes.growing}
    ms = {size: spread(1000 * np.array(own)) for size, own in in_turn(works, sizes.rounds).items()}
    slope, _ = np.polyfit(np.log(list(ms)), np.log([own[0] for own in ms.values()]), 1)
    return {"ms": {f"{size:,}": own for size, own in ms.items()}, "slope": round(float(slope), 3)}


def picture(result: dict) -> str:
    """Return the search's time over the number of vectors, both in logarithms, as an SVG with the fitted line."""
    points = {int(size.replace(",", "")): own[0] for size, own in result["search over n"]["ms"].items()}
    slope = result["search over n"]["slope"]
    logs = np.log10(list(points)), np.log10(list(points.values()))
    offset = float(np.mean(logs[1]) - slope * np.mean(logs[0]))
    left, right = math.floor(logs[0].min()), math.ceil(logs[0].max())
    low, high = math.floor(logs[1].min()), math.ceil(logs[1].max())

    def place(x: float, y: float) -> tuple[float, float]:
        return round(70 + 500 * (x - left) / (right - left), 1), round(270 - 240 * (y - low) / (high - low), 1)

    def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    marks = []
    for power in range(left, right + 1):
        x, y = place(power, low)
        marks += [f'<path d="M{x} {y}V30" stroke="#ddd"/>', text(x, y + 20, f"{10**power:,}")]
    for power in range(low, high + 1):
        x, y = place(left, power)
        marks += [f'<path d="M{x} {y}H570" stroke="#ddd"/>', text(x - 8, y + 5, f"{10.0**power:g}", "end")]
    (x1, y1), (x2, y2) = (place(x, offset + slope * x) for x in (logs[0].min(), logs[0].max()))
    marks.append(f'<path d="M{x1} {y1}L{x2} {y2}" stroke="#0b5fa5" stroke-width="2"/>')
    for x, y in zip(*logs, strict=True):
        cx, cy = place(x, y)
        marks.append(f'<circle cx="{cx}" cy="{cy}" r="5" fill="#0b5fa5"/>')
    marks += [text(320, 312, "vectors"), text(70, 18, "milliseconds for one query", "start")]
    marks.append(text(x2, y2 + 75, f"slope {slope:.2f}", "end"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 320" font-family="sans-serif" font-size="15" '
        'fill="#222"><rect width="640" height="320" fill="#fff"/>' + "".join(marks) + "</svg>\n"
    )


def unit_vectors(count: int, seed: int) -> np.ndarray:
    """Return random vectors of length 1, of the embedded model's dimension."""
    vectors = np.random.default_rng(seed).standard_normal((count, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def ratio(seconds: dict[str, list[float]], name: str = OURS) -> list[float]:
    """Return how many times as fast it was as theirs: median, least and most over the rounds, each by itself."""
    return spread(np.array(seconds[THEIRS]) / np.array(seconds[name]))


FIRST_SEARCH = """
import rrhelpers as rr
papers = rr.load_papers()
model = rr.load_bi_encoder()
vectors = rr.encode(model, papers["chunk"], progress=False)
assert rr.search(rr.encode(model, "what is rlhf?"), vectors)
"""


def starting(sizes: Sizes, code: str) -> list[float]:
    """Return the seconds that `code` takes in a new Python, measured there, after a first time that isn't counted."""
    timed_code = f"from time import perf_counter as now\nstarted = now()\n{code}\nprint(now() - started)"
    environment = os.environ | {"RRHELPERS_ENGINE": "torch"}

    def start() -> float:
        command = [sys.executable, "-W", "ignore", "-c", timed_code]
        return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    start()
    return spread([start() for _ in range(sizes.starts)])


def measure(sizes: Sizes, data: Path | None) -> dict:
    """Measure everything."""
    passages = texts(sizes.texts, data)
    steps = {
        "encode": lambda: encoding(sizes, passages),
        "rerank": lambda: reranking(sizes, passages),
        "search": lambda: searching(sizes),
        "search, compressed": lambda: compressed(sizes, texts(sizes.compressed, data)),
        "search over n": lambda: growing(sizes),
        "import, seconds": lambda: starting(sizes, "import rrhelpers"),
        "import of sentence-transformers, seconds": lambda: starting(sizes, "import sentence_transformers"),
        "first search, seconds": lambda: starting(sizes, FIRST_SEARCH),
    }
    return {
        "machine": machine(),
        "device": str(rr.pick_device()),
        "precision": str(rr.pick_dtype()).removeprefix("torch."),
        "versions": versions(),
        "rounds": sizes.rounds,
    } | {name: step() for name, step in tqdm(steps.items(), desc="bench")}


def table(result: dict) -> str:
    """Return the page's part."""
    return "\n\n".join([reading_table(result), searching_table(result), how(result)])


def reading_table(result: dict) -> str:
    """Return the table of encoding and reranking."""
    encode = result["encode"]
    rows = []
    for name, ratios in encode["ratio"].items():
        paid = (
            f"cosine at least {encode['lowest cosine'][name]:.5f}; "
            f"{encode['first ten the same'][name]:.1%} of first tens"
        )
        rows.append((engine_of("encode", name), encode["texts per second"], name, ratios, paid))
    for size, own in result["rerank"].items():
        for name, ratios in own["ratio"].items():
            paid = (
                f"{own['pairs of passages in another order'][name]:.1%} in another order, "
                f"at most {own['their largest difference of logits'][name]:.2f} apart"
            )
            what = engine_of(f"rerank {size}", name)
            rows.append((what, own["pairs per second"], name, ratios, paid))
    return lined(
        ["a second", THEIRS, OURS, "times as fast", "against float32"],
        [
            (what, shown(figures[THEIRS]), shown(figures[name]), shown(ratios, 2), paid)
            for what, figures, name, ratios, paid in rows
        ],
    )


def searching_table(result: dict) -> str:
    """Return the table of search, and of search among compressed vectors."""
    names = list(next(iter(result["search"].values()))["ms"])
    rows = [
        (
            name,
            *(shown(own["ms"][one]) for one in names),
            shown(own["ratio"], 2),
            f"{own['ids the same']:.2%}",
        )
        for name, own in result["search"].items()
    ]
    plain = lined(["search, ms", *names, f"times as fast as {THEIRS}", "ids the same"], rows)
    small = result["search, compressed"]
    forms = [
        (name, f"{own['bytes a vector']:,}", shown(own["ms a query"]), f"{own['Recall@25']:.1%}")
        for name, own in small["forms"].items()
    ]
    title = f"1 of {small['vectors']:,} passages"
    return f"{plain}\n\n{lined([title, 'bytes a vector in memory', 'ms', 'Recall@25 against float32'], forms)}"


def lined(head: list[str], rows: list[tuple]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def engine_of(what: str, name: str) -> str:
    """Return a row's name, with the engine where it isn't the default."""
    return what if name == OURS else f"{what}, with OpenVINO"


def shown(values: list[float], digits: int | None = None) -> str:
    """Return median and range."""
    digits = digits if digits is not None else 0 if values[0] >= 20 else 1
    middle, low, high = (f"{value:,.{digits}f}" for value in values)
    return f"{middle} [{low}, {high}]"


def how(result: dict) -> str:
    """Return the sentences on how the table was made."""
    used = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    encode = result["encode"]
    share = " and ".join(f"{part:.0%}" for part in encode["of the processor's limit"].values())
    over = result["search over n"]
    fewest, *_, most = over["ms"]
    return (
        f"Encode: {encode['texts']:,} passages of {encode['tokens a text']:.0f} tokens, and how many of the first tens "
        "of 200 queries stay. Rerank: queries × passages, and how many pairs of a query's passages change places, "
        "their logits how far apart. Search: queries of so many vectors. "
        f"Both with their defaults: sentence-transformers in float32, `rrhelpers` in {result['precision']}. "
        f"Medians, in brackets the least and the most, of {result['rounds']} rounds that all took in turn; "
        f"*times as fast* is taken round by round. {result['machine']}, {result['device']}; {used}. "
        f"From {fewest} to {most} vectors the time of one query's search grows with the power {over['slope']:.2f} of "
        "their number. "
        f"A product of large matrices reaches {encode['limit, TFLOP/s']:.2f} TFLOP/s here; encoding, row by "
        f"row, needs {share} of that for its own products. In a new Python, `import rrhelpers` takes "
        f"{shown(result['import, seconds'], 2)} seconds, a first search, vectors on disk, "
        f"{shown(result['first search, seconds'])}; importing sentence-transformers alone takes "
        f"{shown(result['import of sentence-transformers, seconds'])}."
    )


def main() -> None:
    """Measure, write the figures, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few texts, to see that it works; nothing is written")
    args = parser.parse_args()
    sizes = Sizes()
    if rr.pick_device().type == "cuda":
        sizes = replace(sizes, texts=41_584)  # as many as the published ai-arxiv has
    result = measure(QUICK if args.quick else sizes, args.data)
    print(table(result))
    if not args.quick:
        (ROOT / "bench" / "speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (ROOT / "assets" / "search-over-n.svg").write_text(picture(result), encoding="utf-8")
        put_between(ROOT / "book" / "speed.md", BEGIN, END, table(result))


if __name__ == "__main__":
    main()
