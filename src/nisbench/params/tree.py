"""YAML files as nested values that remember which file and line said what."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nisbench.errors import NisbenchError

KeyPath = tuple[str | int | float, ...]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@dataclass
class Tree:
    """Nested values, and for every key path the (file, line) that set it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, tuple[Path, int]] = field(default_factory=dict)

    def merge(self, other: "Tree") -> None:
        _merge(self.values, other.values)
        self.origins.update(other.origins)

    def overridden(self, values: dict[str, Any], at: KeyPath) -> "Tree":
        """A copy with `values`, written at the key path `at`, merged over the top."""
        for forbidden in {"studies", "reference"} & values.keys():
            raise NisbenchError(f"{self.where((*at, forbidden))}: {dotted((*at, forbidden))} cannot be overridden")
        copy = Tree(_copy(self.values), dict(self.origins))
        _merge(copy.values, values)
        copy.origins.update(
            {path[len(at) :]: o for path, o in self.origins.items() if path[: len(at)] == at and path != at}
        )
        return copy

    def where(self, path: KeyPath) -> str:
        """``file:line`` of the key path, or of its nearest parent that a file names."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                file, line = self.origins[path[:end]]
                return f"{shown(file)}:{line}"
        return "params"


def read_yaml(path: Path) -> Tree:
    """Read one parameter file, refusing repeated keys and remembering where each key stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = f" (it was looked for in {Path.cwd()})" if not path.exists() else ""
        raise NisbenchError(f"{path}: cannot be read{hint}: {error}") from error
    loader = _Loader(text)
    try:
        tree = Tree()
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            tree.values = _construct(loader, node, path, (), tree.origins)
        elif node is not None:
            raise NisbenchError(f"{shown(path)}:1: parameters must be a mapping of keys to values")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise NisbenchError(f"{shown(path)}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    finally:
        loader.dispose()
    return tree


def _construct(
    loader: _Loader, node: yaml.Node, file: Path, path: KeyPath, origins: dict[KeyPath, tuple[Path, int]]
) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int | float):
                raise NisbenchError(f"{shown(file)}:{line}: a key must be a name or a number")
            if key in result:
                raise NisbenchError(f"{shown(file)}:{line}: the key {dotted((*path, key))} is repeated")
            origins[(*path, key)] = (file, line)
            result[key] = _construct(loader, value_node, file, (*path, key), origins)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, file, (*path, i), origins) for i, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def _merge(base: dict[Any, Any], over: Mapping[Any, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = _copy(value)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def shown(file: Path) -> str:
    """The file's path as a user would write it."""
    return min(str(file.absolute()), os.path.relpath(file), key=len)
