"""Distil the embedded reranker into a small one: three of its six layers, which read 144 tokens.

    python tools/distil_reranker.py --data DIR --backbone DIR --work DIR --out rrhelpers/weights/reranker-small

`--data` is as for `train_reranker.py`, and so are the questions and passages that are mined from it.
1. The student has some of the backbone's layers, and starts with what the reranker's adapter has for them.
2. It learns the reranker's logits of its own training pairs, in the shares of its last part, by their squared
   error: a label says which of four passages is right, a logit also by how much.
3. Do it with three seeds and keep the one that is best on papers held out for development. `fit_temperature.py`
   then gives its logits their size, and `fit_fusion.py` measures it on papers that nothing was trained on.
"""

import hashlib
import json
import random
from pathlib import Path

import lora
import mining
import numpy as np
import torch
from fitting import fit
from torch.nn import functional as F
from train_reranker import LAST_SHARES, arguments, each_seed, logits_of, mine, prepare, right_first, write_down
from transformers import AutoTokenizer

import rrhelpers as rr

RERANKER = mining.ROOT / "rrhelpers" / "weights" / "reranker"
RECIPE = ("papers", "queries", "layers", "max_tokens", "rank", "steps", "lr")
BATCH = 40

Example = tuple[str, str, float]


def drawn(sources: dict[str, list[mining.Group]], count: int, rng: random.Random) -> list[tuple[str, list[str]]]:
    """Return queries of all sources in their shares, each with its group's passages and one of another group."""
    batches = mining.Batches([(share, sources[name]) for name, share in LAST_SHARES.items()], 1, rng)
    groups = [batches.next()[0] for _ in range(count)]
    return [(g.query, [*g.passages, rng.choice(rng.choice(groups).passages)]) for g in groups]


def taught(lists: list[tuple[str, list[str]]], work: Path) -> list[Example]:
    """Return every pair with the reranker's logit; what it says is kept in `work`."""
    digest = hashlib.sha256(json.dumps(lists).encode() + (RERANKER / "adapter_model.safetensors").read_bytes())
    kept = work / f"logits-{digest.hexdigest()[:16]}.npy"
    pairs = [(query, text) for query, texts in lists for text in texts]
    if not kept.exists():
        np.save(kept, mining.logits_of(rr.load_reranker(), lists))
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
    """Mine, let the reranker score, distil and measure."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--max-tokens", type=int, default=144)
    parser.add_argument("--rank", type=int, default=48)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--queries", type=int, default=8000, help="each gives five pairs")
    args = parser.parse_args()
    device, bi_encoder, papers = prepare(args)
    tokenizer = AutoTokenizer.from_pretrained(args.backbone, model_max_length=args.max_tokens)
    rng = random.Random(13)
    examples = taught(drawn(mine(bi_encoder, args.data, papers, args.work, rng), args.queries, rng), args.work)
    recipe = {name: getattr(args, name) for name in RECIPE} | {"pairs": len(examples)}

    def train_seed(seed: int):
        model, log = distil(examples, tokenizer, device, args, seed)
        return model, {"right first": right_first(model, tokenizer, device), "log": log}

    rows, kept = [], None
    for model, row in each_seed(train_seed, tokenizer, bi_encoder, papers, args, device):
        rows.append(row)
        if row["dev"]["gain"] == max(row["dev"]["gain"] for row in rows):
            kept = row["seed"]
            lora.save(model, args.out)
    write_down(recipe, kept, papers, rows, args.out)


if __name__ == "__main__":
    main()
