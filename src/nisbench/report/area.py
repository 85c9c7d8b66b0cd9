"""One number per method: the area under its quality against its size, over the sizes that a study asks for.

Size is bytes as stored, on a logarithmic scale. Quality is scaled seed by seed: 0 is the control that predicts the same for every
instance, 1 the result with the best mean of all. What is worse than that control counts as 0: it could take its place. (ERASE, arXiv 2403.12660, sums up its curves in this way.)
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from nisbench.records import pruning_result, search_result
from nisbench.report.formatting import NONE, TIED, Sheet, SubTable, label, quantity
from nisbench.report.panels import Panel, at, panel_of
from nisbench.report.runs import full_bytes
from nisbench.report.significance import against_best, rounded
from nisbench.steps import rate_name
from nisbench.studies import StudyPlan

TITLE = "One number per method: area under quality against size"


@dataclass(frozen=True)
class Scale:
    """What a panel's areas are taken over: sizes in bytes, and the two results that quality lies between."""

    smallest: float
    largest: float
    full: float
    """Bytes of the full table in float32."""
    worst: tuple[str, float]
    """The method that predicts the mean, and its compression rate."""
    best: tuple[str, float]
    """The method and compression rate of the best mean."""


def sheet(plan: StudyPlan, results: pd.DataFrame, every: StudyPlan) -> Sheet:
    """The areas of all methods that a grid asks for at several compression rates, and what finding them cost.

    `every` plan has the cells too that validation did not choose: they are part of the cost.
    """
    tables, found = [], []
    for panel in dict.fromkeys(panel_of(cell) for cell in plan.compared):
        for metric in panel.task(plan).headlines:
            rows = areas(plan, at(results, panel), panel, metric)
            if rows.empty:
                continue
            rows = rows.join(pd.DataFrame({name: cost(every, panel, name) for name in rows.index}).T)
            found.append(_named(plan, panel, rows).assign(metric=metric))
            tables.append(_table(plan, every, panel, metric, rows))
    data = pd.concat(found).reset_index(names="method") if found else pd.DataFrame()
    return Sheet(TITLE, tables, READING, data, explained=True)


def _named(plan: StudyPlan, panel: Panel, rows: pd.DataFrame) -> pd.DataFrame:
    """With where the areas are measured, each method's title and role, and which is the DNIS that claims are about: the panel's first."""
    methods = [plan.grids[panel.grid].params.methods[str(name)] for name in rows.index]
    of_panel = (cell for cell in plan.compared if panel_of(cell) == panel)
    first = next((cell.method for cell in of_panel if plan.method_of(cell).in_paper == "DNIS"), None)
    return rows.assign(
        grid=panel.grid,
        dataset=panel.dataset,
        model=panel.model,
        where=panel.title(plan),
        name=[method.title for method in methods],
        role=[method.shown_role for method in methods],
        dnis=rows.index == first,
    )


READING = (
    "*Area* is the mean of scaled quality over the logarithm of size in bytes as stored, in percent. Quality is scaled at each seed: "
    "0 is the global mean, and whatever is worse; 100 is the result of the best mean over seeds in this table's panel. Between two measured "
    "sizes quality is interpolated; above a method's largest it stays the same, and below its smallest it is 0. ± is the half-width of the "
    "95 % interval of the mean over seeds. A column 1/B is scaled quality at that share of the full table's bytes; a dash says that the method "
    "has no result so small, since a weight that is kept takes more than its own bytes. Methods at a single compression rate have no area. *Trials* are all that were trained to find these results, *retrainings* those after pruning; "
    "core-seconds are of both, whatever else the machine did meanwhile."
)


def areas(plan: StudyPlan, results: pd.DataFrame, panel: Panel, metric: str) -> pd.DataFrame:
    """By method: `area`, its half-`width`, `n`, marks, and scaled quality at each budget, the best method first; or nothing.

    There is nothing where the panel lacks a method that predicts the mean, or any at two compression rates.
    """
    of_metric = results[results["metric"] == metric]
    values = of_metric.pivot(index=["method", "cr"], columns="seed", values="value")  # noqa: PD010 - keeps what is missing
    sizes = of_metric.pivot(index=["method", "cr"], columns="seed", values="bytes")  # noqa: PD010
    scale = _scale(plan, panel, values, sizes, metric)
    if scale is None:
        return pd.DataFrame()
    worst, best = (values.to_numpy()[list(values.index).index(key)] for key in (scale.worst, scale.best))
    scaled = ((values - worst) / (best - worst)).clip(lower=0)
    budgets = [rate for rate in sorted({rate for _, rate in values.index}) if rate > 1]
    rows, of_seeds = {}, {}
    for method in dict.fromkeys(name for name, _ in values.index):
        if (values.index.get_level_values("method") == method).sum() == 1:
            continue
        by_seed = list(zip(sizes.loc[[method]].to_numpy().T, scaled.loc[[method]].to_numpy().T, strict=True))
        found = np.array([area(*of_seed, scale) for of_seed in by_seed])
        n = int(np.isfinite(found).sum())
        spread = found.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        at_budgets = {
            rate: np.mean([quality_at(*of_seed, scale.full / rate) for of_seed in by_seed]) for rate in budgets
        }
        rows[method] = {"area": found.mean(), "width": stats.t.ppf(0.975, max(n - 1, 1)) * spread, "n": n} | {
            f"at_{rate_name(rate)}": value for rate, value in at_budgets.items()
        }
        of_seeds[method] = found
    if not rows:
        return pd.DataFrame()
    marks = against_best(pd.DataFrame.from_dict(of_seeds, orient="index"), "higher")
    frame = pd.DataFrame.from_dict(rows, orient="index").join(marks.assign(p=marks["p"].map(rounded)))
    return frame.assign(smallest=scale.smallest, largest=scale.largest).sort_values(
        "area", ascending=False, kind="stable"
    )


def _scale(plan: StudyPlan, panel: Panel, values: pd.DataFrame, sizes: pd.DataFrame, metric: str) -> Scale | None:
    """Sizes run from what methods reach at the highest compression rate to the lowest rate's share of the full table.

    Of those that they reach it is the largest, but at most twice the highest rate's share: the index of a pruned table takes less than
    that, whereas projections that a method adds might leave others nothing to be compared at.
    """
    methods = plan.grids[panel.grid].params.methods
    keys: list[tuple[str, float]] = list(values.index)
    worst = next((key for key in keys if methods[key[0]].predicts_mean), None)
    rates = sorted({rate for _, rate in keys if rate > 1})
    if worst is None or not rates:
        return None
    means = {
        key: mean
        for key, mean in zip(keys, values.mean(axis=1, skipna=False).to_numpy(), strict=True)
        if methods[key[0]].shown_role != "control" and np.isfinite(mean)
    }
    best = (max if quantity(metric).better == "higher" else min)(means, key=lambda key: means[key])
    full = full_bytes(plan, panel)
    if full is None:
        return None
    reached = sizes.to_numpy()[[rate == rates[-1] for _, rate in keys]].mean(axis=1)
    smallest, largest = min(float(np.nanmax(reached)), 2 * full / rates[-1]), full / rates[0]
    return Scale(smallest, largest, full, worst, best) if smallest < largest else None


def area(size: np.ndarray, quality: np.ndarray, scale: Scale) -> float:
    """The mean of quality over the scale's sizes, of one method at one seed; NaN where a result is missing."""
    x, y = _sorted(size, quality)
    low, high = np.log([scale.smallest, scale.largest])
    start = max(low, x[0])
    if start >= high:
        return 0.0
    points = np.unique([start, *x[(x > start) & (x < high)], high])
    return float(np.trapezoid(np.interp(points, x, y), points) / (high - low))


def quality_at(size: np.ndarray, quality: np.ndarray, budget: float) -> float:
    """Quality at a size in bytes, of one method at one seed; NaN below its smallest, and where a result is missing."""
    return float(np.interp(np.log(budget), *_sorted(size, quality), left=np.nan))


def _sorted(size: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of sizes, rising, and the quality at each; results of one size count as their mean."""
    x, place = np.unique(np.log(np.maximum(size.astype(float), 1.0)), return_inverse=True)
    return x, np.bincount(place, quality) / np.bincount(place)


def cost(every: StudyPlan, panel: Panel, method: str) -> dict[str, float]:
    """What a panel's results of a method took, at all rates and seeds: trials, retrainings, core-seconds."""
    cells = [cell for cell in every.compared if panel_of(cell) == panel and cell.method == method]
    searches = [search_result(step) for step in {cell.search.id: cell.search for cell in cells}.values()]
    prunings = [pruning_result(step) for step in {cell.prune.id: cell.prune for cell in cells}.values()]
    seconds = [run.core_seconds for run in searches] + [run.core_seconds for run in prunings]
    return {
        "trials": sum(len(run.trials) for run in searches),
        "retrainings": sum(len(run.rounds) for run in prunings),
        "core_seconds": sum(seconds),
    }


def _table(plan: StudyPlan, every: StudyPlan, panel: Panel, metric: str, rows: pd.DataFrame) -> SubTable:
    budgets = [name for name in map(str, rows) if name.startswith("at_")]
    heads = ["Method", "Area", *(f"1/{name.removeprefix('at_')}" for name in budgets)]
    shown = []
    for method, row in rows.to_dict("index").items():
        text = _percent(row["area"]) + (f" ± {_percent(row['width'])}" if row["n"] > 1 else "")
        text = f"**{text}**" if row["best"] else f"{text} {TIED}" if row["tied"] else text
        costs = [f"{row[name]:,.0f}" for name in ("trials", "retrainings", "core_seconds")]
        shown.append(
            [plan.title(panel.grid, method=str(method)), text, *(_percent(row[name]) for name in budgets), *costs]
        )
    tuned = {
        cell.method: ", ".join(f"`{key}`" for key, _ in cell.tuned)
        for cell in every.compared
        if panel_of(cell) == panel and cell.tuned and cell.method in rows.index
    }
    notes = [f"Sizes from {rows['smallest'].iloc[0]:,.0f} to {rows['largest'].iloc[0]:,.0f} bytes."]
    notes += (
        [
            f"Tuned at each size: {'; '.join(f'{plan.title(panel.grid, method=name)} ({keys})' for name, keys in tuned.items())}."
        ]
        if tuned
        else []
    )
    return SubTable(
        f"{panel.title(plan)}: {label(metric)}",
        [*heads, "Trials", "Retrainings", "Core-seconds"],
        shown,
        " ".join(notes),
    )


def _percent(value: float) -> str:
    return NONE if pd.isna(value) else f"{100 * value:.1f}"
