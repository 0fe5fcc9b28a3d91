"""Encoding in processes that are killed, interrupted or two at once. Nothing is lost, and nothing is half-written."""

import hashlib
import os
import random
import shutil
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from killable import serve, start
from killable import texts as many_texts

import rrhelpers as rr

pytestmark = pytest.mark.usefixtures("small_blocks")
KILLS = 50
INTERRUPTS = 10


def files(where: Path) -> list[Path]:
    """Return the finished blocks in a cache folder."""
    return sorted(where.glob("*/*.vectors"))


@pytest.fixture(scope="module")
def server(folder):
    """Return a process that encodes on demand."""
    process = serve(folder)
    yield process
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.fixture
def where(tmp_path) -> Path:
    """Return a cache folder of the test's own."""
    return tmp_path / "blocks"


@pytest.fixture
def out(tmp_path) -> Path:
    """Return the file to write."""
    return tmp_path / "vectors.npy"


def leftovers(folder: Path) -> list[Path]:
    """Return what killed runs left beside the file that they were to write."""
    return list(folder.glob("*.tmp"))


def wait_for(condition, seconds: float = 60) -> None:
    """Return when the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_killed_at_random_moments(server, where, out, small):
    """50 runs are killed; every block on the disk is whole, and what they left gives the right result."""
    expected = rr.encode(small, many_texts(), cache=False, progress=False)
    rng = random.Random(7)
    start(server, where, out)
    began = time.monotonic()
    assert server.stdout.readline() == "ended\n"
    whole_run = time.monotonic() - began
    interrupted = 0
    for _ in range(KILLS):
        if out.exists():  # the last run came to its end before it was killed: begin afresh
            out.unlink()
            for path in files(where):
                path.unlink()
        [child] = start(server, where, out)
        time.sleep(rng.uniform(0, whole_run / 3))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        assert server.stdout.readline() == "ended\n"
        interrupted += not out.exists()
        assert len(leftovers(out.parent)) <= 1, "each run removes what the one before it left"
        for path in files(where):
            data = path.read_bytes()
            assert hashlib.sha256(data[32:]).digest() == data[:32], f"{path} is half-written"
    assert interrupted > KILLS / 2, "too few runs were killed before their end for this test to mean anything"
    assert not out.with_suffix(".error").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = rr.encode(small, many_texts(), cache=where, out=out, progress=False)
    assert (np.asarray(resumed) == expected).all()
    assert leftovers(out.parent) == []


def test_interrupted_at_random_moments(server, where, out, small):
    """Control-C leaves finished blocks and nothing else, and the next run takes them."""
    rng = random.Random(7)
    interrupted = 0
    for _ in range(INTERRUPTS):
        shutil.rmtree(where, ignore_errors=True)
        [child] = start(server, where, out)
        wait_for(lambda: len(files(where)) >= 2)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGINT)
        assert server.stdout.readline() == "ended\n"
        interrupted += not out.exists()
        out.unlink(missing_ok=True)
        assert list(out.parent.iterdir()) == [where]
        assert [path for path in where.glob("*/*") if path.suffix != ".vectors"] == []
    assert interrupted > INTERRUPTS / 2, "too few runs were interrupted before their end"
    kept = {path: path.stat().st_ino for path in files(where)}
    rr.encode(small, iter(many_texts()), cache=where, out=out, progress=False)
    assert {path: path.stat().st_ino for path in kept} == kept, "finished blocks were computed again"


def test_two_at_once(server, where, tmp_path, small):
    """Two processes that encode the same corpus with one cache give the same, and leave the cache whole."""
    outs = [tmp_path / f"{name}.npy" for name in "ab"]
    assert len(set(start(server, where, *outs))) == 2
    assert server.stdout.readline() == "ended\n"
    assert not any(out.with_suffix(".error").exists() for out in outs)
    expected = rr.encode(small, many_texts(), cache=False, progress=False)
    for out in outs:
        assert (np.load(out) == expected).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (rr.encode(small, many_texts(), cache=where, progress=False) == expected).all()
