"""The life of a step: lock it, check what it reads, run it, record what it made.

A step that is killed at any moment is either done or to be done again. Its files are placed whole, its record comes last, and what
it has saved to resume from stays until the record is written.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nisbench import locks, memory, records
from nisbench.errors import NisbenchError
from nisbench.files import write_text
from nisbench.logs import log
from nisbench.steps import Step
from nisbench.wiring import WORK, is_whole


def run_step(step: Step, threads: int = 1) -> None:
    """Do a step's work, anew if it is done, unless another process has just done it.

    Raises `NisbenchError` if a file that it reads is missing or damaged; then nothing is lost of what it made before. Why a step
    failed is kept beside its files until it is done, for reports (`records.why_not_done`).
    """
    with at_work(step.folder, step.needs.values()) as waited:
        if waited and records.done(step):
            log.info("already finished by another process")
            return
        try:
            for needed in step.needs.values():
                records.check(needed)
            if is_whole(step):
                log.info("the files are there already, and are the right ones")
            else:
                records.delete_outputs(step)
                delete_leftovers(step.folder)
                WORK[step.name](step, threads)
        except Exception as error:
            told = NisbenchError(memory.advice(step.name, error)) if memory.has_run_out(error) else error
            text = str(told) if isinstance(told, NisbenchError) else f"{type(error).__name__}: {error}"
            with suppress(NisbenchError):  # the disk may be full
                write_text(records.failure(step), f"{text}\n")
            if told is error:
                raise
            raise told from error
        _finish(step)


def run_with_inputs(step: Step, threads: int = 1) -> None:
    """Do a step and, before it, all that it needs and that is not done yet."""
    if not records.done(step):
        for needed in step.needs.values():
            run_with_inputs(needed, threads)
        run_step(step, threads)


@contextmanager
def at_work(folder: Path, reads: Iterable[Step]) -> Iterator[bool]:
    """Keep other processes from a step's or a report's folder while it is made from other steps' files.

    Yields whether another process had to be waited for.
    """
    lock = locks.take(locks.beside(folder))
    waited = lock is None
    if lock is None:
        log.info("another process is at this step; waiting for it to end")
        lock = locks.take(locks.beside(folder), wait=True)
    try:
        reads = tuple(reads)
        records.date_back(reads)
        yield waited
        with suppress(NisbenchError):
            records.date_back(reads)  # the clock may have been set back meanwhile
    finally:
        if lock:
            lock.release()


def delete_leftovers(folder: Path) -> None:
    """Remove half-written files that a killed process left."""
    _delete(*folder.glob(".*.part"), *folder.glob(".download-*"))


def _finish(step: Step) -> None:
    """Record that the step is done, and then remove what was saved to resume from."""
    records.write(step)
    _delete_others(step)


def _delete_others(step: Step) -> None:
    _delete(*(left for left in step.folder.iterdir() if str(left) not in step.paths()))


def _delete(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
