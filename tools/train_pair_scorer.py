"""Train the sentence-pair scorer: LoRA on all-MiniLM-L6-v2, read as a cross-encoder of two sentences.

    python tools/train_pair_scorer.py --data DIR --backbone DIR --out rrhelpers/weights/pair-scorer

First it learns to reproduce the bi-encoder's cosine on pairs without labels (true pairs, and
sentences put together at random), then the scores of the STS benchmark's training split and of the
book's own training pairs, each pair in either order. Three seeds; the one that is best on the two
development splits is kept, the spread is written down.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import lora
import mining
import numpy as np
import torch
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


def train(backbone, bi_encoder, tokenizer, stsb: list[Pair], own: list[Pair], device, args, seed):
    """Train one model from the backbone and return it with its log."""
    torch.manual_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(
        backbone, num_labels=1, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.0, attn_implementation="eager"
    )
    model = lora.add(base).to(device)
    adapters, whole = lora.parameters(model)
    rng, log, started = random.Random(seed), [], time.time()
    sentences = [s for a, b, _ in stsb + own for s in (a, b)]
    unlabelled = [*stsb, *own, *((rng.choice(sentences), rng.choice(sentences), 0.0) for _ in range(len(stsb) // 2))]
    labelled = [*stsb, *own]
    runs = {"cosines": (unlabelled, args.warm_up), "labels": (labelled, args.epochs)}
    for run, (pairs, epochs) in runs.items():
        steps = epochs * -(-len(pairs) // args.batch)
        optimizer = torch.optim.AdamW(
            [{"params": adapters, "lr": args.lr}, {"params": whole, "lr": args.lr / 3}], weight_decay=0.01
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s, n=steps: min((s + 1) / (0.1 * n), max(0.0, (n - s) / (0.9 * n)))
        )
        model.train()
        bar = tqdm(total=steps, desc=f"seed {seed}, {run}")
        for _ in range(epochs):
            for batch in batches(pairs, args.batch, rng):
                logits = logits_of(model, tokenizer, [p[:2] for p in batch], device)
                if run == "cosines":
                    both = bi_encoder.encode([s for p in batch for s in p[:2]], convert_to_tensor=True).float()
                    both = F.normalize(both, dim=-1)
                    loss = F.mse_loss(logits, as_logit((both[0::2] * both[1::2]).sum(-1)))
                else:
                    target = torch.tensor([s / 5 for *_, s in batch], dtype=torch.float32, device=device)
                    loss = F.binary_cross_entropy_with_logits(logits, target)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(adapters + whole, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                bar.update()
        bar.close()
        log.append({"run": run, "steps": steps, "loss": round(loss.item(), 4), "seconds": round(time.time() - started)})
    return model, log


def main() -> None:
    """Train with each seed, keep the best on the development splits, measure it on the test splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", required=True, help="folder or hub id of all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    parser.add_argument("--warm-up", type=int, default=1, help="epochs on cosines")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=6e-4)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    bi_encoder = SentenceTransformer(args.backbone, device=str(device))
    stsb = {s: mining.sentence_pairs(args.data / "stsb" / f"stsb-en-{s}.csv") for s in ("train", "dev", "test")}
    own = {s: own_pairs(s) for s in ("train", "dev", "test")}
    measured, best = [], -1.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            model, log = train(args.backbone, bi_encoder, tokenizer, stsb["train"], own["train"], device, args, seed)
            row = {"seed": seed, "log": log}
            for split in ("dev", "test"):
                row |= {f"stsb {split}": round(spearman(model, tokenizer, stsb[split], device), 4),
                        f"own {split}": round(spearman(model, tokenizer, own[split], device), 4)}  # fmt: skip
            print(json.dumps(row), flush=True)
            measured.append(row)
            if row["stsb dev"] + row["own dev"] > best:
                best, kept = row["stsb dev"] + row["own dev"], seed
                lora.save(model, Path(folder))
        shutil.copytree(folder, args.out, dirs_exist_ok=True)
    cosine = {f"{name} test": round(cosine_spearman(bi_encoder, pairs["test"]), 4)
              for name, pairs in (("stsb", stsb), ("own", own))}  # fmt: skip
    result = {
        "recipe": {name: getattr(args, name) for name in ("warm_up", "epochs", "batch", "lr")},
        "pairs": {"stsb train": len(stsb["train"]), "own train": len(own["train"])},
        "spearman": measured,
        "kept": kept,
        "bi-encoder's cosine": cosine,
    }
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
