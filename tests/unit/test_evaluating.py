"""Measures against values worked out by hand, and a test that finds what is there and no more."""

import numpy as np
import pytest

import rrhelpers as rr
from rrhelpers.evaluating import _holm, _p_value

IDS = ["a", "b", "c", "d"]
QRELS = {"q1": {"a": 3, "b": 1}, "q2": {"c": 2, "a": 0}, "nothing answers": {"a": 1}}


def run_of(**order):
    """Return a run from passages' names, best first."""
    return {q: [rr.Hit(IDS.index(name), 0.5, rank) for rank, name in enumerate(names, 1)] for q, names in order.items()}


def test_measures_by_hand():
    run = run_of(q1="ba", q2="ac")
    ideal = 3 + 1 / np.log2(3)  # trec_eval's gains are the grades themselves
    expected = {"q1": (1 + 3 / np.log2(3)) / ideal, "q2": 1 / np.log2(3)}
    assert rr.per_query(run, QRELS, IDS, "nDCG@10") == pytest.approx(expected)
    assert rr.per_query(run, QRELS, IDS, "MRR@10") == {"q1": 0.5, "q2": 0.5}
    assert rr.per_query(run, QRELS, IDS, "Recall@1") == {"q1": 0, "q2": 0}
    assert rr.per_query(run, QRELS, IDS, "Recall@2") == {"q1": 1, "q2": 1}


def test_the_order_of_hits_decides_not_their_scores():
    """Equal scores, as here, would be sorted by name if they were passed on."""
    assert rr.per_query(run_of(q1="ab"), QRELS, IDS, "MRR@10")["q1"] == 1
    assert rr.per_query(run_of(q1="ba"), QRELS, IDS, "MRR@10")["q1"] == 0.5


def test_what_a_run_lacks_scores_nothing_and_what_nothing_answers_is_left_out():
    assert rr.per_query(run_of(q1="a"), QRELS, IDS, "MRR@10") == {"q1": 1, "q2": 0}
    assert rr.per_query({"q1": []}, QRELS, IDS, "MRR@10") == {"q1": 0, "q2": 0}


def test_the_table():
    table = rr.evaluate({"good": run_of(q1="ab", q2="c"), "bad": run_of(q1="db", q2="ac")}, QRELS, IDS)
    assert list(table.columns) == ["run", "measure", "mean", "low", "high", "gain", "p"]
    assert len(table) == 6
    row = table[(table.run == "bad") & (table.measure == "MRR@10")].iloc[0]
    assert row["mean"] == pytest.approx(0.25)
    assert row["gain"] == pytest.approx(-0.75)
    assert (row["low"], row["high"]) == (0, 0.5)
    assert np.isnan(table[table.run == "good"].p).all()
    alone = rr.evaluate({"good": run_of(q1="ab", q2="c")}, QRELS, IDS)
    assert alone.equals(table[table.run == "good"].reset_index(drop=True)), "another run changes nothing"


def test_a_difference_is_found_and_chance_is_not():
    rng = np.random.default_rng(3)
    draws = rng.integers(0, 200, (2000, 200))
    noise = rng.normal(0, 1, 200)
    assert _p_value(noise - noise.mean() + 0.5, draws) < 0.001
    assert _p_value(noise - noise.mean(), draws) > 0.9
    # Under no difference at all, p falls below 0.05 about once in twenty.
    p = [_p_value(rng.normal(0, 1, 200), draws) for _ in range(300)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_holm_by_hand():
    assert _holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert _holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rr.evaluate({}, QRELS, IDS), "no run"),
        (lambda: rr.evaluate({"x": {}}, QRELS, IDS, baseline="y"), "no run 'y'.*x"),
        (lambda: rr.per_query({"q9": []}, QRELS, IDS, "MRR@10"), "no judgements for 1 queries.*'q9'"),
        (lambda: rr.per_query({}, QRELS, IDS, "accuracy"), "'accuracy'; use nDCG@k"),
        (lambda: rr.per_query({}, QRELS, IDS, "nDCG@0"), "nDCG@0"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_rank_biased_overlap_by_hand():
    assert rr.rbo("ab", "ab") == pytest.approx(1)
    assert rr.rbo("ab", "cd") == 0
    # Nothing in common at depth 1, everything at depth 2: p of the weight lies beyond the first place.
    assert rr.rbo("ab", "ba", p=0.9) == pytest.approx(0.9)
    assert rr.rbo("ab", "ba", p=0.5) == pytest.approx(0.5)
    # As other implementations have it (the example of github.com/dlukes/rbo).
    assert rr.rbo("abcdefg", "bacdefg", p=0.9) == pytest.approx(0.9)
    # The paper's formula, X_k/k p^k + (1-p)/p * sum of X_d/d p^d, written out for X = 1, 1, 2.
    p = 0.8
    expected = 2 / 3 * p**3 + (1 - p) / p * (p + p**2 / 2 + 2 / 3 * p**3)
    assert rr.rbo("abc", "axb", p=p) == pytest.approx(expected)


def test_rank_biased_overlap_weighs_the_first_places_most():
    ranking = list(range(25))
    at_the_top, at_the_end = [1, 0, *ranking[2:]], [*ranking[:23], 24, 23]
    assert rr.rbo(ranking, at_the_top) < rr.rbo(ranking, at_the_end) < 1
    assert rr.rbo(ranking, at_the_top) == rr.rbo(at_the_top, ranking)
    # Ten places in common and nothing below: the weight of the first ten, 86% in the paper.
    first, second = list(range(1000)), [*range(10), *range(2000, 2990)]
    assert rr.rbo(first, second) == pytest.approx(0.8556, abs=1e-3)
    assert rr.rbo("abcd", "ab") == rr.rbo("ab", "abcd") == pytest.approx(1)


@pytest.mark.parametrize(
    ("first", "second", "p", "match"),
    [("", "a", 0.9, "at least one"), ("aa", "ab", 0.9, "none twice"), ("a", "a", 1, "p is 1"), ("a", "a", 0, "p is 0")],
)
def test_rank_biased_overlap_names_bad_input(first, second, p, match):
    with pytest.raises(ValueError, match=match):
        rr.rbo(first, second, p)
