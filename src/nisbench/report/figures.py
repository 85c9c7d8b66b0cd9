"""The paper's figures, and quality against size: each is data and a picture of it.

A figure's function returns its data, in the form that its CSV has, the picture, and a caption.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from nisbench.params.methods import Method
from nisbench.params.studies import Figure
from nisbench.report import dnis_figures, style
from nisbench.report.formatting import label, quantity
from nisbench.report.panels import Panel
from nisbench.report.style import Drawn
from nisbench.steps import rate_name
from nisbench.studies import StudyPlan

# --- Figures 2a and 2b: what base dimension and blocks do -----------------------------------------------------


def figure2a(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """Quality against the base dimension K."""
    data, picture = _over_sweep(plan, results, "K", "base dimension K")
    caption = f"Quality on the test instances against the base dimension K of the embedding table{_over_seeds(plan)}."
    return data, picture, caption


def figure2b(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """Quality against the number of feature blocks L."""
    data, picture = _over_sweep(plan, results, "L", "number of feature blocks L")
    caption = f"Quality on the test instances against the number L of blocks that the features are cut into{_over_seeds(plan)}."
    return data, picture, caption


def _over_sweep(plan: StudyPlan, results: pd.DataFrame, letter: str, axis_label: str) -> tuple[pd.DataFrame, Picture]:
    """Quality against the swept parameter that the paper calls `letter`.

    A panel per grid, data set, model and metric; a line per method and compression rate.
    """
    chosen = _shown(plan, results, swept=letter)
    values: dict[str, Any] = {name: grid.swept[1] for name, grid in plan.grids.items() if grid.swept}
    chosen = chosen.assign(
        series=_names(plan, chosen, rates=True),
        value_of=[values[grid] for grid in chosen["grid"]],
        grid=[plan.grids[grid].name for grid in chosen["grid"]],
    ).sort_values("value_of", kind="stable")
    chosen = chosen.rename(columns={"value_of": letter})
    keys = ["grid", "dataset", "model", "metric", "series", letter]
    data = chosen.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    looks = style.looks(_methods_of(plan, chosen))
    groups: list[Any] = list(data.groupby(["grid", "dataset", "model", "metric"], sort=False))
    picture, axes = style.panels(len(groups), 3, (3.6, 3.0))
    for axis, ((grid, dataset, model, metric), group) in zip(axes, groups, strict=True):
        for series, line in group.groupby("series", sort=False):
            _line(axis, line[letter], line, looks[series], series)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator(sorted(set(group[letter]))))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(axis_label)
        _quality(axis, metric)
        name = _variant(plan, grid)
        title = plan.title(name, model=model) + ", " + plan.grids[name].params.datasets[dataset].title
        style.entitle(axis, ", ".join(filter(None, [title, plan.study.grids[grid].title])))
        if len(looks) > 1:
            axis.legend()
    picture.tight_layout()
    return data, picture


# --- Figure 3c: against network pruning -----------------------------------------------------------------------


def figure3c(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """DNIS and network pruning: quality against the share of weights that is pruned."""
    chosen = _shown(plan, results)
    chosen = chosen[chosen["in_paper"].isin(["DNIS", "Network pruning"])]
    both = chosen.groupby(["grid", "dataset", "model"])["in_paper"].transform("nunique") == 2
    chosen = chosen.assign(pruned=1 - chosen["nonzeros"] / chosen["weights"], series=_names(plan, chosen))[both]
    keys = ["grid", "dataset", "model", "metric", "series", "cr"]
    data = chosen.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    data.insert(6, "pruned", chosen.groupby(keys, sort=False)["pruned"].mean().to_numpy())
    looks = style.looks(_methods_of(plan, chosen))
    groups: list[Any] = list(data.groupby(["grid", "dataset", "model", "metric"], sort=False))
    picture, axes = style.panels(len(groups), 3, (3.6, 3.0))
    for axis, ((grid, dataset, model, metric), group) in zip(axes, groups, strict=True):
        for i, (series, line) in enumerate(group.groupby("series", sort=False)):
            ordered = line.sort_values("pruned")
            _line(axis, ordered["pruned"], ordered, {**looks[series], "linestyle": style.DASHES[i % 2]}, series)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.set_xlabel("pruned share of the weights")
        _quality(axis, metric)
        style.entitle(axis, Panel(grid, dataset, model).title(plan))
        axis.legend()
    picture.tight_layout()
    caption = (
        "Quality on the test instances against the share of embedding weights that are 0. Pruning is in one shot, "
        f"without training after it. Weights that the search itself has set to 0 count as pruned{_over_seeds(plan)}."
    )
    return data, picture, caption


# --- quality against size -------------------------------------------------------------------------------------


def pareto(plan: StudyPlan, results: pd.DataFrame) -> Drawn:
    """Quality against stored bytes, for all methods: what to use for a given size."""
    data, methods = _points(plan, results)
    looks = style.looks(methods)
    groups: list[Any] = list(data.groupby(["dataset", "model", "split"], sort=False))
    entries = max((group["series"].nunique() for _, group in groups), default=1)
    picture, axes = style.panels(len(groups), 2, (5.6, 3.8 + 0.16 * ceil(entries / 2)))
    # In inches, not in parts of the axes: a long legend makes these low.
    below = ScaledTranslation(0, -0.5, picture.dpi_scale_trans)
    for axis, ((dataset, model, _), group) in zip(axes, groups, strict=True):
        metric = group["metric"].iloc[0]
        lower = quantity(metric).better == "lower"
        front = group[group["front"]].sort_values("bytes")
        axis.set_xscale("log")
        axis.step(front["bytes"], front["mean"], where="post", color="0.75", linewidth=4, zorder=0)
        places = _apart(group)
        for series, points in group.groupby("series", sort=False):
            ordered = points.sort_values("bytes")
            above = methods[series].shown_role in {"control", "reference"}  # never hidden
            look = {**looks[series], "linewidth": 0.9, "zorder": 4 if above else 3} | (
                {"markersize": 8} if above else {}
            )
            _line(axis, places[ordered.index], ordered, look, series)
        bottom, top = _window(group, lower)
        axis.set_ylim(bottom, top)
        inside = group[group["mean"].between(bottom, top)]
        for row in inside[inside["cr"] != 1].itertuples():
            axis.annotate(
                rate_name(row.cr), (places[row.Index], row.mean), xytext=(5, 4), textcoords="offset points", fontsize=6.5,
                color=_text_colour(looks[row.series]["color"]), annotation_clip=True, clip_on=True,
            )  # fmt: skip
        style.label_sizes(axis, 0.8 * inside["bytes"].min(), 1.25 * inside["bytes"].max())
        axis.set_xlabel("bytes of the embeddings, in their smallest layout")
        _quality(axis, metric)
        style.entitle(axis, f"{_entry(plan, 'models', model).title}, {_entry(plan, 'datasets', dataset).title}")
        axis.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=axis.transAxes + below,
            ncols=2, fontsize=6.5, frameon=False,
        )  # fmt: skip
    picture.tight_layout()
    caption = (
        f"Quality on the test instances against size{_over_seeds(plan)}. Numbers beside points are compression rates; "
        "points without a number are as searched. Points that would cover each other are moved side by side; controls and the reference "
        "are larger and on top. The broad line is the Pareto front of the means, without regard to "
        "noise: no result has both fewer bytes and better quality than a point on it. The picture leaves out "
        "results far worse than all unpruned ones, and models without embeddings; the data have the former."
    )
    return data, picture, caption


def _points(plan: StudyPlan, results: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Method]]:
    """Size and quality of each result, as means over seeds, and each series's method. A run counts once."""
    searches = {(cell.grid, cell.dataset, cell.model, cell.method, cell.seed): cell.search for cell in plan.cells}
    chosen = pd.concat([_shown(plan, results), _shown(plan, results, swept="K")])
    chosen = chosen[(chosen["nonzeros"] > 0) & (chosen["metric"] == chosen["headline"])]
    of = [
        searches[key]
        for key in chosen[["grid", "dataset", "model", "method", "seed"]].itertuples(index=False, name=None)
    ]
    splits: dict[tuple[str, str], str] = {}  # of the first seed, where each has its own
    for cell in plan.cells:
        splits.setdefault((cell.grid, cell.dataset), cell.search.needs["split"].id)
    split = [splits[key] for key in zip(chosen["grid"], chosen["dataset"], strict=True)]
    chosen = chosen.assign(search=[search.id for search in of], split=split)
    same = chosen["run_id"].where(chosen["cr"] != 1, chosen["search"])  # unpruned, methods may differ in name only
    rounded = pd.Series(
        [
            plan.grids[grid].params.methods[method].quantise
            for grid, method in chosen[["grid", "method"]].itertuples(index=False)
        ],
        index=chosen.index,
    )  # of one run, or not
    chosen = chosen[~pd.DataFrame({"run": same, "precision": rounded}).duplicated()].assign(
        series=lambda kept: _names(plan, kept)
    )
    chosen = chosen.assign(grid=chosen.groupby("search", sort=False)["grid"].transform("first"))
    first = chosen.groupby(["dataset", "model", "split", "series"], sort=False)["grid"].transform("first")
    terms = [
        f"{series}{K_SWEPT}"
        if plan.grids[grid].sweeps("K")
        else f"{series}, {plan.grids[grid].title}"
        if grid != plain
        else series
        for series, grid, plain in zip(chosen["series"], chosen["grid"], first, strict=True)
    ]
    chosen = chosen.assign(series=terms)
    methods = _methods_of(plan, chosen)
    keys = ["dataset", "model", "split", "series", "k", "cr", "metric"]
    groups = chosen.groupby(keys, sort=False)
    data = groups["value"].agg(["mean", "std", "count"]).reset_index()
    data.insert(6, "bytes", groups["bytes"].mean().to_numpy())
    data["front"] = False
    for _, group in data.groupby(["dataset", "model", "split"]):
        sign = 1 if quantity(group["metric"].iloc[0]).better == "lower" else -1
        ordered = group.assign(loss=sign * group["mean"]).sort_values(["bytes", "loss"])
        best = ordered["loss"].cummin()
        data.loc[ordered.index[ordered["loss"] < best.shift(fill_value=np.inf)], "front"] = True
    return data, methods


def _window(group: pd.DataFrame, lower: bool) -> tuple[float, float]:
    """From the best to somewhat beyond the worst unpruned result and the worst on the front."""
    near = group[(group["cr"] == 1) & ~group["series"].str.endswith(K_SWEPT)]["mean"]
    near = pd.concat([group["mean"] if near.empty else near, group.loc[group["front"], "mean"]])
    best, worst = (group["mean"].min(), near.max()) if lower else (group["mean"].max(), near.min())
    span = (worst - best) or (abs(best) * 0.01 or 1.0) * (1 if lower else -1)
    ends = best - 0.15 * span, worst + 0.25 * span
    return min(ends), max(ends)


def _apart(group: pd.DataFrame) -> pd.Series:
    """Where points are drawn along the axis of bytes: those that would cover each other are moved side by side."""
    spread = group["mean"].max() - group["mean"].min() or 1.0
    near = pd.DataFrame(
        {
            "x": (np.log(group["bytes"]) * 50).round(),
            "y": ((group["mean"] - group["mean"].min()) / spread * 100).round(),
        }
    )
    return group["bytes"] * 1.05 ** near.groupby(["x", "y"]).cumcount()


def _text_colour(colour: Any) -> Any:
    """A marker's colour, darkened: text is thinner."""
    return tuple(0.7 * part for part in to_rgb(colour))


K_SWEPT = ", K swept"

# --- shared ---------------------------------------------------------------------------------------------------


def _shown(plan: StudyPlan, results: pd.DataFrame, swept: str | None = None) -> pd.DataFrame:
    """The headline metrics in grids that tables show, or in those that sweep the parameter the paper calls `swept`.

    Two columns are added: the paper's name of the method, and the metric that sizes are weighed against.
    """
    grids = [name for name, grid in plan.grids.items() if (grid.sweeps(swept) if swept else grid.tabled)]
    in_paper: dict[Any, Any] = {(cell.grid, cell.method): plan.method_of(cell).in_paper for cell in plan.cells}
    headlines = {cell.settings.task.kind_name(): cell.settings.task.headlines for cell in plan.cells}
    chosen = results[results["grid"].isin(grids)]
    pairs = zip(chosen["metric"], chosen["task"], strict=True)
    chosen = chosen[np.array([metric in headlines[task] for metric, task in pairs], dtype=bool)]
    return chosen.assign(
        in_paper=[in_paper[key] for key in zip(chosen["grid"], chosen["method"], strict=True)],
        headline=[headlines[task][-1] for task in chosen["task"]],
    )


def _methods_of(plan: StudyPlan, chosen: pd.DataFrame) -> dict[str, Method]:
    """The settings of the method of each series."""
    columns = chosen[["series", "grid", "method"]].drop_duplicates("series")
    return {
        series: plan.grids[grid if grid in plan.grids else _variant(plan, grid)].params.methods[method]
        for series, grid, method in columns.itertuples(index=False)
    }


def _variant(plan: StudyPlan, name: str) -> str:
    """The key in `plan.grids` of the first variant of a grid of a study."""
    return next(key for key, grid in plan.grids.items() if grid.name == name)


def _names(plan: StudyPlan, results: pd.DataFrame, rates: bool = False) -> list[str]:
    """The title of each row's method, with its compression rate if asked for."""
    names = []
    for grid, method, rate in results[["grid", "method", "cr"]].itertuples(index=False):
        title = plan.title(grid, method=method)
        names.append(f"{title} (CR = {rate_name(rate)})" if rates and rate != 1 else title)
    return names


def _entry(plan: StudyPlan, section: str, name: str) -> Any:
    """An entry of ``params/``, as the first grid that has it knows it."""
    found = (getattr(grid.params, section) for grid in plan.grids.values())
    return next(entries[name] for entries in found if name in entries)


def _line(axis: Axes, x: pd.Series, y: pd.DataFrame, look: dict[str, Any], name: str) -> Any:
    """A line with markers, and with bars of one standard deviation where there are several seeds."""
    spread = y["std"].fillna(0) if y["std"].notna().any() else None
    return axis.errorbar(x, y["mean"], yerr=spread, capsize=2, elinewidth=0.8, label=style.plain(name), **look)


def _quality(axis: Axes, metric: str) -> None:
    """The axis of a metric, in the unit of the tables, with which way is better."""
    axis.set_ylabel(f"{label(metric)} {'↓' if quantity(metric).better == 'lower' else '↑'}")
    if quantity(metric).percent:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def _over_seeds(plan: StudyPlan) -> str:
    seeds = len(plan.study.seeds)
    return f"; mean and standard deviation over {seeds} seeds" if seeds > 1 else "; one seed"


MAKERS: dict[Figure, Callable[[StudyPlan, pd.DataFrame], Drawn]] = {
    "figure2a": figure2a,
    "figure2b": figure2b,
    "figure3a": dnis_figures.figure3a,
    "figure3b": dnis_figures.figure3b,
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
