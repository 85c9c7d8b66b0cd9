"""`nisbench gc`: what takes room below data/ and results/runs/ and is asked for by no study, and what was left by kills.

Nothing else is looked at, links are not followed, and a folder that another process is at is left alone. A study that
needs an overlay is known only while NISBENCH_PARAMS names it.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nisbench import locks
from nisbench.commands.output import print_json, size, table
from nisbench.errors import NisbenchError
from nisbench.steps import ID_LENGTH, STEPS
from nisbench.studies import Plan

RECORD = "step.json"

_ID = f"[0-9a-f]{{{ID_LENGTH}}}"
_OF_DATA = re.compile(rf"(?:{'|'.join(STEPS)})-{_ID}")
_OF_RUNS = re.compile(rf"\S+-{_ID}")


@dataclass(frozen=True)
class Found:
    """A folder that no study asks for, or what a killed process left in one that is asked for."""

    path: Path
    folder: Path
    """The step's or the report's folder that it is, or is in."""
    what: str
    bytes: int
    in_use: bool


def run(plan: Plan, remove: bool, json: bool) -> None:
    """List what no study asks for, and what killed processes left; delete it if `remove`."""
    if remove and _is_held(locks.SNAKEMAKE):
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
        print("Nothing: all of data/ and results/runs/ is asked for by a study, and no killed process left anything.")
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
    """Folders of steps that are not in the plan, and leftovers in the folders of those that are and of reports."""
    asked = {step.folder for step in plan.steps.values()}
    steps = dict.fromkeys(_folders())
    for folder in [*steps, *(folder for folder in _inside(Path("results")) if folder.name != "runs")]:
        in_use = _is_held(locks.beside(folder))
        if folder in steps and folder not in asked:
            what = "finished" if (folder / RECORD).exists() else "half-finished"
            yield Found(folder, folder, what, _size(folder), in_use)
            continue
        for left in leftovers(folder):
            yield Found(left, folder, "leftover", _size(left), in_use)


def leftovers(folder: Path) -> list[Path]:
    """What a killed process has left in a folder, and no later one goes on from."""
    found = [*folder.rglob(".*.part"), *folder.glob(".download-*")]
    return sorted(path for path in found if not path.is_symlink())


def _folders() -> Iterator[Path]:
    """The folders of steps, by the form of their names."""
    for dataset in _inside(Path("data")):
        for folder in _inside(dataset):
            if _OF_DATA.fullmatch(folder.name):
                yield folder
    runs = Path("results", "runs")
    for dataset in _inside(runs) if not runs.parent.is_symlink() else ():
        for stage in _inside(dataset):
            for folder in _inside(stage) if stage.name in STEPS else ():
                if _OF_RUNS.fullmatch(folder.name):
                    yield folder


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
    """Delete it while no other process is at its folder; of a step, the record last. Returns whether it did."""
    lock = locks.beside(found.folder)
    with _held(lock) as free:
        if not free:
            return False
        if found.what == "leftover":
            _delete(found.path)
            return True
        for path in sorted(found.path.iterdir(), key=lambda path: path.name == RECORD):
            _delete(path)
        found.path.rmdir()
        lock.unlink(missing_ok=True)  # who waits for it makes another
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


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with _held(lock) as free:
        return not free


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Yields whether the lock was free, and is now ours."""
    held = locks.take(lock)
    try:
        yield held is not None
    finally:
        if held:
            held.release()
