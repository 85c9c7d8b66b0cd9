"""What a swept setting changes: each method's results at every value of it, side by side."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nisbench.report.formatting import FAILED, NONE, Sheet, SubTable, label, quantity, row_names
from nisbench.report.panels import Panel, at, panel_of
from nisbench.report.significance import interval
from nisbench.studies import StudyPlan

TITLE = "What a setting changes"
READING = (
    "Each column is a value of the setting; all else stays the same. Metrics are of the test set. *Validation loss* and *best epoch* are of "
    "what validation chose, before pruning. ± is the standard deviation over seeds. *Change* is from the first value to the last, paired by "
    "seed, with its 95 % interval where there are several seeds."
)


@dataclass(frozen=True)
class Sweep:
    """A grid's model and data set at all values of the key that it sweeps."""

    grid: str
    key: str
    dataset: str
    model: str
    panels: dict[str, Panel]
    """By value, as it is shown."""


def sheet(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """A table of quality per sweep and metric, and one each of validation loss and best epochs."""
    tables, data = [], []
    for sweep in sweeps(plan):
        first = next(iter(sweep.panels.values()))
        params, title = plan.grids[first.grid].params, plan.study.grids[sweep.grid].title
        where = ", ".join(filter(None, [params.models[sweep.model].title, params.datasets[sweep.dataset].title, title]))
        metrics = list(first.task(plan).headlines)
        for metric in metrics:
            rows, found = _rows(plan, results, sweep, metric, "value", quantity(metric).shown)
            tables.append(SubTable(f"{where}: {label(metric)} by {sweep.key}", _heads(sweep), rows))
            data.append(found.assign(measured=metric, where=where))
        unpruned = results[results["cr"] == 1]
        for column, name, shown in COLUMNS:
            rows, found = _rows(plan, unpruned, sweep, metrics[0], column, shown)
            if rows:
                tables.append(SubTable(f"{where}: {name} by {sweep.key}", _heads(sweep), rows))
                data.append(found.assign(measured=column, where=where))
    return Sheet(TITLE, tables, READING, pd.concat(data, ignore_index=True) if data else pd.DataFrame(), explained=True)


COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("validation_loss", "validation loss", "{:.5f}".format),
    ("best_epoch", "best epoch", "{:.0f}".format),
)


def sweeps(plan: StudyPlan) -> Iterator[Sweep]:
    """The sweeps of a study's grids over several values, one for each of their data sets and models."""
    found: dict[tuple[str, str, str], Sweep] = {}
    for cell in plan.cells:
        grid = plan.grids[cell.grid]
        if grid.swept:
            key, value = grid.swept
            sweep = Sweep(grid.name, key, cell.dataset, cell.model, {})
            of = found.setdefault((grid.name, cell.dataset, cell.model), sweep)
            of.panels.setdefault(f"{value:g}" if isinstance(value, float) else str(value), panel_of(cell))
    yield from (sweep for sweep in found.values() if len(sweep.panels) > 1)


def _heads(sweep: Sweep) -> list[str]:
    return ["Method", *sweep.panels, "Change"]


def _rows(
    plan: StudyPlan, results: pd.DataFrame, sweep: Sweep, metric: str, column: str, shown: Callable[[float], str]
) -> tuple[list[list[str]], pd.DataFrame]:
    """A row per method and compression rate, and the numbers behind them."""
    by_value: dict[str, dict[tuple[str, float], pd.Series]] = {}
    for value, panel in sweep.panels.items():
        there = at(results, panel)
        of_metric = there[there["metric"] == metric].set_index("seed")
        by_value[value] = {}
        for method, rate in of_metric[["method", "cr"]].drop_duplicates().itertuples(index=False):
            of_key = of_metric[(of_metric["method"] == method) & (of_metric["cr"] == rate)]
            by_value[value][method, rate] = of_key[column].astype(float)
    keys = list(dict.fromkeys(key for of_value in by_value.values() for key in of_value))
    names = row_names(plan, next(iter(sweep.panels.values())).grid, keys)
    rows, data = [], []
    for key in keys:
        series = [by_value[value].get(key, pd.Series(dtype=float)) for value in sweep.panels]
        about = {"grid": sweep.grid, "dataset": sweep.dataset, "model": sweep.model, "method": key[0], "cr": key[1]}
        about |= {"name": names[key], "key": sweep.key}
        changes = [interval(one, series[0]) for one in series]
        rows.append(
            [
                names[key],
                *(_mean(one, shown, FAILED if column == "value" else NONE) for one in series),
                _signed(*changes[-1], shown),
            ]
        )
        for value, one, (change, low, high) in zip(sweep.panels, series, changes, strict=True):
            found = {"value": value, "mean": one.mean(), "std": one.std(ddof=1) if one.count() > 1 else np.nan}
            data.append(about | found | {"n": one.count(), "change": change, "low": low, "high": high})
    return rows, pd.DataFrame(data)


def _mean(values: pd.Series, shown: Callable[[float], str], missing: str) -> str:
    if values.empty:
        return NONE
    if values.isna().all():
        return missing
    spread = f" ± {shown(values.std(ddof=1))}" if values.count() > 1 else ""
    lost = f" ({values.isna().sum()} of {len(values)} {missing})" if values.hasnans and missing == FAILED else ""
    return shown(values.mean()) + spread + lost


def _signed(change: float, low: float, high: float, shown: Callable[[float], str]) -> str:
    if np.isnan(change):
        return NONE
    if change == 0 and not high > low:
        return "none"
    text = ("+" if change >= 0 else "-") + shown(abs(change))
    return text if np.isnan(low) else f"{text} ± {shown((high - low) / 2)}"
