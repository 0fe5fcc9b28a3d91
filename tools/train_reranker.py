"""Train the embedded reranker: LoRA on all linear layers of all-MiniLM-L6-v2, read as a cross-encoder.

    python tools/train_reranker.py --data DIR --backbone DIR --work DIR --out DIR

`--data` holds `ai_qa/` and `general_qa/` (see the model cards page for what they are).
Nothing of their text is stored in the result: the adapter is matrices only.

The recipe, in five steps:
1. Mine groups of a query, a passage that answers, and three hard negatives (`mining.py`): questions
   and titles of AI papers, and questions of the general world.
2. Warm up (a fifth of the steps): the cross-encoder learns to reproduce the bi-encoder's cosine on
   pairs of all kinds. It starts from a sane ranking on every domain instead of from noise.
3. Labels: softmax over one positive and three negatives, plus binary cross-entropy so that the
   logit's sign means something, plus a small pull towards the bi-encoder's *differences*.
4. A last part, shorter, with what long questions on papers don't teach: "what is X?", where one passage explains X
   and three others have the word as often, and short questions of fact. Both were written for this
   (`short_questions.jsonl`); mined from the papers' titles and acronyms, they didn't teach it.
5. Do it with three seeds, of which `choose_seed.py` takes one.

`fit_temperature.py` then makes the logits readable as log-odds, and `fit_fusion.py` finds how they are weighed with
the bi-encoder's cosine, and measures both on papers that nothing was trained on.
"""

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lora
import mining
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoTokenizer

MAX_TOKENS = 256
TOP_K = 25
SHARES = {"questions": 0.6, "xquad": 0.2, "trec_qa": 0.2}
LAST_SHARES = {"questions": 0.4, "explains": 0.2, "facts": 0.2, "xquad": 0.05, "trec_qa": 0.15}


def logits_of(model, tokenizer, pairs: list[tuple[str, str]], device) -> torch.Tensor:
    """Score pairs in one forward pass, in bf16 where autocast has it."""
    features = tokenizer(
        [q for q, _ in pairs],
        [p for _, p in pairs],
        padding=True,
        truncation="longest_first",  # a query is never the longer one, except in random pairs
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return model(**features).logits.float().squeeze(-1)


def as_logit(cosine):
    """Put a cosine on the scale of logits: 0 at 0.35, where the bi-encoder's related pairs begin."""
    return 10 * (cosine - 0.35)


def imitate(model, tokenizer, bi_encoder, pairs, device) -> torch.Tensor:
    """Return the squared error of the logits against the bi-encoder's cosines of the pairs."""
    both = bi_encoder.encode([text for pair in pairs for text in pair], convert_to_tensor=True).float()
    both = F.normalize(both, dim=-1)
    return F.mse_loss(logits_of(model, tokenizer, pairs, device), as_logit((both[0::2] * both[1::2]).sum(-1)))


def unrelated(groups: list[mining.Group], rng) -> list[tuple[str, str]]:
    """Pair texts at random: a reranker must know what "nothing to do with it" looks like."""
    texts = [text for g in groups for passage in g.passages for text in (g.query, passage)]
    return [(rng.choice(texts), rng.choice(texts)) for _ in groups]


def train(model, tokenizer, batches, bi_encoder, device, *, steps, imitating, lr, seed, kept: Path) -> list[dict]:
    """Run `steps` steps, the first `imitating` of them on the bi-encoder's cosines, and return the log.

    Every 50 steps all that is needed to go on is kept in `kept`; a run with the same settings goes on from there.
    """
    adapters, whole = lora.parameters(model)
    optimizer = torch.optim.AdamW([{"params": adapters, "lr": lr}, {"params": whole, "lr": lr / 3}], weight_decay=0.01)
    ramp = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / ramp, max(0.0, (steps - s) / (steps - ramp)))
    )
    rng = random.Random(seed)
    log, started, done = [], time.time(), 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        log, done, started = state["log"], state["done"], started - state["seconds"]
        for step in range(done):  # the draws that were made
            groups = batches.next()
            if step < imitating:
                unrelated(groups, rng)
    model.train()
    for step in tqdm(range(done, steps), initial=done, total=steps, desc="training"):
        groups = batches.next()
        pairs = [(g.query, p) for g in groups for p in g.passages]
        scores = logits_of(model, tokenizer, pairs, device).view(len(groups), -1)
        cosines = as_logit(torch.tensor([g.cosines for g in groups], device=device))
        if step < imitating:
            others = imitate(model, tokenizer, bi_encoder, unrelated(groups, rng), device)
            loss = 0.8 * F.mse_loss(scores, cosines) + 0.2 * others  # by their numbers of pairs
        else:
            label = torch.zeros_like(scores)
            label[:, 0] = 1
            listwise = F.cross_entropy(scores, torch.zeros(len(groups), dtype=torch.long, device=device))
            binary = F.binary_cross_entropy_with_logits(scores, label)
            pull = F.mse_loss(scores - scores.mean(1, keepdim=True), cosines - cosines.mean(1, keepdim=True))
            loss = listwise + 0.5 * binary + 0.1 * pull
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters + whole, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            log.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(time.time() - started)})
            tqdm.write(json.dumps(log[-1]))
        if step % 50 == 49:
            trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
            state = {"model": trained, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            state |= {"log": log, "done": step + 1, "seconds": time.time() - started}
            torch.save(state, kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)
    return log


def mine(model, data: Path, papers: mining.Papers, work: Path, rng) -> dict[str, list[mining.Group]]:
    """Return the groups of every source by name."""
    return {
        "questions": mining.questions(model, papers, work, rng),
        "xquad": mining.xquad(model, data / "general_qa" / "xquad.en.json", work, rng),
        "trec_qa": mining.trec_qa(model, data / "general_qa" / "trecqa-train.csv", work, rng),
        "explains": mining.written(model, "term", work),
        "facts": mining.written(model, "question", work),
    }


def reciprocal_rank(is_own: np.ndarray) -> float:
    """Return 1 / rank of the first True among the first ten, else 0."""
    first = np.flatnonzero(is_own[:10])
    return 1 / (first[0] + 1) if len(first) else 0.0


@torch.inference_mode()
def score_held_out(model, tokenizer, bi_encoder, papers, split, count, work, device) -> dict[str, np.ndarray]:
    """Return logits, cosines and labels of the first 25 chunks for questions of papers that weren't trained on.

    Each is of shape (questions, 25), in the bi-encoder's order; a chunk is right if it is of the question's paper.
    """
    rng = random.Random(7)
    own = [n for n in papers.numbers(split) if papers.papers[n]["questions"]]
    asked = [(rng.choice(papers.papers[n]["questions"]), n) for n in own]
    asked = rng.sample(asked, min(count, len(asked)))
    queries = mining.encode(bi_encoder, [q for q, _ in asked], work)
    cosines, rows = mining.top_ranks(queries, papers.vectors, TOP_K)
    model.eval()
    logits = [
        logits_of(model, tokenizer, [(question, papers.chunks[r]) for r in row], device).cpu().numpy()
        for (question, _), row in zip(tqdm(asked, desc=f"scoring {split}"), rows, strict=True)
    ]
    numbers = np.array([number for _, number in asked])
    return {"logits": np.array(logits), "cosines": cosines, "labels": papers.owner[rows] == numbers[:, None]}


@torch.inference_mode()
def right_first(model, tokenizer, device) -> dict[str, float]:
    """Return, for both kinds of short questions that were held out, the share with an answer in the first place."""
    model.eval()
    shares = {}
    for kind in ("term", "question"):
        found = []
        for query, labelled in mining.held_out_questions(kind):
            logits = logits_of(model, tokenizer, [(query, text) for text, _ in labelled], device)
            found.append(labelled[logits.argmax().item()][1])
        shares[kind] = round(float(np.mean(found)), 3)
    return shares


def gain(scores: np.ndarray, cosines: np.ndarray, labels: np.ndarray) -> dict:
    """Return MRR@10 of the cosines and of the scores, and the difference with its 95% interval."""
    before, after = (
        np.array([reciprocal_rank(y[np.argsort(-s, kind="stable")]) for s, y in zip(by, labels, strict=True)])
        for by in (cosines, scores)
    )
    draws = np.random.default_rng(0).choice(after - before, (10_000, len(after))).mean(1)
    return {
        "bi_encoder_mrr@10": round(float(before.mean()), 4),
        "reranked_mrr@10": round(float(after.mean()), 4),
        "gain": round(float((after - before).mean()), 4),
        "gain_95%": [round(float(v), 4) for v in np.percentile(draws, [2.5, 97.5])],
    }


def measured(scores: dict[str, np.ndarray]) -> dict:
    """Return how well the logits of `score_held_out` order its questions' chunks."""
    counts = {"questions": len(scores["labels"]), "recall@25": round(float(scores["labels"].any(1).mean()), 3)}
    return counts | gain(scores["logits"], scores["cosines"], scores["labels"])


def sources(description: str) -> argparse.ArgumentParser:
    """Return a parser of what `prepare` needs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", required=True, help="folder or hub id of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True, help="what takes long is kept here, and taken up again")
    parser.add_argument("--papers", type=int, default=8000)
    return parser


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser of what every reranker's training takes."""
    parser = sources(description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--questions", type=int, default=400, help="of papers held out for development")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    return parser


def prepare(args):
    """Return the device, the bi-encoder, and the papers with their vectors."""
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bi_encoder = SentenceTransformer(args.backbone, device=str(device), model_kwargs={"dtype": torch.bfloat16})
    return device, bi_encoder, mining.load_papers(
        bi_encoder, args.data / "ai_qa" / "papers.jsonl.gz", args.work, args.papers
    )  # fmt: skip


def each_seed(train_seed: Callable, tokenizer, bi_encoder, papers, args, device) -> Iterator[tuple]:
    """Train with each seed; yield the model and what is to be told of it, measured on papers held out for development.

    `train_seed` takes a seed and returns a model and what is to be told of its training.
    """
    for seed in args.seeds:
        model, told = train_seed(seed)
        scores = score_held_out(model, tokenizer, bi_encoder, papers, "dev", args.questions, args.work, device)
        row = {"seed": seed, "dev": measured(scores)}
        print(json.dumps({"seed": seed, **row["dev"]}), flush=True)
        yield model, row | told


def write_down(recipe: dict, kept: int | None, papers, rows: list[dict], folder: Path) -> None:
    """Write `training.json`: the recipe, the seed that was kept, and what is to be told of each."""
    result = {"recipe": recipe, "kept": kept, "chunks": len(papers.chunks), "top_k": TOP_K, "seeds": rows}
    (folder / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Mine, train and measure."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--groups", type=int, default=8, help="queries a step, four pairs each")
    parser.add_argument("--last-steps", type=int, default=500)
    parser.add_argument("--last-lr", type=float, default=3e-4)
    args = parser.parse_args()
    device, bi_encoder, papers = prepare(args)
    tokenizer = AutoTokenizer.from_pretrained(args.backbone, model_max_length=MAX_TOKENS)
    recipe = {name: getattr(args, name) for name in ("papers", "steps", "groups", "lr", "last_steps", "last_lr")}

    def train_seed(seed: int):
        rng = random.Random(seed)
        sources = mine(bi_encoder, args.data, papers, args.work, rng)
        torch.manual_seed(seed)
        model = lora.cross_encoder(args.backbone).to(device)

        def part(shares: dict[str, float], steps: int, imitating: int, lr: float, kept: str) -> list[dict]:
            batches = mining.Batches([(share, sources[name]) for name, share in shares.items()], args.groups, rng)
            how = {"steps": steps, "imitating": imitating, "lr": lr, "seed": seed, "kept": args.work / kept}
            return train(model, tokenizer, batches, bi_encoder, device, **how)

        drawn = json.dumps([[g.query, *g.passages] for groups in sources.values() for g in groups])
        digest = hashlib.sha256(drawn.encode()).hexdigest()[:8]
        first = f"run-{digest}-{args.steps}-{args.groups}-{args.lr}-{seed}"
        log = part(SHARES, args.steps, args.steps // 5, args.lr, f"{first}.pt")
        before = right_first(model, tokenizer, device)
        last = part(LAST_SHARES, args.last_steps, 0, args.last_lr, f"{first}-{args.last_steps}-{args.last_lr}.pt")
        return model, {
            "groups": {name: len(groups) for name, groups in sources.items()},
            "right first": {"before the last part": before, "after it": right_first(model, tokenizer, device)},
            "log": log,
            "last log": last,
        }

    rows = []
    for model, row in each_seed(train_seed, tokenizer, bi_encoder, papers, args, device):
        rows.append(row)
        lora.save(model, args.out / str(row["seed"]))
    write_down(recipe, None, papers, rows, args.out)


if __name__ == "__main__":
    main()
