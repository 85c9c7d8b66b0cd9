"""Memory: refuse what cannot fit before it is allocated, and say what to lower when it has run out."""

from pathlib import Path

import psutil

from nisbench.errors import NisbenchError

LOWER = {
    "prepare": "the size of a generated data set (datasets.<name>.instances, users, items, rank), or the number of different "
    "tokens that are kept (min_count)",
    "search": "training.base_dimension, training.batch_size or training.fused_trials",
    "prune": "training.base_dimension or training.batch_size",
}
"""What takes memory, by step."""

RESERVE = 0.1
"""Of a machine's memory, for all that is no job of ours."""

PROCESS = 400 << 20
"""Bytes of a process that has loaded torch and works on small data."""


def require(needed: float, what: str, lower: str) -> None:
    """Raise `NisbenchError` if `what` needs more bytes than the machine has in all."""
    there = total()
    if needed > there:
        raise NisbenchError(
            f"{what} would take {needed / 2**30:,.1f} GiB of memory, and this machine has {there / 2**30:,.1f}. Lower {lower}."
        )


def limit(gib: float | None) -> int:
    """Bytes that a job may hold, by the setting ``training.memory_limit``: what the machine has, less a reserve, if it is None."""
    return int(total() * (1 - RESERVE) if gib is None else gib * 2**30)


def total() -> int:
    """Bytes that the machine has, or that a container may use of them."""
    installed: int = psutil.virtual_memory().total
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return installed
    return min(installed, int(allowed)) if allowed.isdigit() else installed


def of_training(features: int, columns: int) -> int:
    """Bytes that training a table takes on a CPU, without the instances.

    These are the process and five tables: weights, gradients where they are dense, Adam's two moments and the best weights so far.
    """
    return PROCESS + 4 * features * columns * 5


def of_pruning(features: int, columns: int) -> int:
    """Bytes that pruning a table takes, without the instances: raw and effective weights, how important they are, and two copies."""
    return PROCESS + 4 * features * columns * 5


def has_run_out(error: BaseException) -> bool:
    """Whether an error says that there was no memory left: Python's, NumPy's, Arrow's or torch's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def advice(step: str | None, error: BaseException) -> str:
    """One message for the user."""
    lower = LOWER.get(step or "", LOWER["search"])
    first = next(iter(str(error).splitlines()), "")
    detail = f"\n{first[:200]}" if first else ""
    return f"out of memory. Lower {lower}; or ask snakemake for fewer --cores, so that fewer jobs share it.{detail}"
