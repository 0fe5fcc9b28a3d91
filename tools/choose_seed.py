"""Choose which of the reranker's seeds is shipped, on collections for development.

    python tools/choose_seed.py --data DIR --work DIR --backbone DIR --seeds DIR --out rrhelpers/weights/reranker

`--seeds` is what `train_reranker.py` wrote: a folder with an adapter for each seed. The seed is taken as `rr.rerank`
will use it, fused with the bi-encoder's cosine, and by more than its own field: the one with the largest mean gain
over the three collections of `fit_fusion.py`, at the ratio that is chosen there. Copies the adapter; `training.json`
then has each seed's gains.
"""

import json
import shutil
from pathlib import Path

from fit_fusion import QUESTIONS, choose, dev_collections
from sentence_transformers import CrossEncoder
from torch import nn
from train_reranker import MAX_TOKENS, prepare, sources

import rrhelpers as rr
from rrhelpers.backbone import merge_adapter


def candidate(backbone: str, folder: Path) -> CrossEncoder:
    """Return the cross-encoder with the adapter in `folder`."""
    model = CrossEncoder(backbone, num_labels=1, max_length=MAX_TOKENS, activation_fn=nn.Identity())
    merge_adapter(model.model, folder)
    return model


def main() -> None:
    """Score, choose, copy."""
    parser = sources(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.questions = QUESTIONS
    training = json.loads((args.seeds / "training.json").read_text(encoding="utf-8"))
    model, (_, encoder, papers) = rr.load_bi_encoder(), prepare(args)
    for row in training["seeds"]:
        folder = args.seeds / str(row["seed"])
        scored = dev_collections(model, candidate(args.backbone, folder), folder, encoder, papers, args)
        ratio, gains = choose(scored)
        row["fused"] = next(gain for gain in gains if gain["ratio"] == ratio)
        print(row["seed"], row["fused"], flush=True)
    training["kept"] = max(training["seeds"], key=lambda row: row["fused"]["mean"])["seed"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(args.seeds / str(training["kept"]) / name, args.out / name)
    (args.out / "training.json").write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
