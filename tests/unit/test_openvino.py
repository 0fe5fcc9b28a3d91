"""With OpenVINO: the same results as PyTorch's, and PyTorch's where it can't give them.

`make engine` runs the unit tests of encoding, reranking, adapters and the cache with it, too.
"""

import sys

import numpy as np
import pytest
import torch

import rrhelpers as rr
from rrhelpers import engine


@pytest.fixture
def compilations(monkeypatch):
    """Count how often a model is compiled, from none on."""
    counted = []
    real = engine._compile
    monkeypatch.setattr(engine, "_compiled", type(engine._compiled)())
    monkeypatch.setattr(engine, "_compile", lambda module, *a: counted.append(module) or real(module, *a))
    return counted


@pytest.fixture
def by_torch(monkeypatch):
    """Return a function that calls another with PyTorch as the engine."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setenv("RRHELPERS_ENGINE", "torch")
            return function(*args, **options)

    return call


def sample(count=40):
    return [f"Passage {i} " + "reads a query and a document together. " * (i % 9) for i in range(count)]


def test_vectors_are_pytorchs_whatever_the_batch(model, by_torch, compilations):
    expected = by_torch(rr.encode, model, sample())
    for size in (1, 7, 40):
        assert np.abs(rr.encode(model, sample(), batch_size=size) - expected).max() < 1e-5
    assert len(compilations) == 1


def test_logits_are_pytorchs_whatever_the_batch(reranker, by_torch, compilations):
    hits = [rr.Hit(i, 0.5, i + 1) for i in range(40)]
    expected = by_torch(rr.rerank, reranker, "what reads together?", hits, sample())
    for size in (1, 7, 40):
        found = rr.rerank(reranker, "what reads together?", hits, sample(), batch_size=size)
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
        assert [hit.corpus_id for hit in found] == [hit.corpus_id for hit in expected]
    assert len(compilations) == 1


def test_half_precision_is_near(by_torch):
    exact, half = (rr.load_bi_encoder(device="cpu", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    cosines = (by_torch(rr.encode, exact, sample()) * rr.encode(half, sample())).sum(1)
    assert cosines.min() > 0.999


def test_a_model_that_changes_is_compiled_anew(folder, by_torch, compilations):
    changing = rr.load_bi_encoder(str(folder), device="cpu", dtype=torch.float32)
    before = rr.encode(changing, sample())
    rr.encode(changing, "again")
    assert len(compilations) == 1
    optimizer = torch.optim.SGD(changing.parameters(), lr=0.5)
    features = changing.tokenizer(sample(4), padding=True, return_tensors="pt")
    changing(dict(features))["sentence_embedding"][:, 0].sum().backward()
    optimizer.step()
    after = rr.encode(changing, sample())
    assert len(compilations) == 2
    assert np.abs(after - before).max() > 1e-3
    assert np.abs(after - by_torch(rr.encode, changing, sample())).max() < 1e-5


def test_every_adapter_put_in_is_compiled(folder, by_torch):
    """One after the other: the next lies where the last one lay in memory."""
    adapted = rr.load_bi_encoder(str(folder), device="cpu", dtype=torch.float32)
    plain = rr.encode(adapted, sample())
    for _ in range(4):
        adapter = rr.new_adapter(adapted)
        for bottleneck in adapter.values():
            torch.nn.init.normal_(bottleneck.up.weight)
        rr.use_adapter(adapted, adapter)
        del adapter, bottleneck
        assert np.abs(rr.encode(adapted, sample()) - by_torch(rr.encode, adapted, sample())).max() < 1e-5
        rr.use_adapter(adapted, None)
    assert np.abs(rr.encode(adapted, sample()) - plain).max() < 1e-5


class Odd(torch.nn.Module):
    """A model that tracing takes for a constant, or that holds an operation unknown to OpenVINO."""

    def __init__(self, known: bool):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.known = known

    def read(self, features):
        """Return as many rows as there are inputs."""
        ids = features["input_ids"].float()
        of_batch = float(ids.shape[1]) if self.known else torch.linalg.eigvalsh(ids.T @ ids).sum()
        return self.weight * of_batch * ids[:, :1]


@pytest.mark.parametrize(("known", "words"), [(True, "gives other results"), (False, "can't run")])
def test_what_openvino_gets_wrong_pytorch_computes(known, words):
    module = Odd(known)
    features = {"input_ids": torch.ones(1, 6, dtype=torch.long)}
    with pytest.warns(UserWarning, match=f"OpenVINO {words}.*going on with PyTorch"):
        assert engine.compiled(module, module.read, features) is None
    assert engine.compiled(module, module.read, features) is None  # said once


def test_an_error_in_the_middle_is_raised_and_the_next_call_works(model):
    def broken(n):
        raise KeyError("the bar")

    def features(*texts):
        return dict(model.tokenizer(list(texts), padding=True, return_tensors="pt"))

    forward = engine.compiled(model, lambda f: model(dict(f))["sentence_embedding"], features("one"))
    with pytest.raises(KeyError, match="the bar"):
        forward([features("one"), features("two", "three")], broken)
    assert [len(part) for part in forward([features("one", "two")], lambda n: None)] == [2]


def test_nothing_is_reported_to_anybody(model):
    rr.encode(model, "one")
    assert "openvino" in sys.modules
    assert sys.modules.get("openvino_telemetry") is None
