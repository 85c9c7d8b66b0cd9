"""Locks that keep processes from each other's files. The kernel frees them, however their holder ends.

A lock's file lies beside what it guards. So it also holds between checkouts that share a folder through a link or a
network. It is empty, stays when the lock is free, and is hidden from git and DVC by its name.
"""

import errno
import os
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from nisbench.errors import NisbenchError
from nisbench.files import check_writable, problem
from nisbench.logs import log

SNAKEMAKE = Path("results", "runs", ".snakemake.lock")
"""Held by a Snakemake at work; see workflow/rules/hooks.smk."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What flock answers where the file system has no locks: Lustre without -o flock, NFS without its lock daemon."""

LOCKS_OF_ONE_MACHINE = ("localflock", "local_lock=flock", "local_lock=all")
"""Mount options of Lustre and NFS."""


def beside(folder: Path) -> Path:
    """The lock of a step's or a report's folder, beside it, where it outlives the folder."""
    real = folder.resolve()
    return real.parent / f".{real.name}.lock"


def take(path: Path, *, wait: bool = False) -> FileLock | None:
    """The lock at `path`, once it is ours; None if another process has it and we do not `wait`.

    Where the file system has no locks, there is one warning, and the work goes on without. Raises `NisbenchError` where
    the file cannot be made.
    """
    lock = FileLock(path, fallback_to_soft=False)  # a lock file that was left behind would be waited for without end
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        if not path.exists():
            check_writable(path.parent)  # on some file systems, a file that cannot be made is said to be missing
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise NisbenchError(problem(error, path)) from error
        _warn(path.parent, error.errno)
    return lock


def of_one_machine(folder: Path) -> str | None:
    """The mount option by which locks on a network's file system keep off this machine's processes only; None if there is none."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return None
    options = {option for mount in mounts if mount[2] == number for option in f"{mount[5]},{mount[-1]}".split(",")}
    return next((option for option in LOCKS_OF_ONE_MACHINE if option in options), None)


@cache
def _warn(folder: Path, number: int) -> None:
    log.warning(
        "%s is on a file system without locks (%s). Until this has ended, start nothing else that writes there.",
        folder,
        os.strerror(number).lower(),
    )
