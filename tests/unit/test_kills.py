"""Encoding in processes that are killed. Nothing is lost, and nothing is half-written."""

import hashlib
import os
import random
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


def files(where: Path) -> list[Path]:
    """Return the finished blocks in a cache folder."""
    return sorted(where.glob("*/*.vectors"))


def test_killed_at_random_moments(folder, small, tmp_path):
    """50 runs are killed; every block on the disk is whole, and what they left gives the right result."""
    where, out = tmp_path / "blocks", tmp_path / "vectors.npy"
    expected = rr.encode(small, many_texts(), cache=False, progress=False)
    rng = random.Random(7)
    server = serve(folder, where, out)
    try:
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
            child = start(server)
            time.sleep(rng.uniform(0, whole_run / 3))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            assert server.stdout.readline() == "ended\n"
            interrupted += not out.exists()
            for path in files(where):
                data = path.read_bytes()
                assert hashlib.sha256(data[32:]).digest() == data[:32], f"{path} is half-written"
        assert interrupted > KILLS / 2, "too few runs were killed before their end for this test to mean anything"
        assert not out.with_suffix(".error").exists()
    finally:
        server.stdin.close()
        server.wait(30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = rr.encode(small, many_texts(), cache=where, out=tmp_path / "resumed.npy", progress=False)
    assert (np.asarray(resumed) == expected).all()
