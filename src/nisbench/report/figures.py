"""The paper's figures, and quality against size: each is data and a picture of it.

A figure's function returns its data, in the form that its CSV has, the picture, and a caption.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from nisbench.params.settings import Figure
from nisbench.report import learned, pictures
from nisbench.report.layout import quantity
from nisbench.report.pictures import Drawn
from nisbench.report.places import HEADLINES, Place, at, kind_of, place_of
from nisbench.runs import rate_name
from nisbench.studies import StudyPlan, symbol

# --- Figures 2a and 2b: what base dimension and blocks do -----------------------------------------------------


def figure2a(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """Quality against the base dimension K."""
    data, picture, seeds = _varied(plan, results, "K")
    caption = f"Quality on the test instances against the base dimension K of the embedding table{seeds}."
    return data, picture, caption


def figure2b(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """Quality against the number of feature blocks L."""
    data, picture, seeds = _varied(plan, results, "L")
    caption = f"Quality on the test instances against the number L of blocks that the features are cut into{seeds}."
    return data, picture, caption


def _varied(plan: StudyPlan, results: pd.DataFrame, letter: str) -> tuple[pd.DataFrame, Picture, str]:
    """Lines over the values of the parameter that the paper calls so: one per method and compression rate."""
    values = {
        name: grid.varied[1] for name, grid in plan.grids.items() if grid.varied and symbol(grid.varied[0]) == letter
    }
    chosen = results[results["grid"].isin(list(values))].copy()
    chosen = chosen[[metric in HEADLINES[task] for metric, task in zip(chosen["metric"], chosen["task"], strict=True)]]
    chosen["value_of"] = chosen["grid"].map(values)
    chosen["series"] = [
        _series(plan, grid, method, rate)
        for grid, method, rate in chosen[["grid", "method", "cr"]].itertuples(index=False)
    ]
    keys = ["dataset", "model", "metric", "series", "value_of"]
    data = chosen.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    looks = pictures.looks(data["series"])
    groups: list[Any] = list(data.groupby(["dataset", "model", "metric"], sort=False))
    picture, axes = pictures.panels(len(groups), 3, (3.6, 3.0))
    first = next(iter(values))
    for axis, ((dataset, model, metric), group) in zip(axes, groups, strict=True):
        for series, line in group.groupby("series", sort=False):
            _line(axis, line["value_of"], line["mean"], line["std"], looks[series], series)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator(sorted(set(group["value_of"]))))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(letter)
        axis.set_ylabel(_arrow(metric))
        axis.set_title(f"{plan.titles[first, f'model {model}']}, {plan.titles[first, f'dataset {dataset}']}")
        if len(looks) > 1:
            axis.legend()
    picture.tight_layout()
    return data.rename(columns={"value_of": letter}), picture, _over_seeds(plan)


# --- Figure 3c: against network pruning -----------------------------------------------------------------------


def figure3c(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """DNIS and network pruning: quality against the share of weights that is pruned."""
    places: dict[Place, set[str]] = {}
    kinds = {}
    for cell in plan.compared:
        kinds[cell.grid, cell.method] = kind_of(plan, cell)
        places.setdefault(place_of(cell), set()).add(kinds[cell.grid, cell.method])
    chosen = []
    for place in [place for place, there in places.items() if {"dnis", "full"} <= there]:
        of_place = at(results, place)
        shown = [kinds[place.grid, method] in {"dnis", "full"} for method in of_place["method"]]
        headlines = of_place["metric"].isin(HEADLINES[of_place["task"].iloc[0]])
        chosen.append(of_place[headlines & pd.Series(shown, index=of_place.index)])
    data = pd.concat(chosen)
    keys = ["grid", "dataset", "model", "metric", "method", "cr"]
    data = data.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    data.insert(6, "pruned", 1 - 1 / data["cr"])
    looks = pictures.looks(data["method"])
    groups: list[Any] = list(data.groupby(["grid", "dataset", "model", "metric"], sort=False))
    picture, axes = pictures.panels(len(groups), 3, (3.6, 3.0))
    for axis, ((grid, dataset, model, metric), group) in zip(axes, groups, strict=True):
        for method, line in group.groupby("method", sort=False):
            ordered = line.sort_values("pruned")
            name = plan.titles[grid, f"method {method}"]
            _line(axis, ordered["pruned"], ordered["mean"], ordered["std"], looks[method], name)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.set_xlabel("pruned share of the weights")
        axis.set_ylabel(_arrow(metric))
        axis.set_title(Place(grid, dataset, model).title(plan))
        axis.legend()
    picture.tight_layout()
    caption = f"Quality on the test instances against the share of embedding weights that is pruned, without training after it{_over_seeds(plan)}."
    return data, picture, caption


# --- quality against size -------------------------------------------------------------------------------------


def pareto(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """Quality against the number of weights, for all methods: what to use for a given size."""
    data = _points(plan, results)
    looks = pictures.looks(data["series"])
    groups: list[Any] = list(data.groupby(["dataset", "model"], sort=False))
    picture, axes = pictures.panels(len(groups), 3, (4.2, 3.6))
    for axis, ((dataset, model), group) in zip(axes, groups, strict=True):
        metric = group["metric"].iloc[0]
        for series, points in group.groupby("series", sort=False):
            look = {**looks[series], "linestyle": "none"}
            _line(axis, points["weights"], points["mean"], points["std"], look, series)
        front = group[group["front"]].sort_values("weights")
        lower = quantity(metric).better == "lower"
        axis.step(front["weights"], front["mean"], where="post", color="0.35", linewidth=1, zorder=1)
        for row in front.itertuples():
            if row.cr != 1:
                axis.annotate(f"CR {rate_name(row.cr)}", (row.weights, row.mean), xytext=(4, -9 if lower else 5),
                              textcoords="offset points", fontsize=6.5)  # fmt: skip
        _window(axis, group, lower)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("embedding weights that are not 0")
        axis.set_ylabel(_arrow(metric))
        axis.set_title(f"{_title(plan, 'model', model)}, {_title(plan, 'dataset', dataset)}")
    handles = {name: axis for axis in reversed(axes) for name in axis.get_legend_handles_labels()[1]}
    entries = [dict(zip(*reversed(handles[name].get_legend_handles_labels()), strict=True))[name] for name in looks]
    picture.tight_layout()
    picture.legend(entries, list(looks), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=min(4, len(looks)))
    caption = (
        "Quality on the test instances against size, every method at every compression rate"
        f"{_over_seeds(plan)}. The line is the Pareto front of the means: nothing on it has both fewer weights and better quality. Points far "
        "worse than all unpruned ones lie outside; they are in the data."
    )
    return data, picture, caption


def _points(plan: StudyPlan, results: pd.DataFrame) -> pd.DataFrame:
    """Mean size and quality of each run over its seeds; a run that several grids have is in here once."""
    shown = {(cell.grid, cell.dataset, cell.model, cell.method, cell.compression_rate): cell for cell in plan.compared}
    names: dict[tuple[str, str, str], dict[str, str]] = {}  # per data set, model, method: a search's name in the legend
    rows, seen = [], set()
    for (grid, dataset, model, method, rate), cell in shown.items():
        if cell.prune.id in seen:
            continue
        seen.add(cell.prune.id)
        known = names.setdefault((dataset, model, method), {})
        title = plan.titles[grid, f"method {method}"]
        series = known.setdefault(cell.search.id, f"{title}, {plan.grids[grid].title}" if known else title)
        of_run = results[
            (results["grid"] == grid) & (results["dataset"] == dataset) & (results["model"] == model)
            & (results["method"] == method) & (results["cr"] == rate)
        ]  # fmt: skip
        metric = HEADLINES[cell.settings.task.kind][-1]
        values = of_run[of_run["metric"] == metric]["value"]
        rows.append(
            {
                "dataset": dataset,
                "model": model,
                "series": series,
                "cr": rate,
                "weights": of_run[of_run["metric"] == "nonzeros"]["value"].mean(),
                "metric": metric,
                "mean": values.mean(),
                "std": values.std(),
                "count": len(values),
            }
        )
    data = pd.DataFrame(rows)
    data["front"] = False
    for _, group in data.groupby(["dataset", "model"]):
        sign = 1 if quantity(group["metric"].iloc[0]).better == "lower" else -1
        ordered = group.assign(loss=sign * group["mean"]).sort_values(["weights", "loss"])
        best = ordered["loss"].cummin()
        data.loc[ordered.index[ordered["loss"] < best.shift(fill_value=np.inf)], "front"] = True
    return data


def _window(axis: Axes, group: pd.DataFrame, lower: bool) -> None:
    """Show what is on the front or unpruned, and no more than twice the range of that."""
    near = group[group["cr"] == 1]["mean"]
    if near.empty:
        return
    best, worst = (min(group["mean"]), max(near)) if lower else (max(group["mean"]), min(near))
    span = (worst - best) or abs(best) * 0.01 or 1.0
    ends = best - 0.15 * span, worst + span
    axis.set_ylim(min(ends), max(ends))


# --- shared ---------------------------------------------------------------------------------------------------


def _series(plan: StudyPlan, grid: str, method: str, rate: float) -> str:
    return plan.titles[grid, f"method {method}"] + ("" if rate == 1 else f" (CR = {rate_name(rate)})")


def _title(plan: StudyPlan, kind: str, name: str) -> str:
    return next(title for (_, entry), title in plan.titles.items() if entry == f"{kind} {name}")


def _line(axis: Axes, x: pd.Series, y: pd.Series, spread: pd.Series, look: dict[str, Any], label: str) -> None:
    """Markers and a stroke; bars of a standard deviation where there are several seeds."""
    axis.errorbar(
        x, y, yerr=spread.fillna(0) if spread.notna().any() else None, capsize=2, elinewidth=0.8, label=label, **look
    )


def _arrow(metric: str) -> str:
    """A metric and which way is better."""
    return f"{quantity(metric).title} {'↓' if quantity(metric).better == 'lower' else '↑'}"


def _over_seeds(plan: StudyPlan) -> str:
    seeds = len(plan.study.seeds)
    return f"; mean and standard deviation over {seeds} seeds" if seeds > 1 else "; one seed"


MAKERS: dict[Figure, Callable[[StudyPlan, pd.DataFrame], Drawn]] = {
    "figure2a": figure2a,
    "figure2b": figure2b,
    "figure3a": learned.figure3a,
    "figure3b": learned.figure3b,
    "figure3c": figure3c,
    "pareto": pareto,
}
TITLES: dict[Figure, str] = {
    "figure2a": "Figure 2a: the base dimension K",
    "figure2b": "Figure 2b: the number of feature blocks L",
    "figure3a": "Figure 3a: the soft selection that DNIS learns",
    "figure3b": "Figure 3b: dimensions left against frequency",
    "figure3c": "Figure 3c: DNIS against network pruning",
    "pareto": "Quality against size",
}
