"""What may go wrong while encoding: errors, damaged files, full disks, leftovers. Nothing is lost."""

import fcntl
import hashlib
import os
import resource
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import rrhelpers as rr
from rrhelpers import cache, encoding

pytestmark = pytest.mark.usefixtures("small_blocks")


def files(where: Path) -> list[Path]:
    """Return the finished blocks in a cache folder."""
    return sorted(where.glob("*/*.vectors"))


def test_goes_on_where_it_stopped(small, texts, tmp_path, monkeypatch):
    """An interrupted run keeps its finished blocks, and the next one computes the others only."""
    computed = []
    real = encoding._Encoder.__call__

    def count(self, batch, done):
        if len(computed) == 5:
            raise KeyboardInterrupt
        computed.append(len(batch))
        return real(self, batch, done)

    monkeypatch.setattr(encoding._Encoder, "__call__", count)
    with pytest.raises(KeyboardInterrupt):
        rr.encode(small, texts, cache=tmp_path)
    assert len(files(tmp_path)) == 5
    monkeypatch.setattr(encoding._Encoder, "__call__", real)
    again = []
    monkeypatch.setattr(encoding._Encoder, "__call__", lambda s, b, d: again.append(len(b)) or real(s, b, d))
    rr.encode(small, texts, cache=tmp_path)
    assert sum(computed) + sum(again) == len(texts)


def test_what_is_cached_is_not_computed(small, texts, tmp_path, monkeypatch):
    first = rr.encode(small, texts, cache=tmp_path)
    monkeypatch.setattr(encoding._Encoder, "__call__", lambda *a: pytest.fail("computed again"))
    assert (rr.encode(small, texts, cache=tmp_path) == first).all()
    assert (rr.encode(small, (text for text in texts), cache=tmp_path) == first).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda m, t: t.__setitem__(40, "another text"),
        lambda m, t: setattr(m, "max_seq_length", 8),
        lambda m, t: m[0].auto_model.embeddings.word_embeddings.weight.data.mul_(1.5),
        lambda m, t: setattr(m[1], "pooling_mode", "cls"),
        lambda m, t: m.prompts.update(query="read "),
        lambda m, t: setattr(m.tokenizer.backend_tokenizer, "normalizer", None),
    ],
    ids=["text", "maximum length", "weights", "pooling", "prefix", "tokenizer"],
)
def test_what_decides_a_vector_is_in_its_key(folder, texts, tmp_path, change):
    """With anything changed that decides vectors, none of the old ones come back."""
    changed, texts = rr.load_bi_encoder(str(folder), device="cpu", dtype=torch.float32), list(texts)
    before = rr.encode(changed, texts, cache=tmp_path, kind="query")
    change(changed, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # truncated texts
        after = rr.encode(changed, texts, cache=tmp_path, kind="query")
        expected = rr.encode(changed, texts, cache=False, kind="query")
    assert (after == expected).all()
    assert (after != before).any()


def test_what_the_last_call_left_in_the_tokenizer_is_not_in_the_key(folder, texts, tmp_path, monkeypatch):
    model = rr.load_bi_encoder(str(folder), device="cpu", dtype=torch.float32)
    first = rr.encode(model, texts, cache=tmp_path)
    model.tokenizer.backend_tokenizer.enable_truncation(5)
    model.tokenizer.backend_tokenizer.enable_padding(length=7)
    monkeypatch.setattr(encoding._Encoder, "__call__", lambda *a: pytest.fail("computed again"))
    assert (rr.encode(model, texts, cache=tmp_path) == first).all()


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "empty", "of another shape"])
def test_a_damaged_file_is_computed_again(small, texts, tmp_path, damage):
    expected = rr.encode(small, texts, cache=tmp_path)
    path = files(tmp_path)[3]
    data = bytearray(path.read_bytes())
    if damage == "flipped byte":
        data[len(data) // 2] ^= 1
    elif damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = b""
    else:
        payload = cache.save({"vectors": np.zeros((1, 2), np.float32)})
        data = hashlib.sha256(payload).digest() + payload
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=f"{path.name} are damaged"):
        assert (rr.encode(small, texts, cache=tmp_path) == expected).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (rr.encode(small, texts, cache=tmp_path) == expected).all()


def test_a_read_only_cache_folder(small, texts):
    """Nobody, not even root, makes folders in /sys."""
    with pytest.warns(UserWarning, match="cannot write to the cache folder") as caught:
        vectors = rr.encode(small, texts, cache="/sys/rrhelpers")
    assert len(caught) == 1
    assert (vectors == rr.encode(small, texts, cache=False)).all()


@contextmanager
def full_disk():
    """Let the kernel refuse every write beyond 1,000 bytes into a file, as a full disk does.

    Not a fixture: pytest prints each result before it tears fixtures down, and its own output may go to a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_under_the_cache(small, texts, tmp_path):
    with full_disk(), pytest.warns(UserWarning, match="cannot write to the cache folder") as caught:
        vectors = rr.encode(small, texts, cache=tmp_path)
    assert len(caught) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert (vectors == rr.encode(small, texts, cache=False)).all()


def test_a_full_disk_under_the_output(small, texts, tmp_path):
    """There the file is what was asked for: it is an error, and no half of it is left."""
    with full_disk(), pytest.raises(OSError, match="too large"):
        rr.encode(small, texts, cache=False, out=tmp_path / "vectors.npy")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_runs_are_swept(small, texts, tmp_path):
    rr.encode(small, texts, cache=tmp_path)
    old, new = (files(tmp_path)[0].with_name(f"{name}.tmp") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half a block")
    os.utime(old, (time.time() - 7200,) * 2)
    rr.encode(small, texts, cache=tmp_path)
    assert not old.exists()
    assert new.exists(), "another process may still be writing this one"


def test_leftovers_beside_the_output_are_swept(small, texts, tmp_path):
    """Those of killed runs at once; that of another run that goes on never."""
    names = ("vectors.npy.dead.tmp", "vectors.npy.live.tmp", "other.npy.dead.tmp")
    dead, live, other = (tmp_path / name for name in names)
    for path in (dead, live, other):
        path.write_bytes(b"half a file")
    with live.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rr.encode(small, texts, out=tmp_path / "vectors.npy")
    assert sorted(tmp_path.glob("*.tmp")) == sorted([live, other])


def test_an_output_that_cannot_be_put_in_its_place(small, texts, tmp_path):
    (tmp_path / "vectors.npy").mkdir()
    with pytest.raises(IsADirectoryError):
        rr.encode(small, texts, out=tmp_path / "vectors.npy")
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("writable", [True, False])
def test_a_nameless_map_needs_no_cache_folder(small, texts, own_cache, monkeypatch, writable):
    if not writable:
        monkeypatch.setenv("RRHELPERS_CACHE", "/sys/rrhelpers")
    monkeypatch.setattr(encoding, "_MEMORY_LIMIT", 1)
    vectors = rr.encode(small, texts, cache=False)
    assert isinstance(vectors, np.memmap)
    assert not vectors.flags.writeable
    assert own_cache.exists() == writable
    assert list(own_cache.glob("*")) == []
    assert (vectors == rr.encode(small, texts, cache=False, out=own_cache.parent / "vectors.npy")).all()


def test_clear_cache(small, texts, own_cache):
    rr.encode(small, texts)
    assert files(own_cache / "vectors")
    rr.clear_cache()
    assert not (own_cache / "vectors").exists()
