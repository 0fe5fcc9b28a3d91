"""Find the temperature at which an embedded reranker's logits can be read as log-odds, and put it into its head.

    python tools/fit_temperature.py --data DIR --work DIR --backbone DIR --reranker reranker

Nothing in the training sees to it that the logits have the right size. Temperature scaling
(https://arxiv.org/abs/1706.04599) divides all of them by one number, the one that makes the labels
likeliest on queries that weren't trained on: questions and titles of the papers held out for
development, and TREC-QA's dev questions, each with a passage that answers and three hard negatives, as
in training. Both collections have the same total weight. One number changes no order and no sign. A bias
besides is fitted only to be told: what it should be differs by collection.

The head's weights are divided by it. `training.json` then has it, and a second run is refused.
"""

import json
import random
from pathlib import Path

import mining
import numpy as np
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from train_reranker import prepare, sources

import rrhelpers as rr


def fit(collections: list[np.ndarray], *, bias: bool = False) -> dict[str, float]:
    """Return the temperature (and a bias), and the labels' mean negative log-likelihood without and with it."""
    logits = np.concatenate([c.ravel() for c in collections])[:, None]
    labels = np.concatenate([np.arange(c.size) % c.shape[1] == 0 for c in collections])
    weights = np.concatenate([np.full(c.size, 1000 / c.size) for c in collections])
    regression = LogisticRegression(C=1e4, fit_intercept=bias).fit(logits, labels, weights)
    found = {"temperature": 1 / regression.coef_.item()} | ({"bias": regression.intercept_.item()} if bias else {})
    found["loss before"] = log_loss(labels, 1 / (1 + np.exp(-logits[:, 0])), sample_weight=weights)
    found["loss after"] = log_loss(labels, regression.predict_proba(logits)[:, 1], sample_weight=weights)
    return {name: round(float(value), 4) for name, value in found.items()}


def divide_head(path: Path, temperature: float) -> None:
    """Divide the weights of the last layer in an adapter's file."""
    weights = load_file(path)
    for name in weights:
        if "classifier" in name:
            weights[name] = (weights[name].float() / temperature).half()
    save_file(weights, path)
    path.chmod(0o644)  # safetensors writes files that only the owner reads


def main() -> None:
    """Mine, score, fit, divide."""
    parser = sources(__doc__.splitlines()[0])
    parser.add_argument("--reranker", default="reranker")
    args = parser.parse_args()
    folder = mining.ROOT / "rrhelpers" / "weights" / args.reranker
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if "temperature" in record:
        raise SystemExit(f"{folder.name} has its temperature already, in its head: train it anew to fit another")
    _, encoder, papers = prepare(args)
    rng = random.Random(13)
    groups = {
        "held-out papers": mining.questions(encoder, papers, args.work, rng, split="dev"),
        "TREC-QA": mining.trec_qa(encoder, args.data / "general_qa" / "trecqa-dev.csv", args.work, rng),
    }
    reranker = rr.load_reranker(args.reranker)
    logits = {
        name: mining.logits_of(reranker, [(g.query, g.passages) for g in some]).reshape(len(some), -1)
        for name, some in groups.items()
    }
    record["temperature"] = fit(list(logits.values())) | {
        "groups": {name: len(some) for name, some in groups.items()},
        "each alone": {name: fit([some]) for name, some in logits.items()},
        "each alone, with a bias": {name: fit([some], bias=True) for name, some in logits.items()},
    }
    divide_head(folder / "adapter_model.safetensors", record["temperature"]["temperature"])
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["temperature"], indent=1))


if __name__ == "__main__":
    main()
