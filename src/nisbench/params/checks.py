"""What types alone cannot say: names that nothing answers to, combinations that make no sense, and clear errors."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nisbench.errors import NisbenchError, shortened
from nisbench.params.settings import (
    FORMAT_TASKS,
    MODEL_TASKS,
    TABLE_TASKS,
    AnyMethod,
    Grid,
    Params,
    Planted,
    Study,
)
from nisbench.params.tree import KeyPath, Tree, dotted, short

Problem = tuple[KeyPath, str]

MOST_TOLD = 20  # problems
MOST_RUNS = 100_000  # of a study

RESERVED = {"all", "download", "prepare", "split", "block", "search", "prune", "runs", "plan", "trials"}
RESERVED_PREFIXES = {"data", "search", "prune", "tables"}

BASE_DIMENSION = "training.base_dimension"
BLOCK_COUNT = re.compile(r"datasets\.\w+\.blocks\.count$")
FIGURE_TAKES = {
    "figure2a": f"a grid that varies {BASE_DIMENSION}",
    "figure2b": "a grid that varies datasets.NAME.blocks.count",
    "figure3a": "a grid with DNIS",
    "figure3b": "a grid with DNIS at a compression rate above 1",
    "figure3c": "a grid with both DNIS and network pruning",
    "pareto": "a grid that varies nothing",
}

_QUOTED = re.compile(r"'([^']+)'")


def validate(tree: Tree, study: str | None = None, grid: str | None = None) -> Params:
    """`tree` as Params. The names used by a study, or by one grid of it, are checked, or, where None, those of no study.

    Raises `NisbenchError`, one line per problem: file and line, key, what is wrong, the nearest valid name.
    """
    try:
        params = Params.model_validate(tree.values)
    except ValidationError as error:
        found = (_explain(details, tree) for details in error.errors(include_url=False))
        raise NisbenchError(_told(tree, found)) from None
    _raise_any(tree, _in_datasets(params))
    if study is None:
        _raise_any(tree, _in_reference(params))
    elif grid is None:
        _raise_any(tree, _in_study(study, params.studies[study]))
    else:
        _raise_any(tree, _in_grid(params, study, grid, params.studies[study].grids[grid]))
    return params


def _raise_any(tree: Tree, found: Iterator[Problem]) -> None:
    problems = _told(tree, found)
    if problems:
        raise NisbenchError(problems)


def _told(tree: Tree, found: Iterable[Problem]) -> str:
    """One line per problem. What an entry has from the one it is like is told of the latter only."""
    lines: dict[Any, str] = {}
    for path, text in found:
        if len(lines) == MOST_TOLD:
            return "\n".join([*lines.values(), "and more"])
        where = tree.where(path)
        lines.setdefault((where, path[:1], path[2:], text), f"{where}: {dotted(path)}: {text}")
    return "\n".join(lines.values())


def check_report(tree: Tree, name: str, study: Study, by_grid: Mapping[tuple[str, Any], Params]) -> None:
    """Raise `NisbenchError` if a table or figure is asked for that none of the study's grids has anything to show in.

    `by_grid` is by a grid's name and what it varies, or None.
    """
    shown = [(study.grids[key], params) for (key, variant), params in by_grid.items() if variant is None]
    there = {params.task_of(dataset).kind for grid, params in shown for dataset in grid.datasets}
    planted = any(isinstance(params.datasets[dataset], Planted) for grid, params in shown for dataset in grid.datasets)
    for i, table in enumerate(study.tables):
        task = TABLE_TASKS.get(table)
        if table == "recovery" and not planted:
            _lacking(tree, ("studies", name, "tables", i), "it takes a planted data set, and this study has none")
        if task and task not in there:
            text = f"{table} is for the task {task}, which no data set of this study has"
            _lacking(tree, ("studies", name, "tables", i), text)
    kinds = [{params.methods[method].kind for method in grid.methods} for grid, params in shown]
    has = {
        "figure2a": any(key == BASE_DIMENSION for grid in study.grids.values() for key in grid.vary or {}),
        "figure2b": any(BLOCK_COUNT.match(key) for grid in study.grids.values() for key in grid.vary or {}),
        "figure3a": any("dnis" in each for each in kinds),
        "figure3b": any(
            params.methods[method].kind == "dnis" and max(rates) > 1
            for grid, params in shown
            for method, rates in grid.methods.items()
        ),
        "figure3c": any({"dnis", "full"} <= each for each in kinds),
        "pareto": bool(shown),
    }
    for i, figure in enumerate(study.figures):
        if not has[figure]:
            text = f"{figure} takes {FIGURE_TAKES[figure]}, and this study has none"
            _lacking(tree, ("studies", name, "figures", i), text)


def _lacking(tree: Tree, path: KeyPath, text: str) -> None:
    raise NisbenchError(f"{tree.where(path)}: {dotted(path)}: {text}")


def nearest(name: str, known: Collection[Any]) -> str:
    """Say which of `known` was probably meant by `name`, or what there is to choose from."""
    names = sorted(str(item) for item in known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is: {shortened(', '.join(names), 500)}" if names else ""


# --- names and combinations -----------------------------------------------------------------------------------


def _in_study(name: str, study: Study) -> Iterator[Problem]:
    at: KeyPath = ("studies", name)
    if name in RESERVED or name.split("_", maxsplit=1)[0] in RESERVED_PREFIXES:
        yield at, "a study cannot have this name: a target or folder of the pipeline has it"
    yield from _twice(at, {("seeds",): study.seeds, ("tables",): study.tables, ("figures",): study.figures})
    runs = sum(
        len(grid.variants) * len(grid.datasets) * len(grid.models) * sum(map(len, grid.methods.values()))
        for grid in study.grids.values()
    ) * len(study.seeds)
    if runs > MOST_RUNS:
        yield at, f"asks for {runs} runs; {MOST_RUNS} are the most that one study may have"


def _in_datasets(params: Params) -> Iterator[Problem]:
    for name, dataset in params.datasets.items():
        at: KeyPath = ("datasets", name)
        if dataset.format == "criteo_x1":
            paths = [dataset.train.path, dataset.validation.path, dataset.test.path]
            yield from _twice(at, {("test", "path"): paths})
        if dataset.task not in params.tasks:
            yield from _unknown("task", at, [("task", dataset.task)], params.tasks)
            continue
        kind, possible = params.task_of(name).kind, FORMAT_TASKS[dataset.format]
        if kind not in possible:
            text = f"{dataset.task} is of the kind {kind}, but data of the format {dataset.format} serve only: {', '.join(possible)}"
            yield (*at, "task"), text
        elif (kind == "topk") != (dataset.split == "leave_one_out"):
            text = (
                "must be leave_one_out for top-k" if kind == "topk" else f"leave_one_out is for top-k, not for {kind}"
            )
            yield (*at, "split"), text
        elif (dataset.format == "criteo_x1") != (dataset.split == "published"):
            text = "must be" if dataset.format == "criteo_x1" else "cannot be"
            yield (*at, "split"), f"{text} published for data of the format {dataset.format}"


def _in_grid(params: Params, study: str, name: str, grid: Grid) -> Iterator[Problem]:
    at: KeyPath = ("studies", study, "grids", name)
    unknown = [
        *_unknown("data set", (*at, "datasets"), list(enumerate(grid.datasets)), params.datasets),
        *_unknown("model", (*at, "models"), list(enumerate(grid.models)), params.models),
        *_unknown("method", (*at, "methods"), [(method, method) for method in grid.methods], params.methods),
    ]
    yield from unknown
    if unknown:
        return
    yield from _twice(at, {("datasets",): grid.datasets, ("models",): grid.models})
    yield from _twice(at, {("vary", key): values for key, values in (grid.vary or {}).items()})
    yield from _twice(at, {("methods", method): rates for method, rates in grid.methods.items()})
    for method in grid.methods:
        yield from _unfit(method, params.methods[method], params.training.base_dimension, at)
        yield from _twice(("methods", method), _tried(params.methods[method]))
        about_pruning = params.methods[method].rounds or params.methods[method].prune_by == "random"
        if params.methods[method].kind == "no_embeddings" and max(grid.methods[method]) > 1:
            yield (*at, "methods", method), "there are no embeddings to prune"
        if about_pruning and 1 in grid.methods[method]:
            text = "1 prunes nothing, and what sets this method apart is its pruning"
            yield (*at, "methods", method, grid.methods[method].index(1)), text
    for i, dataset in enumerate(grid.datasets):
        for model in grid.models:
            task, tasks = params.task_of(dataset).kind, MODEL_TASKS[params.models[model].kind]
            if task not in tasks:
                text = f"{dataset} is for the task {task}, but the model {model} does only: {', '.join(tasks)}"
                yield (*at, "datasets", i), text
        if not isinstance(params.datasets[dataset], Planted):
            for method in [name for name in grid.methods if params.methods[name].kind == "oracle"]:
                yield (*at, "methods", method), f"{dataset} has no planted dimensions for an oracle to know"


def _twice(at: KeyPath, lists: Mapping[KeyPath, Sequence[Any]]) -> Iterator[Problem]:
    for path, items in lists.items():
        for item in sorted({item for item in items if items.count(item) > 1}, key=repr):
            yield (*at, *path), f"{short(item)} is listed twice"


def _tried(method: AnyMethod) -> dict[KeyPath, list[Any]]:
    """What a method tries one by one: the same twice would be a trial for nothing."""
    if method.kind == "grid":
        return {("dimensions",): list(method.dimensions)}
    if method.kind == "uniform_tuned":
        return {("dimensions",): list(method.dimensions), ("l2",): list(method.l2)}
    if method.kind == "mde":
        return {("settings",): [(pair.base_dimension, pair.temperature) for pair in method.settings]}
    if method.kind == "mde_projected":
        return {("settings",): [(each.base_dimension, each.temperature, each.budget) for each in method.settings]}
    return {}


def _columns(method: AnyMethod) -> dict[str, int]:
    """The keys of a method that ask for columns of the table, and the most that they ask for."""
    if method.kind in {"grid", "uniform_tuned"}:
        return {"dimensions": max(method.dimensions)}
    if method.kind in {"mde", "mde_projected"}:
        return {"settings": max(each.base_dimension for each in method.settings)}
    return {"column_blocks": method.column_blocks} if method.kind == "nis" else {}


def _unfit(name: str, method: AnyMethod, k: int, grid: KeyPath) -> Iterator[Problem]:
    """What of a method does not fit into the table, or not together."""
    otherwise = f"; what is meant for one study or grid only goes into its overrides (such as {dotted(grid)}.overrides)"
    for key, most in _columns(method).items():
        if most > k:
            text = f"{most} exceeds training.base_dimension = {k} in {dotted(grid)}{otherwise}"
            yield ("methods", name, key), text
    if method.kind in {"random", "mde"} and method.min_dimension >= k:
        text = f"{method.min_dimension} must be below training.base_dimension = {k} in {dotted(grid)}{otherwise}"
        yield ("methods", name, "min_dimension"), text
    if method.kind == "dnis" and method.freeze_network and not method.warm_start_epochs:
        yield ("methods", name, "freeze_network"), "would freeze a network that was not trained; set warm_start_epochs"
    if method.kind == "uniform_tuned" and method.rounds:
        yield ("methods", name, "rounds"), "must be 0: what is left would be trained without the tuned L2 penalty"
    if method.kind == "mde_projected":
        for i, each in enumerate(method.settings):
            if method.power_of_two and each.base_dimension & (each.base_dimension - 1):
                yield (
                    ("methods", name, "settings", i, "base_dimension"),
                    "must be a power of two, as all dimensions are to be",
                )
            if each.budget and each.budget > each.base_dimension:
                yield ("methods", name, "settings", i, "budget"), f"exceeds the base dimension, {each.base_dimension}"


def _in_reference(params: Params) -> Iterator[Problem]:
    reference, at = params.reference, ("reference", "results")
    yield from _unknown("data set", ("reference", "datasets"), [(d, d) for d in reference.datasets], params.datasets)
    yield from _unknown("data set", at, [(d, d) for d in reference.results], params.datasets)
    for dataset, dimensions in reference.results.items():
        for k, models in dimensions.items():
            yield from _unknown("model", (*at, dataset, k), [(m, m) for m in models], params.models)
            for model, methods in models.items():
                yield from _unknown("method", (*at, dataset, k, model), [(m, m) for m in methods], params.methods)


def _unknown(kind: str, at: KeyPath, used: list[tuple[str | int, str]], known: Collection[str]) -> Iterator[Problem]:
    for key, name in used:
        if name not in known:
            yield (*at, key), f"unknown {kind} {short(name)}{nearest(name, known)}"


# --- pydantic's errors in our words ---------------------------------------------------------------------------


def _explain(error: ErrorDetails, tree: Tree) -> Problem:
    path: KeyPath = ()
    cursor: Any = tree.values
    for part in error["loc"]:  # leave out what pydantic adds, such as the tag of a union's member
        key = _key(cursor, part)
        if key is not None:
            path, cursor = (*path, key), cursor[key]
    if error["type"] == "missing":
        path = (*path, error["loc"][-1])
        text = "this key is missing"
    elif error["type"] == "extra_forbidden":
        text = f"unknown key{nearest(str(path[-1]), _valid_keys(error['loc'][:-1]))}"
    elif error["type"] == "union_tag_invalid":
        tag, context = error["ctx"]["tag"], error["ctx"]
        path = (*path, context["discriminator"].strip("'"))
        text = f"there is no {short(tag)}{nearest(tag, _QUOTED.findall(context['expected_tags']))}"
    elif error["type"] == "union_tag_not_found":
        path = (*path, error["ctx"]["discriminator"].strip("'"))
        text = "this key is missing, which says what kind of entry it is"
    else:
        text = error["msg"][0].lower() + error["msg"][1:]
        if not isinstance(error["input"], dict | list):
            text += f", not {short(error['input'])}"
        if error["type"] == "literal_error":
            text += nearest(str(error["input"]), _QUOTED.findall(error["msg"]))
    return path, text


def _key(cursor: Any, part: str | int) -> Any:
    """The key of `cursor` that pydantic calls `part`, or None."""
    if isinstance(cursor, list):
        return part if isinstance(part, int) and part < len(cursor) else None
    if isinstance(cursor, dict):
        return part if part in cursor else next((key for key in cursor if str(key) == str(part)), None)
    return None


@cache
def _schema() -> dict[str, Any]:
    return Params.model_json_schema()


def _valid_keys(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that settings at `loc` may have, read off the JSON schema of `Params`."""
    schema = _schema()
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    node = resolved(schema)
    for part in loc:
        mapping = node.get("discriminator", {}).get("mapping", {})
        if str(part).startswith("("):  # the tag of a union that JSON schema knows no tags for
            node = next((resolved(each) for each in node.get("oneOf", []) if "$ref" in each), {})
        elif part in mapping:
            node = resolved({"$ref": mapping[part]})
        elif part in node.get("properties", {}):
            node = resolved(node["properties"][part])
        elif "additionalProperties" in node or "patternProperties" in node:
            inner = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
            node = resolved(inner) if isinstance(inner, dict) else {}
        elif "items" in node:
            node = resolved(node["items"])
    return list(node.get("properties", {}))
