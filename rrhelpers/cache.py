"""Vectors on disk, block by block, found again by what they were computed from.

A corpus is cut into blocks of 1,024 texts, and a block's file is named after a hash of all that
decides its vectors: the model's weights, tokenizer, pooling and maximum length, the prefix and the
texts. So there is no state to get out of step. A run that was killed finds its finished blocks
again, a corpus that grew computes its new blocks only, a generator needs no length, and two
processes that encode the same corpus write the same files. The hash sees the weights rounded to
bfloat16: vectors computed on a GPU in bfloat16 serve a laptop that computes in float32 (they agree
to a cosine of 0.999 or better).

A file is a sha256 digest followed by safetensors bytes, written beside its place and then moved
there whole; a file whose digest doesn't fit is reported and computed again.
"""

import hashlib
import os
import secrets
import shutil
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

_DIGEST_BYTES = 32
_STALE_SECONDS = 3600


def cache_folder() -> Path:
    """Return the cache's folder: ``RRHELPERS_CACHE``, else ``rrhelpers`` in the user's cache folder."""
    chosen = os.environ.get("RRHELPERS_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "rrhelpers"


def clear_cache() -> None:
    """Delete all cached vectors. They can always be computed again."""
    shutil.rmtree(cache_folder() / "vectors", ignore_errors=True)


def model_key(model, prefix: str) -> str:
    """Return a hash of everything about `model` that decides the vector of a text.

    Parameters
    ----------
    model : sentence_transformers.SentenceTransformer
    prefix : str
        What is put before each text.
    """
    import torch

    digest = hashlib.sha256(f"{model!r} {model.max_seq_length} {prefix!r}".encode())
    if hasattr(model.tokenizer, "backend_tokenizer"):
        digest.update(_without_batch_settings(model.tokenizer.backend_tokenizer))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if tensor.is_floating_point():
            tensor = tensor.detach().to(torch.bfloat16).view(torch.int16)
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()))
    return digest.hexdigest()


def _without_batch_settings(tokenizer) -> bytes:
    # Truncation and padding are left over from the last call; they say nothing about the model, and stand
    # before all that does. (To parse the whole vocabulary took longer than to find a small corpus's vectors.)
    settings = tokenizer.to_str()
    return settings[settings.index('"added_tokens"') :].encode()


def block_key(of_model: str, texts: list[str]) -> str:
    """Return the name of the block of these texts under this model."""
    digest = hashlib.sha256(of_model.encode())
    for text in texts:
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)  # ["ab", "c"] is not ["a", "bc"]
    return digest.hexdigest()


class BlockCache:
    """Blocks of vectors in a folder. No failure here ever loses a result: it warns and goes on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._writable = True
        self._sweep()

    def get(self, key: str, rows: int, dimension: int) -> dict[str, np.ndarray] | None:
        """Return the block, or None if there is none or it is damaged (with a warning)."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            warnings.warn(f"cannot read the cached vectors in {path} ({error}): computing them", stacklevel=4)
            return None
        if hashlib.sha256(data[_DIGEST_BYTES:]).digest() == data[:_DIGEST_BYTES]:
            block = load(data[_DIGEST_BYTES:])
            if block["vectors"].shape == (rows, dimension):
                return block
        warnings.warn(f"the cached vectors in {path} are damaged: computing them again", stacklevel=4)
        return None

    def put(self, key: str, block: dict[str, np.ndarray]) -> None:
        """Write the block whole or not at all; warn once if the disk won't have it."""
        if not self._writable:
            return
        path = self._path(key)
        payload = save({name: np.ascontiguousarray(array) for name, array in block.items()})
        temporary = path.with_name(f"{key}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"cannot write to the cache folder {self.folder} ({error.strerror or error}): going on without; "
                "vectors are returned but won't be found next time",
                stacklevel=4,
            )
        finally:  # it is still there when writing failed or was interrupted
            with suppress(OSError):
                temporary.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.vectors"

    def _sweep(self) -> None:
        """Remove what killed runs left half-written; an hour is longer than any write takes."""
        for path in self.folder.glob("*/*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except OSError:  # another process was faster, or the folder is read-only
                continue
