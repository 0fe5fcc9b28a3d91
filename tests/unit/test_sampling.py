"""Pairs to label: every strategy against small cases worked out by hand, and the record that chapter 9 reads."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import rrhelpers as rr
from rrhelpers.sampling import density

RECORD = Path(rr.__file__).parent / "data" / "augmented-sbert.json"


def as_set(pairs):
    return {tuple(map(int, pair)) for pair in pairs}


# random


@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_all_pairs_each_once(n):
    pairs = rr.random_pairs(n, 10**6)
    assert as_set(pairs) == set(combinations(range(n), 2))
    assert len(pairs) == n * (n - 1) // 2


def test_random_pairs_are_different_and_ordered():
    pairs = rr.random_pairs(1000, 5000, seed=3)
    assert pairs.shape == (5000, 2)
    assert pairs.dtype == np.int64
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert pairs.min() >= 0
    assert pairs.max() < 1000
    assert len(as_set(pairs)) == 5000


def test_random_pairs_are_drawn_evenly():
    counts = Counter(tuple(rr.random_pairs(5, 1, seed=seed)[0].tolist()) for seed in range(2000))
    assert set(counts) == set(combinations(range(5), 2))
    assert 140 < min(counts.values()) <= max(counts.values()) < 260, "200 are expected of each of ten pairs"


def test_random_pairs_of_many_sentences_take_no_memory():
    pairs = rr.random_pairs(1_000_000, 10)
    assert len(as_set(pairs)) == 10
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert pairs.max() < 1_000_000


def test_labelled_pairs_are_left_out_in_either_order():
    pairs = rr.random_pairs(4, 100, exclude=[(0, 1), (3, 2)])
    assert as_set(pairs) == {(0, 2), (0, 3), (1, 2), (1, 3)}
    few = rr.random_pairs(100, 50, exclude=rr.random_pairs(100, 4900))
    assert len(as_set(few)) == 50, "as many as were asked for, though nearly all are excluded"


def test_random_pairs_depend_on_the_seed_alone():
    first, again, other = (rr.random_pairs(50, 20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs_of_fewer_than_two_sentences(n):
    assert rr.random_pairs(n, 5).shape == (0, 2)


def test_no_pairs_wanted():
    assert rr.random_pairs(10, 0).shape == (0, 2)
    with pytest.raises(ValueError, match="count must be at least 0, not -1"):
        rr.random_pairs(10, -1)


# semantic search


def on_circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_nearest_pairs_first_partners_first():
    vectors = on_circle(0, 10, 50, 65)
    assert rr.nearest_pairs(vectors, 1).tolist() == [[0, 1], [2, 3]]
    # Second partners: 2 of 0, 2 of 1, 1 of 2, 1 of 3; the third of these is there already.
    assert rr.nearest_pairs(vectors, 2).tolist() == [[0, 1], [2, 3], [0, 2], [1, 2], [1, 3]]


def test_nearest_pairs_without_labelled_ones():
    vectors = on_circle(0, 10, 50, 65)
    assert rr.nearest_pairs(vectors, 1, exclude=[(1, 0)]).tolist() == [[2, 3]]


def test_nearest_pairs_of_equal_vectors():
    pairs = rr.nearest_pairs(on_circle(0, 0, 0), 2)
    assert as_set(pairs) == {(0, 1), (0, 2), (1, 2)}, "no sentence is paired with itself"


def test_nearest_pairs_where_there_are_fewer_partners():
    assert as_set(rr.nearest_pairs(on_circle(0, 90), 5)) == {(0, 1)}
    assert rr.nearest_pairs(on_circle(0), 5).shape == (0, 2)


@pytest.mark.parametrize("top_k", [0, -2])
def test_partners_must_be_wanted(top_k):
    with pytest.raises(ValueError, match=f"top_k must be at least 1, not {top_k}"):
        rr.nearest_pairs(on_circle(0, 90), top_k)
    with pytest.raises(ValueError, match=f"top_k must be at least 1, not {top_k}"):
        rr.bm25_pairs(["one", "two"], top_k)


def test_vectors_that_are_none():
    vectors = on_circle(0, 90)
    vectors[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        rr.nearest_pairs(vectors, 1)


# BM25

SENTENCES = [
    "A monkey plays drums.",
    "The monkey hits drums loudly.",
    "A cheetah chases its prey.",
    "The hungry cheetah runs after an antelope.",
    "Somebody is making music.",
]


def test_bm25_finds_what_shares_words():
    assert rr.bm25_pairs(SENTENCES, 3).tolist() == [[0, 1], [2, 3]]


def test_bm25_misses_the_same_in_other_words():
    """`Somebody is making music.` is about the drums, but shares no word with any other."""
    assert 4 not in rr.bm25_pairs(SENTENCES, 3)


def test_bm25_without_labelled_pairs():
    assert rr.bm25_pairs(SENTENCES, 3, exclude=[(3, 2)]).tolist() == [[0, 1]]


def test_stop_words_make_no_pair():
    assert rr.bm25_pairs(["This is it and that", "and that is the one of them"], 2).shape == (0, 2)


def test_bm25_ranks_rare_words_higher():
    sentences = ["red apple", "red car", "red house", "quince apple", "quince jam", "red boat"]
    first = rr.bm25_pairs(sentences, 1).tolist()
    assert [3, 4] in first, "two of six have quinces, four are red"


def test_bm25_takes_a_generator_free_sequence_of_one():
    assert rr.bm25_pairs(("alone",), 3).shape == (0, 2)


# KDE


def test_density_of_one_point_is_a_bell():
    at = np.linspace(-0.01, 0.01, 2001)
    values = density([0.0], at)
    assert at[values.argmax()] == pytest.approx(0, abs=1e-9)
    assert values.sum() * (at[1] - at[0]) == pytest.approx(1, abs=1e-3)


def test_density_agrees_with_scipy():
    from scipy.stats import gaussian_kde

    sample = np.random.default_rng(0).normal(size=200)
    at = np.linspace(-3, 3, 50)
    # scipy's Scott factor is n^(-1/5) as ours.
    assert density(sample, at) == pytest.approx(gaussian_kde(sample)(at), rel=1e-6)


def test_too_much_is_thinned_out_and_the_rest_is_kept():
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 4, 20_000)  # dense near 0, thin near 1; equally dense as what is wanted at 0.37
    chosen = rr.keep_like(scores, rng.uniform(size=2000))
    before, after = (np.histogram(sample, bins=10, range=(0, 1))[0] for sample in (scores, scores[chosen]))
    assert before[0] > 2 * before[3]
    assert after[1:3] == pytest.approx([2000, 2000], rel=0.1), "as many in each as are wanted of 20,000"
    assert (after[4:] == before[4:]).all(), "of what is rare, all"


def test_what_is_missing_cannot_be_kept():
    scores = np.random.default_rng(0).uniform(0, 0.3, 500)
    kept = scores[rr.keep_like(scores, np.linspace(0, 1, 100))]
    assert kept.max() < 0.3, "thinning out makes no pair of a higher score"


def test_equal_distributions_keep_nearly_all():
    scores = np.random.default_rng(0).uniform(size=3000)
    assert rr.keep_like(scores, scores).all(), "the same sample: a probability of one everywhere"
    other = np.random.default_rng(1).uniform(size=3000)
    assert rr.keep_like(scores, other).mean() > 0.9


def test_keep_like_depends_on_the_seed_alone():
    scores, wanted = np.linspace(0, 0.5, 400), np.linspace(0, 1, 50)
    assert np.array_equal(rr.keep_like(scores, wanted, seed=4), rr.keep_like(list(scores), list(wanted), seed=4))
    assert not np.array_equal(rr.keep_like(scores, wanted, seed=4), rr.keep_like(scores, wanted, seed=5))


def test_equal_scores_are_no_division_by_zero():
    assert rr.keep_like([0.5] * 10, [0.5] * 3).dtype == bool
    assert not rr.keep_like([0.1] * 10, [0.9] * 3).any()


@pytest.mark.parametrize(("scores", "wanted"), [([], [1.0]), ([1.0], [])])
def test_two_distributions_are_needed(scores, wanted):
    with pytest.raises(ValueError, match=f"got {len(scores)} scores and {len(wanted)} wanted"):
        rr.keep_like(scores, wanted)


# The record of tools/augment.py


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def rows_of(record, *key):
    return {(r["experiment"], *r["settings"]): r["rows"] for r in record["results"]}[key]


def test_the_record_has_every_seed(record):
    seeds = record["sizes"]["seeds"]
    assert seeds >= 5
    for result in record["results"]:
        assert result["cpu_seconds"] > 0
        for way, row in result["rows"].items():
            for split in ("dev", "test"):
                assert len(row[split]) == seeds, (result["experiment"], way)
                assert all(-1 < value < 1 for value in row[split])
            if "labels" in row:
                assert len(row["labels"]) == 10
                assert sum(row["labels"]) == pytest.approx(row["pairs"], abs=0.01)
            if "gain over test pairs" in row:
                low, high = row["gain over test pairs"]
                assert low < high


def test_the_record_has_what_the_chapter_reads(record):
    ways = {"gold alone", "cross-encoder", "random", "random + KDE", "BM25", "semantic", "BM25 + semantic"}
    for key in (("stsb", 1000, "dense"), ("own", 835, "tuned")):
        rows = rows_of(record, "strategies", *key)
        assert ways | {"untrained"} <= set(rows)
        assert all("labels" in rows[way] and "overlap" in rows[way] for way in ways - {"cross-encoder"})
    kinds = {"entails", "lookalike", "near", "paraphrase_far", "topic", "unrelated"}
    assert all(set(row["kinds"]) == kinds and len(row["test without lookalikes"]) == 5 for row in rows.values())
    for source, target in (("captions", "news"), ("news", "captions")):
        rows = rows_of(record, "domains", source, target, 1000, "dense")
        assert {"labels of the source", "labels of the target", "silver, BM25"} <= set(rows)
    rows = rows_of(record, "weaker", "stsb", 1000, "dense")
    assert {f"{who} {n}" for who in ("student", "cross-encoder") for n in record["sizes"]["fewer"]} == set(rows)
    rows = rows_of(record, "larger", "stsb", 1000, "dense")
    assert {str(n) for n in record["sizes"]["more"]} == set(rows)


def test_the_record_is_of_the_pairs_that_the_package_has(record):
    pairs = rr.load_pairs()["split"]
    assert record["test pairs"]["own"] == pairs.count("test")
    assert rows_of(record, "strategies", "own", 835, "tuned")["gold alone"]["pairs"] == pairs.count("train")


def test_the_record_holds_no_text_of_the_data(record):
    def strings(value):
        if isinstance(value, dict):
            return [*value, *(s for item in value.values() for s in strings(item))]
        if isinstance(value, list):
            return [s for item in value for s in strings(item)]
        return [value] if isinstance(value, str) else []

    found = set(strings(record))
    assert max(map(len, found)) < 30
    assert not found & set(rr.load_pairs()["sentence1"])
