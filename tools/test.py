"""Run the kinds of tests one after the other, all of them even if one fails, and count: `make test`."""

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from time import monotonic

from chapters import ENVIRONMENT, ROOT, notebooks

KINDS = ("lint", "unit", "repo", "engine", "nbval", "hub", "browser")
# What encodes and reranks must hold with the optional engine, too; tests that look into PyTorch, or kill, are left out.
ENGINE_TESTS = [
    *("-k", "not out_of_memory and not by_default and not at_random"),
    *(f"tests/unit/test_{name}.py" for name in ("openvino", "encode", "rerank", "adapters", "faults", "processes")),
]
# In this order: what waits for other processes comes first, so that neither worker is left alone with it.
UNIT_TESTS = ["tests/unit/test_processes.py", "tests/unit"]


def main() -> None:
    """Run the kinds named on the command line, or all."""
    chosen = sys.argv[1:] or KINDS
    if unknown := set(chosen) - set(KINDS):
        raise SystemExit(f"no such kind of test: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory() as folder:
        counts = {kind: run(kind, Path(folder)) for kind in chosen}
    print(f"\n{'kind':10}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for kind, (passed, failed, skipped, seconds) in counts.items():
        print(f"{kind:10}{passed:8}{failed:8}{skipped:9}{seconds:9.0f}")
    passed, failed, skipped = (sum(column) for column in list(zip(*counts.values(), strict=True))[:3])
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed or not passed else 0)


def run(kind: str, folder: Path) -> tuple[int, int, int, float]:
    """Run one kind; return passed, failed, skipped and seconds."""
    print(f"\n== {kind} ==", flush=True)
    started = monotonic()
    environment = os.environ | ENVIRONMENT | {"RRHELPERS_CACHE": str(folder / f"cache-{kind}")}
    if kind == "lint":
        passed, failed, skipped = lint(environment)
    else:
        passed, failed, skipped = pytest(kind, folder, environment)
    return passed, failed, skipped, monotonic() - started


def lint(environment) -> tuple[int, int, int]:
    """Check the style of the code, and that everything derived from the address agrees with it."""
    checks = [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "tools/address.py", "--check"],
    ]
    codes = [subprocess.run(check, cwd=ROOT, env=environment, check=False).returncode for check in checks]
    return codes.count(0), len(codes) - codes.count(0), 0


def pytest(kind: str, folder: Path, environment) -> tuple[int, int, int]:
    """Run pytest on one kind and read its counts from the report."""
    report = folder / f"{kind}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--durations=3", f"--junitxml={report}"]
    if kind == "nbval":
        # Each chapter in a folder of its own with nothing else in it: it must run from the package alone.
        alone = folder / "chapters"
        for path in notebooks():
            (alone / path.stem).mkdir(parents=True)
            shutil.copy(path, alone / path.stem)
        command += ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", f"--rootdir={alone}", "-p"]
        command += ["no:cacheprovider", f"--nbval-sanitize-with={ROOT / 'tests/notebooks/sanitize.cfg'}"]
        command += ["-n2", "--dist=loadfile", str(alone)]
    else:
        if kind == "engine":
            # OpenVINO lies in a folder of its own: nothing else in .venv is to find it.
            environment |= {"RRHELPERS_ENGINE": "openvino", "PYTHONPATH": str(ROOT / ".venv" / "bench")}
        command += {
            "engine": ["-n2", "--dist=loadfile", *ENGINE_TESTS],
            "unit": ["-n2", "--dist=loadfile", "--no-loadscope-reorder", *UNIT_TESTS],
            "repo": ["-n2", "--dist=loadfile", "tests/notebooks"],
            "hub": ["-n2", "tests/hub"],  # they wait for refused connections most of the time
            "browser": ["tests/browser"],
        }[kind]
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
    except (FileNotFoundError, ElementTree.ParseError):  # pytest itself fell over
        return 0, 1, 0
    total, failures, errors, skipped = (int(suite.get(k)) for k in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    if code and not failed:  # a crash, or no test at all
        failed = 1
    return total - failures - errors - skipped, failed, skipped


if __name__ == "__main__":
    main()
