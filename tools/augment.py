"""Run the Augmented SBERT experiments of chapter 9: gold, cross-encoder, silver, bi-encoder.

    OMP_NUM_THREADS=1 python tools/augment.py --data DIR --work DIR --out rrhelpers/data/augmented-sbert.json

`--data` holds `stsb/stsb-en-{train,dev,test}.csv` (sentence, sentence, score from 0 to 5). Nothing of
their text is stored in the result: it holds correlations and counts only. The book's own pairs and the
backbone come with the package.

Every finished block (one experiment, one seed) is a file in `--work`, so an interrupted run goes on where
it stopped; the most important blocks come first, and `--out` is written anew after each. `--small` runs
everything on a few pairs, to see that it works.

What makes it affordable on a CPU: layers that stay frozen are run once for each text, and what is trained
above them is trained in bfloat16, on batches of like length.

- The *teacher* is a cross-encoder: both sentences go through layers 1 to 6 together, of which 4 to 6 are
  trained. Its logit starts as the cosine between the means of the two sentences' token states, which is
  what the backbone was trained for, and learns a correction from their differences and products.
- The *dense* student is a bi-encoder: the first three layers, frozen, mean pooling, and a trained Dense
  layer. The backbone was not trained to be used so: its cosines start low.
- The *tuned* student is the published bi-encoder, with layers 4 to 6 trained.

Loss: binary cross-entropy for the teacher, squared error of the cosine for students.
"""

import argparse
import copy
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

import rrhelpers as rr
from rrhelpers.models import backbone_folder

FROZEN = 3  # of the six layers, so many are never trained
DENSE_SIZE = 256
MAX_TOKENS = 128
STRATEGIES = ("random", "random + KDE", "BM25", "semantic", "BM25 + semantic")
SAMPLES = 400  # bootstrap samples of the test pairs

# The STS benchmark's genres: rows of its files from, to. The third, forums, lies between.
GENRES = {
    "captions": {"train": (0, 2000), "dev": (0, 625), "test": (0, 625)},
    "news": {"train": (2450, None), "dev": (1000, None), "test": (879, None)},
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seeds: int = 5
    silver: int = 4000  # pairs that the teacher labels, for each strategy
    dense_steps: int = 600  # of 64 pairs
    tuned_steps: int = 120  # of 32 pairs
    teacher_steps: tuple[int, int] = (60, 640)  # of 16 pairs: four epochs, but within these bounds
    more: tuple[int, ...] = (250, 500, 1000, 2000, 4000, 8000, 16000)
    fewer: tuple[int, ...] = (30, 100, 300)
    stsb: tuple[int, ...] = (1000, 250, 5749)
    own_few: int = 200
    easy: int = 400  # random pairs, called unrelated without looking, to teach a teacher


SMALL = Sizes(2, 80, 20, 2, (2, 3), (20, 40), (20,), (60, 40), 50, 20)


class States:
    """Token states of texts, or of pairs of texts, after the backbone's frozen layers."""

    def __init__(self, items: list):
        bert, tokenizer = backbone()
        rows = [
            tokenizer(*(item if isinstance(item, tuple) else (item,)), truncation=True, max_length=MAX_TOKENS)
            for item in items
        ]
        self.length = np.array([len(row["input_ids"]) for row in rows])
        self.start = np.cumsum(self.length) - self.length
        self.flat = torch.zeros(int(self.length.sum()), bert.config.hidden_size, dtype=torch.bfloat16)
        self.second = torch.tensor([kind for row in rows for kind in row["token_type_ids"]], dtype=torch.bool)
        for batch in by_length(self.length, 64):
            features = tokenizer.pad([rows[i] for i in batch], return_tensors="pt")
            with torch.inference_mode(), autocast():
                states = bert.embeddings(features["input_ids"], features["token_type_ids"])
                states = through(bert.encoder.layer[:FROZEN], states, features["attention_mask"])
            for i, one in zip(batch, states, strict=True):
                self.flat[self.start[i] : self.start[i] + self.length[i]] = one[: self.length[i]]

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states (b, t, d), and masks (b, t) of tokens and of those of the second text."""
        place = torch.arange(int(self.length[rows].max()))
        mask = place < torch.from_numpy(self.length[rows])[:, None]
        at = torch.where(mask, torch.from_numpy(self.start[rows])[:, None] + place, 0)
        return self.flat[at].float(), mask, self.second[at] & mask


class Features:
    """Mean-pooled states, on a common scale: what the Dense layer gets."""

    def __init__(self, states: States, like: "Features | None" = None):
        rows = np.arange(len(states.length))
        pooled = [mean(*states.batch(some)[:2]) for some in np.array_split(rows, len(rows) // 256 + 1)]
        pooled = torch.cat(pooled)
        self.shift, self.scale = (pooled.mean(0), pooled.std(0)) if like is None else (like.shift, like.scale)
        self.matrix = (pooled - self.shift) / self.scale
        self.length = np.ones(len(rows), dtype=int)

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor]:
        """Return features (b, d)."""
        return (self.matrix[rows],)


class Dense(nn.Module):
    """The trained part of the dense student."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(backbone()[0].config.hidden_size, DENSE_SIZE, bias=False)

    def forward(self, features):
        """Return vectors of length 1."""
        return F.normalize(self.linear(features).float(), dim=-1)


class Tuned(nn.Module):
    """The trained part of the tuned student."""

    def __init__(self):
        super().__init__()
        self.layers = copy.deepcopy(backbone()[0].encoder.layer[FROZEN:])

    def forward(self, states, mask, second):
        """Return vectors of length 1."""
        return F.normalize(mean(through(self.layers, states, mask), mask), dim=-1)


STUDENTS = {"dense": Dense, "tuned": Tuned}


class Teacher(nn.Module):
    """The trained part of the cross-encoder; `plain` is BERT's usual head on [CLS] instead of ours."""

    def __init__(self, plain: bool = False):
        super().__init__()
        bert = backbone()[0]
        self.layers = copy.deepcopy(bert.encoder.layer[FROZEN:])
        size = bert.config.hidden_size
        self.pool = nn.Linear(size, size) if plain else None
        self.head = nn.Linear(size if plain else 2 * size, 1)
        self.slope, self.offset = nn.Parameter(torch.tensor(5.0)), nn.Parameter(torch.tensor(-2.0))
        if not plain:
            nn.init.zeros_(self.head.weight)

    def forward(self, states, mask, second):
        """Return logits."""
        states = through(self.layers, states, mask).float()
        if self.pool is not None:
            return self.head(torch.tanh(self.pool(states[:, 0]))).squeeze(-1)
        u, v = (F.normalize(mean(states, side), dim=-1) for side in (mask & ~second, second))
        # Differences and products of unit vectors are tiny: 20 is about the root of their 384 parts.
        correction = self.head(20 * torch.cat([(u - v).abs(), u * v], dim=-1)).squeeze(-1)
        return self.slope * (u * v).sum(-1) + self.offset + correction


@cache
def backbone():
    """Return the backbone, with attention whose gradient is quick on a CPU, and its tokenizer."""
    folder = str(backbone_folder())
    bert = AutoModel.from_pretrained(
        folder, attn_implementation="eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return bert.eval(), AutoTokenizer.from_pretrained(folder)


def autocast():
    """Return the context of bfloat16 products."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def through(layers, states, mask):
    """Run states through layers."""
    blocked = torch.where(mask.bool(), 0.0, -1e4)[:, None, None, :]
    for layer in layers:
        states = layer(states, blocked)
    return states


def mean(states, mask):
    """Return the mean of the states that the mask names."""
    weights = mask[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


def by_length(lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Return all rows in batches of like length."""
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + size] for i in range(0, len(order), size)]


def batches(lengths: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches for ever: shuffled, then of like length within eight batches."""
    while True:
        order = rng.permutation(len(lengths))
        for start in range(0, len(order), 8 * size):
            some = order[start : start + 8 * size]
            several = by_length(lengths[some], size)
            for i in rng.permutation(len(several)):
                yield some[several[i]]


def fit(model, loss_of: Callable, supply: Iterator, steps: int, lr: float, look: Callable | None = None, looks=1):
    """Train `model` in place: AdamW, a tenth of the steps to warm up, then down to nothing.

    `look` returns a figure on the dev split: the model is looked at `looks` times and ends as it was
    when that was best.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    ramp = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / ramp, (steps - s) / steps))
    best, kept = -np.inf, None
    for step in range(1, steps + 1):
        loss_of(next(supply)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if look and step % max(1, steps // looks) == 0 and (found := look()) > best:
            best, kept = found, copy.deepcopy(model.state_dict())
    if kept:
        model.load_state_dict(kept)


def train_teacher(states: States, labels: np.ndarray, sizes: Sizes, seed: int, plain: bool = False) -> Teacher:
    """Train a cross-encoder on pairs with labels from 0 to 1."""
    torch.manual_seed(seed)
    teacher, wanted = Teacher(plain), torch.tensor(labels, dtype=torch.float32)

    def loss(rows):
        with autocast():
            logits = teacher(*states.batch(rows))
        return F.binary_cross_entropy_with_logits(logits.float(), wanted[rows])

    steps = int(np.clip(4 * len(labels) // 16, *sizes.teacher_steps))
    fit(teacher, loss, batches(states.length, 16, np.random.default_rng(seed)), steps, lr=2e-4)
    return teacher


@torch.inference_mode()
def apply(model: nn.Module, inputs) -> np.ndarray:
    """Return the model's output for every item."""
    parts = by_length(inputs.length, 128)
    with autocast():
        found = np.concatenate([model(*inputs.batch(rows)).float().numpy() for rows in parts])
    found[np.concatenate(parts)] = found.copy()
    return found


def probability(teacher: Teacher, states: States) -> np.ndarray:
    """Return the teacher's labels, from 0 to 1."""
    return 1 / (1 + np.exp(-apply(teacher, states)))


class Data:
    """A data set's pairs, and what is computed from them once."""

    def __init__(self, name: str, folder: Path):
        self.name = name
        self.splits = {split: self._read(folder, split) for split in ("train", "dev", "test")}
        held_out = {text for split in ("dev", "test") for row in self.splits[split] for text in row[:2]}
        train = [row for row in self.splits["train"] if not held_out & set(row[:2])]
        self.sentences = sorted({text for row in train for text in row[:2]})
        number = {text: i for i, text in enumerate(self.sentences)}
        self.gold = np.array([(number[a], number[b]) for a, b, *_ in train])
        self.labels = np.array([row[2] for row in train]) / 5

    def _read(self, folder: Path, split: str) -> list[tuple]:
        if self.name == "own":
            rows = rr.load_pairs(split)
            return list(zip(rows["sentence1"], rows["sentence2"], rows["score"], rows["kind"], strict=True))
        with (folder / "stsb" / f"stsb-en-{split}.csv").open(encoding="utf-8", newline="") as lines:
            rows = [(a, b, float(score), "") for a, b, score in csv.reader(lines)]
        start, end = GENRES[self.name][split] if self.name in GENRES else (0, None)
        return rows[start:end]

    @cache  # noqa: B019 - one object a data set, and it lives as long as the run
    def inputs(self, student: str):
        """Return what a kind of student reads of the training sentences."""
        states = States(self.sentences)
        return Features(states) if student == "dense" else states

    @cache  # noqa: B019
    def held_out(self, student: str, split: str):
        """Return what a kind of student reads of a split's first, then of its second sentences."""
        states = States([row[side] for side in (0, 1) for row in self.splits[split]])
        return Features(states, like=self.inputs("dense")) if student == "dense" else states

    @cache  # noqa: B019
    def held_out_pairs(self, split: str) -> States:
        """Return the states of a split's pairs."""
        return States([row[:2] for row in self.splits[split]])

    @cache  # noqa: B019
    def random(self, count: int) -> tuple[np.ndarray, States]:
        """Return pairs at random, and their states."""
        pairs = rr.random_pairs(len(self.sentences), count, exclude=self.gold)
        return pairs, self.pairs(pairs)

    @cache  # noqa: B019
    def bm25(self, count: int) -> tuple[np.ndarray, States]:
        """Return pairs by BM25, and their states."""
        pairs = rr.bm25_pairs(self.sentences, 2 + 3 * count // len(self.sentences), exclude=self.gold)[:count]
        return pairs, self.pairs(pairs)

    def semantic(self, kind: str, student: nn.Module, count: int) -> np.ndarray:
        """Return the nearest pairs by a student's vectors."""
        vectors = apply(student, self.inputs(kind))
        return rr.nearest_pairs(vectors, 2 + 3 * count // len(self.sentences), exclude=self.gold)[:count]

    def pairs(self, pairs: np.ndarray) -> States:
        """Return the states of pairs of training sentences."""
        return States([(self.sentences[i], self.sentences[j]) for i, j in pairs])

    def some(self, count: int, seed: int) -> np.ndarray:
        """Return the rows of `count` training pairs."""
        return np.random.default_rng(seed).permutation(len(self.gold))[:count]

    def wanted(self, split: str) -> np.ndarray:
        """Return a split's scores, from 0 to 1."""
        return np.array([row[2] for row in self.splits[split]]) / 5

    def found(self, model: nn.Module, split: str, student: str | None = None) -> np.ndarray:
        """Return a split's cosines by a student, or logits by a teacher."""
        if student is None:
            return apply(model, self.held_out_pairs(split))
        a, b = np.split(apply(model, self.held_out(student, split)), 2)
        return (a * b).sum(1)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation along the last axis."""
    a, b = (rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


class Run:
    """The experiments: their data, their sizes, their work folder."""

    def __init__(self, folder: Path, work: Path, sizes: Sizes):
        self.folder, self.work, self.sizes = folder, work, sizes

    @cache  # noqa: B019
    def data(self, name: str) -> Data:
        """Return a data set, read once."""
        return Data(name, self.folder)

    def teacher(self, name: str, count: int, seed: int, plain: bool = False, easy: int = 0) -> Teacher:
        """Return a teacher of `count` gold pairs, and of `easy` random ones with label 0; or take it from the work."""
        path = self.work / f"teacher-{name}-{count}-{seed}{'-plain' * plain}{f'-easy{easy}' * bool(easy)}.safetensors"
        if path.exists():
            teacher = Teacher(plain)
            teacher.load_state_dict(load_file(path))
            return teacher
        data = self.data(name)
        rows = data.some(count, seed)
        pairs, labels = data.gold[rows], data.labels[rows]
        if easy:
            unrelated = rr.random_pairs(len(data.sentences), easy, exclude=data.gold, seed=1000 + seed)
            pairs, labels = np.concatenate([pairs, unrelated]), np.concatenate([labels, np.zeros(easy)])
        teacher = train_teacher(data.pairs(pairs), labels, self.sizes, seed, plain)
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

    def strategies(self, name: str, count: int, kind: str, seed: int, ways=STRATEGIES) -> dict:
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
        if "random" in ways:
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
        """Label the same pairs with teachers that saw fewer gold pairs, or have the usual head."""
        data = self.data(name)
        pairs, states = data.bm25(self.sizes.silver)
        rows = data.some(count, seed)
        gold, labels = data.gold[rows], data.labels[rows]
        result = {}
        for seen, plain in [*((n, False) for n in self.sizes.fewer), (count, False), (count, True)]:
            teacher = self.teacher(name, seen, seed, plain)
            scores = probability(teacher, states)
            both = np.concatenate([gold, pairs]), np.concatenate([labels, scores])
            student = self.student(name, kind, *both, seed)
            label = f"{seen}{' [CLS]' * plain}"
            result[f"cross-encoder {label}"] = self.judge(name, teacher)
            result[f"student {label}"] = self.judge(name, student, kind) | self.described(name, pairs, scores)
        return result

    def larger(self, name: str, count: int, kind: str, seed: int) -> dict:
        """Give students more and more silver for the same number of steps, BM25's first partners first."""
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

    def shortcut(self, name: str, kind: str, seed: int) -> dict:
        """Train the teacher on random pairs with label 0, too, and see what it says of the others then."""
        data, count = self.data(name), len(self.data(name).gold)
        pairs, states = data.bm25(self.sizes.silver)
        random = data.random(self.sizes.silver)
        names = [row[3] for row in data.splits["test"]]
        result = {}
        for easy in (0, self.sizes.easy):
            teacher = self.teacher(name, count, seed, easy=easy)
            scores, kinds = probability(teacher, states), {}
            test = probability(teacher, data.held_out_pairs("test"))
            for one in sorted(set(names)):
                mine = np.array(names) == one
                kinds[one] = [round(float(x[mine].mean()), 3) for x in (data.wanted("test"), test)]
            result[f"cross-encoder, {easy} easy pairs"] = self.judge(name, teacher) | {"kinds": kinds}
            described = {"random": self.described(name, random[0], probability(teacher, random[1]))}
            both = np.concatenate([data.gold, pairs]), np.concatenate([data.labels, scores])
            student = self.student(name, kind, *both, seed)
            result[f"student, {easy} easy pairs"] = (
                self.judge(name, student, kind) | self.described(name, pairs, scores) | described
            )
        return result

    def plan(self) -> Iterator[tuple[str, tuple, int]]:
        """Yield experiments, arguments and seeds, the most important first."""
        own, sizes = len(self.data("own").gold), self.sizes
        first, *others = (min(n, len(self.data("stsb").gold)) for n in sizes.stsb)
        for kind, *rest in [
            ("strategies", "stsb", first, "dense"),
            ("strategies", "own", own, "tuned"),
            ("domains", "captions", "news", first, "dense"),
            ("domains", "news", "captions", first, "dense"),
            ("weaker", "stsb", first, "dense"),
            ("larger", "stsb", first, "dense"),
            *(("strategies", "stsb", n, "dense") for n in others),
            ("shortcut", "own", "tuned"),
            ("domains", "stsb", "own", min(first, own), "tuned"),
            ("domains", "own", "stsb", min(first, own), "dense"),
            ("strategies", "stsb", first, "tuned", ("BM25",)),
            ("strategies", "own", sizes.own_few, "tuned", ("BM25",)),
        ]:
            for seed in range(sizes.seeds):
                yield kind, tuple(rest), seed

    def block(self, experiment: str, rest: tuple, seed: int) -> dict:
        """Run one block, or read it."""
        words = [word for word in rest if not isinstance(word, tuple)]
        path = self.work / f"{'-'.join(map(str, [experiment, *words, seed]))}.json"
        if not path.exists():
            started = process_time()
            result = getattr(self, experiment)(*words, seed, **({"ways": rest[-1]} if rest[len(words) :] else {}))
            path.write_text(json.dumps({"cpu_seconds": round(process_time() - started), "rows": result}))
        return json.loads(path.read_text())

    def summary(self, finished: list[tuple[str, tuple, int]]) -> dict:
        """Return the finished blocks: correlations by seed, and means of what describes the pairs."""
        grouped: dict[tuple, list[dict]] = {}
        for experiment, rest, seed in finished:
            grouped.setdefault((experiment, rest), []).append(self.block(experiment, rest, seed))
        results = []
        for (experiment, rest), blocks in grouped.items():
            target = rest[1] if experiment == "domains" else rest[0]
            by_seed = [block["rows"] for block in blocks]
            baseline = {"strategies": "gold alone", "domains": "labels of the source"}.get(experiment)
            settings = [word for word in rest if not isinstance(word, tuple)]
            rows = {way: self.row(target, way, by_seed, baseline) for way in by_seed[0]}
            seconds = sum(block["cpu_seconds"] for block in blocks)
            results.append({"experiment": experiment, "settings": settings, "cpu_seconds": seconds, "rows": rows})
        sizes = {name: len(self.data(name).splits["test"]) for name in ("own", "stsb", *GENRES)}
        return {"test pairs": sizes, "sizes": asdict(self.sizes), "results": results}

    def row(self, target: str, way: str, by_seed: list[dict], baseline: str | None) -> dict:
        """Put one way's seeds side by side."""
        seeds = [rows[way] for rows in by_seed]
        row = {split: [one[split] for one in seeds] for split in ("dev", "test")}
        for name in ("pairs", "overlap", "labels"):
            if name in seeds[0]:
                row[name] = np.round(np.mean([one[name] for one in seeds], axis=0), 3).tolist()
        if "random" in seeds[0]:
            row["random labels"] = np.mean([one["random"]["labels"] for one in seeds], axis=0).tolist()
        if "kinds" in seeds[0]:  # wanted and found
            means = {kind: np.mean([one["kinds"][kind] for one in seeds], axis=0) for kind in seeds[0]["kinds"]}
            row["kinds"] = {kind: np.round(values, 3).tolist() for kind, values in means.items()}
        if baseline in by_seed[0] and way != baseline:
            pairs = [(rows[way]["found"], rows[baseline]["found"]) for rows in by_seed]
            row["gain over test pairs"] = self.gain(target, pairs)
        return row

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
    for experiment, rest, seed in tqdm(list(run.plan()), desc="blocks"):
        block = run.block(experiment, rest, seed)
        finished.append((experiment, rest, seed))
        scores = {way: row["test"] for way, row in block["rows"].items()}
        tqdm.write(f"{experiment} {rest} seed {seed}: {block['cpu_seconds']} s {json.dumps(scores)}")
        if seed == run.sizes.seeds - 1:
            args.out.write_text(json.dumps(run.summary(finished), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
