"""Distil the embedded reranker into a small one: three of its six layers, which read 144 tokens.

    python tools/distil_reranker.py --data DIR --backbone DIR --work DIR --out rrhelpers/weights/reranker-small

`--data` is as for `train_reranker.py`, and so are the questions and passages that are mined from it.
1. The student has some of the backbone's layers, and starts with what the reranker's adapter has for them.
2. It learns the reranker's logits of its own training pairs by their squared error: a label says which of
   four passages is right, a logit also by how much.
3. Do it with three seeds, keep the one that is best on papers held out for development, and measure it on
   papers that nothing was trained on.
"""

import argparse
import hashlib
import json
import random
import warnings
from pathlib import Path

import lora
import mining
import numpy as np
import torch
from fitting import fit
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from train_reranker import SHARES, TOP_K, logits_of, measured, mine, score_held_out
from transformers import AutoTokenizer

import rrhelpers as rr

RERANKER = mining.ROOT / "rrhelpers" / "weights" / "reranker"
RECIPE = ("papers", "queries", "layers", "max_tokens", "rank", "steps", "lr")
BATCH = 40

Example = tuple[str, str, float]


def drawn(sources: dict[str, list[mining.Group]], count: int, rng: random.Random) -> list[tuple[str, list[str]]]:
    """Return queries of all sources in their shares, each with its group's passages and one of another group."""
    batches = mining.Batches([(share, sources[name]) for name, share in SHARES.items()], 1, rng)
    groups = [batches.next()[0] for _ in range(count)]
    return [(g.query, [*g.passages, rng.choice(rng.choice(groups).passages)]) for g in groups]


def taught(lists: list[tuple[str, list[str]]], work: Path) -> list[Example]:
    """Return every pair with the reranker's logit; what it says is kept in `work`."""
    digest = hashlib.sha256(json.dumps(lists).encode() + (RERANKER / "adapter_model.safetensors").read_bytes())
    kept = work / f"logits-{digest.hexdigest()[:16]}.npy"
    pairs = [(query, text) for query, texts in lists for text in texts]
    if not kept.exists():
        texts = [text for _, text in pairs]
        hits = iter([rr.Hit(row, 0.0, 1) for row in range(len(texts))])
        asked = [[next(hits) for _ in texts] for _, texts in lists]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some texts are cut
            found = rr.rerank(rr.load_reranker(), [query for query, _ in lists], asked, texts, fuse=False)
        logits = np.zeros(len(texts), dtype=np.float32)
        for hit in (hit for best in found for hit in best):
            logits[hit.corpus_id] = hit.score
        np.save(kept, logits)
    return [(*pair, float(logit)) for pair, logit in zip(pairs, np.load(kept), strict=True)]


def epochs(examples: list[Example], rng: random.Random):
    """Yield batches for ever."""
    while True:
        order = rng.sample(examples, len(examples))
        yield from (order[i : i + BATCH] for i in range(0, len(order), BATCH))


def distil(examples: list[Example], tokenizer, device, args, seed: int):
    """Train a student with one seed; return it and what its training took."""
    torch.manual_seed(seed)
    model = lora.cross_encoder(args.backbone, rank=args.rank, layers=args.layers, start=RERANKER).to(device)

    def loss(batch):
        wanted = torch.tensor([logit for *_, logit in batch], device=device)
        return F.mse_loss(logits_of(model, tokenizer, [(query, text) for query, text, _ in batch], device), wanted)

    adapters, whole = lora.parameters(model)
    parameters = [{"params": adapters, "lr": args.lr}, {"params": whole, "lr": args.lr / 3}]
    return model, fit(parameters, epochs(examples, random.Random(seed)), loss, args.steps, f"seed {seed}")


def main() -> None:
    """Distil with each seed, keep the best on papers held out for development, measure it on others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", required=True, help="folder or hub id of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True, help="vectors and the reranker's logits are kept here")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--papers", type=int, default=8000)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--max-tokens", type=int, default=144)
    parser.add_argument("--rank", type=int, default=48)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=6000, help="each gives five pairs")
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--questions", type=int, nargs=2, default=(400, 1000), help="dev and test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bi_encoder = SentenceTransformer(args.backbone, device=str(device), model_kwargs={"dtype": torch.bfloat16})
    papers = mining.load_papers(bi_encoder, args.data / "ai_qa" / "papers.jsonl.gz", args.work, args.papers)
    tokenizer = AutoTokenizer.from_pretrained(args.backbone, model_max_length=args.max_tokens)

    def scored(model, split: str, count: int) -> dict:
        return measured(score_held_out(model, tokenizer, bi_encoder, papers, split, count, args.work, device))

    rng = random.Random(13)
    examples = taught(drawn(mine(bi_encoder, args.data, papers, args.work, rng), args.queries, rng), args.work)
    rows, best = [], None
    for seed in args.seeds:
        model, log = distil(examples, tokenizer, device, args, seed)
        rows.append({"seed": seed, "dev": scored(model, "dev", args.questions[0]), "log": log})
        print(json.dumps(rows[-1]), flush=True)
        if rows[-1]["dev"]["gain"] == max(row["dev"]["gain"] for row in rows):
            best, kept = model, seed
    lora.save(best, args.out)
    result = {
        "recipe": {name: getattr(args, name) for name in RECIPE} | {"pairs": len(examples)},
        "kept": kept,
        "held_out": {"chunks": len(papers.chunks), "top_k": TOP_K} | scored(best, "test", args.questions[1]),
        "seeds": rows,
    }
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["held_out"], indent=1))


if __name__ == "__main__":
    main()
