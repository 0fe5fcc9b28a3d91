"""The temperature of a reranker's logits: found, and taken out of the head once."""

import fit_temperature
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file


def test_the_temperature_is_the_one_that_was_put_in():
    """Two normal distributions, placed so that the log-odds of the labels are the logits times two."""
    k, rng = 2, np.random.default_rng(0)
    middle = -np.log(3) / k  # one in four is right
    right = rng.normal(middle + k / 2, 1, (20_000, 1))
    wrong = rng.normal(middle - k / 2, 1, (20_000, 3))
    logits = np.hstack([right, wrong])
    found = fit_temperature.fit([logits])
    assert found["temperature"] == pytest.approx(1 / k, abs=0.01)
    assert found["loss after"] < found["loss before"]
    assert fit_temperature.fit([logits / found["temperature"]])["temperature"] == pytest.approx(1, abs=0.01)
    assert fit_temperature.fit([logits], bias=True)["bias"] == pytest.approx(0, abs=0.05)
    assert fit_temperature.fit([logits + 1], bias=True)["bias"] == pytest.approx(-k, abs=0.05)


def test_collections_weigh_the_same_whatever_their_size():
    rng = np.random.default_rng(1)
    sure, unsure = rng.normal([2, -2, -2, -2], 1, (50, 4)), rng.normal([0.3, -1, -1, -1], 1, (50, 4))
    once = fit_temperature.fit([sure, unsure])["temperature"]
    assert fit_temperature.fit([np.repeat(sure, 9, axis=0), unsure])["temperature"] == pytest.approx(once, abs=1e-3)


def test_only_the_head_is_divided(tmp_path):
    weights = {"base.classifier.weight": torch.ones(1, 4), "base.query.lora_A.weight": torch.ones(2, 4)}
    save_file({name: w.half() for name, w in weights.items()}, tmp_path / "adapter.safetensors")
    fit_temperature.divide_head(tmp_path / "adapter.safetensors", 0.5)
    after = load_file(tmp_path / "adapter.safetensors")
    assert {name: w.max().item() for name, w in after.items()} == {
        "base.classifier.weight": 2,
        "base.query.lora_A.weight": 1,
    }
    assert all(w.dtype == torch.float16 for w in after.values())


def test_a_head_is_divided_once(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "sys.argv", ["fit_temperature.py", *f"--data {tmp_path} --backbone x --work {tmp_path}".split()]
    )
    with pytest.raises(SystemExit, match="reranker has its temperature already"):
        fit_temperature.main()
