"""Run the Augmented SBERT experiments of chapter 9: gold, cross-encoder, silver, bi-encoder.

    OMP_NUM_THREADS=1 python tools/augment.py --data DIR --work DIR --out rrhelpers/data/augmented-sbert.json

`--data` holds `stsb/stsb-en-{train,dev,test}.csv` (sentence, sentence, score from 0 to 5). Nothing of
their text is stored in the result: it holds correlations and counts only. The book's own pairs and the
backbone come with the package. What is trained: `augmenting.py`.

Every finished block (one experiment, one seed) is a file in `--work`, so an interrupted run goes on where
it stopped; the most important blocks come first, and `--out` is written anew after each experiment.
`--small` runs everything on a few pairs, to see that it works.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
import torch
from augmenting import (
    GENRES,
    STUDENTS,
    Data,
    Dense,
    Teacher,
    autocast,
    batches,
    fit,
    probability,
    spearman,
    train_teacher,
)
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import rrhelpers as rr

SAMPLES = 400  # bootstrap samples of the test pairs


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seeds: int = 5
    silver: int = 4000  # pairs that the teacher labels, for each strategy
    dense_steps: int = 600  # of 64 pairs
    tuned_steps: int = 120  # of 32 pairs
    teacher_steps: tuple[int, int] = (60, 640)  # of 16 pairs: four epochs, but within these bounds
    more: tuple[int, ...] = (250, 1000, 16000)
    fewer: tuple[int, ...] = (30, 100)
    stsb: tuple[int, ...] = (1000, 250, 500)


SMALL = Sizes(2, 80, 20, 2, (2, 3), (20, 40), (20,), (60, 40))


class Run:
    """The experiments: their data, their sizes, their work folder."""

    def __init__(self, folder: Path, work: Path, sizes: Sizes):
        self.folder, self.work, self.sizes = folder, work, sizes

    @cache  # noqa: B019
    def data(self, name: str) -> Data:
        """Return a data set, read once."""
        return Data(name, self.folder)

    def teacher(self, name: str, count: int, seed: int) -> Teacher:
        """Return a teacher of `count` gold pairs: from the work folder, or trained now."""
        path = self.work / f"teacher-{name}-{count}-{seed}.safetensors"
        if path.exists():
            teacher = Teacher()
            teacher.load_state_dict(load_file(path))
            return teacher
        data = self.data(name)
        rows = data.some(count, seed)
        states = data.pairs(data.gold[rows])
        teacher = train_teacher(states, data.labels[rows], self.sizes.teacher_steps, seed)
        save_file(teacher.state_dict(), path)
        return teacher

    def student(self, name: str, kind: str, pairs: np.ndarray, labels: np.ndarray, seed: int) -> nn.Module:
        """Train a bi-encoder on pairs of a data set's training sentences with labels from 0 to 1."""
        data, dense = self.data(name), kind == "dense"
        torch.manual_seed(seed)
        student, wanted, inputs = STUDENTS[kind](), torch.tensor(labels, dtype=torch.float32), data.inputs(kind)

        def loss(rows):
            with autocast():
                both = student(*inputs.batch(pairs[rows].T.reshape(-1)))
            u, v = both.chunk(2)
            return F.mse_loss((u * v).sum(-1), wanted[rows])

        def look():
            return spearman(data.found(student, "dev", kind), data.wanted("dev"))

        supply = batches(inputs.length[pairs].sum(1), 64 if dense else 32, np.random.default_rng(seed))
        steps, lr, looks = (self.sizes.dense_steps, 1e-3, 6) if dense else (self.sizes.tuned_steps, 2e-4, 3)
        fit(student, loss, supply, steps, lr, look, looks)
        return student

    def judge(self, name: str, model: nn.Module, student: str | None = None) -> dict:
        """Return Spearman's correlation on the dev and test splits, and what was found for the test split."""
        data = self.data(name)
        found = {split: data.found(model, split, student) for split in ("dev", "test")}
        scores = {split: round(float(spearman(found[split], data.wanted(split))), 4) for split in found}
        return scores | {"found": np.round(found["test"], 4).tolist()}

    def strategies(self, name: str, count: int, kind: str, seed: int) -> dict:
        """Compare what students learn from gold alone and from gold with silver of each strategy."""
        data, budget = self.data(name), self.sizes.silver
        order = data.some(len(data.gold), seed)
        rows, rest = order[:count], order[count:]
        gold, labels = data.gold[rows], data.labels[rows]
        teacher = self.teacher(name, count, seed)
        alone = self.student(name, kind, gold, labels, seed)
        result = {
            "untrained": self.judge(name, STUDENTS["tuned"](), "tuned") if kind == "tuned" else self.pooled(name),
            "cross-encoder": self.judge(name, teacher),
            "gold alone": self.judge(name, alone, kind) | self.described(name, gold, labels),
        }

        def labelled(pairs, states=None):
            return pairs, probability(teacher, states or data.pairs(pairs))

        silver = {"BM25": labelled(*data.bm25(budget))}
        silver["random"] = labelled(*data.random(budget))
        kept = rr.keep_like(silver["random"][1], labels, seed=seed)
        silver["random + KDE"] = tuple(column[kept] for column in silver["random"])
        silver["semantic"] = labelled(data.semantic(kind, alone, budget))
        silver["BM25 + semantic"] = together(silver["BM25"], silver["semantic"], budget)
        if len(rest):
            silver["the data set's own"] = labelled(data.gold[rest[:budget]])
        for way, (pairs, scores) in silver.items():
            both = np.concatenate([gold, pairs]), np.concatenate([labels, scores])
            student = self.student(name, kind, *both, seed)
            result[way] = self.judge(name, student, kind) | self.described(name, pairs, scores)
        return result

    def gold(self, name: str, count: int, kind: str, seed: int) -> dict:
        """Compare gold alone and gold with silver by BM25 for one count of gold pairs."""
        data = self.data(name)
        rows = data.some(count, seed)
        gold, labels = data.gold[rows], data.labels[rows]
        teacher = self.teacher(name, count, seed)
        pairs, states = data.bm25(self.sizes.silver)
        scores = probability(teacher, states)
        both = np.concatenate([gold, pairs]), np.concatenate([labels, scores])
        return {
            "cross-encoder": self.judge(name, teacher),
            "gold alone": self.judge(name, self.student(name, kind, gold, labels, seed), kind),
            "BM25": self.judge(name, self.student(name, kind, *both, seed), kind) | self.described(name, pairs, scores),
        }

    def pooled(self, name: str) -> dict:
        """Judge mean pooling over the frozen layers, without a Dense layer."""
        same = Dense()
        same.linear = nn.Identity()
        return self.judge(name, same, "dense")

    def described(self, name: str, pairs: np.ndarray, labels: np.ndarray) -> dict:
        """Return counts, labels and common words of pairs."""
        texts = self.data(name).sentences
        return {
            "pairs": len(pairs),
            "labels": np.histogram(labels, bins=10, range=(0, 1))[0].tolist(),
            "overlap": round(float(np.mean([common(texts[i], texts[j]) for i, j in pairs])), 3),
        }

    def domains(self, source: str, target: str, count: int, kind: str, seed: int) -> dict:
        """Compare a student of the source's labels with students of silver labels on the target's sentences."""
        there, here, budget = self.data(source), self.data(target), self.sizes.silver
        rows = there.some(count, seed)
        teacher = self.teacher(source, count, seed)
        away = self.student(source, kind, there.gold[rows], there.labels[rows], seed)
        pairs, states = here.bm25(budget)
        scores = probability(teacher, states)
        silver = self.student(target, kind, pairs, scores, seed)
        given = here.some(budget, seed)
        own = probability(teacher, here.pairs(here.gold[given]))
        asked = self.student(target, kind, here.gold[given], own, seed)
        home = here.some(count, seed)
        best = self.student(target, kind, here.gold[home], here.labels[home], seed)
        return {
            "cross-encoder of the source": self.judge(target, teacher),
            "labels of the source": self.judge(target, away, kind),
            "silver, BM25": self.judge(target, silver, kind) | self.described(target, pairs, scores),
            "silver, the data set's own": self.judge(target, asked, kind)
            | self.described(target, here.gold[given], own),
            "labels of the target": self.judge(target, best, kind)
            | self.described(target, here.gold[home], here.labels[home]),
        }

    def weaker(self, name: str, count: int, kind: str, seed: int) -> dict:
        """Label the pairs of BM25 with teachers that saw fewer gold pairs than the student."""
        data = self.data(name)
        rows = data.some(count, seed)
        gold, labels = data.gold[rows], data.labels[rows]
        pairs, states = data.bm25(self.sizes.silver)
        result = {}
        for seen in self.sizes.fewer:
            teacher = self.teacher(name, seen, seed)
            scores = probability(teacher, states)
            both = np.concatenate([gold, pairs]), np.concatenate([labels, scores])
            student = self.student(name, kind, *both, seed)
            result[f"cross-encoder {seen}"] = self.judge(name, teacher)
            result[f"student {seen}"] = self.judge(name, student, kind) | self.described(name, pairs, scores)
        return result

    def larger(self, name: str, count: int, kind: str, seed: int) -> dict:
        """Give students other amounts of silver for the same number of steps, BM25's first partners first."""
        data = self.data(name)
        rows = data.some(count, seed)
        gold, labels = data.gold[rows], data.labels[rows]
        pairs, states = data.bm25(max(self.sizes.more))
        scores = probability(self.teacher(name, count, seed), states)
        result = {}
        for most in self.sizes.more:
            both = np.concatenate([gold, pairs[:most]]), np.concatenate([labels, scores[:most]])
            student = self.student(name, kind, *both, seed)
            result[str(most)] = self.judge(name, student, kind) | self.described(name, pairs[:most], scores[:most])
        return result

    def plan(self) -> Iterator[tuple[str, tuple, int]]:
        """Yield experiments, arguments and seeds, the most important first."""
        own, sizes = len(self.data("own").gold), self.sizes
        first, *others = (min(n, len(self.data("stsb").gold)) for n in sizes.stsb)
        for experiment, *settings in [
            ("strategies", "stsb", first, "dense"),
            ("strategies", "own", own, "tuned"),
            ("domains", "captions", "news", first, "dense"),
            ("domains", "news", "captions", first, "dense"),
            ("weaker", "stsb", first, "dense"),
            ("larger", "stsb", first, "dense"),
            *(("gold", "stsb", n, "dense") for n in others),
        ]:
            for seed in range(sizes.seeds):
                yield experiment, tuple(settings), seed

    def block(self, experiment: str, settings: tuple, seed: int) -> dict:
        """Run one block, or read it."""
        path = self.work / f"{'-'.join(map(str, [experiment, *settings, seed]))}.json"
        if not path.exists():
            started = process_time()
            result = getattr(self, experiment)(*settings, seed)
            path.write_text(json.dumps({"cpu_seconds": round(process_time() - started), "rows": result}))
        return json.loads(path.read_text())

    def summary(self, finished: list[tuple[str, tuple, int]]) -> dict:
        """Return the finished blocks: correlations by seed, and means of what describes the pairs."""
        grouped: dict[tuple, list[dict]] = {}
        for experiment, settings, seed in finished:
            grouped.setdefault((experiment, settings), []).append(self.block(experiment, settings, seed))
        results = []
        for (experiment, settings), blocks in grouped.items():
            target = settings[1] if experiment == "domains" else settings[0]
            by_seed = [block["rows"] for block in blocks]
            baseline = {"domains": "labels of the source"}.get(experiment, "gold alone")
            rows = {way: self.row(target, way, by_seed, baseline) for way in by_seed[0]}
            seconds = sum(block["cpu_seconds"] for block in blocks)
            results.append({"experiment": experiment, "settings": list(settings), "cpu_seconds": seconds, "rows": rows})
        sizes = {name: len(self.data(name).splits["test"]) for name in ("own", "stsb", *GENRES)}
        return {"test pairs": sizes, "sizes": asdict(self.sizes), "results": results}

    def row(self, target: str, way: str, by_seed: list[dict], baseline: str) -> dict:
        """Put one way's seeds side by side."""
        seeds = [rows[way] for rows in by_seed]
        row = {split: [one[split] for one in seeds] for split in ("dev", "test")}
        for name in ("pairs", "overlap", "labels"):
            if name in seeds[0]:
                row[name] = np.round(np.mean([one[name] for one in seeds], axis=0), 3).tolist()
        if target == "own":
            row |= self.kinds([one["found"] for one in seeds])
        if baseline in by_seed[0] and way != baseline:
            pairs = [(rows[way]["found"], rows[baseline]["found"]) for rows in by_seed]
            row["gain over test pairs"] = self.gain(target, pairs)
        return row

    def kinds(self, found: list[list[float]]) -> dict:
        """Return what was found for each kind of the book's own pairs, and Spearman without the lookalikes."""
        kinds = np.array([row[3] for row in self.data("own").splits["test"]])
        others, wanted = kinds != "lookalike", self.data("own").wanted("test")
        found = np.array(found)
        means = {kind: round(float(found[:, kinds == kind].mean()), 3) for kind in sorted(set(kinds))}
        without = np.round([spearman(one[others], wanted[others]) for one in found], 4).tolist()
        return {"test without lookalikes": without, "kinds": means}

    def gain(self, target: str, pairs: list[tuple]) -> list[float]:
        """Return the 95% interval of the mean gain over seeds, from bootstrap samples of the test pairs."""
        wanted = self.data(target).wanted("test")
        draws = np.random.default_rng(0).integers(0, len(wanted), (SAMPLES, len(wanted)))
        gains = [spearman(np.array(a)[draws], wanted[draws]) - spearman(np.array(b)[draws], wanted[draws])
                 for a, b in pairs]  # fmt: skip
        return np.round(np.percentile(np.mean(gains, axis=0), [2.5, 97.5]), 4).tolist()


def together(a: tuple, b: tuple, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge two lists of pairs with labels, half of `count` from the top of each, without repetition."""
    pairs, scores = (np.concatenate([x[: count // 2], y[: count // 2]]) for x, y in zip(a, b, strict=True))
    _, rows = np.unique(pairs, axis=0, return_index=True)
    return pairs[rows], scores[rows]


def common(a: str, b: str) -> float:
    """Return the share of words that two sentences have in common."""
    one, other = (set(text.lower().split()) for text in (a, b))
    return len(one & other) / len(one | other)


def main() -> None:
    """Run what isn't done yet, and write what is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="finished blocks and trained teachers")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a few pairs and steps, to see that it works")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    run = Run(args.data, args.work, SMALL if args.small else Sizes())
    finished = []
    for experiment, settings, seed in tqdm(list(run.plan()), desc="blocks"):
        block = run.block(experiment, settings, seed)
        finished.append((experiment, settings, seed))
        scores = {way: row["test"] for way, row in block["rows"].items()}
        tqdm.write(f"{experiment} {settings} seed {seed}: {block['cpu_seconds']} s {json.dumps(scores)}")
        if seed == run.sizes.seeds - 1:
            args.out.write_text(json.dumps(run.summary(finished), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
