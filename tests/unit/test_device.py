"""Device and precision are chosen, not assumed."""

import pytest
import torch

import rrhelpers as rr


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_best_device_first(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert rr.pick_device().type == expected


def test_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no device 'cuda'"):
        rr.pick_device("cuda")
    with pytest.raises(ValueError, match="'gpu' is not a device"):
        rr.pick_device("gpu")


def test_precision_follows_the_hardware(monkeypatch):
    monkeypatch.delenv("RRHELPERS_PRECISION", raising=False)
    monkeypatch.setattr("rrhelpers.device._cpu_has_bf16", lambda: True)
    assert rr.pick_dtype("cpu") == torch.bfloat16
    monkeypatch.setattr("rrhelpers.device._cpu_has_bf16", lambda: False)
    assert rr.pick_dtype("cpu") == torch.float32


def test_precision_can_be_fixed(monkeypatch):
    monkeypatch.setenv("RRHELPERS_PRECISION", "float32")
    monkeypatch.setattr("rrhelpers.device._cpu_has_bf16", lambda: True)
    assert rr.pick_dtype("cpu") == torch.float32
    monkeypatch.setenv("RRHELPERS_PRECISION", "int8")
    with pytest.raises(ValueError, match="int8"):
        rr.pick_dtype("cpu")
