"""Exact nearest-neighbour search."""

import numpy as np
import torch

from .device import pick_device
from .hits import Hit

_CORPUS_BLOCK = 65_536  # rows of the corpus multiplied at a time: about 100 MB at 384 dimensions
_QUERY_BLOCK = 64
# Two summation orders of the same float32 dot product differ by far less than this.
_ROUNDING = 1e-5


def search(
    query_vectors: np.ndarray,
    corpus_vectors: np.ndarray,
    top_k: int = 10,
    *,
    device: str | torch.device | None = None,
) -> list[Hit] | list[list[Hit]]:
    """Find each query's nearest passages by inner product (the cosine, for vectors from `encode`).

    Exact: every query is compared with every passage, block by block, so that a corpus in a memory
    map is read once and never held whole. Scores of the candidates are summed anew in float64: equal
    passages score equally wherever they stand, and equal scores are ordered by corpus id.

    Parameters
    ----------
    query_vectors : array of shape (d,) or (q, d)
        One query's vector, or several.
    corpus_vectors : array of shape (n, d)
        May be a `numpy.memmap`.
    top_k : int
        How many hits a query gets; fewer if the corpus is smaller.
    device : str or torch.device, optional
        Where to multiply; `pick_device()` if not given.

    Returns
    -------
    list of Hit, or list of lists of Hit
        For one query (d,) its hits, best first; for (q, d) one such list a query.

    Raises
    ------
    ValueError
        If the dimensions differ, `top_k` is below 1, or a vector holds NaN or infinity.
    TypeError
        If `top_k` is not a whole number.
    """
    if not isinstance(top_k, int | np.integer) or isinstance(top_k, bool):
        raise TypeError(f"top_k must be a whole number, not {top_k!r}")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    queries, corpus = _as_array(query_vectors, "query_vectors"), _as_array(corpus_vectors, "corpus_vectors")
    single = queries.ndim == 1
    if corpus.ndim != 2 or queries.ndim not in (1, 2) or queries.shape[-1] != corpus.shape[1]:
        raise ValueError(
            f"query_vectors {queries.shape} and corpus_vectors {corpus.shape} don't fit: "
            "expected (d,) or (q, d) and (n, d) with the same d; were both encoded by the same model?"
        )
    queries = np.atleast_2d(queries)
    _check_finite(queries, "query_vectors")
    device = pick_device(device)
    results = []
    for start in range(0, len(queries), _QUERY_BLOCK):
        results += _search_block(queries[start : start + _QUERY_BLOCK], corpus, int(top_k), device)
    return results[0] if single else results


def _search_block(queries, corpus, top_k, device) -> list[list[Hit]]:
    best = [(np.zeros(0), np.zeros(0, dtype=np.int64)) for _ in queries]
    on_device = torch.from_numpy(queries.astype(np.float32)).to(device)
    for start in range(0, len(corpus), _CORPUS_BLOCK):
        block = np.require(corpus[start : start + _CORPUS_BLOCK], np.float32, ["C", "W"])  # copies a read-only map
        scores = on_device @ torch.from_numpy(block).to(device).T
        # A row with NaN or infinity has no finite product with any query, so looking at one query's scores is
        # enough; looking at the rows themselves would take longer than searching them.
        if not scores[0].isfinite().all():
            _check_finite(block, "corpus_vectors", start)
        worst = scores.topk(min(top_k, len(block)), dim=1).values[:, -1:]
        candidates = (scores >= worst - _ROUNDING * worst.abs().clamp(min=1)).cpu().numpy()
        for i, row in enumerate(candidates):
            ids = np.flatnonzero(row)
            exact = (block[ids].astype(np.float64) * queries[i]).sum(axis=1)
            best[i] = _top(np.append(best[i][0], exact), np.append(best[i][1], ids + start), top_k)
    return [
        [Hit(int(j), float(s), rank) for rank, (s, j) in enumerate(zip(*one, strict=True), start=1)] for one in best
    ]


def _top(scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((ids, -scores))[:k]
    return scores[order], ids[order]


def _as_array(vectors, name: str) -> np.ndarray:
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu().float().numpy()
    array = np.asanyarray(vectors)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numbers, not {array.dtype}")
    return array


def _check_finite(vectors: np.ndarray, name: str, start: int = 0) -> None:
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} hold NaN or infinity in row {start + bad.argmax()}")
