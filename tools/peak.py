"""How much memory this process holds and held at most. Linux only: read from /proc, where a child starts from nothing.

(`resource.getrusage` begins a child with the peak of its parent.)
"""

import gc
from collections.abc import Callable
from pathlib import Path

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def megabytes(name: str) -> float:
    """Return VmRSS, what the process holds, or VmHWM, the most that it held."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def growth(work: Callable[[], object]) -> float:
    """Return by how many MB memory grew while `work` ran, at the most."""
    gc.collect()
    FORGET.write_text("5")  # the most from now on
    before = megabytes("VmRSS")
    work()
    return megabytes("VmHWM") - before
