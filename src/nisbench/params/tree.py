"""YAML files as nested values that remember which file and line said what."""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from nisbench.errors import NisbenchError, shortened
from nisbench.params.base import KeyPath

Origins = dict[KeyPath, tuple[Path, int]]

LARGEST_FILE = 1 << 18  # bytes; ours have a few thousand
MOST_VALUES = 5000  # of a file; an alias counts as often as it is used
LONGEST_CHAIN = 20
LONGEST_NUMBER = 1000  # characters: 1:1:1 ... takes time that grows with its square
LARGEST_NUMBER = 1 << 63
_TRAP = re.compile(r"[-+]?0[0-9_]|.*:")  # 0100 is octal, 1:30 to the base of 60


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, as in YAML 1.2."""

    values = 0  # made so far


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@dataclass
class Tree:
    """Nested values, and for every key path the (file, line) that set it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)

    def merge(self, other: "Tree") -> None:
        """Put `other` over this, key by key."""
        self._merge((), (), self.values, other.values, other.origins)

    def with_one(self, section: str, name: str) -> "Tree":
        """The tree with one entry of a section and none of its others. Values are shared, not copied."""
        entries = self.values.get(section)
        if not isinstance(entries, dict):
            return self
        values = {**self.values, section: {key: entry for key, entry in entries.items() if key == name}}
        kept = {
            path: at for path, at in self.origins.items() if path[0] != section or len(path) == 1 or path[1] == name
        }
        return Tree(values, kept)

    def merged(self, other: "Tree") -> "Tree":
        """A copy with `other` put over it."""
        copy = Tree(_copy(self.values), dict(self.origins))
        copy.merge(other)
        return copy

    def overridden(self, at: KeyPath, by: "Tree | None" = None) -> "Tree":
        """A copy, with the ``overrides`` of a study or grid merged over it: those at the key path `at` in `by` (or here)."""
        source = by or self
        values: Any = source.values
        for key in at:
            values = values.get(key) if isinstance(values, dict) else None
        copy = Tree(_copy(self.values), dict(self.origins))
        if isinstance(values, dict):
            for forbidden in {"studies", "reference"} & values.keys():
                path = (*at, forbidden)
                raise NisbenchError(
                    f"{source.where(path)}: {dotted(path)}: overrides cannot set {forbidden}; remove it"
                )
            copy._merge((), at, copy.values, values, source.origins)
        return copy

    def with_value(self, key: str, value: Any, said: KeyPath) -> "Tree":
        """A copy in which an existing dotted key has this value. `said` is the key path that asks for it."""
        path: KeyPath = tuple(key.split("."))
        copy = Tree(_copy(self.values), dict(self.origins))
        place: Any = copy.values
        for i, key_part in enumerate(path):
            if not isinstance(place, dict):
                problem = f"{dotted(path[:i])} is a value, so it has no {short(key_part)} to sweep"
                raise NisbenchError(f"{self.where(said)}: {dotted(said)}: {problem}")
            if key_part not in place or path[0] in {"studies", "reference"}:
                there = [each for each in place if each not in {"studies", "reference"}]
                problem = (
                    f"{dotted(path[:i]) or 'params/'} has no {short(key_part)} to sweep{nearest(str(key_part), there)}"
                )
                raise NisbenchError(f"{self.where(said)}: {dotted(said)}: {problem}")
            if i < len(path) - 1:
                place = place[key_part]
        place[path[-1]] = value
        copy.origins[path] = self.origins[said]
        return copy

    def inherit(self, section: str) -> None:
        """Give each entry of a section that ``extends`` another every key that it does not set itself."""
        entries = self.values.get(section)
        if isinstance(entries, dict):
            for name in list(entries):
                self._inherit(section, entries, name, ())

    def _inherit(self, section: str, entries: dict[str, Any], name: str, chain: tuple[str, ...]) -> None:
        entry, path = entries[name], (section, name, "extends")
        if not isinstance(entry, dict) or "extends" not in entry:
            return
        base = entry["extends"]
        if base in (*chain, name):
            raise NisbenchError(f"{self.where(path)}: {dotted(path)}: circular: {base} extends this entry in turn")
        if len(chain) > LONGEST_CHAIN:
            raise NisbenchError(
                f"{self.where(path)}: {dotted(path)}: the last in a chain of more than {LONGEST_CHAIN} entries; "
                "extend an entry nearer to the end"
            )
        if not isinstance(base, str) or base not in entries:
            meant = nearest(str(base), [key for key in entries if key != name])
            raise NisbenchError(
                f"{self.where(path)}: {dotted(path)}: must name another entry of {section}, not {short(base)}{meant}"
            )
        self._inherit(section, entries, base, (*chain, name))
        inherited = Tree({section: {name: _copy(entries[base])}})
        for p in _paths(entries[base]):
            if (section, base, *p) in self.origins:
                inherited.origins[section, name, *p] = self.origins[section, base, *p]
        own = {key: value for key, value in entry.items() if key != "extends"}
        inherited.merge(Tree({section: {name: own}}, self.origins))
        entries[name] = inherited.values[section][name]
        self.origins |= inherited.origins

    def _merge(
        self, path: KeyPath, at: KeyPath, base: dict[Any, Any], over: Mapping[Any, Any], origins: Origins
    ) -> None:
        """Merge `over` (below the key path `at` in its own tree) over `base` (at `path` in this one)."""
        for key, value in over.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                self._merge(here, at, base[key], value, origins)
            else:
                for p in _paths(base.get(key)):
                    self.origins.pop((*here, *p), None)
                base[key] = _copy(value)
                for p in _paths(value):
                    if (*at, *here, *p) in origins:
                        self.origins[*here, *p] = origins[*at, *here, *p]
            if (*at, *here) in origins:
                self.origins[here] = origins[*at, *here]

    def where(self, path: KeyPath) -> str:
        """``file:line`` of the key path, or of its nearest parent that a file sets."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                file, line = self.origins[path[:end]]
                return f"{shown(file)}:{line}"
        return "params"


def read_yaml(path: Path) -> Tree:
    """Read one parameter file, refusing repeated keys and remembering where each key stands."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise NisbenchError(f"{path}: there is no such file (looked for in {Path.cwd()})") from None
    except OSError as error:
        raise NisbenchError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        before = content[: error.start].count(b"\n")
        raise NisbenchError(f"{shown(path)}:{before + 1}: not text in UTF-8") from error
    if len(content) > LARGEST_FILE:
        raise NisbenchError(f"{shown(path)}: too large for a parameter file (limit {LARGEST_FILE >> 10} KiB)")
    tree = Tree()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            tree.values = _construct(loader, node, path, (), tree.origins)
        elif node is not None and node.value not in ("", "null", "~"):
            raise NisbenchError(f"{shown(path)}:1: parameters must be a mapping of keys to values")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = shortened(" ".join(str(getattr(error, "problem", error)).split()), 200)
        raise NisbenchError(f"{shown(path)}{line}: not valid YAML: {problem}") from error
    except RecursionError:
        raise NisbenchError(f"{shown(path)}: nested too deeply, or with an alias that contains itself") from None
    return tree


def _construct(loader: _Loader, node: yaml.Node, file: Path, path: KeyPath, origins: Origins) -> Any:
    loader.values += 1
    if loader.values > MOST_VALUES:
        raise NisbenchError(f"{shown(file)}: more than {MOST_VALUES} values (an alias counts every time it is used)")
    if isinstance(node, yaml.CollectionNode) and node.tag not in (
        loader.DEFAULT_MAPPING_TAG,
        loader.DEFAULT_SEQUENCE_TAG,
    ):
        line = node.start_mark.line + 1
        raise NisbenchError(f"{shown(file)}:{line}: the tag {shortened(node.tag)} is not supported; leave it out")
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise NisbenchError(
                    f"{shown(file)}:{line}: merge keys (<<) are not supported; write the keys out, or use `extends`"
                )
            key = _scalar(loader, key_node, file)
            if not isinstance(key, str | int | float) or isinstance(key, bool) or key != key:  # noqa: PLR0124 - as .nan is not
                raise NisbenchError(
                    f"{shown(file)}:{line}: a key must be a name or a number; put {shortened(key_node.value)} in quotes if it is a name"
                )
            if key in result:
                first = origins[*path, key][1]
                raise NisbenchError(
                    f"{shown(file)}:{line}: the key {dotted((*path, key))} stands in line {first} already; keep one"
                )
            origins[(*path, key)] = (file, line)
            result[key] = _construct(loader, value_node, file, (*path, key), origins)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, file, (*path, i), origins) for i, item in enumerate(node.value)]
    return _scalar(loader, node, file)


def _scalar(loader: _Loader, node: yaml.Node, file: Path) -> Any:
    try:
        if node.tag != loader.DEFAULT_SCALAR_TAG and len(node.value) > LONGEST_NUMBER:
            raise ValueError("a huge number; put it in quotes if it is text")  # noqa: TRY301
        value = loader.construct_object(node, deep=True)
        if isinstance(value, int) and _TRAP.match(node.value):
            raise ValueError(f"YAML reads {node.value} as {value}: write that, or put it in quotes")  # noqa: TRY301
        if isinstance(value, str):
            # YAML can spell halves of characters: JSON writes two for one, and a half alone is none
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise ValueError("a huge number; put it in quotes if it is text")  # noqa: TRY301
    except (ValueError, LookupError, AttributeError, ArithmeticError) as error:
        problem = shortened(str(error), 200)
        raise NisbenchError(f"{shown(file)}:{node.start_mark.line + 1}: not a valid value: {problem}") from error
    return value


def _paths(value: Any) -> Iterator[KeyPath]:
    """The key paths of a value and of all that is in it."""
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        for path in _paths(item):
            yield (key, *path)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def dotted(path: KeyPath) -> str:
    return ".".join(shortened(str(part)) for part in path)


def nearest(name: str, known: Collection[Any]) -> str:
    """Say which of `known` was probably meant by `name`, or what there is to choose from."""
    names = sorted(str(item) for item in known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is: {shortened(', '.join(names), 500)}" if names else ""


def short(value: Any) -> str:
    """A value as messages show it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else shortened(repr(value), 80)


def shown(file: Path) -> str:
    """The file's path as a user would write it."""
    return min(str(file.absolute()), os.path.relpath(file), key=len)
