"""Codes find nearly what the vectors would, in a fraction of the memory."""

import numpy as np
import pytest
import torch

import rrhelpers as rr
from rrhelpers import quantizing, searching

KINDS = ["int8", "binary"]


@pytest.fixture(scope="module")
def vectors():
    """Return 3000 vectors of length 1 that lie together in 60 clusters of few dimensions, like those of passages."""
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(60, 48))[rng.integers(0, 60, 3000)] + 0.7 * rng.normal(size=(3000, 48))
    wide = narrow @ rng.normal(size=(48, 384)) + 0.5 * rng.normal(size=(3000, 384))
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors):
    """Return 50 queries, each near one of the vectors."""
    near = vectors[:50] + 0.02 * np.random.default_rng(1).normal(size=(50, 384))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


class Counted(np.ndarray):
    """An array that counts which of its rows were read."""

    def __getitem__(self, key):
        rows = super().__getitem__(key)
        if isinstance(key, slice | np.ndarray):
            self.read = [*getattr(self, "read", []), len(rows)]
        return rows


def ids(hits):
    return [[hit.corpus_id for hit in own] for own in hits]


def recall(found, exact):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids(found), ids(exact), strict=True)])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "least"), [("int8", 0.999), ("binary", 0.99)])
def test_nearly_all_are_found(vectors, queries, kind, least, precision, monkeypatch):
    monkeypatch.setenv("RRHELPERS_PRECISION", precision)
    exact, found = rr.search(queries, vectors, top_k=10), rr.search(queries, rr.quantize(vectors, kind), top_k=10)
    assert recall(found, exact) >= least
    scores = {(number, hit.corpus_id): hit.score for number, own in enumerate(exact) for hit in own}
    for number, own in enumerate(found):
        assert [hit.rank for hit in own] == list(range(1, 11))
        assert all(hit.score == scores.get((number, hit.corpus_id), hit.score) for hit in own)
        assert [hit.score for hit in own] == sorted((hit.score for hit in own), reverse=True)
        assert all(0 <= hit.corpus_id < len(vectors) for hit in own)


def test_more_rescoring_finds_more(vectors, queries):
    exact = rr.search(queries, vectors, top_k=10)
    recalls = [
        recall(rr.search(queries, rr.quantize(vectors, "binary", rescore=n), top_k=10), exact) for n in (1, 4, 16)
    ]
    assert recalls[0] < 0.9
    assert recalls[0] < recalls[1] <= recalls[2]


@pytest.mark.parametrize("kind", KINDS)
def test_exact_where_everything_is_rescored(vectors, queries, kind, monkeypatch):
    """Also in small blocks, with equal passages, and for one query."""
    twice = np.concatenate([vectors[:200], vectors[:100]])
    monkeypatch.setattr(searching, "_CORPUS_BLOCK", 37)
    monkeypatch.setattr(searching, "_QUERY_BLOCK", 8)
    monkeypatch.setattr(quantizing, "_DECODED", 10)
    monkeypatch.setattr(quantizing, "_BLOCK", 64)
    codes = rr.quantize(twice, kind, rescore=60)
    assert rr.search(queries, codes, top_k=5) == rr.search(queries, twice, top_k=5)
    assert rr.search(queries[0], codes, top_k=5) == rr.search(queries[0], twice, top_k=5)
    assert rr.search(queries[0], codes, top_k=400) == rr.search(queries[0], twice, top_k=400)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_change_nothing(vectors, kind, monkeypatch):
    codes = rr.quantize(vectors, kind).codes
    monkeypatch.setattr(quantizing, "_BLOCK", 999)
    assert (rr.quantize(vectors, kind).codes == codes).all()


@pytest.mark.parametrize(("kind", "bytes_each"), [("int8", 384), ("binary", 48)])
def test_codes_are_small_and_fixed(vectors, kind, bytes_each):
    codes = rr.quantize(vectors, kind)
    assert codes.nbytes == bytes_each * len(codes) == bytes_each * 3000
    assert codes.vectors is vectors
    assert "array" not in repr(codes)
    with pytest.raises(ValueError, match="read-only"):
        codes.codes[0] = 0
    with pytest.raises(AttributeError):
        codes.kind = "other"


@pytest.mark.parametrize(("d", "width"), [(13, 2), (8, 1)])
def test_bits_that_fill_no_byte(unit_vectors, d, width):
    corpus = unit_vectors(300, d)
    codes = rr.quantize(corpus, "binary", rescore=30)
    assert codes.codes.shape == (300, width)
    assert rr.search(corpus[:4], codes) == rr.search(corpus[:4], corpus)


def test_int8_codes_are_near_the_numbers(vectors):
    codes = rr.quantize(vectors, "int8").codes
    low, high = vectors.min(0), vectors.max(0)
    assert np.abs((codes + 128.5) * (high - low) / 255 + low - vectors).max() <= (high - low).max() / 255


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_map_stays_on_disk(vectors, queries, kind, tmp_path, monkeypatch):
    """Making codes reads it block by block; a search reads no more than `rescore * top_k` rows a query."""
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert isinstance(rr.quantize(mapped, kind).vectors, np.memmap)
    monkeypatch.setattr(quantizing, "_BLOCK", 512)
    counted = mapped.view(Counted)
    codes = rr.quantize(counted, kind, rescore=6)
    assert max(counted.read) == 512
    counted.read = []
    found = rr.search(queries[:2], codes, top_k=5)
    assert sum(counted.read) == 2 * 30
    assert found == rr.search(queries[:2], rr.quantize(vectors, kind, rescore=6), top_k=5)


@pytest.mark.parametrize("kind", KINDS)
def test_edges(unit_vectors, kind):
    corpus = unit_vectors(3)
    assert rr.search(corpus[0], rr.quantize(corpus, kind), top_k=10) == rr.search(corpus[0], corpus, top_k=10)
    assert rr.search(corpus[0], rr.quantize(corpus[:1], kind), top_k=1)[0].corpus_id == 0
    assert rr.search(corpus[0], rr.quantize(corpus[:0], kind)) == []
    assert rr.search(corpus[:0], rr.quantize(corpus, kind)) == []
    assert rr.search(corpus[:2], rr.quantize(corpus[:0], kind)) == [[], []]
    same = np.ones((5, 16), np.float32)
    assert [hit.corpus_id for hit in rr.search(corpus[0], rr.quantize(same, kind, rescore=1), top_k=3)] == [0, 1, 2]
    tensor = rr.quantize(torch.from_numpy(corpus), kind)
    assert rr.search(corpus[0], tensor) == rr.search(corpus[0], corpus)


def test_errors(unit_vectors):
    corpus = unit_vectors(5)
    with pytest.raises(ValueError, match=r"\(8,\).*\(5, 16\)"):
        rr.search(unit_vectors(1, 8)[0], rr.quantize(corpus))
    with pytest.raises(ValueError, match="top_k"):
        rr.search(corpus[0], rr.quantize(corpus), top_k=0)
    with pytest.raises(ValueError, match="query_vectors hold NaN"):
        rr.search(np.full(16, np.nan), rr.quantize(corpus))
    with pytest.raises(ValueError, match="'int4'"):
        rr.quantize(corpus, "int4")
    with pytest.raises(ValueError, match=r"\(16,\)"):
        rr.quantize(corpus[0])
    with pytest.raises(TypeError, match="vectors must be numbers"):
        rr.quantize(np.array([["a"]]))
    corpus[3, 2] = np.nan
    with pytest.raises(ValueError, match="vectors hold NaN or infinity in row 3"):
        rr.quantize(corpus)


@pytest.mark.parametrize(("rescore", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_rescore_must_make_sense(unit_vectors, rescore, error):
    with pytest.raises(error, match="rescore"):
        rr.quantize(unit_vectors(5), rescore=rescore)
