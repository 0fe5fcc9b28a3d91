"""Search is exact, ordered, and says what is wrong with its input."""

import numpy as np
import pytest
import torch

import rrhelpers as rr
from rrhelpers import searching


def test_same_as_sorting_everything(unit_vectors):
    queries, corpus = unit_vectors(5, seed=1), unit_vectors(400, seed=2)
    for hits, scores in zip(rr.search(queries, corpus, top_k=7), queries @ corpus.T, strict=True):
        assert [hit.corpus_id for hit in hits] == list(np.argsort(-scores)[:7])
        assert [hit.rank for hit in hits] == list(range(1, 8))
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:7], abs=1e-6)


def test_blocks_change_nothing(unit_vectors, monkeypatch):
    queries, corpus = unit_vectors(9, seed=3), unit_vectors(500, seed=4)
    whole = rr.search(queries, corpus, top_k=20)
    monkeypatch.setattr(searching, "_CORPUS_BLOCK", 33)
    monkeypatch.setattr(searching, "_QUERY_BLOCK", 2)
    assert rr.search(queries, corpus, top_k=20) == whole


def test_agrees_with_sentence_transformers(unit_vectors):
    from sentence_transformers.util import semantic_search

    queries, corpus = unit_vectors(4, 384, seed=5), unit_vectors(300, 384, seed=6)
    theirs = semantic_search(torch.from_numpy(queries), torch.from_numpy(corpus), top_k=25)
    ours = rr.search(queries, corpus, top_k=25)
    assert [[h.corpus_id for h in hits] for hits in ours] == [[h["corpus_id"] for h in hits] for hits in theirs]


def test_ties_go_to_the_lower_id(unit_vectors, monkeypatch):
    one = unit_vectors(1, 384)[0]
    corpus = np.tile(one, (100, 1))
    corpus[::2] = unit_vectors(50, 384, seed=9)
    monkeypatch.setattr(searching, "_CORPUS_BLOCK", 17)
    assert [hit.corpus_id for hit in rr.search(one, corpus, top_k=30)] == list(range(1, 61, 2))


def test_one_query_gives_one_list_and_several_give_lists(unit_vectors):
    corpus = unit_vectors(10)
    one, several = rr.search(corpus[0], corpus), rr.search(corpus[:1], corpus)
    assert isinstance(one[0], rr.Hit)
    assert several == [one]


def test_edges(unit_vectors):
    corpus = unit_vectors(3)
    assert len(rr.search(corpus[0], corpus, top_k=10)) == 3
    assert rr.search(corpus[0], corpus[:1], top_k=1)[0].corpus_id == 0
    assert rr.search(corpus[0], corpus[:0]) == []
    assert rr.search(corpus[:0], corpus) == []
    assert rr.search(corpus[:2], corpus[:0]) == [[], []]


def test_reads_a_memory_map(unit_vectors, tmp_path):
    corpus = unit_vectors(50)
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    assert rr.search(corpus[3], mapped, top_k=5) == rr.search(corpus[3], corpus, top_k=5)


def test_wrong_dimension_names_both_shapes(unit_vectors):
    with pytest.raises(ValueError, match=r"\(16,\).*\(5, 8\)"):
        rr.search(unit_vectors(1)[0], unit_vectors(5, 8))


@pytest.mark.parametrize(("top_k", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_top_k_must_make_sense(unit_vectors, top_k, error):
    with pytest.raises(error, match="top_k"):
        rr.search(unit_vectors(1)[0], unit_vectors(5), top_k=top_k)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number_is_found(unit_vectors, bad, monkeypatch):
    """The row is named as the corpus counts it, also beyond the first block; zeros in the query hide nothing."""
    monkeypatch.setattr(searching, "_CORPUS_BLOCK", 2)
    corpus = unit_vectors(5)
    broken = corpus.copy()
    broken[3, 2] = bad
    for query in (corpus[0], np.zeros_like(corpus[0])):
        with pytest.raises(ValueError, match="corpus_vectors hold NaN or infinity in row 3"):
            rr.search(query, broken)
    with pytest.raises(ValueError, match="query_vectors hold NaN"):
        rr.search(broken[3], corpus)


def test_vectors_of_text_are_refused():
    with pytest.raises(TypeError, match="corpus_vectors must be numbers"):
        rr.search(np.zeros(2), np.array([["a", "b"]]))
