"""Which kinds there are: the package's own, and those of plug-ins.

A plug-in is a Python file that NISBENCH_PLUGINS names (several are separated by colons), or a module that an installed package
names in the entry point group ``nisbench.plugins``. It defines one or more settings classes (subclasses of `Method`, `Model`,
`Task` or `Dataset` with a ``kind`` or ``format`` of their own) and beside each the function that the package's own kinds have in
their modules: `propose`, `build` or `prepare`. `nisbench check-plugin` tests it.
"""

import os
import re
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import WrapValidator
from pydantic_core import PydanticCustomError

from nisbench.errors import NisbenchError
from nisbench.params.base import NAME, PATTERNS, Kind

VARIABLE = "NISBENCH_PLUGINS"
ENTRY_POINTS = "nisbench.plugins"
FUNCTIONS = {"datasets": "prepare", "tasks": "build", "models": "build", "methods": "propose"}
"""The sections of kinds, and the function that each kind's module has."""
OWN = tuple(FUNCTIONS)

Registry = Mapping[str, Mapping[str, type[Kind]]]


def kinds(section: str) -> Mapping[str, type[Kind]]:
    """The settings classes of a section of ``params/``, by kind. Raises `NisbenchError` for a plug-in that cannot be used."""
    return _registry(os.environ.get(VARIABLE, ""))[section]


def plugin_files() -> list[Path]:
    """The files that NISBENCH_PLUGINS names."""
    return [Path(name) for name in os.environ.get(VARIABLE, "").split(":") if name]


def load_plugin(path: Path) -> list[type[Kind]]:
    """Import a plug-in's file; return its settings classes. Raises `NisbenchError` if there are none or it does not import."""
    return _kinds_of(_imported(path), str(path))


def blamed(error: BaseException, path: Path) -> str:
    """An error with the line of the plug-in's file that it comes from, as far as it comes from there."""
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if Path(at.filename) == path.resolve()]
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        lines, text = [error.lineno], f"{type(error).__name__}: {error.msg}"
    return f"{path}:{lines[-1]}: {text}" if lines else f"{path}: {text}"


@cache
def _registry(variable: str) -> Registry:
    found: dict[str, dict[str, type[Kind]]] = {section: {} for section in OWN}
    for section in OWN:
        for kind in _kinds_in(import_module(f"nisbench.params.{section}")):
            found[section][str(kind.kind_name())] = kind
    plugins = [(load_plugin(Path(name)), name) for name in variable.split(":") if name]
    plugins += [(_kinds_of(_entry_point(point), point.value), point.value) for point in _entry_points()]
    for classes, origin in plugins:
        for kind in classes:
            name = str(kind.kind_name())
            if name in found[kind.section]:
                raise NisbenchError(
                    f"{origin}: there is a {kind.tag} {name!r} among the {kind.section} already. Give this one another name."
                )
            found[kind.section][name] = kind
    return found


def _entry_points() -> list[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name)


def _entry_point(point: metadata.EntryPoint) -> ModuleType:
    try:
        return import_module(point.module)
    except Exception as error:
        raise NisbenchError(f"the plug-in {point.value} cannot be imported: {type(error).__name__}: {error}") from error


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise NisbenchError(f"the plug-in {path} is not a file (looked for in {Path.cwd()}).")
    name, whole = f"nisbench_plugin_{path.stem}", str(path.resolve())
    known = sys.modules.get(name)
    if known is not None:
        if known.__file__ != whole:
            raise NisbenchError(
                f"there are two plug-ins called {path.name}: {known.__file__} and {whole}. Rename one of them."
            )
        return known
    spec = util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise NisbenchError(f"the plug-in {path} is not a Python file.")
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise NisbenchError(f"{blamed(error, path)}. The plug-in cannot be imported.") from error
    return module


def _kinds_of(module: ModuleType, origin: str) -> list[type[Kind]]:
    """A plug-in's settings classes. Raises `NisbenchError` if there are none, or if one is not complete."""
    found = _kinds_in(module)
    if not found:
        raise NisbenchError(
            f"{origin}: defines no settings class: a subclass of Method, Model, Task or Dataset whose `kind` (for a Dataset: "
            "`format`) is a Literal of one name."
        )
    for kind in found:
        missing = sorted(name for name in kind.__class_vars__ if not hasattr(kind, name))
        if missing:
            raise NisbenchError(f"{origin}: {kind.__name__} does not set {', '.join(missing)}.")
        function = FUNCTIONS[kind.section]
        if not callable(getattr(module, function, None)):
            raise NisbenchError(f"{origin}: {kind.__name__} needs a function {function}() in the same file.")
        if not re.fullmatch(NAME, str(kind.kind_name())):  # it becomes part of folders' names
            raise NisbenchError(f"{origin}: the {kind.tag} {kind.kind_name()!r} must be {PATTERNS[NAME]}.")
    return found


def _kinds_in(module: ModuleType) -> list[type[Kind]]:
    values = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and f"{value.__module__}.".startswith(f"{module.__name__}.")
    ]
    return [value for value in values if issubclass(value, Kind) and value.kind_name()]


def chosen_by_tag(base: type[Kind]) -> WrapValidator:
    """Validates an entry of `base`'s section by the settings class that its tag names."""

    def validate(value: Any, _handler: Any) -> Kind:
        if isinstance(value, base):
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError("dict_type", "must be a mapping of keys to values")
        if base.tag not in value:
            context = {"tag": base.tag, "known": sorted(kinds(base.section))}
            raise PydanticCustomError("tag_missing", "the tag is missing", context)
        known, name = kinds(base.section), value[base.tag]
        if not isinstance(name, str) or name not in known:
            context = {"tag": base.tag, "name": name, "known": sorted(known)}
            raise PydanticCustomError("tag_unknown", "there is no such kind", context)
        return known[name].model_validate(value)

    return WrapValidator(validate)
