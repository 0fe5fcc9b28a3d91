"""Compressed vectors: codes in memory for a first look, the vectors themselves for a second."""

from dataclasses import dataclass, field

import numpy as np
import torch

from .vectors import as_array, check_finite

_RESCORE = {"int8": 4, "binary": 16}
_BLOCK = 16_384  # vectors made into codes at a time
_DECODED = 2048  # codes multiplied at a time: as float32 they then are still in the processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """Vectors and their codes, from `quantize`; `search` takes it in place of the vectors.

    `kind` says what a code is; `codes` are int8 of shape (n, d), or bits packed into uint8 of shape
    (n, ceil(d / 8)), and read-only; `vectors` are what was compressed, of shape (n, d): the same array
    or memory map, not a copy. For `top_k` hits the vectors of the `rescore * top_k` nearest codes are
    read.
    """

    kind: str
    codes: np.ndarray = field(repr=False)
    vectors: np.ndarray = field(repr=False)
    rescore: int
    _steps: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, which are all that needs to be in memory."""
        return self.codes.nbytes

    def weights(self, queries: np.ndarray) -> torch.Tensor:
        """Return what codes are to be multiplied with, so that products order them like `queries`, shape (q, d)."""
        return torch.from_numpy((queries * self._steps).astype(np.float32))

    def products(self, start: int, stop: int, weights: torch.Tensor) -> torch.Tensor:
        """Return the products of the codes of rows `start` to `stop` with `weights`, shape (rows, q)."""
        parts = []
        for first in range(start, min(stop, len(self)), _DECODED):
            codes = self.codes[first : min(first + _DECODED, stop)]
            if self.kind == "binary":
                codes = np.unpackbits(codes, axis=1, count=self.vectors.shape[1])
            parts.append(torch.tensor(codes).to(weights.device).to(weights.dtype) @ weights.T)
        return torch.cat(parts)


def quantize(vectors: np.ndarray, kind: str = "int8", *, rescore: int | None = None) -> Quantized:
    """Compress a corpus: with 384 dimensions from 1536 bytes a vector to 384 (int8) or 48 (binary).

    `search` looks through the codes, which are all that needs to be in memory, and reads the vectors of
    the nearest few, from a memory map for instance, to score them exactly. Codes are those of
    `sentence_transformers.quantization.quantize_embeddings`: for int8 each dimension's range in this
    corpus is cut into 256 equal steps, for binary a bit says whether a number is above 0. Queries stay
    as they are, which takes longer than comparing bits with bits, but finds more. What codes save is memory, not
    time: a search takes about twice as long as one through vectors in memory. The book's page on speed shows that,
    and what is missed.

    Parameters
    ----------
    vectors : array of shape (n, d)
        May be a `numpy.memmap`, which is read block by block. It is kept, not copied: leave its
        numbers as they are.
    kind : {"int8", "binary"}
        What to keep of each number: 8 bits, or its sign.
    rescore : int, optional
        For `top_k` hits read the vectors of the `rescore * top_k` nearest codes; 4 for int8 and 16 for
        binary, if not given. With `rescore * top_k >= n` the search is exact.

    Returns
    -------
    Quantized
        For `search`.

    Raises
    ------
    ValueError
        If `kind` is another, `rescore` is below 1, `vectors` has another number of axes, or a vector
        holds NaN or infinity.
    TypeError
        If `rescore` is not a whole number, or `vectors` are not numbers.

    References
    ----------
    Yamada, Asai and Hajishirzi (2021). Efficient Passage Retrieval with Hashing for Open-domain
    Question Answering. ACL 2021. Bits first, then the query's own numbers.
    """
    # Imported here, because searching plain vectors needs none of it.
    from sentence_transformers.quantization import quantize_embeddings

    if kind not in _RESCORE:
        raise ValueError(f"kind is {kind!r}; use 'int8' or 'binary'")
    rescore = _RESCORE[kind] if rescore is None else rescore
    if not isinstance(rescore, int | np.integer) or isinstance(rescore, bool):
        raise TypeError(f"rescore must be a whole number, not {rescore!r}")
    if rescore < 1:
        raise ValueError(f"rescore must be at least 1, not {rescore}")
    vectors = as_array(vectors, "vectors")
    if vectors.ndim != 2:
        raise ValueError(f"vectors must have the shape (n, d), not {vectors.shape}")

    starts = range(0, len(vectors), _BLOCK)
    low, high = np.full((2, vectors.shape[1]), [[np.inf], [-np.inf]], np.float32)
    for start in starts:
        block = vectors[start : start + _BLOCK]
        check_finite(block, "vectors", start)
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
    ranges = np.stack([low, high]).astype(np.float32)
    precision, width = ("int8", vectors.shape[1]) if kind == "int8" else ("ubinary", -(-vectors.shape[1] // 8))
    codes = np.empty((len(vectors), width), np.int8 if kind == "int8" else np.uint8)
    for start in starts:
        block = np.asarray(vectors[start : start + _BLOCK], np.float32)
        codes[start : start + _BLOCK] = quantize_embeddings(block, precision, ranges=ranges)
    codes.setflags(write=False)
    # Where a dimension's numbers are all the same, so are its codes, whatever they are multiplied by.
    steps = (ranges[1] - ranges[0]) / 255 if kind == "int8" and len(vectors) else np.ones(vectors.shape[1], np.float32)
    return Quantized(kind, codes, vectors, int(rescore), steps)
