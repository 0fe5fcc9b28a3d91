"""Tokenize without losing count, run a model over batches of like length, survive a full memory."""

import gc
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
import torch

_CHARACTERS = 1 << 20  # tokenized at a time


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
    rows: list[dict] = []
    cut: list[bool] = []
    for portion in _portions(texts):
        columns = tokenizer(portion, verbose=False)
        for text, values in zip(portion, zip(*columns.values(), strict=True), strict=True):
            row = dict(zip(columns, values, strict=True))
            cut.append(len(row["input_ids"]) > max_length)
            if cut[-1]:
                first, second = text if isinstance(text, tuple) else (text, None)
                row = dict(tokenizer(first, second, truncation=truncation, max_length=max_length))
            rows.append(row)
    return rows, np.array(cut, dtype=bool)


def _portions(texts: list) -> Iterator[list]:
    """Cut a list of texts by characters: all the tokens of a thousand papers take more memory than a model."""
    lengths = [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
    numbers = np.cumsum(lengths) // _CHARACTERS
    for _, group in groupby(range(len(texts)), key=numbers.__getitem__):
        yield [texts[i] for i in group]


def run_batches(
    forward: Callable[[dict], torch.Tensor],
    tokenizer,
    rows: list[dict],
    batch_size: int,
    device: torch.device,
    done: Callable[[int], object],
) -> tuple[np.ndarray, int]:
    """Run `forward` over all rows, long ones first.

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
    parts, start = [], 0
    while start < len(order):
        batch = [rows[i] for i in order[start : start + batch_size]]
        features = tokenizer.pad(batch, return_tensors="pt")
        try:
            with torch.inference_mode():
                parts.append(forward(features.to(device)).float().cpu().numpy())
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error) or len(batch) == 1:
                raise
            batch_size = len(batch) // 2
            warnings.warn(f"out of memory on {device}: going on with batches of {batch_size}", stacklevel=4)
            _free(device)
            continue
        start += len(batch)
        done(len(batch))
    results = np.concatenate(parts)
    results[order] = results.copy()
    return results, batch_size


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
