"""Checks on vectors, done once before they are used."""

import numpy as np
import torch


def as_array(vectors, name: str) -> np.ndarray:
    """Return vectors as an array of numbers; a memory map stays one.

    Raises
    ------
    TypeError
        If they are not numbers.
    """
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu().float().numpy()
    array = np.asanyarray(vectors)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numbers, not {array.dtype}")
    return array


def check_finite(vectors: np.ndarray, name: str, start: int = 0) -> None:
    """Raise where a vector holds NaN or infinity.

    Raises
    ------
    ValueError
        With the number of the first such row, counted from `start`.
    """
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} hold NaN or infinity in row {start + bad.argmax()}")
