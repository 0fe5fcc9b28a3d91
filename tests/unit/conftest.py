"""Fixtures shared by the unit tests: the embedded models, loaded once, and a cache of the test's own."""

import os

import numpy as np
import pytest

import rrhelpers as rr

# torch and what needs it are imported in the fixtures: pytest's first process reads this file, but runs no test.

# `make engine` runs these; where OpenVINO isn't the engine they would compare PyTorch with itself.
collect_ignore = [] if os.environ.get("RRHELPERS_ENGINE") == "openvino" else ["test_openvino.py"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep every test out of the user's cache and in the embedded profile."""
    monkeypatch.setenv("RRHELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RRHELPERS_PROFILE", "embedded")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def model():
    """Return the embedded bi-encoder in float32 on the CPU, where figures are the same everywhere."""
    import torch

    return rr.load_bi_encoder(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def reranker():
    """Return the embedded reranker in float32 on the CPU."""
    import torch

    return rr.load_reranker(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Return the folder of a tiny bi-encoder."""
    import tiny

    return tiny.bi_encoder(tmp_path_factory.mktemp("model") / "bi-encoder")


@pytest.fixture(scope="session")
def small(folder):
    """Return the tiny bi-encoder, loaded."""
    import torch

    return rr.load_bi_encoder(str(folder), device="cpu", dtype=torch.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut corpora into blocks of 16 texts, so that a run writes many files."""
    from rrhelpers import encoding

    monkeypatch.setattr(encoding, "BLOCK", 16)


@pytest.fixture(scope="session")
def texts():
    """Return 300 different texts of several lengths."""
    return [f"Passage {i} " + "reads a query and a document together. " * (i % 7) for i in range(300)]


@pytest.fixture
def unit_vectors():
    """Return a maker of random vectors of length 1."""

    def make(n, d=16, seed=0):
        vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return make
