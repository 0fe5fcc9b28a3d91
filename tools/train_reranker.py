"""Train the embedded reranker: LoRA on all linear layers of all-MiniLM-L6-v2, read as a cross-encoder.

    python tools/train_reranker.py --data DIR --work DIR --out rrhelpers/weights/reranker

`--data` holds `ai_qa/papers.jsonl.gz` and `general_qa/` (see the model cards page for what they are).
Nothing of their text is stored in the result: the adapter is matrices only.

The recipe, in four steps:
1. Cut the passages of the AI papers into chunks, encode them with the bi-encoder, and keep a
   question where the bi-encoder finds a chunk of its paper among the first ten (a *consistent*
   question). That chunk is the positive; the negatives are other papers' chunks of the first 30.
2. Warm up (a fifth of the steps): the cross-encoder learns to reproduce the bi-encoder's cosine on
   pairs of all kinds. It starts from a sane ranking on every domain instead of from noise.
3. Labels: softmax over one positive and three negatives, plus binary cross-entropy so that the
   logit's sign means something, plus a small pull towards the bi-encoder's *differences*.
4. Measure on papers that nothing was trained on (one in ten, by a hash of the paper's id).
"""

import argparse
import csv
import gzip
import hashlib
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

CHUNK_WORDS = 150
MAX_TOKENS = 256
NEGATIVES = 3
TOP_K = 25
LORA_TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


@dataclass
class Group:
    """One query with its positive passage first, then negatives, and the bi-encoder's cosines."""

    query: str
    passages: list[str]
    cosines: list[float]


def split_of(paper_id: str) -> str:
    """Return the paper's split, fixed for ever by a hash of its id: test 10%, dev 10%, train 80%."""
    bucket = int(hashlib.sha256(f"rrhelpers {paper_id}".encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "dev"}.get(bucket, "train")


def chunk(text: str) -> list[str]:
    """Cut into pieces of at most CHUNK_WORDS words, of nearly equal length."""
    words = text.split()
    pieces = max(1, -(-len(words) // CHUNK_WORDS))
    size = -(-len(words) // pieces)
    return [" ".join(words[i : i + size]) for i in range(0, len(words), size)]


def load_ai_qa(path: Path, papers: int, seed: int) -> tuple[list[dict], list[str], np.ndarray]:
    """Return the chosen papers, their chunks, and each chunk's paper number.

    All test papers are taken, the rest at random, so that the corpus is one for mining and testing.
    """
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        everything = [json.loads(line) for line in lines]
    rng = random.Random(seed)
    rng.shuffle(everything)
    everything.sort(key=lambda p: split_of(p["id"]) != "test")  # stable: the shuffle stays
    chosen = everything[:papers]
    chunks, owner = [], []
    for number, paper in enumerate(chosen):
        for passage in paper["passages"]:
            for piece in chunk(passage):
                chunks.append(piece)
                owner.append(number)
    return chosen, chunks, np.array(owner)


def encode(model: SentenceTransformer, texts: list[str], name: str, work: Path) -> np.ndarray:
    """Encode once; later calls with the same texts read the file."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()[:16]
    path = work / f"{name}-{digest}.npy"
    if not path.exists():
        vectors = model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=True)
        np.save(path, np.asarray(vectors, dtype=np.float32))
    return np.load(path)


def top_ranks(queries: np.ndarray, corpus: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and corpus rows of the first k of each query, best first."""
    corpus_t = torch.from_numpy(corpus)
    scores, rows = [], []
    for block in torch.from_numpy(queries).split(256):
        best = (block @ corpus_t.T).topk(k)
        scores.append(best.values.numpy())
        rows.append(best.indices.numpy())
    return np.concatenate(scores), np.concatenate(rows)


def mine_ai_qa(model, papers, chunks, owner, vectors, work, rng, per_paper=4) -> list[Group]:
    """Consistent questions and titles of the training papers, with their hard negatives."""
    asked = [
        (question, number)
        for number, paper in enumerate(papers)
        if split_of(paper["id"]) == "train"
        for question in [*rng.sample(paper["questions"], min(per_paper, len(paper["questions"]))), paper["title"]]
    ]
    queries = encode(model, [q for q, _ in asked], "questions", work)
    scores, rows = top_ranks(queries, vectors, 30)
    groups = []
    for (question, number), score, row in zip(asked, scores, rows, strict=True):
        own = np.flatnonzero(owner[row[:10]] == number)
        others = np.flatnonzero(owner[row] != number)
        if len(own) == 0 or len(others) < NEGATIVES:
            continue
        # A negative that the bi-encoder puts far above the positive often answers the question too.
        others = others[score[others] < score[own[0]] + 0.05]
        if len(others) < NEGATIVES:
            continue
        picked = [own[0], *rng.sample(list(others), NEGATIVES)]
        groups.append(Group(question, [chunks[row[i]] for i in picked], [float(score[i]) for i in picked]))
    return groups


def mine_xquad(model, path: Path, work, rng) -> list[Group]:
    """Questions over Wikipedia paragraphs; negatives are the nearest other paragraphs."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [p for article in articles for p in article["paragraphs"]]
    texts = [" ".join(p["context"].split()[:CHUNK_WORDS]) for p in paragraphs]
    asked = [(q["question"], n) for n, p in enumerate(paragraphs) for q in p["qas"]]
    scores, rows = top_ranks(
        encode(model, [q for q, _ in asked], "xquad-q", work), encode(model, texts, "xquad-p", work), 20
    )
    groups = []
    for (question, number), score, row in zip(asked, scores, rows, strict=True):
        own = np.flatnonzero(row == number)
        if len(own):
            picked = [own[0], *rng.sample(list(np.flatnonzero(row != number)), NEGATIVES)]
            groups.append(Group(question, [texts[row[i]] for i in picked], [float(score[i]) for i in picked]))
    return groups


def mine_trecqa(model, path: Path, work, rng) -> list[Group]:
    """Questions with sentences that do and don't answer them, as labelled."""
    by_query: dict[str, dict[str, list[str]]] = {}
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            by_query.setdefault(row["qtext"], {"0": [], "1": []})[row["label"]].append(row["atext"])
    drawn = [
        (query, [positive, *rng.sample(s["0"], NEGATIVES)])
        for query, s in by_query.items()
        if len(s["0"]) >= NEGATIVES
        for positive in s["1"]
    ]
    queries = encode(model, [q for q, _ in drawn], "trecqa-q", work)
    passages = encode(model, [p for _, four in drawn for p in four], "trecqa-p", work)
    cosines = np.einsum("qd,qnd->qn", queries, passages.reshape(len(drawn), NEGATIVES + 1, -1))
    return [Group(q, four, list(map(float, c))) for (q, four), c in zip(drawn, cosines, strict=True)]


class Batches:
    """Endless batches of groups, each from one source (so that lengths are alike), in fixed shares."""

    def __init__(self, sources: list[tuple[float, list[Group]]], size: int, rng: random.Random):
        self.sources, self.size, self.rng = sources, size, rng
        self.queues: list[list[Group]] = [[] for _ in sources]

    def next(self) -> list[Group]:
        """Return `size` groups; a source is reshuffled when it is used up."""
        shares = [share for share, _ in self.sources]
        which = self.rng.choices(range(len(shares)), shares)[0]
        groups = self.sources[which][1]
        while len(self.queues[which]) < self.size:
            self.queues[which] += self.rng.sample(groups, len(groups))
        return [self.queues[which].pop() for _ in range(self.size)]


def logits_of(model, tokenizer, pairs: list[tuple[str, str]], device) -> torch.Tensor:
    """Score pairs in one forward pass, in bf16 where autocast has it."""
    features = tokenizer(
        [q for q, _ in pairs],
        [p for _, p in pairs],
        padding=True,
        truncation="longest_first",  # a query is never the longer one, except in random pairs
        max_length=MAX_TOKENS,
        return_tensors="pt",
    ).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return model(**features).logits.float().squeeze(-1)


def train(model, tokenizer, batches: Batches, bi_encoder, args, device) -> list[dict]:
    """Run both phases and return the log."""
    head = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]
    lora = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
    optimizer = torch.optim.AdamW(
        [{"params": lora, "lr": args.lr}, {"params": head, "lr": args.lr / 3}], weight_decay=0.01
    )
    warm_up = args.steps // 5
    ramp = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / ramp, max(0.0, (args.steps - s) / (args.steps - ramp)))
    )
    rng = random.Random(args.seed)
    log, started = [], time.time()
    model.train()
    for step in tqdm(range(args.steps), desc="training"):
        groups = batches.next()
        cosines = torch.tensor([g.cosines for g in groups], device=device)
        pairs = [(g.query, p) for g in groups for p in g.passages]
        if step < warm_up:
            # Unrelated pairs too: a reranker must know what "nothing to do with it" looks like.
            texts = [t for q, p in pairs for t in (q, p)]
            random_pairs = [(rng.choice(texts), rng.choice(texts)) for _ in range(len(pairs) // 4)]
            both = bi_encoder.encode([t for pair in random_pairs for t in pair], convert_to_tensor=True).float()
            both = F.normalize(both, dim=-1)
            extra = (both[0::2] * both[1::2]).sum(-1).to(device)
            target = 10 * (torch.cat([cosines.flatten(), extra]) - 0.35)
            loss = F.mse_loss(logits_of(model, tokenizer, pairs + random_pairs, device), target)
        else:
            scores = logits_of(model, tokenizer, pairs, device).view(len(groups), -1)
            label = torch.zeros_like(scores)
            label[:, 0] = 1
            listwise = F.cross_entropy(scores, torch.zeros(len(groups), dtype=torch.long, device=device))
            binary = F.binary_cross_entropy_with_logits(scores, label)
            pull = F.mse_loss(
                scores - scores.mean(1, keepdim=True), 10 * (cosines - cosines.mean(1, keepdim=True))
            )
            loss = listwise + 0.5 * binary + 0.1 * pull
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lora + head, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == args.steps - 1:
            log.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(time.time() - started)})
            tqdm.write(json.dumps(log[-1]))
        if step % 300 == 299:
            save(model, args.work / "checkpoint")
    return log


def save(model, out: Path) -> None:
    """Write the adapter and the head in PEFT's format, in half precision."""
    from safetensors.torch import load_file, save_file

    model.save_pretrained(out, safe_serialization=True)
    weights = load_file(out / "adapter_model.safetensors")
    save_file({k: v.half().contiguous() for k, v in weights.items()}, out / "adapter_model.safetensors")
    (out / "README.md").unlink(missing_ok=True)
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "sentence-transformers/all-MiniLM-L6-v2"  # not this machine's folder
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def reciprocal_rank(is_own: np.ndarray) -> float:
    """Return 1 / rank of the first True among the first ten, else 0."""
    first = np.flatnonzero(is_own[:10])
    return 1 / (first[0] + 1) if len(first) else 0.0


@torch.inference_mode()
def evaluate(model, tokenizer, bi_encoder, papers, chunks, owner, vectors, args, device) -> dict:
    """MRR@10 of the bi-encoder and of reranking its first 25, on questions of test papers."""
    rng = random.Random(7)
    asked = [
        (rng.choice(p["questions"]), n)
        for n, p in enumerate(papers)
        if split_of(p["id"]) == "test" and p["questions"]
    ]
    asked = rng.sample(asked, min(args.questions, len(asked)))
    _, rows = top_ranks(encode(bi_encoder, [q for q, _ in asked], "test-q", args.work), vectors, TOP_K)
    model.eval()
    before, after = [], []
    for (question, number), row in zip(tqdm(asked, desc="evaluating"), rows, strict=True):
        scores = logits_of(model, tokenizer, [(question, chunks[r]) for r in row], device).cpu().numpy()
        before.append(reciprocal_rank(owner[row] == number))
        after.append(reciprocal_rank(owner[row[np.argsort(-scores, kind="stable")]] == number))
    gain = np.array(after) - np.array(before)
    draws = np.random.default_rng(0).choice(gain, (10_000, len(gain))).mean(1)
    return {
        "chunks": len(chunks),
        "questions": len(asked),
        "top_k": TOP_K,
        "bi_encoder_mrr@10": round(float(np.mean(before)), 4),
        "reranked_mrr@10": round(float(np.mean(after)), 4),
        "gain": round(float(gain.mean()), 4),
        "gain_95%": [round(float(v), 4) for v in np.percentile(draws, [2.5, 97.5])],
        "recall@25": round(float(np.mean([(owner[r] == n).any() for (_, n), r in zip(asked, rows, strict=True)])), 3),
    }


def main() -> None:
    """Prepare, train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", required=True, help="folder or hub id of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True, help="vectors and checkpoints, reused")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--papers", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--groups", type=int, default=8, help="queries a step, four pairs each")
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    bi_encoder = SentenceTransformer(args.backbone, device=str(device), model_kwargs={"dtype": torch.bfloat16})
    papers, chunks, owner = load_ai_qa(args.data / "ai_qa" / "papers.jsonl.gz", args.papers, args.seed)
    vectors = encode(bi_encoder, chunks, "chunks", args.work)
    sources = [
        (0.6, mine_ai_qa(bi_encoder, papers, chunks, owner, vectors, args.work, rng)),
        (0.2, mine_xquad(bi_encoder, args.data / "general_qa" / "xquad.en.json", args.work, rng)),
        (0.2, mine_trecqa(bi_encoder, args.data / "general_qa" / "trecqa-train.csv", args.work, rng)),
    ]
    sizes = dict(zip(["ai_qa", "xquad", "trecqa"], [len(g) for _, g in sources], strict=True))
    print(f"{len(chunks)} chunks; groups: {sizes}", flush=True)

    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    # No dropout: the adapter is small, the run is short, and on a CPU the masks double the forward pass.
    base = AutoModelForSequenceClassification.from_pretrained(
        args.backbone, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(args.seed)
    model = get_peft_model(
        base,
        LoraConfig(
            task_type="SEQ_CLS",
            r=16,
            lora_alpha=16,
            lora_dropout=0.0,
            target_modules=LORA_TARGETS,
            modules_to_save=["classifier", "pooler"],
        ),
    ).to(device)
    log = train(model, tokenizer, Batches(sources, args.groups, rng), bi_encoder, args, device)
    save(model, args.out)
    result = {
        "recipe": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()
                   if k in {"papers", "steps", "groups", "lr", "seed"}},
        "groups": sizes,
        "log": log,
        "held_out": evaluate(model, tokenizer, bi_encoder, papers, chunks, owner, vectors, args, device),
    }
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["held_out"], indent=1))


if __name__ == "__main__":
    main()
