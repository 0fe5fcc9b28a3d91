"""Reranking orders by the cross-encoder, keeps what was, and never cuts the query."""

import warnings
from dataclasses import replace
from itertools import chain

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

import rrhelpers as rr

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin is well known for its museums.",
    "A man is eating pasta.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "The river Spree flows through the city of Berlin.",
]
HITS = [rr.Hit(i, 0.9 - i / 10, i + 1) for i in range(len(PASSAGES))]


def test_the_answer_comes_first(reranker, model):
    hits = rr.search(rr.encode(model, QUERY), rr.encode(model, PASSAGES), top_k=4)
    best = rr.rerank(reranker, QUERY, hits, PASSAGES)
    assert best[0].corpus_id == 2
    assert best[-1].corpus_id == 1
    scores = [hit.score for hit in best]
    assert scores == sorted(scores, reverse=True)
    assert [hit.rank for hit in best] == [1, 2, 3, 4]


@pytest.mark.parametrize("fuse", [True, False])
def test_an_acronym_s_explanation_comes_before_what_mentions_it(reranker, fuse):
    papers, query = rr.load_papers(), "what is rlhf?"
    passages, ids = papers["chunk"][:], rr.passage_ids(papers)
    [qid] = [row["qid"] for row in rr.load_queries("dev") if row["query"] == query]
    recorded = sorted(rr.load_scored("reranker", "dev")[qid], key=lambda hit: hit.retrieval_rank)
    hits = [rr.Hit(hit.corpus_id, hit.retrieval_score, hit.retrieval_rank) for hit in recorded]
    best = rr.rerank(reranker, query, hits, passages, fuse=fuse)
    grades = rr.load_qrels("dev")[qid]
    assert grades[ids[hits[0].corpus_id]] < 2
    assert grades[ids[best[0].corpus_id]] == 3


def test_both_scores_and_both_ranks(reranker):
    for hit in rr.rerank(reranker, QUERY, HITS, PASSAGES):
        before = HITS[hit.corpus_id]
        assert (hit.retrieval_score, hit.retrieval_rank) == (before.score, before.rank)


def test_same_logits_as_sentence_transformers(reranker):
    theirs = reranker.predict([(QUERY, p) for p in PASSAGES], activation_fn=torch.nn.Identity())
    ours = {hit.corpus_id: hit.score for hit in rr.rerank(reranker, QUERY, HITS, PASSAGES, fuse=False)}
    assert [ours[i] for i in range(len(PASSAGES))] == pytest.approx(theirs, abs=1e-4)


@pytest.fixture
def fusing(reranker, monkeypatch):
    """Return the reranker with a fusion whose sum is easy to check."""
    monkeypatch.setattr(reranker.model.config, "fusion", {"logit": 0.5, "cosine": 8.0, "bias": -1.0}, raising=False)
    return reranker


def logits_of(reranker, hits=HITS):
    """Return the logit alone of each passage."""
    return {hit.corpus_id: hit.score for hit in rr.rerank(reranker, QUERY, hits, PASSAGES, fuse=False)}


def test_a_fusion_weighs_logit_and_cosine(fusing):
    logits = logits_of(fusing)
    best = rr.rerank(fusing, QUERY, HITS, PASSAGES)
    for hit in best:
        assert hit.score == pytest.approx(0.5 * logits[hit.corpus_id] + 8 * hit.retrieval_score - 1, abs=1e-4)
    assert [hit.score for hit in best] == sorted((hit.score for hit in best), reverse=True)


def test_a_fused_score_is_the_passage_s_own(fusing):
    """It must not depend on which other hits are reranked with it."""
    together = {hit.corpus_id: hit.score for hit in rr.rerank(fusing, QUERY, HITS, PASSAGES)}
    for hit in HITS:
        assert rr.rerank(fusing, QUERY, [hit], PASSAGES)[0].score == pytest.approx(together[hit.corpus_id], abs=1e-4)


def test_scores_that_are_no_cosines_are_not_fused(fusing):
    """BM25's are sums without a bound."""
    lexical = [replace(hit, score=hit.score * 10) for hit in HITS]
    assert {hit.corpus_id: hit.score for hit in rr.rerank(fusing, QUERY, lexical, PASSAGES)} == logits_of(fusing)


def test_a_second_reranking_fuses_the_cosine_again(fusing):
    once = rr.rerank(fusing, QUERY, HITS, PASSAGES)
    twice = rr.rerank(fusing, QUERY, once, PASSAGES)
    assert [hit.score for hit in twice] == pytest.approx([hit.score for hit in once], abs=1e-4)
    assert [hit.retrieval_score for hit in twice] == [hit.score for hit in once]


def test_a_model_without_a_fusion_gives_its_logits(reranker, monkeypatch):
    monkeypatch.setattr(reranker.model.config, "fusion", None, raising=False)
    assert {hit.corpus_id: hit.score for hit in rr.rerank(reranker, QUERY, HITS, PASSAGES)} == logits_of(reranker)


def test_an_answer_is_probable_and_a_passage_on_the_topic_is_not(reranker):
    best = rr.rerank(reranker, QUERY, HITS, PASSAGES, score="probability", fuse=False)
    probability = {hit.corpus_id: hit.score for hit in best}
    assert probability[2] > 0.8
    assert max(probability[i] for i in (0, 1, 3)) < 0.3


def test_probability_is_the_sigmoid_and_keeps_the_order(reranker):
    logits = rr.rerank(reranker, QUERY, HITS, PASSAGES)
    probabilities = rr.rerank(reranker, QUERY, HITS, PASSAGES, score="probability")
    assert [h.corpus_id for h in logits] == [h.corpus_id for h in probabilities]
    assert [h.score for h in probabilities] == pytest.approx([1 / (1 + np.exp(-h.score)) for h in logits])


def test_input_hits_stay_as_they_were(reranker):
    hits = [replace(hit) for hit in HITS]
    rr.rerank(reranker, QUERY, hits, PASSAGES)
    assert hits == HITS


def test_several_queries_at_once(reranker):
    queries = [QUERY, "What does the man eat?"]
    together = rr.rerank(reranker, queries, [HITS, HITS[:2]], PASSAGES)
    alone = [rr.rerank(reranker, q, h, PASSAGES) for q, h in zip(queries, [HITS, HITS[:2]], strict=True)]
    assert [[h.corpus_id for h in hits] for hits in together] == [[h.corpus_id for h in hits] for hits in alone]
    for a, b in zip(chain(*together), chain(*alone), strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-4)


def test_batch_size_changes_no_score(reranker):
    expected = rr.rerank(reranker, QUERY, HITS, PASSAGES)
    for hit, other in zip(expected, rr.rerank(reranker, QUERY, HITS, PASSAGES, batch_size=1), strict=True):
        assert hit.corpus_id == other.corpus_id
        assert hit.score == pytest.approx(other.score, abs=1e-4)


def test_every_container_of_passages(reranker):
    expected = rr.rerank(reranker, QUERY, HITS, PASSAGES)
    series = pd.Series(PASSAGES, index=[9, 8, 7, 6])
    column = datasets.Dataset.from_dict({"text": PASSAGES})["text"]
    for passages in (series, column, np.array(PASSAGES), tuple(PASSAGES)):
        assert rr.rerank(reranker, QUERY, HITS, passages) == expected, type(passages)


def test_top_k_and_no_hits(reranker):
    assert len(rr.rerank(reranker, QUERY, HITS, PASSAGES, top_k=2)) == 2
    assert rr.rerank(reranker, QUERY, [], PASSAGES) == []


def test_the_passage_is_cut_and_said_so(reranker):
    passages = [PASSAGES[2] + " and so on" * 400, PASSAGES[0]]
    with pytest.warns(UserWarning, match="1 of 2 passages were cut"):
        best = rr.rerank(reranker, QUERY, HITS[:2], passages)
    assert best[0].corpus_id == 0


def test_the_query_is_never_cut(reranker):
    """With a query near the limit, its last word must still reach the model."""
    room = reranker.max_seq_length - 3
    query, long_passage = "berlin " * (room - 40), "museum " * 300
    with pytest.warns(UserWarning, match="1 of 1 passages were cut"):
        one = rr.rerank(reranker, query + "inhabitants", HITS[:1], [long_passage])[0].score
    with pytest.warns(UserWarning, match="1 of 1 passages were cut"):
        other = rr.rerank(reranker, query + "pasta", HITS[:1], [long_passage])[0].score
    assert one != other


def test_a_short_pair_is_not_said_to_be_cut(reranker):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rr.rerank(reranker, QUERY, HITS, PASSAGES)


def test_a_query_that_leaves_no_room(reranker):
    with pytest.raises(ValueError, match="has 600 tokens and leaves no room"):
        rr.rerank(reranker, "berlin " * 600, HITS, PASSAGES)


@pytest.mark.parametrize("corpus_id", [4, -1])
def test_a_passage_that_is_not_there(reranker, corpus_id):
    with pytest.raises(ValueError, match=f"no passage {corpus_id}"):
        rr.rerank(reranker, QUERY, [rr.Hit(corpus_id, 1.0, 1)], PASSAGES)


@pytest.mark.parametrize(
    ("query", "passages", "error", "match"),
    [
        (None, PASSAGES, TypeError, "the query is missing"),
        (3, PASSAGES, TypeError, "the query is int"),
        (b"berlin", PASSAGES, TypeError, "decode it first"),
        ("bro\ud800ken", PASSAGES, ValueError, "lone surrogate"),
        (QUERY, [None] * 4, TypeError, "passage 0 is missing"),
        (QUERY, "a string", TypeError, "passages must be a list"),
        (QUERY, (p for p in PASSAGES), TypeError, "generator"),
    ],
)
def test_bad_input_is_named(reranker, query, passages, error, match):
    with pytest.raises(error, match=match):
        rr.rerank(reranker, query, HITS, passages)


def test_hits_of_another_kind_are_named(reranker):
    with pytest.raises(TypeError, match=r"rrhelpers.Hit.*not dict"):
        rr.rerank(reranker, QUERY, [{"corpus_id": 0, "score": 1.0}], PASSAGES)
    with pytest.raises(ValueError, match="2 queries but 1 lists"):
        rr.rerank(reranker, [QUERY, QUERY], [HITS], PASSAGES)


def test_unknown_scale_is_named(reranker):
    with pytest.raises(ValueError, match="'percent'"):
        rr.rerank(reranker, QUERY, HITS, PASSAGES, score="percent")
    with pytest.raises(ValueError, match="top_k"):
        rr.rerank(reranker, QUERY, HITS, PASSAGES, top_k=0)


def test_nan_logits_are_an_error(reranker, monkeypatch):
    monkeypatch.setattr("rrhelpers.reranking.run_batches", lambda *a: (np.full(4, np.nan, dtype=np.float32), 32))
    with pytest.raises(ValueError, match="NaN for 4 of 4"):
        rr.rerank(reranker, QUERY, HITS, PASSAGES)


def test_bf16_probabilities_don_t_tie_at_one(reranker, monkeypatch):
    logits = np.array([40.0, 39.5, 20.0, 19.0], dtype=np.float32)
    monkeypatch.setattr("rrhelpers.reranking.run_batches", lambda *a: (logits, 32))
    best = rr.rerank(reranker, QUERY, HITS, PASSAGES, score="probability", fuse=False)
    assert [hit.corpus_id for hit in best] == [0, 1, 2, 3]
    assert best[2].score > best[3].score
