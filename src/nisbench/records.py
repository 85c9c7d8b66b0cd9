"""What a step leaves beside its results: ``step.json``, written last. A step is done when it is there.

It says what was computed, from what, by which code, and what is in each file, so that a file that was damaged since is found
when it is used. Results (``run.json``) are read here as well: what is not of their form is not taken for a result.
"""

import hashlib
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # before Python 3.12, pydantic knows only this one

from nisbench.code_version import module_path
from nisbench.errors import NisbenchError
from nisbench.files import read_json, write_json
from nisbench.runs import Step, hashed_form
from nisbench.studies import Plan

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileSum(_Form):
    sha256: Hash
    bytes: int


class Adoption(_Form):
    """That a step's files were made by other code, and why they count as made by today's."""

    id: str
    """What the step was called then."""
    compared: str
    """What today's code was seen to do alike."""
    time: str


class Record(_Form):
    id: str
    step: str
    dataset: str
    label: str
    settings: dict[str, Any]
    needs: dict[str, str]
    """The ids of the steps whose files were read, by name."""
    code: Hash
    """The version of the code that computed the files."""
    commit: str | None
    """Of the project's git repository, where that code was run in one; "+" if the files under src/ had been changed since."""
    time: str
    files: dict[str, FileSum]
    adopted: Adoption | None = None


# --- step.json ------------------------------------------------------------------------------------------------


def write(step: Step) -> None:
    """Say that a step is done, now that all its files are there."""
    files = {name: sums_of(Path(step.path(key))) for key, name in step.files.items()}
    write_record(step, describe(step, files))


def describe(step: Step, files: dict[str, FileSum]) -> Record:
    return Record(
        id=step.id,
        step=step.name,
        dataset=step.dataset,
        label=step.label,
        settings=hashed_form(step),
        needs={name: needed.id for name, needed in step.needs.items()},
        code=step.code,
        commit=commit(),
        time=now(),
        files=files,
    )


def write_record(step: Step, record: Record) -> None:
    write_json(Path(step.record), record.model_dump(mode="json"))


def read(path: Path) -> Record:
    """Raises `NisbenchError` if the file is not of a record's form, and `FileNotFoundError` if it is not there."""
    record: Record = _checked(TypeAdapter(Record), path)
    return record


def check(step: Step) -> Record:
    """The record of a step that is done, once its files are seen to be what was written; else `NisbenchError`."""
    path = Path(step.record)
    try:
        record = read(path)
    except FileNotFoundError:
        raise NisbenchError(f"{path} is missing. Make it with: nisbench {step.name} {step.id}") from None
    if record.id != step.id or set(record.files) != set(step.files.values()):
        raise NisbenchError(f"{path} is of another step ({record.id}). {_remedy(step)}")
    for name, written in record.files.items():
        file = Path(step.folder, name)
        try:
            found = sums_of(file)
        except FileNotFoundError:
            raise NisbenchError(f"{file} is missing, but it was written. {_remedy(step)}") from None
        if found != written:
            what = (
                f"{found.bytes} bytes, not {written.bytes}" if found.bytes != written.bytes else "another SHA-256 sum"
            )
            raise NisbenchError(f"{file} is damaged or was changed: it has {what}. {_remedy(step)}")
    return record


def done(step: Step) -> bool:
    return all(Path(path).exists() for path in step.paths())


def withdraw(step: Step) -> None:
    """Delete a step's files, and then its record: if this is cut short, files that were damaged are still known to be."""
    for path in step.paths():
        Path(path).unlink(missing_ok=True)


def remove(step: Step) -> None:
    """Delete a step's folder."""
    withdraw(step)
    shutil.rmtree(Path(step.folder), ignore_errors=True)


def forget_changed_reports(plan: Plan) -> None:
    """Remove the manifests of reports of which a file was changed since: what they say of the files beside them is not true.

    git does not know the manifests, and may have put another commit's tables beside them.
    """
    for study in plan.studies.values():
        manifest = Path(study.manifest)
        if manifest.exists() and not _is_whole(manifest):
            manifest.unlink()


def _is_whole(manifest: Path) -> bool:
    try:
        files = TypeAdapter(dict[str, Hash]).validate_python(read_json(manifest)["files"])
        return all(sums_of(Path(path)).sha256 == found for path, found in files.items())
    except (NisbenchError, ValidationError, TypeError, LookupError):
        return False
    except FileNotFoundError:  # which Snakemake sees by itself
        return True


def sums_of(file: Path) -> FileSum:
    found = file.stat()
    return _sums_of_state(file, found.st_size, found.st_mtime_ns)


@cache
def _sums_of_state(path: Path, size: int, _time: int) -> FileSum:
    with path.open("rb") as file:
        return FileSum(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=size)


def _remedy(step: Step) -> str:
    return f"To have it made again: nisbench verify --remove {step.id}, and run the same command"


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@cache
def commit() -> str | None:
    """The commit of the code that runs, if it runs from the project's git repository."""
    source = module_path("nisbench")
    git = shutil.which("git")
    if not git or not source or source.parts[-3:-1] != ("src", "nisbench"):
        return None
    found = _said([git, "-C", str(source.parent), "rev-parse", "--short=12", "HEAD"])
    changed = _said([git, "-C", str(source.parent), "status", "--porcelain", "."])
    return found and found.strip() + ("+" if changed else "")


def _said(command: list[str]) -> str | None:
    """What a command prints; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


# --- run.json -------------------------------------------------------------------------------------------------


class Packages(TypedDict):
    """Versions, of these and others."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    nisbench: str
    torch: str


class Machine(TypedDict):
    device: str
    threads: int
    python: str
    system: str
    packages: Packages
    time: str


class TrialForm(TypedDict):
    name: str
    validation_loss: float | None
    best_epoch: int
    weights: int
    seconds: float
    peak_memory_mib: float
    losses: list[float]
    at_once: int
    failed: str | None


class SearchRun(TypedDict):
    best_trial: int | None
    weights: int
    seconds: float
    peak_memory_mib: float
    machine: Machine
    trials: Annotated[list[TrialForm], Field(min_length=1)]
    failed: str | None


class Round(TypedDict):
    compression_rate: float
    threshold: float
    validation_loss: float
    epochs: int
    seconds: float


class PruneRun(TypedDict):
    metrics: dict[str, float]
    weights: int
    nonzeros: int
    projection_weights: int
    threshold: float
    coo_bytes: int
    csr_bytes: int
    size_mib: float
    features: dict[str, int]
    test_instances: int
    rounds: list[Round]
    seconds: float
    machine: Machine
    failed: str | None


def read_search(path: Path) -> SearchRun:
    run: SearchRun = _checked(TypeAdapter(SearchRun), path)
    best = run["best_trial"]
    if (best is None) != (run["failed"] is not None) or not -1 < (best or 0) < len(run["trials"]):
        raise NisbenchError(f"{path}: best_trial: there is no trial {best}")
    return run


def read_pruning(path: Path) -> PruneRun:
    run: PruneRun = _checked(TypeAdapter(PruneRun), path)
    return run


T = TypeVar("T")


def _checked(form: TypeAdapter[T], path: Path) -> T:
    """The content of a JSON file, in that form. Raises `NisbenchError` that names the first key that is not."""
    value = read_json(path)
    try:
        return form.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        problem = f"{path}: {key}: {first['msg'].lower()}. It was not written by this version of nisbench"
        raise NisbenchError(f"{problem}, or is damaged: delete it and run again") from None
