"""Train the sentence-pair scorer: LoRA on all-MiniLM-L6-v2, read as a cross-encoder of two sentences.

    python tools/train_pair_scorer.py --data DIR --backbone DIR --work DIR --out rrhelpers/weights/pair-scorer

`--data` holds `stsb/` (see the model cards page). Nothing of its text is stored in the result.

A few thousand scored pairs are too few for a cross-encoder of this size to learn what it is to compare
two sentences; a bi-encoder knows it already. So the bi-encoder teaches (Augmented SBERT of chapter 9,
the other way round):
1. A bi-encoder is tuned on the STS benchmark by CoSENT, which asks for the right order of any two pairs.
   Its cosine, by a straight line put on the scale of the scores, is the teacher's score.
2. The training sentences (the book's own pairs' among them) are paired anew, each with some of its nearest and
   with others at random. From the reranker's adapter, which compares two texts already, the cross-encoder
   learns the teacher's scores of all these pairs as logits.
3. Then the STS benchmark's own scores, by binary cross-entropy.
4. All of this with three seeds. The best on the development part is kept and measured on the test parts.

The book's own pairs are chosen to be hard, and the same score means something else there: with them in
step 3 their correlation rises to 0.6, and that of the STS benchmark falls by 0.03.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

import lora
import mining
import numpy as np
import torch
from fitting import fit
from safetensors.torch import load_model, save_model
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from torch import nn
from torch.nn import functional as F
from train_reranker import logits_of
from transformers import AutoTokenizer

import rrhelpers as rr

BATCH = 32
RERANKER = mining.ROOT / "rrhelpers" / "weights" / "reranker"
RANK = 32
DROPOUT = 0.1
NEAREST = 40  # a sentence is paired with some of so many neighbours
SPLITS = ("train", "dev", "test")
RECIPE = ("teacher_epochs", "teacher_lr", "near", "far", "lr", "epochs", "gold_lr")

Pair = tuple[str, str, float]


def own_pairs(split: str) -> list[Pair]:
    """Return the book's pairs of a split with their scores."""
    return [(row["sentence1"], row["sentence2"], row["score"]) for row in rr.load_pairs(split)]


def shuffled(pairs: list[Pair], rng: random.Random) -> list[list[Pair]]:
    """Return an epoch of batches at random: CoSENT compares the pairs of a batch, which should differ in all ways."""
    pairs = rng.sample(pairs, len(pairs))
    return [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]


def by_length(pairs: list[Pair], rng: random.Random) -> list[list[Pair]]:
    """Return an epoch of batches of pairs of like lengths, which need little padding."""
    pairs = sorted(pairs, key=lambda p: len(p[0]) + len(p[1]) + 20 * rng.random())
    return rng.sample(cut := [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)], len(cut))


def epochs_of(pairs: list[Pair], cut, epochs: int, rng: random.Random):
    """Yield the batches of so many epochs, as `cut` cuts them, each pair in a random order of its two sentences."""
    for batch in (batch for _ in range(epochs) for batch in cut(pairs, rng)):
        yield [(a, b, s) if rng.random() < 0.5 else (b, a, s) for a, b, s in batch]


def tuned_bi_encoder(pairs: list[Pair], device, args, seed: int):
    """Return the bi-encoder that CoSENT tuned on the scored pairs; it is kept in `work`."""
    torch.manual_seed(seed)
    # Without dropout and with plain attention: see `lora.cross_encoder`.
    model = SentenceTransformer(
        args.backbone,
        device=str(device),
        model_kwargs={"attn_implementation": "eager"},
        config_kwargs={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    )
    kept = args.work / f"teacher-{seed}-{args.teacher_epochs}-{args.teacher_lr}.safetensors"
    if kept.exists():
        load_model(model, str(kept))
        return model.eval()
    loss_of = CoSENTLoss(model)

    def loss(batch):
        texts = [[p[i] for p in batch] for i in (0, 1)]
        sides = [dict(model.tokenizer(t, padding=True, truncation=True, return_tensors="pt").to(device)) for t in texts]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return loss_of(sides, torch.tensor([score for *_, score in batch], device=device) / 5)

    model.train()
    parameters = [{"params": list(model.parameters()), "lr": args.teacher_lr}]
    batches = epochs_of(pairs, shuffled, args.teacher_epochs, random.Random(seed))
    fit(parameters, batches, loss, args.teacher_epochs * -(-len(pairs) // BATCH), f"teacher, seed {seed}")
    save_model(model, str(kept))
    return model.eval()


def cosines(model, pairs: list[Pair]) -> np.ndarray:
    """Return the bi-encoder's cosine of every pair."""
    sentences = sorted({text for pair in pairs for text in pair[:2]})
    row = {text: i for i, text in enumerate(sentences)}
    one, other = np.array([(row[a], row[b]) for a, b, _ in pairs]).T
    vectors = rr.encode(model, sentences, progress=False)  # cached: they are asked for again
    return (vectors[one] * vectors[other]).sum(1)


def silver_pairs(teacher, gold: list[Pair], near: int, far: int, rng: random.Random) -> list[Pair]:
    """Pair each sentence with `near` neighbours and `far` at random; the teacher scores these and the gold ones."""
    sentences = sorted({text for pair in gold for text in pair[:2]})
    vectors = rr.encode(teacher, sentences, progress=False)
    _, rows = mining.top_ranks(vectors, vectors, NEAREST + 1)
    chosen = {(i, int(j)) for i, row in enumerate(rows) for j in rng.sample(list(row), near)}
    chosen |= {(i, rng.randrange(len(sentences))) for i in range(len(sentences)) for _ in range(far)}
    chosen = sorted({(min(pair), max(pair)) for pair in chosen if pair[0] != pair[1]})
    pairs = [(sentences[i], sentences[j], 0.0) for i, j in chosen] + gold
    # A straight line puts the cosine on the scale of the scores.
    line = np.polynomial.Polynomial.fit(cosines(teacher, gold), [score for *_, score in gold], 1)
    return [(a, b, float(s)) for (a, b, _), s in zip(pairs, line(cosines(teacher, pairs)).clip(0, 5), strict=True)]


def cross_encoder(backbone: str, device):
    """Return the backbone with a new adapter, of which the reranker's, which compares two texts already, is a part."""
    return lora.cross_encoder(backbone, rank=RANK, start=RERANKER).to(device)


def run(model, tokenizer, name: str, criterion, pairs: list[Pair], epochs: int, lr: float, device, rng) -> dict:
    """Train on pairs with scores from 0 to 5; return what it took."""

    def loss(batch):
        wanted = torch.tensor([score for *_, score in batch], device=device) / 5
        return criterion(logits_of(model, tokenizer, [p[:2] for p in batch], device), wanted)

    model.train()
    adapters, whole = lora.parameters(model)
    parameters = [{"params": adapters, "lr": lr}, {"params": whole, "lr": lr / 3}]
    batches = epochs_of(pairs, by_length, epochs, rng)
    return {"pairs": len(pairs)} | fit(parameters, batches, loss, epochs * -(-len(pairs) // BATCH), name)


def trained(model) -> dict[str, torch.Tensor]:
    """Return the weights that training changes."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def once(path: Path, make: Callable, *details) -> dict:
    """Return the weights and the log that `make` returns, or returned before."""
    if not path.exists():
        torch.save(make(*details), path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    return torch.load(path, weights_only=True)


def imitator(silver: list[Pair], tokenizer, device, args, seed: int) -> dict:
    """Return the weights of a cross-encoder that learnt the teacher's scores, as logits, and what it took."""
    torch.manual_seed(seed)
    model = cross_encoder(args.backbone, device)

    def imitate(found, wanted):
        return F.mse_loss(found, torch.logit(wanted, eps=0.01))

    log = run(model, tokenizer, "silver", imitate, silver, 1, args.lr, device, random.Random(seed))
    return {"model": trained(model), "log": log}


def learner(start: dict, gold: list[Pair], tokenizer, device, args, seed: int) -> dict:
    """Return the weights of a cross-encoder that went on with the scored pairs, and what that took.

    Here dropout pays: the scored pairs are few, and each is seen several times.
    """
    torch.manual_seed(seed)
    model = cross_encoder(args.backbone, device)
    model.load_state_dict(start, strict=False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    bce = F.binary_cross_entropy_with_logits
    log = run(model, tokenizer, "gold", bce, gold, args.epochs, args.gold_lr, device, random.Random(seed))
    return {"model": trained(model), "log": log}


@torch.inference_mode()
def logits(model, tokenizer, pairs: list[Pair], device) -> np.ndarray:
    """Return the logit of every pair."""
    found = np.zeros(len(pairs))
    model.eval()
    for rows in np.array_split(np.argsort([len(a) + len(b) for a, b, _ in pairs]), len(pairs) // 64 + 1):
        found[rows] = logits_of(model, tokenizer, [pairs[i][:2] for i in rows], device).cpu().numpy()
    return found


def spearman(found: np.ndarray, pairs: list[Pair]) -> float:
    """Return Spearman's correlation with the pairs' scores."""
    return round(float(spearmanr(found, [score for *_, score in pairs])[0]), 4)


def main() -> None:
    """Train with each seed, keep the best on the development splits, measure it on the test splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", required=True, help="folder or hub id of all-MiniLM-L6-v2")
    parser.add_argument(
        "--work", type=Path, required=True, help="what takes long is kept here, and not done again: one folder a recipe"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    parser.add_argument("--near", type=int, default=7, help="neighbours a sentence")
    parser.add_argument("--far", type=int, default=3, help="others a sentence")
    parser.add_argument("--epochs", type=int, default=3, help="of the scored pairs, at the end")
    parser.add_argument("--teacher-epochs", type=int, default=2)
    parser.add_argument("--teacher-lr", type=float, default=5e-5)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--gold-lr", type=float, default=2e-4)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    stsb = {split: mining.sentence_pairs(args.data / "stsb" / f"stsb-en-{split}.csv") for split in SPLITS}
    own = {split: own_pairs(split) for split in SPLITS}

    def measured(split: str, scores_of) -> dict[str, float]:
        data = {"stsb": stsb[split], "own": own[split]}
        return {f"{name} {split}": spearman(scores_of(pairs), pairs) for name, pairs in data.items()}

    def by_cosine(model):
        return lambda pairs: cosines(model, pairs)

    def by_logit(weights):
        model = cross_encoder(args.backbone, device)
        model.load_state_dict(weights, strict=False)
        return lambda pairs: logits(model, tokenizer, pairs, device)

    def train_seed(seed: int) -> dict:
        teacher = tuned_bi_encoder(stsb["train"], device, args, seed)
        silver = silver_pairs(teacher, stsb["train"] + own["train"], args.near, args.far, random.Random(seed))
        start = once(args.work / f"silver-{seed}.pt", imitator, silver, tokenizer, device, args, seed)
        gold = (start["model"], stsb["train"], tokenizer, device, args, seed)
        return {"teacher": teacher, "silver": start["log"]} | once(args.work / f"gold-{seed}.pt", learner, *gold)

    states = {seed: train_seed(seed) for seed in args.seeds}
    rows = [
        {"seed": seed, **measured("dev", by_logit(state["model"])), "silver": state["silver"], "gold": state["log"]}
        for seed, state in states.items()
    ]
    kept = max(rows, key=lambda row: row["stsb dev"])["seed"]
    teacher = states[kept]["teacher"]
    bi_encoder = SentenceTransformer(args.backbone, device=str(device))
    result = {
        "recipe": {name: getattr(args, name) for name in RECIPE},
        "kept": kept,
        "spearman": {
            "bi-encoder": measured("test", by_cosine(bi_encoder)),
            "its teacher": measured("dev", by_cosine(teacher)) | measured("test", by_cosine(teacher)),
            "pair-scorer": measured("test", by_logit(states[kept]["model"])),
        },
        "seeds": rows,
    }
    scorer = cross_encoder(args.backbone, device)
    scorer.load_state_dict(states[kept]["model"], strict=False)
    lora.save(scorer, args.out)
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"seeds": rows, "kept": kept} | result["spearman"], indent=1))


if __name__ == "__main__":
    main()
