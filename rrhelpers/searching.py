"""Exact nearest-neighbour search, also over compressed vectors."""

import numpy as np
import torch

from .device import pick_device, pick_dtype
from .hits import Hit
from .quantizing import Quantized
from .vectors import as_array, check_finite

# A block's products then take 25 MB at most. The C library hands out memory of up to 32 MB again and again; larger
# pieces it maps anew each time, page by page, which takes as long as computing what goes there.
_CORPUS_BLOCK = 24_576  # rows
_QUERY_BLOCK = 256
_MANY = 16  # queries from which it pays to make the corpus bfloat16 first, where the processor multiplies that
_FEW_HITS = 64  # up to which it pays: with more, more candidates lie within bfloat16's errors than it saves time
_GROUP = 64  # rows, looked at one by one only if the best of them may be a hit
_SAMPLE = 256  # rows of a block whose length is measured for few queries
_PAIRS = 512  # of query and passage, scored in float64 at a time, in the processor's cache


def search(
    query_vectors: np.ndarray,
    corpus_vectors: np.ndarray | Quantized,
    top_k: int = 10,
    *,
    device: str | torch.device | None = None,
) -> list[Hit] | list[list[Hit]]:
    """Find each query's nearest passages by inner product (the cosine, for vectors from `encode`).

    Exact: every query is compared with every passage, block by block, so that a corpus in a memory
    map is read once and never held whole. Products in float32 or bfloat16 only choose the candidates,
    with room for the rounding errors that they can have; candidates are scored anew in float64. Equal
    passages score equally wherever they stand, and equal scores are ordered by corpus id.

    Beside the vectors and the hits it takes up to 150 MB at 384 dimensions, however large the corpus is.

    Parameters
    ----------
    query_vectors : array of shape (d,) or (q, d)
        One query's vector, or several.
    corpus_vectors : array of shape (n, d), or Quantized
        May be a `numpy.memmap`. Vectors from `quantize` are compared by their codes, and only the
        nearest of them by the vectors themselves: a passage that the codes put too low is missed.
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
    queries, codes = as_array(query_vectors, "query_vectors"), None
    if isinstance(corpus_vectors, Quantized):
        codes, corpus = corpus_vectors, corpus_vectors.vectors
    else:
        corpus = as_array(corpus_vectors, "corpus_vectors")
    single = queries.ndim == 1
    if corpus.ndim != 2 or queries.ndim not in (1, 2) or queries.shape[-1] != corpus.shape[1]:
        raise ValueError(
            f"query_vectors {queries.shape} and corpus_vectors {corpus.shape} don't fit: "
            "expected (d,) or (q, d) and (n, d) with the same d; were both encoded by the same model?"
        )
    queries = np.atleast_2d(queries)
    check_finite(queries, "query_vectors")
    device = pick_device(device)
    blocks = [queries[start : start + _QUERY_BLOCK] for start in range(0, len(queries), _QUERY_BLOCK)]
    if codes is None:
        best = _search_vectors(blocks, corpus, int(top_k), device)
    else:
        best = _search_codes(blocks, codes, int(top_k), device)
    results = [hits for one in best for hits in one.hits()]
    return results[0] if single else results


def _search_vectors(blocks, corpus, top_k, device) -> list["_Best"]:
    best = [_Best(queries, top_k) for queries in blocks]
    many = sum(map(len, blocks)) >= _MANY
    # On a GPU copying the corpus takes longer than multiplying it, in whichever precision.
    rough = many and top_k <= _FEW_HITS and device.type == "cpu"
    dtype = pick_dtype(device) if rough else torch.float32
    on_device = [torch.from_numpy(queries.astype(np.float32)).to(device, dtype) for queries in blocks]
    error = _largest_error(dtype, corpus.shape[1])
    errors = [error * np.linalg.norm(queries, axis=1).astype(np.float32) for queries in blocks]
    errors = [torch.from_numpy(own).to(device) for own in errors]
    for start in range(0, len(corpus), _CORPUS_BLOCK):
        block = np.require(corpus[start : start + _CORPUS_BLOCK], np.float32, ["C", "W"])  # copies a read-only map
        longest = _longest(block, exactly=many)
        rows = torch.from_numpy(block).to(device).to(dtype)
        for one, queries, error in zip(best, on_device, errors, strict=True):
            scores = _products(rows, queries)
            # A row with NaN or infinity has no finite product with any query, so looking at one query's scores is
            # enough; looking at the rows themselves would take longer than searching them.
            if not scores[:, 0].isfinite().all():
                check_finite(block, "corpus_vectors", start)
            ids, numbers, _ = _candidates(scores, one, error * longest)
            one.add(ids + start, numbers, _exact(block, ids, one.queries, numbers))
    return best


def _longest(rows: np.ndarray, exactly: bool) -> float:
    """Return the length of the longest row; or, not exactly, 16 times that of a sample.

    Measuring every row takes half as long as multiplying it with one query. For few queries, in float32, a sample is
    enough: even a longer row does no harm at first, as the rounding errors of a sum mostly cancel each other.
    """
    if exactly:
        return float(np.sqrt(np.einsum("ij,ij->i", rows, rows).max()))
    return 16 * _longest(rows[:: max(1, len(rows) // _SAMPLE)], exactly=True)


def _products(rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return the products, shape (rows, q)."""
    if len(queries) == 1 and rows.device.type == "cpu" and rows.dtype == torch.float32:
        # One query takes as long as reading the rows; NumPy's OpenBLAS was twice as fast as MKL on an AMD EPYC.
        with np.errstate(invalid="ignore"):  # infinity is looked for by the caller
            return torch.from_numpy(rows.numpy() @ queries[0].numpy())[:, None]
    return rows @ queries.T


def _search_codes(blocks, codes, top_k, device) -> list["_Best"]:
    dtype = pick_dtype(device) if sum(map(len, blocks)) >= _MANY else torch.float32
    near = [_Best(queries, top_k * codes.rescore) for queries in blocks]
    weights = [codes.weights(queries).to(device, dtype) for queries in blocks]
    for start in range(0, len(codes), _CORPUS_BLOCK):
        for one, weight in zip(near, weights, strict=True):
            scores = codes.products(start, start + _CORPUS_BLOCK, weight)
            rows, numbers, values = _candidates(scores, one, 0)
            one.add(rows + start, numbers, values)
    best = [_Best(queries, top_k) for queries in blocks]
    for one, rough in zip(best, near, strict=True):
        one.add(rough.rows, rough.numbers, _exact(codes.vectors, rough.rows, one.queries, rough.numbers))
    return best


class _Best:
    """The best rows so far of several queries: flat arrays, ordered by query's number, score and row."""

    def __init__(self, queries: np.ndarray, top_k: int):
        self.queries, self.top_k = queries, top_k
        self.numbers, self.rows, self.scores = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        self.least = np.full(len(queries), -np.inf, np.float32)  # what a score must reach to get in

    def add(self, rows: np.ndarray, numbers: np.ndarray, scores: np.ndarray) -> None:
        if len(rows) == 0:
            return
        numbers, rows = np.append(self.numbers, numbers), np.append(self.rows, rows)
        scores = np.append(self.scores, scores)
        order = np.lexsort((rows, -scores, numbers))
        numbers = numbers[order]
        kept = np.arange(len(order)) - np.searchsorted(numbers, numbers) < self.top_k
        self.numbers, self.rows, self.scores = numbers[kept], rows[order][kept], scores[order][kept]
        ends = np.cumsum(np.bincount(self.numbers, minlength=len(self.queries)))
        full = np.diff(ends, prepend=0) == self.top_k
        self.least[full] = self.scores[ends[full] - 1]

    def hits(self) -> list[list[Hit]]:
        ends = np.searchsorted(self.numbers, np.arange(1, len(self.queries)))
        lists = zip(np.split(self.rows, ends), np.split(self.scores, ends), strict=True)
        return [
            [Hit(row, score, rank) for rank, (row, score) in enumerate(zip(*own, strict=True), start=1)]
            for own in ((rows.tolist(), scores.tolist()) for rows, scores in lists)
        ]


def _candidates(scores: torch.Tensor, best: _Best, error) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, query's number and score of all that may be among the best.

    The k-th largest of the groups' maxima is a score that k rows reach, so no row further below it than both may be
    wrong by is among the first k. The maxima are few to sort, and few groups need to be looked at for such rows.
    """
    size = max(1, min(_GROUP, len(scores) // (4 * best.top_k)))
    count = len(scores) // size
    # A group is every so-many-th row: like passages stand together, and shouldn't share one maximum.
    groups, rest = scores[: count * size].view(size, count, -1), scores[count * size :]
    maxima = groups.amax(0)
    single = torch.cat([maxima, rest])
    worst = single.topk(min(best.top_k, len(single)), dim=0).values[-1].float() - error
    bound = torch.maximum(worst, torch.from_numpy(best.least).to(scores.device)) - error
    group, number = (maxima >= bound).nonzero(as_tuple=True)
    member, which = (groups[:, group, number] >= bound[number]).nonzero(as_tuple=True)
    last, last_number = (rest >= bound).nonzero(as_tuple=True)
    rows = torch.cat([member * count + group[which], last + count * size])
    numbers = torch.cat([number[which], last_number])
    return rows.cpu().numpy(), numbers.cpu().numpy(), scores[rows, numbers].float().cpu().numpy()


def _largest_error(dtype: torch.dtype, dimension: int) -> float:
    """Return by how much a product of two vectors of length 1 may be wrong, whatever the order of its sum.

    Both vectors and the product are rounded by half an epsilon each, by the Cauchy-Schwarz inequality; the sum is
    kept in float32 and is wrong by half its epsilon a term (Higham, Accuracy and Stability of Numerical Algorithms,
    2nd ed., section 3.1), here taken twice.
    """
    if torch.get_float32_matmul_precision() != "highest":
        dtype = torch.bfloat16  # then float32 may be multiplied in TensorFloat-32 or in bfloat16
    return 1.6 * torch.finfo(dtype).eps + dimension * torch.finfo(torch.float32).eps


def _exact(vectors: np.ndarray, rows: np.ndarray, queries: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the product of each row with the query of that number, summed in float64."""
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores[part] = (vectors[rows[part]].astype(np.float64) * queries[numbers[part]]).sum(axis=1)
    return scores
