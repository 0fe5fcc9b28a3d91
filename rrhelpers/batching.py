"""Tokenize without losing count, run a model over batches of like length, survive a full memory."""

import gc
import warnings
from collections.abc import Callable

import numpy as np
import torch

from .engine import compiled


def tokenize(tokenizer, texts: list, max_length: int, truncation: str) -> tuple[list[dict], np.ndarray]:
    """Tokenize texts or (query, passage) pairs, unpadded.

    Parameters
    ----------
    truncation : {"longest_first", "only_second"}
        What to cut in an input of more than `max_length` tokens.

    Returns
    -------
    list of dict, array of bool
        Token ids (and what else the model takes) of each input; which of them were cut.
    """
    if not texts:
        return [], np.zeros(0, dtype=bool)
    columns = tokenizer(texts, verbose=False)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    cut = np.array([len(row["input_ids"]) > max_length for row in rows])
    for i in np.flatnonzero(cut):
        first, second = texts[i] if isinstance(texts[i], tuple) else (texts[i], None)
        rows[i] = dict(tokenizer(first, second, truncation=truncation, max_length=max_length))
    return rows, cut


def run_batches(
    forward: Callable[[dict], torch.Tensor],
    module: torch.nn.Module,
    tokenizer,
    rows: list[dict],
    batch_size: int,
    done: Callable[[int], object],
) -> tuple[np.ndarray, int]:
    """Run `forward`, or the same compiled for this CPU, over all rows, long ones first.

    Parameters
    ----------
    module : torch.nn.Module
        What holds the weights that `forward` uses.

    Returns
    -------
    array of float32, int
        The results in the rows' order, and the batch size that fitted into memory.

    Notes
    -----
    Rows of like length share a batch, so that little is spent on padding. When the device's memory
    is full the batch is halved, once said in a warning, and the work goes on; the longest rows come
    first, so that this happens at the start. `done(n)` is called after every batch.
    """
    order = np.argsort([-len(row["input_ids"]) for row in rows], kind="stable")

    def features(start: int, size: int):
        return tokenizer.pad([rows[i] for i in order[start : start + size]], return_tensors="pt")

    engine = compiled(module, forward, dict(features(0, 1)))
    if engine:
        parts = engine((features(start, batch_size) for start in range(0, len(order), batch_size)), done)
    else:
        parts, batch_size = _with_torch(forward, module.device, features, len(order), batch_size, done)
    results = np.concatenate(parts)
    results[order] = results.copy()
    return results, batch_size


def _with_torch(forward, device, features, count: int, batch_size: int, done) -> tuple[list[np.ndarray], int]:
    parts, start = [], 0
    while start < count:
        batch = features(start, batch_size)
        size = len(batch["input_ids"])
        try:
            with torch.inference_mode():
                parts.append(forward(batch.to(device)).float().cpu().numpy())
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error) or size == 1:
                raise
            batch_size = size // 2
            warnings.warn(f"out of memory on {device}: going on with batches of {batch_size}", stacklevel=5)
            _free(device)
            continue
        start += size
        done(size)
    return parts, batch_size


def _is_out_of_memory(error: Exception) -> bool:
    # MPS and the CPU's allocator raise a plain RuntimeError that says so in words.
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error).lower() for w in words)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
