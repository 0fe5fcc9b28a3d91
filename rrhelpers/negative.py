"""The negative test: what an encoder says about texts that have nothing to do with each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .collection import load_pairs
from .encoding import encode as encode_texts

_DIGITS = 6  # of a cosine: float32 vectors give no more, and equal vectors must tie


@dataclass(frozen=True)
class NegativeTest:
    """What `negative_test` found.

    Attributes
    ----------
    level : float
        Mean cosine of the unrelated pairs: what "nothing in common" looks like to this encoder. A
        high level forbids to read a cosine by itself; it doesn't spoil the order of cosines.
    separation : float
        Share of all (related, unrelated) couples of pairs in which the related pair has the higher
        cosine, ties counted half (the area under the ROC curve): 1 is a perfect order, 0.5 chance.
    unrelated, related
        Arrays of float64, shapes (n,) and (m,): the cosines, in the pairs' order.
    """

    level: float
    separation: float
    unrelated: np.ndarray = field(repr=False)
    related: np.ndarray = field(repr=False)


def negative_test(
    encoder,
    unrelated: Sequence[tuple[str, str]] | None = None,
    related: Sequence[tuple[str, str]] | None = None,
) -> NegativeTest:
    """Compare an encoder's cosines of unrelated texts with those of related ones.

    Run it before you trust a pooling, a layer or a model that you haven't tried: high cosines for
    related texts mean nothing as long as nobody has looked at unrelated ones.

    Parameters
    ----------
    encoder : sentence_transformers.SentenceTransformer or callable
        A model, or any function from a list of n strings to n vectors, of whatever length.
    unrelated, related : sequence of (str, str), optional
        Pairs of texts. If not given, those test pairs of `load_pairs` that have nothing in common
        (kind ``unrelated``) and that say the same in other words (``paraphrase_far``). The latter are
        longer, by which untrained encoders separate them too (chapter 1). Negatives of your own field,
        and ones that share words without meaning the same, make a harder test.

    Returns
    -------
    NegativeTest

    Raises
    ------
    ValueError
        If there is no pair, or the encoder doesn't return one finite vector of numbers a text.
    TypeError
        If the encoder is neither a model nor callable.

    Notes
    -----
    Ethayarajh (2019, https://arxiv.org/abs/1909.00512) compares with randomly drawn words in the
    same way, since in the upper layers of language models all vectors lie near a common direction.
    """
    if not callable(encoder):
        raise TypeError(f"encoder must be a model or a function from texts to vectors, not {type(encoder).__name__}")
    unrelated = _pairs_of("unrelated") if unrelated is None else list(unrelated)
    related = _pairs_of("paraphrase_far") if related is None else list(related)
    if not unrelated or not related:
        raise ValueError("there must be at least one unrelated and one related pair")
    texts = [text for pair in unrelated + related for text in pair]
    units = _unit_vectors(encoder, texts)
    cosines = (units[::2] * units[1::2]).sum(axis=1)
    low, high = cosines[: len(unrelated)], cosines[len(unrelated) :]
    differences = np.round(high[:, None] - low, _DIGITS)
    separation = (differences > 0).mean() + (differences == 0).mean() / 2
    return NegativeTest(float(low.mean()), float(separation), low, high)


def _pairs_of(kind: str) -> list[tuple[str, str]]:
    return [(row["sentence1"], row["sentence2"]) for row in load_pairs("test") if row["kind"] == kind]


def _unit_vectors(encoder, texts: list[str]) -> np.ndarray:
    is_model = hasattr(encoder, "tokenizer")  # which is callable too, but on token ids
    found = encode_texts(encoder, texts, progress=False) if is_model else encoder(texts)
    vectors = np.asarray(found, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"the encoder returned an array of shape {vectors.shape} for {len(texts)} texts")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise ValueError("the encoder returned a vector that is zero or not finite: it has no cosine")
    return vectors / norms
