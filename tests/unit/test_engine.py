"""Without OpenVINO: what chooses the engine, and what it says."""

import pytest

import rrhelpers as rr
from rrhelpers import engine


def test_without_openvino_pytorch_computes(small, monkeypatch):
    monkeypatch.delenv("RRHELPERS_ENGINE", raising=False)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.setattr(engine, "_compile", lambda *a: pytest.fail("compiled"))
    assert rr.encode(small, ["one", "two"]).shape[0] == 2


def test_pytorch_computes_where_it_is_asked_to(small, monkeypatch):
    monkeypatch.setenv("RRHELPERS_ENGINE", "torch")
    monkeypatch.setattr(engine, "find_spec", lambda name: "there")
    monkeypatch.setattr(engine, "_compile", lambda *a: pytest.fail("compiled"))
    assert rr.encode(small, ["one", "two"]).shape[0] == 2


def test_an_engine_that_is_asked_for_and_missing_is_an_error(small, monkeypatch):
    monkeypatch.setenv("RRHELPERS_ENGINE", "openvino")
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install openvino"):
        rr.encode(small, "one")


def test_an_unknown_engine_is_an_error(small, monkeypatch):
    monkeypatch.setenv("RRHELPERS_ENGINE", "onnx")
    with pytest.raises(ValueError, match="RRHELPERS_ENGINE is 'onnx'"):
        rr.encode(small, "one")
