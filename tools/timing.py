"""What the benchmarks share: works timed in turn within each round, spread, and what they ran on."""

import platform
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import torch


def machine() -> str:
    """Return the processor's name and how many threads were used."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {name: version(name) for name in ("torch", "sentence-transformers", "transformers")}


def timed(work) -> float:
    """Return seconds."""
    started = perf_counter()
    work()
    return perf_counter() - started


def in_turn(works: dict, rounds: int, *, warm_up: bool = True) -> dict[str, list[float]]:
    """Return the seconds of each work in every round, after a round that isn't counted, if there is to be one."""
    for work in works.values() if warm_up else ():
        work()
    seconds = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return seconds


def spread(values) -> list[float]:
    """Return median, smallest and largest."""
    return [round(float(v), 4) for v in (np.median(values), np.min(values), np.max(values))]


def put_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
