"""Texts to vectors."""

import glob
import os
import secrets
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm.auto import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from .batching import run_batches, tokenize
from .cache import BlockCache, block_key, cache_folder, model_key
from .texts import check_text, check_texts

BLOCK = 1024
_CACHE_FROM = 256  # fewer texts are encoded faster than a model is hashed
_MEMORY_LIMIT = 128 << 20  # bytes of vectors held in memory before they move to a memory map


def encode(
    model,
    texts: str | Iterable[str],
    *,
    kind: str | None = None,
    batch_size: int | None = None,
    cache: bool | str | Path = True,
    out: str | Path | None = None,
    total: int | None = None,
    progress: bool | None = None,
) -> np.ndarray:
    """Encode texts into vectors of length 1, so that the inner product of two is their cosine.

    Parameters
    ----------
    model : sentence_transformers.SentenceTransformer
        From `load_bi_encoder`, or any other.
    texts : str or iterable of str
        One text; or a list, a `datasets` column, a pandas Series, a generator.
    kind : {"query", "passage"}, optional
        Put the model's prefix for queries or passages before each text. Models without prefixes,
        all of the embedded profile's among them, need none.
    batch_size : int, optional
        Texts in a forward pass; by default as many as suit the device, fewer of long ones. Halved by
        itself when the device's memory is full.
    cache : bool or path
        Keep vectors on disk and find them again (see `rrhelpers.cache`); a path names the folder.
        Calls with fewer than 256 texts don't use it.
    out : path, optional
        Write the vectors to this ``.npy`` file, which appears when it is whole, and return it as a
        memory map. Without it a memory map is returned as soon as the vectors pass 128 MiB: of a
        file in the cache's folder (the temporary folder may lie in memory, and is taken only if the
        other can't be written) that goes with its last reference.
    total : int, optional
        How many texts a generator will give, for the progress bar's time left. Nothing else depends
        on it; a list's own length counts.
    progress : bool, optional
        Show a progress bar; by default from 256 texts on, and for every generator.

    Returns
    -------
    float32 array of shape (d,) for a string, (n, d) otherwise
        Rows have Euclidean length 1. A memory map is read-only; ``np.array(vectors)`` reads it whole
        into memory.

    Warns
    -----
    UserWarning
        When texts are longer than the model reads (how many, and the limit), when texts are blank,
        when a cached file is damaged or can't be written, when memory is full.

    Raises
    ------
    TypeError, ValueError
        If a text is missing, is no string, or holds a lone surrogate; if `kind`, `batch_size` or
        `total` makes no sense.

    Notes
    -----
    Texts are read, encoded and written 1,024 at a time, so that the memory needed doesn't grow with
    the corpus. A run that was interrupted goes on where it stopped: its finished blocks are in the
    cache.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if total is not None and (not isinstance(total, int | np.integer) or isinstance(total, bool)):
        raise TypeError(f"total must be a whole number, not {total!r}")
    if total is not None and total < 0:
        raise ValueError(f"total must be at least 0, not {total}")
    encoder = _Encoder(model, _prefix(model, kind), batch_size)
    if isinstance(texts, str):
        block = encoder([check_text(texts, "the text")], lambda n: None)
        encoder.warn(block, total=1)
        return block["vectors"][0]

    stream = check_texts(texts)
    length = len(texts) if hasattr(texts, "__len__") else None
    large = length is None or length >= _CACHE_FROM
    blocks = None
    if cache is not False and large:
        folder = cache_folder() / "vectors" if cache is True else Path(cache)
        blocks, of_model = BlockCache(folder), model_key(model, encoder.prefix)

    sums = {"truncated": 0, "blank": 0}
    count = 0
    hidden = not (large if progress is None else progress)
    with _Rows(encoder.dimension, out) as rows, _bar(total if length is None else length, hidden) as bar:
        for batch in _blocks(stream):
            key = block_key(of_model, batch) if blocks else ""
            block = blocks.get(key, len(batch), encoder.dimension) if blocks else None
            if block is None:
                block = encoder(batch, bar.update)
                if blocks:
                    blocks.put(key, block)
            else:
                _skip(bar, len(batch))
            rows.append(block["vectors"])
            count += len(batch)
            sums = {name: n + int(block[name][0]) for name, n in sums.items()}
        encoder.warn({name: [n] for name, n in sums.items()}, total=count)
        return rows.finish()


class _Encoder:
    """The forward pass of one model with one prefix, for a list of checked texts."""

    def __init__(self, model, prefix: str, batch_size: int | None):
        self.model, self.prefix, self.batch_size = model, prefix, batch_size
        # sentence-transformers 6 renamed the method.
        self.dimension = getattr(
            model, "get_embedding_dimension", getattr(model, "get_sentence_embedding_dimension", None)
        )()

    def __call__(self, texts: list[str], done) -> dict[str, np.ndarray]:
        model = self.model.eval()
        rows, cut = tokenize(
            model.tokenizer, [self.prefix + text for text in texts], model.max_seq_length, "longest_first"
        )
        # A batch size that didn't fit isn't tried again with the next block.
        vectors, self.batch_size = run_batches(
            lambda features: model(dict(features))["sentence_embedding"],
            model, model.tokenizer, rows, self.batch_size, done,
        )  # fmt: skip
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return {
            "vectors": vectors / np.maximum(norms, 1e-12),
            "truncated": np.array([cut.sum()]),
            "blank": np.array([sum(not text.strip() for text in texts)]),
        }

    def warn(self, counts, total: int) -> None:
        truncated, blank = int(counts["truncated"][0]), int(counts["blank"][0])
        if truncated:
            warnings.warn(
                f"{truncated} of {total} texts are longer than the {self.model.max_seq_length} tokens that the "
                "model reads; what comes after is not in their vectors",
                stacklevel=3,
            )
        if blank:
            warnings.warn(f"{blank} of {total} texts are blank; their vectors mean nothing", stacklevel=3)


class _Rows:
    """Collects blocks of vectors: in memory, or in a file from the start (`out`) or from a limit on."""

    def __init__(self, dimension: int, out: str | Path | None):
        self.dimension, self.out = dimension, None if out is None else Path(out)
        self.parts: list[np.ndarray] = []
        self.count = 0
        self.file = None

    def __enter__(self):
        if self.out is not None:
            self.file = _file_beside(self.out)
            self.file.write(_npy_header((0, self.dimension)))
        return self

    def __exit__(self, *error) -> None:
        if self.file is None:
            return
        if self.out is not None:  # the run failed, and a half-written file helps nobody
            Path(self.file.name).unlink(missing_ok=True)
        with suppress(OSError):  # on a full disk, closing fails like writing did
            self.file.close()

    def append(self, vectors: np.ndarray) -> None:
        self.count += len(vectors)
        if self.file is not None:
            self.file.write(np.ascontiguousarray(vectors, dtype=np.float32))
            return
        self.parts.append(vectors)
        if self.count * self.dimension * 4 > _MEMORY_LIMIT:
            self.file = _nameless_file()
            for part in self.parts:
                self.file.write(np.ascontiguousarray(part, dtype=np.float32))
            self.parts = []

    def finish(self) -> np.ndarray:
        shape = (self.count, self.dimension)
        if self.file is None:
            return np.concatenate(self.parts, dtype=np.float32) if self.parts else np.zeros(shape, np.float32)
        if self.out is None:
            return np.memmap(self.file, np.float32, "r", shape=shape)
        self.file.seek(0)
        self.file.write(_npy_header(shape))
        self.file.close()
        os.replace(self.file.name, self.out)
        self.file = None
        return np.load(self.out, mmap_mode="r" if self.count else None)


def _file_beside(out: Path) -> BinaryIO:
    """Open a file that will become `out`, and remove those that killed runs left there."""
    if fcntl is not None:
        for path in out.parent.glob(f"{glob.escape(out.name)}.*.tmp"):
            with suppress(OSError), path.open("r+b") as file:  # a run that goes on has locked its own
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
    file = out.with_name(f"{out.name}.{secrets.token_hex(4)}.tmp").open("xb")
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: then nothing is removed there
            fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _nameless_file() -> BinaryIO:
    """Open a file that vanishes with its last reference, however the process ends."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


def _npy_header(shape: tuple[int, int]) -> bytes:
    """Return an .npy header of 128 bytes whatever the shape, so that it can be written last."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


def _bar(total: int | None, hidden: bool) -> tqdm:
    """Return a bar with the rate of the whole run: batches of long texts come before those of short ones."""
    return tqdm(total=total, desc="encode", unit="text", disable=hidden, smoothing=0, miniters=1)


def _skip(bar: tqdm, found: int) -> None:
    """Move the bar on by texts that were found in the cache, which say nothing about the rate."""
    if not bar.disable:  # such a bar has no fields
        bar.initial += found
        bar.set_postfix_str(f"{bar.initial:,} from the cache", refresh=False)
        bar.update(found)


def _blocks(stream: Iterator[str]) -> Iterator[list[str]]:
    while block := list(islice(stream, BLOCK)):
        yield block


def _prefix(model, kind: str | None) -> str:
    if kind not in (None, "query", "passage"):
        raise ValueError(f"kind is {kind!r}; use 'query', 'passage' or None")
    if kind is None:
        return ""
    prompts = model.prompts or {}
    return prompts.get(kind) or prompts.get({"passage": "document"}.get(kind, kind)) or ""
