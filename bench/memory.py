"""Measure the memory that encoding a long corpus takes beside the model: a part of `make bench`, on Linux.

A process of its own encodes short texts from a generator into a memory map: a tenth of the corpus, all of it, and all
of it again in two processes, of which the first is interrupted half-way (SIGINT, as by Control-C). Writes
`bench/memory.json` and the table between its markers of `book/speed.md`.

    python bench/memory.py [--quick]

`--quick` takes few texts, to see that it works, and writes nothing.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import rrhelpers as rr

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from peak import growth  # noqa: E402
from timing import machine, put_between, timed, versions  # noqa: E402

BEGIN, END = "<!-- written by bench/memory.py: begin -->", "<!-- written by bench/memory.py: end -->"
TEXTS, QUICK = 200_000, 4_096
WORDS = (10, 9, 11)
GO_ON = "interrupted"


def texts(count: int) -> Iterator[str]:
    """Return a generator of different texts: about ten words in a row of the mini ai-arxiv."""
    passages = [text.split() for text in rr.load_papers("rrhelpers/data/mini-ai-arxiv")["chunk"]]
    rows = ((words, start, width) for width in WORDS for words in passages for start in range(len(words) - width + 1))
    return islice((" ".join(words[start : start + width]) for words, start, width in rows), count)


def encode(count: int, folder: Path, pipe) -> None:
    """Encode so many texts and send what it took; run in a process of its own, so that the peak is its own too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may have it ignored
    model = rr.load_bi_encoder()
    corpus = texts(count)
    rr.encode(model, list(texts(64)), cache=False)  # what a first call loads belongs to the model
    places = {"cache": folder / "blocks", "out": folder / "vectors.npy"}
    seconds = []

    def work() -> None:
        with suppress(KeyboardInterrupt):
            seconds.append(timed(lambda: rr.encode(model, corpus, total=count, **places)))

    pipe.send({"MB": round(growth(work)), "seconds": round(seconds[0], 1) if seconds else None})


def measure_one(count: int, folder: Path, stop_at: int | None = None) -> dict:
    """Return what encoding took; with `stop_at`, of a run that is interrupted when so many texts are in the cache."""
    ours, theirs = (context := get_context("spawn")).Pipe(duplex=False)
    process = context.Process(target=encode, args=(count, folder, theirs))
    process.start()
    if stop_at is not None:
        while found(folder) < stop_at and process.is_alive():
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
    result = ours.recv()
    process.join()
    return result


def found(folder: Path) -> int:
    """Return how many texts have their vectors in the cache."""
    return 1024 * len(list(folder.glob("blocks/*/*.vectors")))


def measure(count: int) -> dict:
    """Measure everything."""
    runs = {}
    for size in (count // 10, count):
        with TemporaryDirectory() as folder:
            runs[f"{size:,}"] = {"texts": size, **measure_one(size, Path(folder))}
    with TemporaryDirectory() as name:
        folder = Path(name)
        first = measure_one(count, folder, stop_at=count // 2)
        if first["seconds"] is not None:
            raise RuntimeError("the run that was to be interrupted came to its end")
        cached = found(folder)
        runs[GO_ON] = {"texts": count, "from the cache": cached, **measure_one(count, folder)}
    return {
        "machine": machine(),
        "device": str(rr.pick_device()),
        "precision": str(rr.pick_dtype()).removeprefix("torch."),
        "versions": versions(),
        "runs": runs,
    }


def table(result: dict) -> str:
    """Return the page's part."""
    lines = [["short texts", "memory beside the model, MB", "seconds", "texts a second"], ["---"] * 4]
    for run in result["runs"].values():
        cached = run.get("from the cache", 0)
        gone_on = f", interrupted and gone on after {cached:,}" if cached else ""
        rate = (run["texts"] - cached) / run["seconds"]
        lines.append([f"{run['texts']:,}{gone_on}", f"{run['MB']:,}", f"{run['seconds']:,.0f}", f"{rate:,.0f}"])
    used = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    how = (
        "Texts of about ten words from a generator, with `out=` and the cache; the most memory that the process held, "
        f"less what it held with the model loaded. {result['machine']}, {result['device']}, {result['precision']}; "
        f"{used}."
    )
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", how])


def main() -> None:
    """Measure, write the figures, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few texts, to see that it works; nothing is written")
    quick = parser.parse_args().quick
    result = measure(QUICK if quick else TEXTS)
    print(table(result))
    if not quick:
        (ROOT / "bench" / "memory.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        put_between(ROOT / "book" / "speed.md", BEGIN, END, table(result))


if __name__ == "__main__":
    main()
