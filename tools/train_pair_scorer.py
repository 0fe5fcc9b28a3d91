"""Train the sentence-pair scorer: LoRA on all-MiniLM-L6-v2, read as a cross-encoder of two sentences.

    python tools/train_pair_scorer.py --data DIR --backbone DIR --out rrhelpers/weights/pair-scorer

It starts from the embedded reranker's adapter, which has already learned to read two texts together.
First it learns to reproduce the bi-encoder's cosine on pairs without labels (pairs as they stand,
neighbours by cosine, and sentences put together at random), then the scores of the STS benchmark's
training split and of the book's own training pairs, each pair in either order. Three seeds; the one
that is best on the two development splits is kept, the spread is written down.
"""

import argparse
import json
import random
import time
from pathlib import Path

import lora
import mining
import numpy as np
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from tqdm.auto import tqdm
from train_reranker import as_logit, logits_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rrhelpers as rr

Pair = tuple[str, str, float]


def own_pairs(split: str) -> list[Pair]:
    """Return the book's pairs of a split with their scores."""
    return [(row["sentence1"], row["sentence2"], row["score"]) for row in rr.load_pairs(split)]


def spearman(model, tokenizer, pairs: list[Pair], device) -> float:
    """Return Spearman's correlation of the logits with the scores."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    logits = np.zeros(len(pairs))
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            logits[rows] = logits_of(model, tokenizer, [pairs[i][:2] for i in rows], device).cpu().numpy()
    return float(spearmanr(logits, [score for *_, score in pairs])[0])


def cosine_spearman(bi_encoder, pairs: list[Pair]) -> float:
    """Return Spearman's correlation of the bi-encoder's cosine with the scores."""
    one, other = (
        bi_encoder.encode([p[i] for p in pairs], normalize_embeddings=True, convert_to_numpy=True) for i in (0, 1)
    )
    return float(spearmanr((one * other).sum(1), [score for *_, score in pairs])[0])


def batches(pairs: list[Pair], size: int, rng: random.Random):
    """Yield an epoch of batches of pairs of like lengths, each pair in a random order of its two sentences."""
    pairs = sorted(pairs, key=lambda p: len(p[0]) + len(p[1]) + 20 * rng.random())
    cut = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    rng.shuffle(cut)
    for batch in cut:
        yield [(a, b, s) if rng.random() < 0.5 else (b, a, s) for a, b, s in batch]


def unlabelled(vectors: dict[str, np.ndarray], pairs: list[Pair], rng: random.Random) -> list[Pair]:
    """Return pairs with the bi-encoder's cosine for a score: true pairs, near neighbours, and pairs at random."""
    sentences = list(vectors)
    matrix = np.array([vectors[s] for s in sentences])
    drawn = [(a, b) for a, b, _ in pairs]
    for rows in np.array_split(np.arange(len(sentences)), 16):
        near = np.argpartition(-(matrix[rows] @ matrix.T), 30, axis=1)[:, :30]
        drawn += [(sentences[row], sentences[rng.choice(list(own))]) for row, own in zip(rows, near, strict=True)]
    drawn += [(rng.choice(sentences), rng.choice(sentences)) for _ in range(len(sentences) // 4)]
    return [(a, b, float(vectors[a] @ vectors[b])) for a, b in drawn if a != b]


def new_model(backbone: str):
    """Return the wrapped backbone with the reranker's adapter in it."""
    # Plain attention, no dropout: see train_reranker.py.
    base = AutoModelForSequenceClassification.from_pretrained(
        backbone,
        num_labels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    model = lora.add(base)
    tensors = load_file(mining.ROOT / "rrhelpers/weights/reranker/adapter_model.safetensors")
    set_peft_model_state_dict(model, {name: tensor.float() for name, tensor in tensors.items()})
    return model


def train(model, tokenizer, runs: dict, device, args, rng: random.Random, dev: dict) -> list[dict]:
    """Train on the pairs of each run for its number of epochs, and return the log."""
    adapters, whole = lora.parameters(model)
    log, started = [], time.time()
    for run, (pairs, epochs, lr) in runs.items():
        steps = epochs * -(-len(pairs) // args.batch)
        optimizer = torch.optim.AdamW(
            [{"params": adapters, "lr": lr}, {"params": whole, "lr": lr / 3}], weight_decay=0.01
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s, n=steps: min((s + 1) / (0.1 * n), max(0.0, (n - s) / (0.9 * n)))
        )
        for epoch in range(epochs):
            model.train()
            for batch in tqdm(list(batches(pairs, args.batch, rng)), desc=f"{run}, epoch {epoch}"):
                logits = logits_of(model, tokenizer, [p[:2] for p in batch], device)
                target = torch.tensor([s for *_, s in batch], dtype=torch.float32, device=device)
                if run == "cosines":
                    loss = F.mse_loss(logits, as_logit(target))
                else:
                    loss = F.binary_cross_entropy_with_logits(logits, target / 5)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(adapters + whole, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            found = {name: round(spearman(model, tokenizer, own, device), 4) for name, own in dev.items()}
            log.append({"run": run, "epoch": epoch, "seconds": round(time.time() - started)} | found)
            tqdm.write(json.dumps(log[-1]))
    return log


def main() -> None:
    """Train with each seed, keep the best on the development splits, measure it on the test splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", required=True, help="folder or hub id of all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    parser.add_argument("--epochs", type=int, nargs=2, default=(2, 5), help="on cosines, on labels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, nargs=2, default=(5e-4, 3e-4))
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    bi_encoder = SentenceTransformer(args.backbone, device=str(device))
    stsb = {s: mining.sentence_pairs(args.data / "stsb" / f"stsb-en-{s}.csv") for s in ("train", "dev", "test")}
    own = {s: own_pairs(s) for s in ("train", "dev", "test")}
    labelled = [*stsb["train"], *own["train"]]
    sentences = sorted({s for a, b, _ in labelled for s in (a, b)})
    vectors = dict(zip(sentences, bi_encoder.encode(sentences, normalize_embeddings=True), strict=True))
    measured, best = [], -1.0
    for seed in args.seeds:
        torch.manual_seed(seed)
        rng = random.Random(seed)
        model = new_model(args.backbone).to(device)
        runs = {
            "cosines": (unlabelled(vectors, labelled, rng), args.epochs[0], args.lr[0]),
            "labels": (labelled, args.epochs[1], args.lr[1]),
        }
        dev = {"stsb dev": stsb["dev"], "own dev": own["dev"]}
        row = {"seed": seed, "log": train(model, tokenizer, runs, device, args, rng, dev)}
        for split in ("dev", "test"):
            for name, pairs in (("stsb", stsb), ("own", own)):
                row[f"{name} {split}"] = round(spearman(model, tokenizer, pairs[split], device), 4)
        print(json.dumps(row), flush=True)
        measured.append(row)
        if row["stsb dev"] + row["own dev"] > best:
            best, kept = row["stsb dev"] + row["own dev"], seed
            lora.save(model, args.out)
    cosine = {f"{name} test": round(cosine_spearman(bi_encoder, pairs["test"]), 4)
              for name, pairs in (("stsb", stsb), ("own", own))}  # fmt: skip
    result = {
        "recipe": {name: getattr(args, name) for name in ("epochs", "batch", "lr")},
        "pairs": {"stsb train": len(stsb["train"]), "own train": len(own["train"])},
        "spearman": measured,
        "kept": kept,
        "bi-encoder's cosine": cosine,
    }
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
