"""Run `encode` in child processes and say their ids, at every line on standard input.

    python killable.py MODEL

A line has the cache folder and one or more files to write, separated by tabs; each file gets a process.

Importing torch takes seconds and forking doesn't, so a test can start and kill many runs.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

import rrhelpers as rr
from rrhelpers import encoding


def texts(n: int = 800) -> list[str]:
    """Return many different texts, some of them long."""
    return [f"passage {i} of the reward model " + "to read a query " * (i % 9) for i in range(n)]


def serve(folder):
    """Start the process that encodes on demand."""
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start(server, where, *outs) -> list[int]:
    """Begin a run for each file to write and return their process ids."""
    server.stdin.write("\t".join(map(str, (where, *outs))) + "\n")
    server.stdin.flush()
    return [int(child) for child in server.stdout.readline().split()]


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may have it ignored
    torch.set_num_threads(1)  # no thread pool, so forking is safe
    encoding.BLOCK = 16
    model = rr.load_bi_encoder(sys.argv[1], device="cpu", dtype=torch.float32)
    for line in sys.stdin:
        cache, *outs = line.rstrip("\n").split("\t")
        children = [child(model, cache, out) for out in outs]
        print(*children, flush=True)
        for number in children:
            os.waitpid(number, 0)
        print("ended", flush=True)
    os._exit(0)  # taking torch down takes seconds


def child(model, cache: str, out: str) -> int:
    """Fork a process that encodes, and return its id."""
    if number := os.fork():
        return number
    try:
        rr.encode(model, iter(texts()), cache=cache, out=out, progress=False)
    except KeyboardInterrupt:
        os._exit(1)
    except BaseException as error:
        Path(out).with_suffix(".error").write_text(repr(error))
    os._exit(0)


if __name__ == "__main__":
    main()
