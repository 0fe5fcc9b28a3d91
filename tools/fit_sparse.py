"""Fit the sparse encoder: all-MiniLM-L6-v2 with a head over its 30,522 word pieces, in the form of SPLADE.

    python tools/fit_sparse.py --data DIR --work DIR --out rrhelpers/weights/sparse

A passage becomes one weight per word piece: the maximum over its positions of log(1 + relu(logit))
(SPLADE v2, https://arxiv.org/abs/2109.10086). A query is its own word pieces, each with its inverse
document frequency (IDF): no model runs when somebody asks (SPLADE-doc in the same paper; with IDF
https://arxiv.org/abs/2411.04403).

SPLADE learns its head by gradient, on a model with a head for masked words. all-MiniLM-L6-v2 has lost
its own, so this head is computed in closed form: the output matrix is the word embeddings, and ridge
regression finds the transform that gives each position its own word piece back. Word pieces of like
meaning have like embeddings, so they get weight too. A bias for each word piece takes off a *threshold*,
a share of what a word piece gives itself: the higher, the sparser. Three samples of passages are fitted;
sample and threshold are chosen on the dev queries of the mini ai-arxiv, then measured on the test ones.
"""

import argparse
import json
import math
import random
from pathlib import Path

import mining
import numpy as np
import torch
from measure_collection import DEPTH, bm25_run
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM, AutoTokenizer

import rrhelpers as rr
from rrhelpers.backbone import backbone_folder
from rrhelpers.models import embedded_sparse

MAX_TOKENS = 256
# Queries. IDF runs from 0 (in every text) to 1 (in one or none); below this share a word is a stop word.
STOP_WORD = 0.15
HEAVIEST = 3.0  # a query word's greatest weight
# GELU is nearly the identity this far right of 0, and the layer norm takes the shift off again.
SHIFT = 5.0
SCALE = 0.5  # of logits: the layer norm's gain
OFF = 10.0  # taken from the logits of stop words
THRESHOLDS = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
THRESHOLD = 0.45  # the shipped one: about 250 active word pieces a passage


def weigh_words(tokenizer, passages: list[str], queries: list[str]) -> torch.Tensor:
    """Return each word piece's weight in a query: its IDF, 0 for stop words and special tokens.

    In the passages or in the queries, whichever is less: "what" is rare in papers, and says nothing in a query.
    """
    shares = [np.full(len(tokenizer), 1 / len(passages))]  # a word that isn't there counts as in one passage
    for texts in (passages, queries):
        counts = np.zeros(len(tokenizer))
        for ids in tokenizer(texts, add_special_tokens=False, truncation=True, max_length=MAX_TOKENS)["input_ids"]:
            counts[list(set(ids))] += 1
        shares.append(counts / len(texts))
    idf = -np.log(np.max(shares, axis=0)) / math.log(len(passages))
    special = set(tokenizer.all_special_tokens)
    idf[[i for word, i in tokenizer.get_vocab().items() if word in special or word.startswith("[unused")]] = 0
    return torch.tensor(HEAVIEST * np.maximum(idf - STOP_WORD, 0) / (1 - STOP_WORD), dtype=torch.float32)


@torch.inference_mode()
def states_of(base, tokenizer, passages: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last state of every position of the passages, (positions, d), and the word piece that stands there."""
    states, ids = [], []
    for first in range(0, len(passages), 16):
        features = tokenizer(
            passages[first : first + 16], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        seen = features["attention_mask"].bool()
        states.append(base.bert(**features).last_hidden_state[seen])
        ids.append(features["input_ids"][seen])
    return torch.cat(states), torch.cat(ids)


@torch.inference_mode()
def fit(base, tokenizer, passages: list[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the head's transform, and what each word piece then gives itself: its ideal logit.

    Rare words count as much as frequent ones (by the root of their number).
    """
    states, ids = states_of(base, tokenizer, passages)
    words = base.bert.embeddings.word_embeddings.weight
    # What the layer norm takes off, and what would raise all logits at once, can't tell words apart.
    common, _ = torch.linalg.qr(torch.stack([words.mean(0), torch.ones_like(words[0])], 1))
    targets = words - (words @ common) @ common.T
    targets = targets / targets.std(1, keepdim=True)
    share = torch.bincount(ids, minlength=len(words))[ids].float().rsqrt()[:, None]
    x = torch.cat([states, torch.ones_like(states[:, :1])], 1)
    ridge = 3 * share.mean() * torch.eye(x.shape[1])
    fitted = torch.linalg.solve(x.T @ (share * x) + ridge, x.T @ (share * targets[ids]))
    size = (x @ fitted).std()
    head = {
        "dense.weight": fitted[:-1].T / size,
        "dense.bias": fitted[-1] / size + SHIFT,
        "LayerNorm.weight": torch.full_like(words[0], SCALE),
        "LayerNorm.bias": torch.zeros_like(words[0]),
    }
    return {f"transform.{name}": value for name, value in head.items()}, SCALE * (targets * words).sum(1)


def save(head: dict, ideal: torch.Tensor, threshold: float, query_weights: torch.Tensor, out: Path) -> None:
    """Write head, bias and the queries' weights in half precision."""
    bias = -threshold * ideal - OFF * (query_weights == 0)
    out.mkdir(parents=True, exist_ok=True)
    tensors = head | {"bias": bias, "query_weights": query_weights}
    save_file({name: value.half().contiguous() for name, value in tensors.items()}, out / "head.safetensors")
    (out / "head.safetensors").chmod(0o644)


def at(threshold: float, weights: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """Return what weights at the lowest threshold become at a higher one: each maximum stays where it is."""
    logits = np.expm1(weights)
    return np.where(weights > 0, np.log1p(np.maximum(logits - (threshold - THRESHOLDS[0]) * ideal, 0)), 0)


def as_run(split: str, hits: list[list[rr.Hit]]) -> dict[str, list[rr.Hit]]:
    """Name each query's hits."""
    return dict(zip(rr.load_queries(split)["qid"], hits, strict=True))


def ndcg(run: dict[str, list[rr.Hit]], split: str, ids: list[str]) -> float:
    """Return the mean nDCG@10 of a run."""
    return round(float(np.mean(list(rr.per_query(run, rr.load_qrels(split), ids, "nDCG@10").values()))), 4)


def main() -> None:
    """Fit each sample, keep the best on dev, measure all on test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="vectors, reused, and each sample's head")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=320, help="that the head is fitted on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    args = parser.parse_args()
    folder = backbone_folder()
    encoder = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    papers = mining.load_papers(encoder, args.data / "ai_qa" / "papers.jsonl.gz", args.work)
    train = papers.numbers("train")
    texts = [chunk for chunk, owner in zip(papers.chunks, np.isin(papers.owner, train), strict=True) if owner]
    questions = [question for number in train for question in papers.papers[number]["questions"][:2]]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForMaskedLM.from_pretrained(folder).eval()
    query_weights = weigh_words(tokenizer, texts, questions).half().float()  # as they are saved
    own = rr.load_papers()
    passages, ids = own["chunk"][:], rr.passage_ids(own)
    rows = []
    for seed in args.seeds:
        head, ideal = fit(base, tokenizer, random.Random(seed).sample(texts, args.passages))
        save(head, ideal, THRESHOLDS[0], query_weights, args.work / f"sparse-{seed}")
        model = embedded_sparse(folder, args.work / f"sparse-{seed}", "cpu")
        model.max_seq_length = MAX_TOKENS
        widest = model.encode_document(passages, batch_size=8, convert_to_sparse_tensor=False).numpy()
        asked = {
            split: model.encode_query(rr.load_queries(split)["query"][:], convert_to_sparse_tensor=False).numpy()
            for split in ("dev", "test")
        }
        for threshold in THRESHOLDS:
            weights = at(threshold, widest, ideal.numpy())
            active = (weights > 0).sum(1)
            found = {
                f"nDCG@10 {split}": ndcg(as_run(split, rr.search(queries, weights, top_k=DEPTH)), split, ids)
                for split, queries in asked.items()
            }
            active = {"mean": round(float(active.mean()), 1), "most": int(active.max())}
            rows.append({"seed": seed, "threshold": threshold} | found | {"active": active})
            print(json.dumps(rows[-1]), flush=True)

    kept = max((row for row in rows if row["threshold"] == THRESHOLD), key=lambda row: row["nDCG@10 dev"])["seed"]
    head, ideal = fit(base, tokenizer, random.Random(kept).sample(texts, args.passages))
    save(head, ideal, THRESHOLD, query_weights, args.out)
    bm25 = {split: as_run(split, bm25_run(passages, rr.load_queries(split)["query"][:])) for split in ("dev", "test")}
    result = {
        "recipe": {"passages": args.passages, "threshold": THRESHOLD, "stop word": STOP_WORD, "heaviest": HEAVIEST},
        "active in a query": round(float((asked["test"] > 0).sum(1).mean()), 1),
        "seeds": rows,
        "kept": kept,
        "BM25": {f"nDCG@10 {split}": ndcg(run, split, ids) for split, run in bm25.items()},
    }
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "seeds"}, indent=1))


if __name__ == "__main__":
    main()
