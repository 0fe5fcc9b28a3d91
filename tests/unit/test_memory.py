"""Encoding takes the same memory however long the corpus is."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from peak import FORGET, growth

import rrhelpers as rr
from rrhelpers import batching, encoding

DIMENSION = 4096  # wide vectors, so that few texts make many megabytes
SHORT, LONG = 512, 3_000
BOUND = 10  # MB; the vectors of the longer corpus take 49

pytestmark = pytest.mark.skipif(not FORGET.exists(), reason="memory is read from /proc")


class Averaged(torch.nn.Module):
    """The mean of random word vectors, with what `encode` asks of a model: quick enough for thousands of texts."""

    max_seq_length, device = 128, torch.device("cpu")

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer, self.prompts = tokenizer, {}
        self.words = torch.nn.EmbeddingBag(len(tokenizer), DIMENSION)

    def get_embedding_dimension(self) -> int:
        """Return the size of a vector."""
        return DIMENSION

    def forward(self, features: dict) -> dict:
        """Return the vectors of a batch."""
        return {"sentence_embedding": self.words(features["input_ids"])}


@pytest.fixture(scope="module")
def averaged(small):
    return Averaged(small.tokenizer)


def corpus(count: int) -> Iterator[str]:
    """Yield different texts."""
    return (f"{number} read a passage" for number in range(count))


@pytest.mark.parametrize("way", ["out", "out and cache", "nameless file"])
def test_memory_does_not_grow_with_the_corpus(averaged, tmp_path, monkeypatch, way):
    monkeypatch.setattr(encoding, "BLOCK", 128)
    monkeypatch.setattr(encoding, "_MEMORY_LIMIT", 1 << 20)
    out = None if way == "nameless file" else tmp_path / "vectors.npy"
    cache = tmp_path / "blocks" if way == "out and cache" else False

    def encode(count: int) -> np.ndarray:
        return rr.encode(averaged, corpus(count), batch_size=128, out=out, cache=cache, progress=False)

    encode(SHORT)
    assert growth(lambda: encode(LONG)) < BOUND
    if cache:
        assert growth(lambda: encode(LONG)) < BOUND, "vectors that come from the cache"


def test_tokens_of_long_texts_are_not_held_at_once(small, monkeypatch):
    """A block of whole papers has ten times the tokens that the model reads, and more: here 60 MB of them."""
    papers = ["read a passage of the reward model " * 700] * 60
    expected, _ = batching.tokenize(small.tokenizer, papers[:1], 256, "longest_first")
    monkeypatch.setattr(batching, "_CHARACTERS", 1 << 16)
    results = []
    assert growth(lambda: results.append(batching.tokenize(small.tokenizer, papers, 256, "longest_first"))) < 25
    rows, cut = results[0]
    assert rows == expected * 60
    assert cut.all()


def test_search_takes_as_much_as_its_docstring_says(unit_vectors):
    corpus, queries = unit_vectors(100_000, 384, seed=0), unit_vectors(256, 384, seed=1)
    rr.search(queries, corpus[:1000])  # what a first call loads isn't counted
    assert growth(lambda: rr.search(queries, corpus)) < 150
    assert growth(lambda: rr.search(queries[:1], corpus)) < 60
