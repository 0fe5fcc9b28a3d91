"""The negative test against values worked out by hand, and against what is known of the embedded model."""

import numpy as np
import pytest

import rrhelpers as rr

TABLE = {"a": [2, 0], "b": [0, 3], "c": [3, 4], "d": [1, 0], "e": [0, 1]}


def encoder(texts):
    return np.array([TABLE[text] for text in texts], dtype=np.float32)


def test_by_hand():
    found = rr.negative_test(encoder, unrelated=[("a", "b"), ("a", "c")], related=[("b", "c"), ("d", "c"), ("a", "d")])
    assert found.unrelated == pytest.approx([0, 0.6])
    assert found.related == pytest.approx([0.8, 0.6, 1])
    assert found.level == pytest.approx(0.3)
    assert found.separation == pytest.approx(5.5 / 6), "five couples in order, one tie, none the wrong way round"


def test_an_encoder_that_tells_nothing_apart():
    def same(texts):
        noise = np.random.default_rng(0).normal(scale=1e-8, size=(len(texts), 4))
        return np.ones((len(texts), 4)) + noise

    found = rr.negative_test(same, [("a", "b")] * 5, [("c", "d")] * 5)
    assert found.level == pytest.approx(1)
    assert found.separation == 0.5, "noise in the last digits is no order"


def test_the_wrong_way_round():
    assert rr.negative_test(encoder, unrelated=[("a", "d")], related=[("a", "b")]).separation == 0


def test_the_embedded_model_on_the_books_own_pairs(model):
    found = rr.negative_test(model)
    pairs = rr.load_pairs("test").to_pandas()
    assert len(found.unrelated) == (pairs.kind == "unrelated").sum() > 0
    assert len(found.related) == (pairs.kind == "paraphrase_far").sum() > 0
    assert found.level < 0.2
    assert found.separation > 0.95


def test_a_model_is_what_encode_gives(model):
    pairs = {"unrelated": [("A cat sleeps.", "Prices rose.")], "related": [("A cat sleeps.", "A cat is asleep.")]}
    found, by_function = (rr.negative_test(one, **pairs) for one in (model, lambda texts: rr.encode(model, texts)))
    assert by_function.related == pytest.approx(found.related, abs=1e-5)
    assert by_function.unrelated == pytest.approx(found.unrelated, abs=1e-5)
    assert found.separation == 1


def test_arrays_are_not_printed():
    found = rr.negative_test(encoder, [("a", "b")], [("b", "c")])
    assert repr(found) == "NegativeTest(level=0.0, separation=1.0)"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: rr.negative_test("a model", [("a", "b")], [("b", "c")]), TypeError, "not str"),
        (lambda: rr.negative_test(encoder, [], [("b", "c")]), ValueError, "at least one"),
        (lambda: rr.negative_test(encoder, [("a", "b")], []), ValueError, "at least one"),
        (lambda: rr.negative_test(lambda texts: np.ones(4), [("a", "b")], [("b", "c")]), ValueError, r"\(4,\) for 4"),
        (lambda: rr.negative_test(lambda texts: np.ones((3, 2)), [("a", "b")], [("b", "c")]), ValueError, r"\(3, 2\)"),
        (lambda: rr.negative_test(lambda t: np.zeros((4, 2)), [("a", "b")], [("b", "c")]), ValueError, "zero"),
        (lambda: rr.negative_test(lambda t: np.full((4, 2), np.nan), [("a", "b")], [("b", "c")]), ValueError, "finite"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
