"""Which pairs of sentences to label: the sampling strategies of Augmented SBERT (https://arxiv.org/abs/2010.08240).

Of n sentences there are n(n - 1)/2 pairs, far too many to label, and nearly all of them unrelated.
Each function here proposes some. A pair is two positions in the list of sentences, the smaller first.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from .searching import search

_GRID = 512  # points at which densities are compared


def random_pairs(n: int, count: int, *, exclude: Iterable[Sequence[int]] = (), seed: int = 0) -> np.ndarray:
    """Draw different pairs of `n` sentences at random.

    Parameters
    ----------
    n : int
        How many sentences there are.
    count : int
        How many pairs to draw; all there are, in random order, if there are fewer.
    exclude : iterable of pairs
        Pairs that aren't wanted, in either order: those that have a label already.
    seed : int

    Returns
    -------
    int array of shape (count, 2)
        Each pair once, the smaller position first.

    Raises
    ------
    ValueError
        If `count` is below 0.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, not {count}")
    # A pair i < j has the number j(j - 1)/2 + i: to draw pairs without repetition, draw numbers.
    total = n * (n - 1) // 2
    unwanted = [max(pair) * (max(pair) - 1) // 2 + min(pair) for pair in exclude]
    drawn = np.random.default_rng(seed).choice(total, min(total, count + len(unwanted)), replace=False)
    drawn = drawn[~np.isin(drawn, unwanted)][:count]
    larger = ((1 + np.sqrt(8 * drawn + 1)) // 2).astype(np.int64)
    return np.stack([drawn - larger * (larger - 1) // 2, larger], axis=1)


def nearest_pairs(vectors: np.ndarray, top_k: int, *, exclude: Iterable[Sequence[int]] = ()) -> np.ndarray:
    """Pair each sentence with its nearest ones by inner product (*semantic search* sampling).

    Parameters
    ----------
    vectors : array of shape (n, d)
        From `encode`.
    top_k : int
        Partners a sentence.
    exclude
        See `random_pairs`.

    Returns
    -------
    int array of shape (m, 2)
        Each pair once, the smaller position first; first those of first neighbours, then those of
        second ones, and so on, so that the first rows are the nearest.

    Raises
    ------
    ValueError
        If `top_k` is below 1, or a vector holds NaN or infinity.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    hits = search(vectors, vectors, top_k=top_k + 1)  # a sentence finds itself, too
    return _by_rank([[hit.corpus_id for hit in found] for found in hits], top_k, exclude)


def bm25_pairs(sentences: Sequence[str], top_k: int, *, exclude: Iterable[Sequence[int]] = ()) -> np.ndarray:
    """Pair each sentence with those that BM25 finds for it: sentences that share rare words with it.

    A sentence that shares no word (but stop words) with another is never paired with it, whatever
    the two mean.

    Parameters
    ----------
    sentences : sequence of str
    top_k : int
        Partners a sentence; fewer where fewer share a word.
    exclude
        See `random_pairs`.

    Returns
    -------
    int array of shape (m, 2)
        As from `nearest_pairs`.

    Raises
    ------
    ValueError
        If `top_k` is below 1.

    Notes
    -----
    By bm25s (https://arxiv.org/abs/2407.03618), in Lucene's variant, with English stop words and no stemming.
    """
    import bm25s

    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    sentences = list(sentences)
    tokens = bm25s.tokenize(sentences, stopwords="en", show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    k = min(top_k + 1, len(sentences))
    ids, scores = index.retrieve(tokens, k=k, show_progress=False, n_threads=1)
    found = [row[score > 0].tolist() for row, score in zip(ids, scores, strict=True)]
    return _by_rank(found, top_k, exclude)


def keep_like(scores: Sequence[float], wanted: Sequence[float], *, seed: int = 0) -> np.ndarray:
    """Choose among scored pairs so that their scores are spread more like wanted ones (*KDE* sampling).

    Both densities are estimated with Gaussian kernels. A pair of score s is kept with the probability
    ``wanted(s) / density(s)``, or for certain where that is above 1: what there is too much of is
    thinned out, and what there is too little of can't be made.

    Parameters
    ----------
    scores : sequence of float, n
        Labels of the candidates, such as a cross-encoder's of random pairs.
    wanted : sequence of float
        Labels whose distribution is wanted, such as those of the gold pairs.
    seed : int

    Returns
    -------
    bool array of shape (n,)
        True for those kept.

    Raises
    ------
    ValueError
        If either has no scores.
    """
    scores, wanted = np.asarray(scores, dtype=float), np.asarray(wanted, dtype=float)
    if not len(scores) or not len(wanted):
        raise ValueError(f"two distributions are needed, got {len(scores)} scores and {len(wanted)} wanted ones")
    grid = np.linspace(scores.min(), scores.max(), _GRID)
    probability = density(wanted, grid) / np.maximum(density(scores, grid), 1e-12)
    return np.random.default_rng(seed).random(len(scores)) < np.interp(scores, grid, probability)


def density(sample: Sequence[float], at: Sequence[float]) -> np.ndarray:
    """Estimate a sample's density with Gaussian kernels, their width by Scott's rule.

    Parameters
    ----------
    sample : sequence of float
    at : sequence of float
        Where to evaluate the density.

    Returns
    -------
    float array of the shape of `at`
    """
    sample, at = np.asarray(sample, dtype=float), np.asarray(at, dtype=float)
    spread = sample.std(ddof=1) if len(sample) > 1 else 0.0
    width = max(spread, 1e-3) * len(sample) ** -0.2
    kernels = np.exp(-0.5 * ((at[:, None] - sample) / width) ** 2)
    return kernels.sum(axis=1) / (len(sample) * width * np.sqrt(2 * np.pi))


def _by_rank(found: list[list[int]], top_k: int, exclude: Iterable[Sequence[int]]) -> np.ndarray:
    """Return pairs (sentence, partner) without repetition: all first partners before all second ones."""
    partners = [[j for j in row if j != i][:top_k] for i, row in enumerate(found)]
    seen = {tuple(sorted(map(int, pair))) for pair in exclude}
    pairs = []
    for rank in range(top_k):
        for i, row in enumerate(partners):
            pair = (min(i, row[rank]), max(i, row[rank])) if rank < len(row) else None
            if pair and pair not in seen:
                seen.add(pair)
                pairs.append(pair)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
