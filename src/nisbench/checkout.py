"""In a checkout, the code beside the parameters is what runs, or nothing does.

An editable installation is of one checkout. In a git worktree, a second clone, or the copy in which DVC runs a queued
experiment, Python would import that checkout's code, name results by it, and say nothing. A folder with ``params/`` and
no ``src/nisbench`` is a project of its own, which the installed package serves.
"""

import os
import sys
from pathlib import Path

from nisbench.errors import NisbenchError

RUNNING = Path(__file__).parent
"""The package that is imported."""
DEFAULTS = RUNNING / "defaults"
"""The parameters that it brings along, in a folder ``params/``."""


def params_root(folder: Path) -> Path:
    """Whose ``params/`` count in `folder`: its own, or where it has none, those that the package brings along."""
    return folder if (folder / "params").is_dir() else DEFAULTS


def own_package(root: Path) -> Path | None:
    """The package in the checkout at `root`; None if that is no checkout."""
    package = root / "src" / "nisbench"
    return package if (root / "params").is_dir() and (package / "__init__.py").is_file() else None


def runs_own_code(root: Path) -> bool:
    package = own_package(root)
    return package is None or package.samefile(RUNNING)


def check(root: Path) -> None:
    """Raise `NisbenchError` if another checkout's code runs than the one beside the parameters at `root`."""
    if not runs_own_code(root):
        raise NisbenchError(
            f"The code that runs is {RUNNING}, but these parameters belong to {root.absolute() / 'src' / 'nisbench'}. "
            "Nothing was done: results would be of other code than this folder's. "
            "Set PYTHONPATH=$PWD/src, or install this folder (make .venv/ready && source .venv/bin/activate)."
        )


def restart_with_own_code(root: Path) -> None:
    """Start this command again with the code beside the parameters at `root`, if another checkout's runs.

    Raises `NisbenchError` if that is of no use: Python ignores PYTHONPATH, or this is not a process of its own.
    """
    if runs_own_code(root):
        return
    source, given = str((root / "src").resolve()), os.environ.get("PYTHONPATH", "")
    is_command = Path(sys.argv[0]).is_file() and sys.orig_argv[-len(sys.argv) :] == sys.argv
    if is_command and given.split(os.pathsep)[0] != source:
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [source, given]))}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], variables)  # noqa: S606 - this command again
    check(root)
