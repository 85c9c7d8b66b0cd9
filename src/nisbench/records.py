"""What a step leaves beside its results: ``step.json``, written last. A step is done when it exists.

It says what was computed, from what, by which code, and what is in each file, so that a file that was damaged since is found when
it is used.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from os.path import exists
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nisbench.errors import NisbenchError, shortened
from nisbench.files import DELETE, bad_file, sha256_sum, write_json
from nisbench.identity import PACKAGE, canonical_json
from nisbench.params.step_settings import PruneSettings
from nisbench.run_files import Count, PruneRun, RunFile, SearchRun, read_as, read_pruning, read_search
from nisbench.steps import Step, hashed_form

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileSum(RunFile):
    sha256: Hash
    bytes: Count


class Record(RunFile):
    id: str
    step: str
    dataset: str
    label: str
    settings: dict[str, Any]
    needs: dict[str, str]
    """The ids of the steps whose files were read, by name."""
    code: dict[str, Any]
    """What of the code entered the id: the hashes of the kinds' sources, and the core's version; see `nisbench.identity`."""
    commit: str | None
    """Of the project's git repository, where the code was run in one; "+" if the files under src/ were changed since."""
    time: str
    files: dict[str, FileSum]
    cores: Count | None = None
    """Of the machine that the step ran on. Records of older versions do not say."""


def write(step: Step) -> None:
    """Record that a step is done, now that all its files exist."""
    record = Record(
        id=step.id,
        **_identity(step),
        commit=commit(),
        time=now(),
        cores=os.cpu_count(),
        files={name: sums_of(step.path(key)) for key, name in step.files.items()},
    )
    write_json(step.record, record.model_dump(mode="json"))


def _identity(step: Step) -> dict[str, Any]:
    """What a record says of a step that its id is made of."""
    return {
        "step": step.name,
        "dataset": step.dataset,
        "label": step.label,
        "settings": hashed_form(step),
        "needs": {name: needed.id for name, needed in step.needs.items()},
        "code": step.code,
    }


def read(path: Path) -> Record:
    """Raises `NisbenchError` if the file is not a record, and `FileNotFoundError` if it does not exist."""
    return read_as(Record, path)


def check(step: Step) -> Record:
    """The record of a step that is done, once its files are seen to be what was written; else `NisbenchError`."""
    try:
        record = read(step.record)
    except FileNotFoundError:
        raise NisbenchError(f"{step.record} is missing. Make it with: nisbench {step.name} {step.id}") from None
    except NisbenchError as error:
        raise NisbenchError(f"{str(error).removesuffix(DELETE)}. {_remedy(step)}") from error
    if record.id != step.id or set(record.files) != set(step.files.values()):
        raise NisbenchError(f"{step.record} is of another step ({shortened(record.id)}). {_remedy(step)}")
    for key, value in _identity(step).items():
        if canonical_json(getattr(record, key)) != canonical_json(value):
            raise NisbenchError(
                f"{step.record} is damaged or was changed: its {key} are not the step's. {_remedy(step)}"
            )
    for name, written in record.files.items():
        file = step.folder / name
        if not file.is_file():
            what = "is not a file" if file.exists() else "is missing"
            raise NisbenchError(f"{file} {what}, but it was written. {_remedy(step)}")
        found = sums_of(file)
        if found != written:
            resized = found.bytes != written.bytes
            what = f"{found.bytes} bytes, not {written.bytes}" if resized else "another SHA-256 sum"
            raise NisbenchError(f"{file} is damaged or was changed: it has {what}. {_remedy(step)}")
    return record


def search_result(step: Step) -> SearchRun:
    """A search's result, once its files are seen to be what was written."""
    return _search_result(step, _state(step))


def pruning_result(step: Step) -> PruneRun:
    """A pruning's result, likewise. Raises `NisbenchError` if its metrics are not the task's."""
    return _pruning_result(step, _state(step))


def _state(step: Step) -> tuple[tuple[int, int, int] | None, ...]:
    """Size, time and inode of a step's files. A report asks for the same results several times, and reads and checks them once."""
    return tuple(map(_state_of, step.paths()))


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands of files
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


@cache
def _search_result(step: Step, _files: tuple[tuple[int, int, int] | None, ...]) -> SearchRun:
    check(step)
    return read_search(step.path("run"))


@cache
def _pruning_result(step: Step, _files: tuple[tuple[int, int, int] | None, ...]) -> PruneRun:
    check(step)
    run, settings = read_pruning(step.path("run")), step.settings
    assert isinstance(settings, PruneSettings)
    expected = {metric.name for metric in settings.task.metrics}
    if not run.failed and run.metrics.keys() != expected:
        raise bad_file(
            step.path("run"), f"metrics: {shortened(', '.join(run.metrics))}, not {', '.join(sorted(expected))}"
        )
    return run


def done(step: Step) -> bool:
    return all(map(exists, step.paths()))


def failure(step: Step) -> Path:
    """Where `nisbench.execution` says why a step failed, until it is done."""
    return step.folder / "failed.txt"


def why_not_done(step: Step) -> str | None:
    """What keeps a step from being done: the first of those below it that failed, or that is not done; None if it is done."""
    missing = [] if done(step) else [each for each in step.upstream() if not done(each)]
    for each in missing:
        if failure(each).is_file():
            return f"{each.title()} failed: {failure(each).read_text(encoding='utf-8').strip()}"
    return f"{missing[0].title()} is not done" if missing else None


def delete_outputs(step: Step) -> None:
    """Delete a step's files, and then its record: if this is cut short, damaged files are still known to be damaged."""
    for path in map(Path, step.paths()):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def remove(step: Step) -> None:
    """Delete a step's folder."""
    delete_outputs(step)
    shutil.rmtree(step.folder, ignore_errors=True)


def sums_of(file: Path) -> FileSum:
    return FileSum(sha256=sha256_sum(file), bytes=file.stat().st_size)


def date_back(steps: Iterable[Step]) -> None:
    """Date the files of steps that are dated in the future to now.

    When a job ends, Snakemake calls it failed if a file that it read is younger than what it made, even a file whose time
    it was told to ignore. Raises `NisbenchError` if a date may not be changed.
    """
    for step in steps:
        for path in map(Path, step.paths()):
            for follow in (True, False):  # DVC may have put a link there
                with suppress(FileNotFoundError):
                    if path.stat(follow_symlinks=follow).st_mtime > time.time():
                        _date_to_now(path, follow)


def _date_to_now(path: Path, follow_symlinks: bool) -> None:
    try:
        os.utime(path, follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NisbenchError(
            f"{path} is dated in the future, and its date may not be changed. Snakemake would call each job that reads it "
            f"failed. Set the clock right, or have its owner run: touch {path}"
        ) from error


def _remedy(step: Step) -> str:
    return f"To make it again: nisbench verify --remove {step.id}, and run the same command"


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@cache
def commit() -> str | None:
    """The commit of the code that runs, if it runs from the project's git repository."""
    git = shutil.which("git")
    if not git or PACKAGE.parts[-2:] != ("src", "nisbench"):
        return None
    source = str(PACKAGE.parent)
    found = _capture([git, "-C", source, "rev-parse", "--short=12", "HEAD"])
    changed = _capture([git, "-C", source, "status", "--porcelain", "."])
    return found and found.strip() + ("+" if changed else "")


def _capture(command: list[str]) -> str | None:
    """What a command prints; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout
