"""The models and the data of `tools/augment.py`: a cross-encoder, two kinds of bi-encoder, pairs of sentences.

What makes training affordable on a CPU: layers that stay frozen are run once for each text, and what is
trained above them is trained in bfloat16, on batches of like length.

- The *teacher* is a cross-encoder: both sentences go through layers 1 to 6 together, of which 4 to 6 are
  trained. Its logit starts as the cosine between the means of the two sentences' token states, which is
  what the backbone was trained for, and learns a correction from their differences and products.
- The *dense* student is a bi-encoder: the first three layers, frozen, mean pooling, and a trained Dense
  layer. The backbone was not trained to be used so: its cosines start low.
- The *tuned* student is the published bi-encoder, with layers 4 to 6 trained.
"""

import copy
import csv
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

import rrhelpers as rr
from rrhelpers.backbone import backbone_folder

FROZEN = 3  # of the six layers, so many are never trained
DENSE_SIZE = 256
MAX_TOKENS = 128

# The STS benchmark's genres: rows of its files from, to. The third, forums, lies between.
GENRES = {
    "captions": {"train": (0, 2000), "dev": (0, 625), "test": (0, 625)},
    "news": {"train": (2450, None), "dev": (1000, None), "test": (879, None)},
}


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
    """The trained part of the cross-encoder."""

    def __init__(self):
        super().__init__()
        bert = backbone()[0]
        self.layers = copy.deepcopy(bert.encoder.layer[FROZEN:])
        size = bert.config.hidden_size
        self.head = nn.Linear(2 * size, 1)
        self.slope, self.offset = nn.Parameter(torch.tensor(5.0)), nn.Parameter(torch.tensor(-2.0))
        nn.init.zeros_(self.head.weight)

    def forward(self, states, mask, second):
        """Return logits."""
        states = through(self.layers, states, mask).float()
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


def train_teacher(states: States, labels: np.ndarray, steps: tuple[int, int], seed: int) -> Teacher:
    """Train a cross-encoder on pairs with labels from 0 to 1, for four epochs but within bounds of `steps`."""
    torch.manual_seed(seed)
    teacher, wanted = Teacher(), torch.tensor(labels, dtype=torch.float32)

    def loss(rows):
        with autocast():
            logits = teacher(*states.batch(rows))
        return F.binary_cross_entropy_with_logits(logits.float(), wanted[rows])

    count = int(np.clip(4 * len(labels) // 16, *steps))
    fit(teacher, loss, batches(states.length, 16, np.random.default_rng(seed)), count, lr=2e-4)
    return teacher


@torch.inference_mode()
def infer(model: nn.Module, inputs) -> np.ndarray:
    """Return the model's output for every item."""
    parts = by_length(inputs.length, 128)
    with autocast():
        found = np.concatenate([model(*inputs.batch(rows)).float().numpy() for rows in parts])
    found[np.concatenate(parts)] = found.copy()
    return found


def probability(teacher: Teacher, states: States) -> np.ndarray:
    """Return the teacher's labels, from 0 to 1."""
    return 1 / (1 + np.exp(-infer(teacher, states)))


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
        vectors = infer(student, self.inputs(kind))
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
            return infer(model, self.held_out_pairs(split))
        a, b = np.split(infer(model, self.held_out(student, split)), 2)
        return (a * b).sum(1)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation along the last axis."""
    a, b = (rankdata(x, axis=-1) for x in (a, b))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
