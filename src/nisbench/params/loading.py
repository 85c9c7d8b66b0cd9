"""Read ``params/*.yaml``, the studies and the overlays into checked `Params`.

Files are merged key by key, later ones over earlier ones: ``params/*.yaml``, ``params/studies/*.yaml``, then each file
named by the environment variable ``NISBENCH_PARAMS`` (separated by colons). Whatever is wrong is reported with the
file and line that said it, before any work starts.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nisbench.errors import NisbenchError
from nisbench.params.settings import MODEL_TASKS, TASKS, Archive, Params, Study

OVERLAYS_VARIABLE = "NISBENCH_PARAMS"

KeyPath = tuple[str | int | float, ...]


@dataclass(frozen=True)
class Config:
    """All parameters, and each study's with its ``overrides`` merged in."""

    params: Params
    by_study: dict[str, Params]
    overlays: tuple[Path, ...]


def load(root: Path, overlays: list[Path] | None = None) -> Config:
    """Read and check the parameters of the project at `root`.

    `overlays` defaults to the files named by NISBENCH_PARAMS. Raises `NisbenchError` naming file, line, key and the
    nearest valid name.
    """
    if overlays is None:
        overlays = [Path(name) for name in os.environ.get(OVERLAYS_VARIABLE, "").split(":") if name]
    directory = root / "params"
    files = [*sorted(directory.glob("*.yaml")), *sorted((directory / "studies").glob("*.yaml"))]
    if not files:
        raise NisbenchError(
            f"{directory.absolute()}: no parameter files here. Run this in the project's top folder (where Snakefile is)."
        )
    tree = Tree()
    for path in [*files, *overlays]:
        tree.merge(read_yaml(path))

    params = _validate(tree)
    by_study = {}
    for name, study in params.studies.items():
        merged = tree.overridden(study.overrides, ("studies", name, "overrides")) if study.overrides else tree
        by_study[name] = _validate(merged, only=name)
    return Config(params, by_study, tuple(path.absolute() for path in overlays))


# --- reading --------------------------------------------------------------------------------------------------


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
            raise NisbenchError(f"{self.where((*at, forbidden))}: {_dotted((*at, forbidden))} cannot be overridden")
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
                return f"{_shown(file)}:{line}"
        return "params"


def read_yaml(path: Path) -> Tree:
    """Read one parameter file, refusing repeated keys and remembering where each key stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = f" (named by {OVERLAYS_VARIABLE}, relative to {Path.cwd()})" if not path.is_file() else ""
        raise NisbenchError(f"{path}: cannot be read{hint}: {error}") from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        tree = Tree()
        if node is None:
            return tree
        if not isinstance(node, yaml.MappingNode):
            raise NisbenchError(f"{_shown(path)}:1: parameters must be a mapping of keys to values")
        tree.values = _construct(loader, node, path, (), tree.origins)
        return tree
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise NisbenchError(f"{_shown(path)}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    finally:
        loader.dispose()


def _construct(
    loader: _Loader, node: yaml.Node, file: Path, path: KeyPath, origins: dict[KeyPath, tuple[Path, int]]
) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int | float):
                raise NisbenchError(f"{_shown(file)}:{line}: a key must be a name or a number")
            if key in result:
                raise NisbenchError(f"{_shown(file)}:{line}: the key {_dotted((*path, key))} is repeated")
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


# --- checking -------------------------------------------------------------------------------------------------


def _validate(tree: Tree, only: str | None = None) -> Params:
    """`tree` as Params; names are checked for the study `only`, or, where None, for what all studies share."""
    values = _copy(tree.values)
    _resolve_paths(values, tree)
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        problems = [_explain(details, tree) for details in error.errors(include_url=False)]
        raise NisbenchError("\n".join(dict.fromkeys(problems))) from None
    names = _reference_names(params) if only is None else _study_names(params, only, params.studies[only])
    problems = [f"{tree.where(path)}: {_dotted(path)}: {text}" for path, text in names]
    if problems:
        raise NisbenchError("\n".join(problems))
    return params


def _resolve_paths(values: dict[str, Any], tree: Tree) -> None:
    """Make local paths absolute: they are relative to the file that names them."""
    datasets = values.get("datasets")
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        url = dataset.get("url") if isinstance(dataset, dict) else None
        if isinstance(url, str) and "://" not in url:
            file, _ = tree.origins[("datasets", name, "url")]
            dataset["url"] = str((file.parent / url).resolve())


def _study_names(params: Params, name: str, study: Study) -> Iterator[tuple[KeyPath, str]]:
    """Names in a study that nothing answers to, and combinations that make no sense."""
    at: KeyPath = ("studies", name)
    for kind, used, known in [
        ("data set", list(enumerate(study.datasets)), params.datasets),
        ("model", list(enumerate(study.models)), params.models),
        ("method", [(m, m) for m in study.methods], params.methods),
    ]:
        section = {"data set": "datasets", "model": "models", "method": "methods"}[kind]
        for key, item in used:
            if item not in known:
                yield (*at, section, key), f"unknown {kind} {item!r}{_nearest(item, known)}"
        names = [item for _, item in used]
        for item in {item for item in names if names.count(item) > 1}:
            yield (*at, section), f"{item!r} is listed twice"
    for method, rates in study.methods.items():
        if len(set(rates)) < len(rates):
            yield (*at, "methods", method), "a compression rate is listed twice"
    if len(set(study.seeds)) < len(study.seeds):
        yield (*at, "seeds"), "a seed is listed twice"
    for i, dataset in enumerate(study.datasets):
        for model in study.models:
            if dataset in params.datasets and model in params.models:
                task, tasks = TASKS[params.datasets[dataset].format], MODEL_TASKS[params.models[model].kind]
                if task not in tasks:
                    yield (
                        (*at, "datasets", i),
                        f"{dataset} is a {task} data set, but model {model} does {', '.join(tasks)} only",
                    )
    top = params.training.base_dimension
    for method in study.methods.keys() & params.methods.keys():
        settings = params.methods[method]
        if settings.kind == "grid" and max(settings.dimensions) > top:
            yield (
                ("methods", method, "dimensions"),
                f"{max(settings.dimensions)} exceeds training.base_dimension = {top} (study {name})",
            )
        elif settings.kind in ("random", "mde") and settings.min_dimension >= top:
            yield ("methods", method, "min_dimension"), f"must be below training.base_dimension = {top} (study {name})"


def _reference_names(params: Params) -> Iterator[tuple[KeyPath, str]]:
    at: KeyPath = ("reference", "results")
    for dataset, models in params.reference.results.items():
        for model, methods in models.items():
            if model not in params.models:
                yield (*at, dataset, model), f"unknown model {model!r}{_nearest(model, params.models)}"
            for method in methods:
                if method not in params.methods:
                    yield (*at, dataset, model, method), f"unknown method {method!r}{_nearest(method, params.methods)}"
    for section, path in [(params.reference.datasets, ("reference", "datasets")), (params.reference.results, at)]:
        for dataset in section:
            if dataset not in params.datasets:
                yield (*path, dataset), f"unknown data set {dataset!r}{_nearest(dataset, params.datasets)}"


def _explain(error: ErrorDetails, tree: Tree) -> str:
    """One line on one pydantic error: file and line, key, what is wrong, what would be right."""
    path: KeyPath = ()
    cursor: Any = tree.values
    for part in error["loc"]:  # leave out pydantic's own additions, such as the tag of a union's member
        key = _key(cursor, part)
        if key is not None:
            path, cursor = (*path, key), cursor[key]
    if error["type"] == "missing":
        missing = error["loc"][-1]
        text = f"the key {missing!r} is missing"
        others = set(cursor if isinstance(cursor, dict) else ()) - set(_valid_keys(error["loc"][:-1]))
        path_text = _dotted(path) or str(missing)
        return f"{tree.where(path)}: {path_text}: {text}{_nearest(str(missing), others, 'is it the one written')}"
    if error["type"] == "extra_forbidden":
        text = f"unknown key{_nearest(str(path[-1]), _valid_keys(error['loc'][:-1]))}"
    elif error["type"] == "union_tag_invalid":
        context = error["ctx"]
        expected = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        tag_key = context["discriminator"].strip("'")
        path = (*path, tag_key)
        text = f"unknown {tag_key} {context['tag']!r}{_nearest(context['tag'], expected)}"
    elif error["type"] == "union_tag_not_found":
        text = f"the key {error['ctx']['discriminator']} is missing, which says what kind of entry this is"
    else:
        said = error["msg"][0].lower() + error["msg"][1:]
        shown = f", not {error['input']!r}" if not isinstance(error["input"], dict | list) else ""
        text = said + shown
        if error["type"] == "literal_error":
            text += _nearest(str(error["input"]), re.findall(r"'([^']+)'", error["msg"]))
    return f"{tree.where(path)}: {_dotted(path)}: {text}"


def _key(cursor: Any, part: str | int) -> Any:
    """The key of `cursor` that pydantic calls `part`, or None."""
    if isinstance(cursor, list):
        return part if isinstance(part, int) and part < len(cursor) else None
    if isinstance(cursor, dict):
        return next((key for key in cursor if key == part or str(key) == str(part)), None)
    return None


def _valid_keys(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that settings at `loc` may have, read off the JSON schema of `Params`."""
    schema = Params.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    node = resolved(schema)
    for part in loc:
        mapping = node.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            node = resolved({"$ref": mapping[part]})
        elif part in node.get("properties", {}):
            node = resolved(node["properties"][part])
        elif "additionalProperties" in node or "patternProperties" in node:
            inner = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
            node = resolved(inner) if isinstance(inner, dict) else {}
        elif "items" in node:
            node = resolved(node["items"])
    return list(node.get("properties", {}))


def _nearest(name: str, known: Any, phrase: str = "did you mean") -> str:
    """`; did you mean 'x'?`, or what there is to choose from, or nothing."""
    names = sorted(str(item) for item in known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; {phrase} {close[0]!r}?"
    return f" (there is: {', '.join(names)})" if names and phrase == "did you mean" else ""


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _shown(file: Path) -> str:
    """The file's path as a user would write it."""
    absolute, here = file.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else os.path.relpath(absolute, here)


def is_local(dataset: Archive) -> bool:
    """Whether the archive is a file on this machine rather than an address."""
    return "://" not in dataset.url
