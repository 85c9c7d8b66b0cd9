"""`nisbench gc`: what takes room below data/ and results/runs/ and is asked for by no study.

Nothing else is looked at, links are not followed, and the folder of a step that another process is at is left alone. A study that
needs an overlay is known only while NISBENCH_PARAMS names it.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nisbench.commands.output import print_json, size, table
from nisbench.errors import NisbenchError
from nisbench.steps import ID_LENGTH, STEPS
from nisbench.studies import Plan

SNAKEMAKE = Path(".snakemake", "nisbench.lock")
"""Held by a Snakemake at work here; see workflow/rules/hooks.smk."""

RECORD = "step.json"

_ID = rf"(?P<id>[0-9a-f]{{{ID_LENGTH}}})"
_OF_DATA = re.compile(rf"(?:{'|'.join(STEPS)})-{_ID}")
_OF_RUNS = re.compile(rf"\S+-{_ID}")


@dataclass(frozen=True)
class Found:
    """A folder that no study asks for, or what a killed process left in one that is asked for."""

    path: Path
    step: str
    """The id in the folder's name."""
    what: str
    bytes: int
    in_use: bool


def run(plan: Plan, remove: bool, json: bool) -> None:
    """List what no study asks for, and what killed processes left; delete it if `remove`."""
    if remove and _is_held(SNAKEMAKE):
        raise NisbenchError(
            "A snakemake is at work here, perhaps for a study of another overlay. Wait until it has ended."
        )
    found = list(unasked(plan))
    removed = [each for each in found if not each.in_use and _remove(each)] if remove else []
    if json:
        rows = [
            {"path": str(each.path), "what": each.what, "bytes": each.bytes, "in_use": each.in_use,
             "removed": each in removed}
            for each in found
        ]  # fmt: skip
        print_json(rows)
        return
    if not found:
        print("Nothing: all of data/ and results/runs/ is asked for by a study.")
        return
    lines = [[each.path, each.what + (", in use" if each.in_use else ""), size(each.bytes)] for each in found]
    print(table(["path", "what", "size"], lines, ["size"], fold="path"))
    chosen = removed if remove else [each for each in found if not each.in_use]
    total = f"{len(chosen)} of {len(found)}, {size(sum(each.bytes for each in chosen))}"
    print(f"\nRemoved {total}." if remove else f"\nTo remove {total}: nisbench gc --remove")
    if not remove:
        overlays = ", ".join(map(str, plan.config.overlays)) or "names none"
        print(f"Runs of an overlay are asked for only while NISBENCH_PARAMS names it (now: {overlays}).")


def unasked(plan: Plan) -> Iterator[Found]:
    """Folders of steps that are not in the plan, and leftovers in the folders of those that are."""
    asked = {step.folder for step in plan.steps.values()}
    for folder, step in _folders():
        in_use = _is_held(_lock(step))
        if folder not in asked:
            what = "finished" if (folder / RECORD).exists() else "half-finished"
            yield Found(folder, step, what, _size(folder), in_use)
            continue
        for left in sorted((*folder.glob(".*.part"), *folder.glob(".download-*"))):
            if not left.is_symlink():
                yield Found(left, step, "leftover", _size(left), in_use)


def _folders() -> Iterator[tuple[Path, str]]:
    """The folders of steps, by the form of their names, and the ids in these."""
    for dataset in _inside(Path("data")):
        for folder in _inside(dataset):
            if match := _OF_DATA.fullmatch(folder.name):
                yield folder, match["id"]
    runs = Path("results", "runs")
    for dataset in _inside(runs) if not runs.parent.is_symlink() else ():
        for stage in _inside(dataset):
            for folder in _inside(stage) if stage.name in STEPS else ():
                if match := _OF_RUNS.fullmatch(folder.name):
                    yield folder, match["id"]


def _inside(folder: Path) -> list[Path]:
    """The folders in one that is none of the links."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [Path(at, name) for at, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files)


def _remove(found: Found) -> bool:
    """Delete it while no other process is at its step; of a folder, the record last. Returns whether it did."""
    with _held(_lock(found.step)) as free:
        if not free:
            return False
        if found.what == "leftover":
            _delete(found.path)
            return True
        for path in sorted(found.path.iterdir(), key=lambda path: path.name == RECORD):
            _delete(path)
        found.path.rmdir()
        for parent in found.path.parents:
            if parent in {Path("data"), Path("results", "runs")} or any(parent.iterdir()):
                break
            parent.rmdir()
        return True


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _lock(step: str) -> Path:
    """See `execution.locked`."""
    return Path("logs", "locks", step)


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with _held(lock) as free:
        return not free


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Yields whether the lock was free, and is now ours."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()
