"""`make gpu`: all that needs a GPU, in one command of at most eight minutes: the tests, and then the benchmark of the card.

Without the environment of `make`, where there are torch and the package's dependencies: `PYTHONPATH=src python -m tests.gpu`.
What it prints last is the summary. results/benchmarks/card.json has all numbers, and logs/gpu-tests.log the tests' output.
"""

import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MINUTES, TESTS = 8.0, 3.0
"""In all, and of the tests at most."""

NEWEST = "captured or killed or dense_adam or sums_by_row"
"""Tests that come first: where time runs out, those of what has run on a card before are left out."""


def main() -> int:
    """The status of the tests, or else of the benchmark."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="in all, at most")
    parser.add_argument("--movielens-1m", type=Path, help="ml-1m.zip, on which one search is done")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    log = ROOT / "logs" / "gpu-tests.log"
    log.parent.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    tests = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "--tb=short", "-p", "no:cacheprovider"]
    until, status, logged = time.monotonic() + 60 * TESTS, 0, ""
    for chosen in (NEWEST, f"not ({NEWEST})"):
        of_these, said = run([*tests, "-k", chosen], until - time.monotonic(), environment)
        status, logged = status or of_these, logged + said
        print("\n".join(said.splitlines()[-20:]), flush=True)
    log.write_text(logged)
    left = (end - time.monotonic()) / 60 - 0.25  # the benchmark's own imports
    command = [sys.executable, "-m", "benchmarks", "--card", "--device", options.device, "--minutes", f"{left:.2f}"]
    if options.movielens_1m:
        command += ["--movielens-1m", str(options.movielens_1m.resolve())]
    measured, said = run(command, end - time.monotonic() + 30, environment)
    print(said, flush=True)
    print(f"tests: {'passed' if status == 0 else f'status {status}, see {log}'}; benchmark: status {measured}")
    return status or measured


def run(command: list[str], seconds: float, environment: dict[str, str]) -> tuple[int, str]:
    """A command's status, 124 if it did not end in time, and what it said."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            said, _ = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.terminate()
            said, _ = process.communicate()
            return 124, f"{said}\n{command[2]}: stopped after {seconds:.0f} s"
    return process.returncode, said


if __name__ == "__main__":
    sys.exit(main())
