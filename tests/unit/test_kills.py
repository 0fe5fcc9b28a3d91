"""Encoding in processes that are killed. Nothing is lost, and nothing is half-written."""

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
def run(folder, tmp_path_factory):
    """Return a process that encodes on demand, its cache folder and the file that it writes."""
    place = tmp_path_factory.mktemp("run")
    where, out = place / "blocks", place / "vectors.npy"
    server = serve(folder, where, out)
    yield server, where, out
    server.stdin.close()
    server.wait(30)


@pytest.fixture
def fresh_run(run):
    """Return the same, with nothing encoded yet."""
    _, where, out = run
    shutil.rmtree(where, ignore_errors=True)
    out.unlink(missing_ok=True)
    return run


def leftovers(folder: Path) -> list[Path]:
    """Return what killed runs left beside the file that they were to write."""
    return list(folder.glob("*.tmp"))


def wait_for(condition, seconds: float = 60) -> None:
    """Return when the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_killed_at_random_moments(fresh_run, small):
    """50 runs are killed; every block on the disk is whole, and what they left gives the right result."""
    server, where, out = fresh_run
    expected = rr.encode(small, many_texts(), cache=False, progress=False)
    rng = random.Random(7)
    start(server)
    began = time.monotonic()
    assert server.stdout.readline() == "ended\n"
    whole_run = time.monotonic() - began
    interrupted = 0
    for _ in range(KILLS):
        if out.exists():  # the last run came to its end before it was killed: begin afresh
            out.unlink()
            for path in files(where):
                path.unlink()
        [child] = start(server)
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


def test_interrupted_at_random_moments(fresh_run, small):
    """Control-C leaves finished blocks and nothing else, and the next run takes them."""
    server, where, out = fresh_run
    rng = random.Random(7)
    interrupted = 0
    for _ in range(INTERRUPTS):
        shutil.rmtree(where, ignore_errors=True)
        [child] = start(server)
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
