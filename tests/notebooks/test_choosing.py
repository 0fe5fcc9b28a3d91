"""The fusion's ratio and the reranker's seed: what gains most on average over the collections for development."""

import json

import choose_seed
import numpy as np
import pytest
from fit_fusion import Scored, choose


def of_one_query(logits, cosines) -> Scored:
    """Return a query with two passages, of which the first is relevant."""
    return Scored(np.array(logits), np.array(cosines), np.array([True, False]), np.zeros(2, int))


BY_LOGIT = of_one_query([1.0, 0.0], [0.4, 0.51])  # right with a ratio below 10
BY_COSINE = of_one_query([0.0, 1.0], [0.7, 0.5])  # right with a ratio above 5


def test_of_the_ratios_that_gain_as_much_the_largest_is_taken():
    ratio, gains = choose({"logit": BY_LOGIT, "cosine": BY_COSINE})
    assert [row["ratio"] for row in gains if row["mean"] == 0.25] == [6, 8]
    assert ratio == 8
    assert gains[0] == {"ratio": 0, "logit": 0.5, "cosine": -0.5, "mean": 0.0}


def test_where_nothing_gains_the_cosine_weighs_most():
    ratio, gains = choose({"cosine": BY_COSINE})
    assert max(row["mean"] for row in gains) == 0
    assert ratio == max(row["ratio"] for row in gains)


@pytest.mark.parametrize("best", [13, 14])
def test_the_seed_with_the_best_mean_gain_is_copied_and_all_are_told(monkeypatch, tmp_path, best):
    seeds, out = tmp_path / "seeds", tmp_path / "out"
    out.mkdir()
    for seed in (13, 14):
        (seeds / str(seed)).mkdir(parents=True)
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (seeds / str(seed) / name).write_text(str(seed))
    rows = [{"seed": 13, "dev": {"gain": 0.1}}, {"seed": 14, "dev": {"gain": 0.1}}]
    (seeds / "training.json").write_text(json.dumps({"kept": None, "seeds": rows}))

    def collections(model, reranker, folder, *rest):
        return {"own": BY_LOGIT if folder.name == str(best) else BY_COSINE, "other": BY_LOGIT}

    monkeypatch.setattr(choose_seed, "dev_collections", collections)
    monkeypatch.setattr(choose_seed, "candidate", lambda backbone, folder: None)
    monkeypatch.setattr(choose_seed, "prepare", lambda args: (None, None, None))
    monkeypatch.setattr(choose_seed.rr, "load_bi_encoder", lambda: None)
    monkeypatch.setattr(
        "sys.argv", ["", *f"--data x --backbone x --work {tmp_path} --seeds {seeds} --out {out}".split()]
    )
    choose_seed.main()
    training = json.loads((out / "training.json").read_text())
    assert training["kept"] == best
    assert (out / "adapter_model.safetensors").read_text() == (out / "adapter_config.json").read_text() == str(best)
    assert {row["seed"]: row["fused"]["mean"] for row in training["seeds"]} == {best: 0.5, 27 - best: 0.25}
