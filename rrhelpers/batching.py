"""Tokenize without losing count, run a model over batches of like length, survive a full memory."""

import gc
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
import torch

from .engine import compiled

# Tokens of a batch, padding included, and texts at the most. On two CPU cores 32 passages of 219 tokens took a tenth
# longer than 16. OpenVINO gives each core a batch of its own, so that even a short list must make several. A GPU wants
# enough work to hide what starting it costs.
_TOKENS = {"cpu": (4096, 32), "openvino": (1024, 64), "mps": (16_384, 512), "cuda": (65_536, 1024)}
# Widths are multiples of this, whatever the longest text, and sizes powers of two: PyTorch and OpenVINO keep what they
# compile for every shape of batch. 64 short texts instead of 32 took nearly twice the memory for
# that, and saved a twentieth of the time.
_STEP = 4
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
    module: torch.nn.Module,
    tokenizer,
    rows: list[dict],
    batch_size: int | None,
    done: Callable[[int], object],
) -> tuple[np.ndarray, int | None]:
    """Run `forward`, or the same compiled for this CPU, over all rows, long ones first.

    Parameters
    ----------
    module : torch.nn.Module
        What holds the weights that `forward` uses.
    batch_size : int or None
        None: a power of two that has no more than so many tokens together, which depends on the device.

    Returns
    -------
    array of float32, int or None
        The results in the rows' order, and the batch size that fitted into memory.

    Notes
    -----
    Rows of like length share a batch, so that little is spent on padding. When the device's memory
    is full the batch is halved, once said in a warning, and the work goes on; the longest rows come
    first, so that this happens at the start. `done(n)` is called after every batch.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    order = np.argsort([-length for length in lengths], kind="stable")

    def batch(start: int, size: int | None):
        size = size or min(most, _power_of_two(tokens // lengths[order[start]]))
        width = _width(lengths[order[start]], tokenizer.model_max_length)
        return _padded(tokenizer, [rows[i] for i in order[start : start + size]], width)

    engine = compiled(module, forward, batch(0, 1))
    tokens, most = _TOKENS["openvino" if engine else module.device.type]
    if engine:
        parts = engine(_batches(batch, len(order), batch_size), done)
    else:
        parts, batch_size = _with_torch(forward, module.device, batch, len(order), batch_size, done)
    results = np.concatenate(parts)
    results[order] = results.copy()
    return results, batch_size


def _padded(tokenizer, rows: list[dict], width: int) -> dict[str, torch.Tensor]:
    """Return rows as one batch: `tokenizer.pad` in an eighth of its time."""
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    batch = {}
    for name in rows[0]:
        lines = np.full((len(rows), width), padding.get(name, 0))
        for line, row in zip(lines, rows, strict=True):
            used = slice(width - len(row[name]), None) if tokenizer.padding_side == "left" else slice(len(row[name]))
            line[used] = row[name]
        batch[name] = torch.from_numpy(lines)
    return batch


def _power_of_two(number: int) -> int:
    """Return the largest that isn't above the number, and 1 for none."""
    return 1 << max(0, number.bit_length() - 1)


def _width(length: int, limit: int) -> int:
    """Return the next multiple of `_STEP`, but no more than the model takes."""
    return max(length, min(limit, -(-length // _STEP) * _STEP))


def _batches(batch, count: int, batch_size: int | None) -> Iterator[dict]:
    start = 0
    while start < count:
        features = batch(start, batch_size)
        start += len(features["input_ids"])
        yield features


def _with_torch(forward, device, batch, count: int, batch_size: int | None, done) -> tuple[list, int | None]:
    parts, start = [], 0
    while start < count:
        features = batch(start, batch_size)
        size = len(features["input_ids"])
        try:
            with torch.inference_mode():
                on_device = {name: tensor.to(device) for name, tensor in features.items()}
                parts.append(forward(on_device).float().cpu().numpy())
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
