"""The embedded corpus has the real one's form."""

import collections
import re

import pytest

import rrhelpers as rr


@pytest.fixture(scope="module")
def papers():
    return rr.load_papers()


def test_fifteen_columns_in_the_published_order(papers):
    assert papers.column_names == rr.book.published()["dataset"]["features"]


def test_large_enough(papers):
    assert len(set(papers["id"])) >= 80
    assert papers.num_rows >= 800


def test_every_chunk_is_new_and_of_a_chunk_s_length(papers):
    chunks = papers["chunk"][:]
    assert len(set(chunks)) == len(chunks)
    assert all(80 <= len(chunk.split()) <= 160 for chunk in chunks)


def test_no_sentence_twice(papers):
    sentences = [s for chunk in papers["chunk"] for s in re.split(r"(?<=[.?!:]) ", chunk) if len(s.split()) > 8]
    twice = [s for s, n in collections.Counter(sentences).items() if n > 1]
    assert twice == []


def test_a_model_is_no_dataset():
    with pytest.raises(ValueError, match="is a model"):
        rr.load_papers("bi-encoder")
