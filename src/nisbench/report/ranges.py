"""Tuning that ended at an end of its range: validation chose the largest or the smallest value that it was offered."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from nisbench.report.formatting import folded, literal
from nisbench.run_files import SearchRun
from nisbench.steps import rate_name
from nisbench.studies import Cell, StudyPlan

ABOUT = (
    "**At an end of the range.** Validation chose the largest or the smallest of the values that were tried, so that a wider range may find a "
    "better one. Nothing is beyond a penalty of 0 or a dimension of K, so these do not count, and of two values one always is at an end."
)


def text(plan: StudyPlan, every: StudyPlan, runs: Mapping[str, SearchRun]) -> str:
    """The methods that chose a value at an end, with the seeds at which they did; empty if none did.

    `every` plan has the cells, too, that validation did not choose: their values were tried.
    """
    found: dict[tuple[str, ...], dict[int, None]] = {}
    tried: dict[Any, dict[str, dict[Any, None]]] = {}
    for cell in every.cells:
        for key, value in cell.tuned:
            tried.setdefault(cell.key, {}).setdefault(key, {})[value] = None
    for cell in plan.cells:
        for key, value, values in _chosen(plan, cell, tried.get(cell.key, {}), runs[cell.search.id]):
            if side := _end(value, values, cell.settings.training.base_dimension):
                title = plan.title(cell.grid, dataset=cell.dataset, model=cell.model, method=cell.method)
                if cell.tuned or plan.method_of(cell).budgeted:  # chosen anew at each rate
                    title += f" (CR = {rate_name(cell.compression_rate)})"
                line = (title, f"`{key}` = {value:g}, the {side} of {', '.join(f'{each:g}' for each in values)}")
                found.setdefault(line, {})[cell.seed] = None
    if not found:
        return ""
    lines = [
        f"* {literal(title)}: {told}, at seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        for (title, told), seeds in found.items()
    ]
    return f"{ABOUT}\n\n" + folded(f"{len(lines)} setting{'s' * (len(lines) > 1)}", "\n".join(lines))


def _chosen(
    plan: StudyPlan, cell: Cell, tuned: Mapping[str, Mapping[Any, None]], run: SearchRun
) -> Iterator[tuple[str, float, Sequence[float]]]:
    """Each numeric setting that was tuned: key, the value that validation chose, and all that were tried."""
    for key, value in cell.tuned:
        yield from _numeric(key, value, list(tuned[key]))
    method = plan.method_of(cell)
    tried = {} if method.learns_selection else method.tried()  # those choose in other ways than trial by trial
    if run.best_trial is not None and prod(map(len, tried.values())) == len(run.trials) > 1:
        places = np.unravel_index(run.best_trial, [len(values) for values in tried.values()])
        for (path, values), place in zip(tried.items(), places, strict=True):
            yield from _numeric(".".join(map(str, path)), values[int(place)], values)


def _numeric(key: str, value: Any, values: Sequence[Any]) -> Iterator[tuple[str, float, Sequence[float]]]:
    if len(values) > 2 and all(type(each) in (int, float) for each in values):
        yield key, value, values


def _end(value: float, values: Sequence[float], k: int) -> str | None:
    """Which end of the values a value is at, if there may be a better one beyond it."""
    if value == max(values) and value != k:
        return "largest"
    return "smallest" if value == min(values) and value != 0 else None
