"""The identity of code: what of it enters a run's id, and how a refactoring leaves ids as they are.

An id must change when a number may, and only then. Three things of the code enter it:

* the source of the step's *kinds* (its data format, task, model and method, one file each), normalised: without comments,
  docstrings, annotations, the arguments of `raise`, of errors and of log calls, and a plug-in's `EXAMPLE` and looks. An edit there
  reruns what depends on the kind.
* the *version* of the step's core: an integer per kind of step in ``core.json``, raised by hand when numbers change.
* nothing else, as long as the core's normalised source is the one recorded in ``core.json`` beside the version. The golden values
  in ``tests/golden/`` were made with that source. If the core is another, its hash enters the ids too, which makes them
  *development ids*: nothing stale can be taken for new. `make golden` computes the golden values again and, where they are the
  same, records the new source; where they are not, it refuses until the version is raised.

Versions of torch, NumPy and other packages enter no id. They are recorded with every result.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from nisbench.errors import NisbenchError
from nisbench.params.base import Kind
from nisbench.params.kinds import OWN, kinds

PACKAGE = Path(__file__).parent
CORE_FILE = PACKAGE / "core.json"

CoreStep = Literal["prepare", "split", "block", "search", "prune"]

_TRAINING = (
    "seeds.py", "machine.py", "tensor_files.py", "data/instances.py", "data/parquet.py",
    "embedding/*.py", "models/*.py", "tasks/*.py", "training/*.py", "search/*.py",
)  # fmt: skip
CORE: dict[CoreStep, tuple[str, ...]] = {
    "prepare": (
        "wiring.py:prepare",
        "data/archives.py",
        "data/click_log.py",
        "data/parquet.py",
        "data/planted.py",
        "data/split.py",
        "data/table_columns.py",
        "data/table_files.py",
        "data/table_values.py",
    ),
    "split": ("wiring.py:split", "data/split.py", "data/parquet.py"),
    "block": ("wiring.py:block", "data/blocks.py", "data/parquet.py"),
    "search": ("wiring.py:search", "!search/pruning.py", "!models/pruned.py", "!embedding/storage.py", *_TRAINING),
    "prune": ("wiring.py:prune", *_TRAINING),
}
"""The core of each kind of step: files of the package, without those of kinds and those behind "!"; after a colon, one function
of a file. `wiring` says which files a step is handed."""

REPORT = ("report/*.py", "logs.py")
"""What makes reports. It has no golden values: the same runs are reported anew when it changes."""
PAGE = "report/assets/*"
"""What the page has that is no Python."""

SHOWN = {"EXAMPLE", "example_archive", "colour", "marker", "table_title", "measured", "capturable"}
"""What a plug-in's file may define besides its arithmetic: for its test, for figures and tables, and whether its steps are captured."""

IGNORED_CALLS = {"debug", "info", "warning", "error", "exception", "critical"}
"""Methods of loggers: their arguments change no number."""
LOGGERS = {"log", "heartbeat"}
"""What loggers are called. `torch.log` is none."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; floats in their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


# --- what enters ids ------------------------------------------------------------------------------------------


def core_identity(step: CoreStep) -> dict[str, Any]:
    """What of a step's core enters its id: the version and, for development ids, the source."""
    recorded = recorded_core()[step]
    source = core_source(step)
    identity = {"version": recorded["version"]}
    return identity if source == recorded["source"] else identity | {"development": source}


def is_development(step: CoreStep) -> bool:
    """Whether a step's core is not the one that its golden values were made with."""
    return "development" in core_identity(step)


def kind_source(kind: type[Kind]) -> str:
    """The hash of the normalised source of a kind's module."""
    return _source_hash(kind_file(kind))


@cache
def kind_file(kind: type[Kind]) -> Path:
    """The file that a kind's module is in."""
    name = kind.module_name()
    if name.startswith("nisbench."):
        return PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
    found = getattr(kind.module(), "__file__", None)
    if not found:
        raise NisbenchError(f"{name} has no source file, so no run of it can be given an id.")
    return Path(found)


@cache
def report_source() -> str:
    """The hash of the source that makes reports."""
    assets = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(PACKAGE.glob(PAGE))]
    return hashlib.sha256("".join([_joint_hash(_files(REPORT)), *assets]).encode()).hexdigest()


@cache
def core_source(step: CoreStep) -> str:
    """The hash of the normalised source of a step's core."""
    return _joint_hash(_files(CORE[step]))


@cache
def recorded_core() -> dict[str, Any]:
    """Version and source of each kind of step, as recorded with the golden values."""
    found: dict[str, Any] = json.loads(CORE_FILE.read_text(encoding="utf-8"))
    return found


def _files(patterns: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Files relative to the package, each whole (None) or one function of it."""
    left_out = {pattern[1:] for pattern in patterns if pattern.startswith("!")} | _files_of_kinds()
    found: set[tuple[str, str | None]] = set()
    for pattern in patterns:
        file, _, function = pattern.partition(":")
        if function:
            found.add((file, function))
        elif not pattern.startswith("!"):
            found |= {(name, None) for name in _matching(pattern) if name not in left_out}
    return sorted(found, key=str)


def _matching(pattern: str) -> Iterator[str]:
    for path in PACKAGE.glob(pattern):
        yield path.relative_to(PACKAGE).as_posix()


def _files_of_kinds() -> set[str]:
    every = [kind for section in OWN for kind in kinds(section).values()]
    return {
        f"{kind.module_name().removeprefix('nisbench.').replace('.', '/')}.py"
        for kind in every
        if kind.module_name().startswith("nisbench.")
    }


# --- normalised source ----------------------------------------------------------------------------------------


def _joint_hash(files: list[tuple[str, str | None]]) -> str:
    """One hash of all top-level statements of some files. Where each of them stands does not count: code may move."""
    imports: set[str] = set()
    others: list[str] = []
    for file, function in files:
        for statement in _parsed(PACKAGE / file).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports |= set() if function else _imported_names(statement)
            elif not _is_docstring(statement) and function in {None, getattr(statement, "name", None)}:
                others.append(_hash(statement))
    return hashlib.sha256("".join([*sorted(imports), *sorted(others)]).encode()).hexdigest()


def _imported_names(statement: ast.Import | ast.ImportFrom) -> set[str]:
    """What a statement imports, unless it is our own under its own name: that is in the hash where it is defined."""
    module = getattr(statement, "module", None) or ""
    ours = module.split(".")[0] == "nisbench"
    return {
        repr((module if not ours else "nisbench", alias.name, alias.asname))
        for alias in statement.names
        if alias.asname or not ours
    }


@cache
def _source_hash(path: Path) -> str:
    return _hash(_parsed(path))


def _parsed(path: Path) -> ast.Module:
    try:
        return _tree(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise NisbenchError(f"{path}: cannot be read as Python: {error}") from error


@cache
def _tree(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def _hash(node: ast.AST) -> str:
    return hashlib.sha256(repr(normalised(node)).encode()).hexdigest()


def normalised(node: Any) -> Any:  # noqa: PLR0911 - one for each kind of node
    """A syntax tree as nested tuples, without what cannot change a number; the same in every Python version."""
    if isinstance(node, list):
        return tuple(normalised(item) for item in node if not _is_docstring(item))
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str | int | bool | type(None)) else (type(node).__name__, repr(node))
    if isinstance(node, ast.Raise):
        return ("Raise", _callee(node.exc))
    if isinstance(node, ast.Call) and _is_text(node):
        return ("text",)
    if isinstance(node, ast.AnnAssign):
        return ("Assign", (normalised(node.target),), normalised(node.value))
    if isinstance(node, ast.Assign):
        return ("Assign", normalised(node.targets), normalised(node.value))
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nisbench":
        return ("ImportFrom", "nisbench", normalised(node.names))  # a module may move
    if isinstance(node, ast.Module | ast.ClassDef):
        node = _without_looks(node)
    fields = (
        (name, normalised(value))
        for name, value in ast.iter_fields(node)
        if name not in {"kind", "type_comment", "annotation", "returns", "ctx"} and value not in (None, [])
    )
    return (type(node).__name__, *fields)


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _without_looks(node: ast.Module | ast.ClassDef) -> ast.AST:
    """A module or class without what is only shown. A variable of such a name in a function is like any other."""
    fields = dict(ast.iter_fields(node))
    return type(node)(**fields | {"body": [item for item in node.body if not _is_shown(item)]})


def _is_shown(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.FunctionDef):
        return statement.name in SHOWN
    targets: list[ast.expr] = []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    return bool(targets) and all(isinstance(target, ast.Name) and target.id in SHOWN for target in targets)


def _callee(error: ast.expr | None) -> Any:
    return normalised(error.func if isinstance(error, ast.Call) else error)


def _is_text(node: ast.Call) -> bool:
    """Whether a call logs, or makes an error that is raised elsewhere."""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id == "NisbenchError"
    if not isinstance(function, ast.Attribute) or function.attr not in {*IGNORED_CALLS, "log"}:
        return False
    owner = function.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return name in LOGGERS
