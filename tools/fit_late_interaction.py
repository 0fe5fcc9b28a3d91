"""Fit the late-interaction model: all-MiniLM-L6-v2 and a projection of its token vectors to 128 dimensions.

    python tools/fit_late_interaction.py --data DIR --work DIR --out rrhelpers/weights/late-interaction

A text becomes one vector of length 1 for each of its tokens. A passage's score is the sum, over the query's
tokens, of the largest inner product with one of the passage's (MaxSim, ColBERT, https://arxiv.org/abs/2004.12832).
Queries and passages are read alike, without markers and without [MASK] tokens appended to the query.

ColBERT trains model and projection by gradient. This one is computed: the projection keeps the 128 directions
in which the backbone's own token vectors are longest, so that inner products change least (principal
components, uncentred). Three samples of passages are fitted; the one that is best on the dev queries of the
mini ai-arxiv is kept, and all are measured on the test ones, beside MaxSim without a projection.
"""

import argparse
import json
import random
from pathlib import Path

import mining
import numpy as np
import torch
from fit_sparse import as_run, ndcg
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Normalize

import rrhelpers as rr
from rrhelpers.backbone import backbone_folder

MAX_TOKENS = 256
TOP_K = 25


@torch.inference_mode()
def directions(encoder, passages: list[str], dimensions: int) -> torch.Tensor:
    """Return the directions, (dimensions, d), in which the backbone's token vectors are longest."""
    moments = 0
    for first in range(0, len(passages), 16):
        features = encoder.preprocess(passages[first : first + 16], task="document")
        tokens = encoder[0](features)["token_embeddings"][features["attention_mask"].bool()]
        moments = moments + tokens.T @ tokens
    return torch.linalg.eigh(moments).eigenvectors[:, -dimensions:].T.contiguous()  # the longest come last


def measure(encoder, passages: list[str], ids: list[str]) -> dict[str, float]:
    """Return nDCG@10 on the dev and the test queries, by exact MaxSim over all passages."""
    vectors = encoder.encode_document(passages, batch_size=16)
    found = {}
    for split in ("dev", "test"):
        best = encoder.similarity(encoder.encode_query(rr.load_queries(split)["query"][:]), vectors).topk(TOP_K)
        hits = [
            [rr.Hit(row, score, rank) for rank, (row, score) in enumerate(zip(*pair, strict=True), start=1)]
            for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        found[f"nDCG@10 {split}"] = ndcg(as_run(split, hits), split, ids)
    return found


def main() -> None:
    """Fit each sample, keep the best on dev, write down what all of them score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="vectors, reused")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=256, help="that the projection is fitted on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    args = parser.parse_args()
    folder = str(backbone_folder())
    bi_encoder = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    papers = mining.load_papers(bi_encoder, args.data / "ai_qa" / "papers.jsonl.gz", args.work)
    train = np.isin(papers.owner, papers.numbers("train"))
    texts = [chunk for chunk, use in zip(papers.chunks, train, strict=True) if use]
    own = rr.load_papers()
    passages, ids = own["chunk"][:], rr.passage_ids(own)

    # sentence-transformers puts a random projection to 128 dimensions on a backbone that has none
    encoder = MultiVectorEncoder(folder, device="cpu", local_files_only=True)
    encoder.max_seq_length = MAX_TOKENS
    whole = MultiVectorEncoder(
        modules=[encoder[0], MultiVectorMask(), Normalize(module_input_name="token_embeddings")], device="cpu"
    )
    result = {"recipe": {"passages": args.passages, "dimensions": encoder[1].out_features}}
    result["without a projection"] = measure(whole, passages, ids)
    rows = []
    for seed in args.seeds:
        projection = directions(encoder, random.Random(seed).sample(texts, args.passages), encoder[1].out_features)
        encoder[1].linear.weight.data.copy_(projection)
        rows.append({"seed": seed} | measure(encoder, passages, ids))
        print(json.dumps(rows[-1]), flush=True)
        if rows[-1]["nDCG@10 dev"] == max(row["nDCG@10 dev"] for row in rows):
            result["kept"], kept = seed, projection
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({"weight": kept.half()}, args.out / "projection.safetensors")
    (args.out / "projection.safetensors").chmod(0o644)
    model = rr.load_bi_encoder(device="cpu", dtype=torch.float32)
    vectors = rr.encode(model, passages)
    result["bi-encoder"] = {}
    for split in ("dev", "test"):
        hits = rr.search(rr.encode(model, rr.load_queries(split)["query"][:]), vectors, top_k=TOP_K)
        result["bi-encoder"][f"nDCG@10 {split}"] = ndcg(as_run(split, hits), split, ids)
    result["seeds"] = rows
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
