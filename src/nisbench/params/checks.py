"""What types alone cannot say: unknown names, combinations that make no sense, and clear errors."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, product
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nisbench.errors import NisbenchError
from nisbench.params import tuning
from nisbench.params.base import PATTERNS, KeyPath, Kind, Problem
from nisbench.params.datasets import FIXED_SPLIT, Dataset
from nisbench.params.kinds import kinds
from nisbench.params.methods import Method, rounded_entry
from nisbench.params.models import Model
from nisbench.params.studies import TABLES, Grid, Params, Reference, Study, task_tables
from nisbench.params.tasks import Task
from nisbench.params.training import Training
from nisbench.params.tree import Tree, dotted, nearest, short

MOST_PROBLEMS = 20
"""Problems that one message lists."""

MOST_RUNS = 100_000
"""Of a study."""

RESERVED = {"all", "download", "prepare", "split", "block", "search", "prune", "runs", "plan", "trials"}
RESERVED_PREFIXES = {"data", "search", "prune", "tables"}

BASE_DIMENSION = "training.base_dimension"
BLOCK_COUNT = re.compile(r"datasets\.\w+\.blocks\.count$")
FIGURE_NEEDS = {
    "figure2a": f"a grid that sweeps {BASE_DIMENSION}",
    "figure2b": "a grid that sweeps datasets.NAME.blocks.count",
    "figure3a": "a grid with DNIS",
    "figure3b": "a grid with DNIS at a compression rate above 1",
    "figure3c": "a grid with both DNIS and network pruning",
    "pareto": "a grid that tables show",
}

_QUOTED = re.compile(r"'([^']+)'")
_SUBJECT = re.compile(r"^\w+ should ")


def validate(tree: Tree, study: str | None = None, grid: str | None = None) -> Params:
    """`tree` as Params. The names used by a study, or by one grid of it, are checked, or, where None, those of no study.

    Raises `NisbenchError`, one line per problem: file and line, key, what is wrong, the nearest valid name.
    """
    try:
        params = Params.model_validate(tree.values)
    except ValidationError as error:
        raise NisbenchError(_problem_list(tree, explained(error, tree))) from None
    _raise_any(tree, chain(_in_datasets(params), _in_training(params.training)))
    if study is None:
        _raise_any(tree, _in_reference(params))
    elif grid is None:
        _raise_any(tree, _in_study(study, params.studies[study]))
    else:
        _raise_any(tree, _in_grid(params, study, grid, params.studies[study].grids[grid]))
    return params


def _raise_any(tree: Tree, found: Iterator[Problem]) -> None:
    problems = _problem_list(tree, found)
    if problems:
        raise NisbenchError(problems)


def _problem_list(tree: Tree, found: Iterable[Problem]) -> str:
    """One line per problem. A problem in an inherited key is listed once, not again for each entry that inherits it."""
    lines: dict[Any, str] = {}
    for path, text in found:
        if len(lines) == MOST_PROBLEMS:
            return "\n".join([*lines.values(), "and more"])
        where = tree.where(path)
        lines.setdefault((where, path[:1], path[2:], text), f"{where}: {dotted(path)}: {text}")
    return "\n".join(lines.values())


def check_report(tree: Tree, name: str, study: Study, by_grid: Mapping[tuple[str, Any], Params]) -> None:
    """Raise `NisbenchError` if none of the study's grids has anything to show in a table or figure that it asks for.

    `by_grid` is by a grid's name and its swept key and value, or None.
    """
    compared = [
        (study.grids[key], params) for (key, variant), params in by_grid.items() if not variant or not drawn(variant[0])
    ]
    present = {params.task_of(dataset).kind_name() for grid, params in compared for dataset in grid.datasets}
    planted = any(params.datasets[dataset].planted for grid, params in compared for dataset in grid.datasets)
    tables = task_tables()
    for i, table in enumerate(study.tables):
        at = ("studies", name, "tables", i)
        if table not in tables and table not in TABLES:
            _raise(tree, at, f"there is no table {short(table)}{nearest(table, [*TABLES, *tables])}")
        if table == "recovery" and not planted:
            _raise(tree, at, "recovery needs a data set of planted dimensions, and this study has none")
        if table == "area" and not has_area(compared):
            text = "area needs a grid with a method without embeddings and biases (such as global_mean) and, beside it, methods at two compression rates"
            _raise(tree, at, text)
        if table == "sweep" and not any(
            len(v) > 1 for grid in study.grids.values() for v in (grid.sweep or {}).values()
        ):
            _raise(tree, at, "sweep needs a grid that sweeps a key over several values, and this study has none")
        if table in tables and tables[table].kind_name() not in present:
            _raise(
                tree, at, f"{table} is for the task {tables[table].kind_name()}, which no data set of this study has"
            )
    in_paper = [{params.methods[method].in_paper for method in grid.methods} for grid, params in compared]
    sweeps = [key for grid in study.grids.values() for key in grid.sweep or {}]
    has = {
        "figure2a": BASE_DIMENSION in sweeps,
        "figure2b": any(BLOCK_COUNT.match(key) for key in sweeps),
        "figure3a": any("DNIS" in names for names in in_paper),
        "figure3b": any(
            params.methods[method].in_paper == "DNIS" and max(rates) > 1
            for grid, params in compared
            for method, rates in grid.methods.items()
        ),
        "figure3c": any({"DNIS", "Network pruning"} <= names for names in in_paper),
        "pareto": bool(compared),
    }
    for i, figure in enumerate(study.figures):
        if not has[figure]:
            text = f"{figure} needs {FIGURE_NEEDS[figure]}, and this study has none"
            _raise(tree, ("studies", name, "figures", i), text)


def drawn(key: str) -> bool:
    """Whether Figure 2 draws a sweep of this key. Tables show the sweeps of all others."""
    return key == BASE_DIMENSION or BLOCK_COUNT.match(key) is not None


def has_area(compared: list[tuple[Grid, Params]]) -> bool:
    """Whether some grid has what the lower end of the scale is, and methods at several sizes."""
    return any(
        any(params.methods[method].predicts_mean for method in grid.methods)
        and any(len(rates) > 1 for rates in grid.methods.values())
        for grid, params in compared
    )


def _raise(tree: Tree, path: KeyPath, text: str) -> None:
    raise NisbenchError(f"{tree.where(path)}: {dotted(path)}: {text}")


# --- names and combinations -----------------------------------------------------------------------------------


def _in_study(name: str, study: Study) -> Iterator[Problem]:
    at: KeyPath = ("studies", name)
    if name in RESERVED or name.split("_", maxsplit=1)[0] in RESERVED_PREFIXES:
        yield at, "a study cannot have this name, which the pipeline uses for a target or a folder; rename it"
    yield from _repeated(at, {("seeds",): study.seeds, ("tables",): study.tables, ("figures",): study.figures})
    runs = len(study.seeds) * sum(
        len(grid.variants)
        * len(grid.datasets)
        * len(grid.models)
        * sum(len(rates) * tuned_count(grid, method) for method, rates in grid.methods.items())
        for grid in study.grids.values()
    )
    if runs > MOST_RUNS:
        yield at, f"asks for {runs} runs; a study may have at most {MOST_RUNS}"


def _in_datasets(params: Params) -> Iterator[Problem]:
    for name, dataset in params.datasets.items():
        at: KeyPath = ("datasets", name)
        if dataset.task not in params.tasks:
            yield from _unknown("task", at, [("task", dataset.task)], params.tasks)
        else:
            for path, text in dataset.problems(params.task_of(name)):
                yield (*at, *path), text


def _in_training(training: Training) -> Iterator[Problem]:
    if training.learning_rate_drop < 1 and training.patience == 1:
        text = "would change nothing: with training.patience = 1, training stops where the rate would drop first"
        yield ("training", "learning_rate_drop"), text


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
    yield from _repeated(at, {("datasets",): grid.datasets, ("models",): grid.models, ("quantise",): grid.quantise})
    yield from _in_quantise(params, grid, at)
    yield from _in_tune(params, grid, at)
    yield from _repeated(at, {("sweep", key): values for key, values in (grid.sweep or {}).items()})
    yield from _repeated(at, {("methods", method): rates for method, rates in grid.methods.items()})
    for method, rates in grid.methods.items():
        yield from _in_method(params, method, rates, at)
    drawn = study in params.studies and params.studies[study].split_per_seed
    for i, dataset in enumerate(grid.datasets):
        settings, task = params.datasets[dataset], params.task_of(dataset)
        if drawn and settings.split == "published":
            yield ("studies", study, "split_per_seed"), f"{dataset} does not allow it: {FIXED_SPLIT}"
        for entry in grid.models:
            model = params.models[entry]
            if not task.is_served_by(model.tasks):
                only = ", ".join(model.tasks)
                text = f"{dataset} is for the task {task.kind_name()}, but the model {entry} is only for: {only}"
                yield (*at, "datasets", i), text
            elif model.user_and_item and settings.is_user_and_item() is False:
                fields = ", ".join(settings.field_names()) or "others"
                text = f"the model {entry} needs a user and an item and no other field, but the fields of {dataset} are: {fields}"
                yield (*at, "datasets", i), text
        for method in grid.methods:
            if params.methods[method].needs_planted and not settings.planted:
                yield (*at, "methods", method), f"this method needs planted dimensions, and {dataset} has none"


def tuned_count(grid: Grid, method: str) -> int:
    """How many combinations of values a grid tries for a method."""
    return math.prod(len(values) for values in (grid.tune or {}).get(method, {}).values())


def _in_tune(params: Params, grid: Grid, at: KeyPath) -> Iterator[Problem]:
    """What is wrong with the values that a grid tries for its methods."""
    tune, at = grid.tune or {}, (*at, "tune")
    yield from _unknown("method of this grid", at, [(method, method) for method in tune], grid.methods)
    for method in [method for method in tune if method in grid.methods]:
        yield from _repeated((*at, method), {(key,): values for key, values in tune[method].items()})
        for path, text in tuning.problems(tune, params.methods[method], params.training, method):
            yield (*at, *path), text


def _in_quantise(params: Params, grid: Grid, at: KeyPath) -> Iterator[Problem]:
    """What cannot be rounded, or is to be rounded twice."""
    for entry in [entry for entry in grid.methods if params.methods[entry].stores_own_form]:
        text = f"the method {entry} stores its result in a form of its own, which is not rounded"
        if any(grid.quantise):
            yield (*at, "quantise"), f"{text}; put it into a grid without `quantise`"
        elif params.methods[entry].quantise:
            yield ("methods", entry, "quantise"), f"{text}; leave this out"
    for entry, precision in product(grid.methods, filter(None, grid.quantise)):
        if rounded_entry(entry, precision) in params.methods:
            yield (
                (*at, "quantise"),
                f"{entry} in {precision} gets the name of the method {entry}_{precision}; rename that",
            )
        elif params.methods[entry].quantise:
            yield (
                (*at, "quantise"),
                f"the method {entry} has a precision of its own: put it into a grid without `quantise`",
            )


def check_run(
    dataset: Dataset, task: Task, model: Model, method: Method, training: Training, rate: float, seed: int
) -> None:
    """Raise `NisbenchError` if these settings of one search and pruning do not fit together, as for a cell of a grid.

    It is of no study: the grid's path has no names.
    """
    names = str(dataset.kind_name()), str(model.kind_name()), str(method.kind_name())
    grid = Grid(datasets=[names[0]], models=[names[1]], methods={names[2]: [rate]})
    params = Params.model_construct(
        tasks={dataset.task: task},
        datasets={names[0]: dataset},
        models={names[1]: model},
        methods={names[2]: method},
        training=training,
        reference=Reference(datasets={}, results={}),
        studies={},
    )
    found = [*_in_datasets(params), *_in_training(training), *_in_grid(params, "", "", grid)]
    lines = [text if path[0] == "studies" else f"{dotted(path)}: {text}" for path, text in found]
    if not 0 <= seed < 2**31:
        lines.append(f"a seed must be a whole number from 0 to {2**31 - 1}, not {seed}")
    if lines:
        raise NisbenchError("\n".join(lines))


def _in_method(params: Params, name: str, rates: list[float], grid: KeyPath) -> Iterator[Problem]:
    """What of a method does not fit into the grid's table, or not together."""
    method, at = params.methods[name], (*grid, "methods", name)
    for path, text in method.problems(params.training.base_dimension):
        hint = f" in {dotted(grid)}; to change one study or grid only, use its overrides ({dotted(grid)}.overrides)"
        yield ("methods", name, *path), text + (hint if BASE_DIMENSION in text and grid[1] else "")
    for rate in rates if method.budgeted else []:
        yield from (
            ((*at, rates.index(rate)), t)
            for p, t in method.at(rate).problems(params.training.base_dimension)
            if p == ("budget",)
        )
    yield from _repeated(("methods", name), method.tried())
    if method.own_model and max(rates) > 1:
        yield at, "this method has no embeddings to prune; its only compression rate is 1"
    if (method.rounds or method.importance == "random") and 1 in rates:
        text = "at compression rate 1 nothing is pruned, and how it prunes is all that sets this method apart; leave out the 1"
        yield (*at, rates.index(1)), text


def _repeated(at: KeyPath, lists: Mapping[KeyPath, Sequence[Any]]) -> Iterator[Problem]:
    for path, items in lists.items():
        for item in sorted({item for item in items if list(items).count(item) > 1}, key=repr):
            yield (*at, *path), f"{short(item)} is listed twice"


def _in_reference(params: Params) -> Iterator[Problem]:
    reference, at = params.reference, ("reference", "results")
    yield from _unknown("data set", ("reference", "datasets"), [(d, d) for d in reference.datasets], params.datasets)
    yield from _unknown("data set", at, [(d, d) for d in reference.results], params.datasets)
    for dataset, dimensions in reference.results.items():
        if dataset not in params.datasets:
            continue
        task = params.task_of(dataset)
        printed = [*task.costs, "hours", *(metric.name for metric in task.metrics)]  # the paper's cost is in hours
        for k, models in dimensions.items():
            yield from _unknown("model", (*at, dataset, k), [(m, m) for m in models], params.models)
            for model, methods in models.items():
                here = (*at, dataset, k, model)
                yield from _unknown("method", here, [(m, m) for m in methods], params.methods)
                for method, rates in methods.items():
                    for rate, figures in rates.items():
                        key = int(rate) if rate.is_integer() else rate  # as YAML has it
                        yield from _unknown("figure", (*here, method, key), [(f, f) for f in figures], printed)


def _unknown(kind: str, at: KeyPath, used: list[tuple[str | int, str]], known: Collection[str]) -> Iterator[Problem]:
    for key, name in used:
        if name not in known:
            yield (*at, key), f"unknown {kind} {short(name)}{nearest(name, known)}"


# --- pydantic's errors in our words ---------------------------------------------------------------------------


REQUIREMENTS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "none_required": "must be null",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
}
"""By pydantic's types of errors."""


def explained(error: ValidationError, tree: Tree) -> Iterator[Problem]:
    """What is wrong with the values of a tree, in our words. What may be one thing or another is one problem."""
    problems: dict[KeyPath, list[tuple[str, str]]] = {}
    for details in error.errors(include_url=False):
        path, requirement, remark = _explain(details, tree)
        problems.setdefault(path, []).append((requirement, remark))
    for path, found in problems.items():
        first, *others = dict.fromkeys(requirement for requirement, _ in found)
        *others, last = [first, *(other.removeprefix("must be ") for other in others)]
        text = f"{', '.join(others)} or {last}" if others else last
        yield path, text + found[-1][1]


def _explain(error: ErrorDetails, tree: Tree) -> tuple[KeyPath, str, str]:
    """The key path, what is wrong there, and what is found there or was meant."""
    path: KeyPath = ()
    cursor: Any = tree.values
    for name in error["loc"]:  # leave out what pydantic adds, such as the tag of a union's member
        key = _key(cursor, name)
        if key is not None:
            path, cursor = (*path, key), cursor[key]
    context, kind = error.get("ctx", {}), error["type"]
    if kind == "missing":
        return (*path, error["loc"][-1]), "this key is missing", ""
    if kind == "extra_forbidden":
        return path, "unknown key", nearest(str(path[-1]), _valid_keys(error["loc"][:-1], tree))
    if kind == "tag_unknown":
        tag, name = str(context["tag"]), context["name"]
        return (*path, tag), f"there is no {tag} {short(name)}", nearest(str(name), context["known"])
    if kind == "tag_missing":
        return (*path, str(context["tag"])), "this key is missing", nearest("", context["known"])
    if kind == "string_pattern_mismatch" and context["pattern"] in PATTERNS:
        text = f"must be {PATTERNS[context['pattern']]}"
    else:
        text = REQUIREMENTS.get(kind) or _SUBJECT.sub("must ", error["msg"]).replace(" after validation", "")
        text = text[0].lower() + text[1:]
    found = "" if isinstance(error["input"], dict | list) else f", not {short(error['input'])}"
    if kind == "string_type" and found and error["input"] is not None:
        found += "; put it in quotes"
    meant = nearest(str(error["input"]), _QUOTED.findall(error["msg"])) if kind == "literal_error" else ""
    return path, text, found + meant


def _key(cursor: Any, name: str | int) -> Any:
    """The key of `cursor` that pydantic calls `name`, or None."""
    if isinstance(cursor, list):
        return name if isinstance(name, int) and name < len(cursor) else None
    if isinstance(cursor, dict):
        return name if name in cursor else next((key for key in cursor if str(key) == str(name)), None)
    return None


@cache
def _schema(settings: type[Params] | type[Kind]) -> dict[str, Any]:
    return settings.model_json_schema()


def _valid_keys(loc: tuple[str | int, ...], tree: Tree) -> list[str]:
    """The keys that settings at `loc` may have, read off a JSON schema: of the entry's kind, or of all parameters."""
    schema, rest = _schema(Params), loc
    if len(loc) >= 2 and loc[0] in {"tasks", "datasets", "models", "methods"}:
        section, entry = str(loc[0]), tree.values[loc[0]][loc[1]]
        known = kinds(section)
        kind = known.get(entry[next(iter(known.values())).tag])
        if kind is None:  # a class that was handed over from Python
            return []
        schema, rest = _schema(kind), loc[2:]
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    node = resolved(schema)
    for name in rest:
        if str(name).startswith("("):  # the tag of a union that JSON schema knows no tags for
            node = next((resolved(each) for each in node.get("oneOf", []) if "$ref" in each), {})
        elif name in node.get("properties", {}):
            node = resolved(node["properties"][name])
        elif "additionalProperties" in node or "patternProperties" in node:
            inner = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
            node = resolved(inner) if isinstance(inner, dict) else {}
        elif "items" in node:
            node = resolved(node["items"])
    return list(node.get("properties", {}))
