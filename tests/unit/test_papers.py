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
    assert len(set(papers["id"])) >= 15
    assert papers.num_rows >= 150


def test_every_chunk_is_new_and_of_a_chunk_s_length(papers):
    chunks = papers["chunk"][:]
    assert len(set(chunks)) == len(chunks)
    assert all(80 <= len(chunk.split()) <= 160 for chunk in chunks)


def test_no_sentence_twice(papers):
    sentences = [s for chunk in papers["chunk"] for s in re.split(r"(?<=[.?!:]) ", chunk) if len(s.split()) > 8]
    twice = [s for s, n in collections.Counter(sentences).items() if n > 1]
    assert twice == []


def test_bibliography(papers):
    known = set(papers["id"])
    for row in papers:
        assert re.fullmatch(r"\d{4}\.\d{4,5}", row["id"])
        assert row["source"] == f"http://arxiv.org/pdf/{row['id']}"
        # arXiv ids begin with the year and month of the first version.
        assert row["published"][2:6] == row["id"][:4]
        assert row["updated"] is None or row["updated"] >= row["published"]
        assert row["primary_category"] in row["categories"]
        assert row["authors"]
        assert len(row["summary"].split()) >= 40
        assert {r["id"] for r in row["references"]} <= known - {row["id"]}


def test_chunk_ids_count_from_zero(papers):
    numbers = collections.defaultdict(list)
    for row in papers:
        numbers[row["id"]].append(int(row["chunk-id"]))
    assert all(found == list(range(len(found))) for found in numbers.values())


def test_a_model_is_no_dataset():
    with pytest.raises(ValueError, match="is a model"):
        rr.load_papers("bi-encoder")
