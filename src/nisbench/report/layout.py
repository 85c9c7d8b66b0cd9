"""How tables show what they show: figures, names of rows, marks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from tabulate import tabulate

from nisbench.console import duration
from nisbench.evaluation import topk
from nisbench.params.settings import Training
from nisbench.runs import StudyPlan, rate_name

NONE = "-"
PAPER_NOTE = "*paper*: as printed in arXiv 2006.04466, where it has this data set."
KEYS = ["grid", "dataset", "model", "method", "cr"]


@dataclass(frozen=True)
class Quantity:
    """A metric or a cost as tables show it."""

    title: str
    shown: Callable[[float], str]
    better: Literal["lower", "higher"] | None = None
    """None for a cost, which is not marked."""


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


QUANTITIES = {
    "params_mib": Quantity("Params (M)", "{:.3g}".format),
    "nonzeros": Quantity("#Params", lambda value: f"{value:,.0f}"),
    "hours": Quantity("Time cost", lambda value: duration(value * 3600)),
    "mse": Quantity("MSE", "{:.4f}".format, "lower"),
    "auc": Quantity("AUC", "{:.4f}".format, "higher"),
    "logloss": Quantity("Logloss", "{:.4f}".format, "lower"),
    **{name: Quantity(name.replace("recall", "r").upper(), _percent, "higher") for name in topk.NAMES},
}


def grouped(results: pd.DataFrame) -> pd.DataFrame:
    """Mean, deviation, number of seeds and the paper's figure of each metric in each place of the tables."""
    rows = [
        {
            **dict(zip(KEYS, group, strict=True)),
            "metric": metric,
            "mean": values["value"].mean(),
            "std": values["value"].std(),
            "seeds": len(values),
            "paper": values["paper_value"].iloc[0],
        }
        for (*group, metric), values in results.groupby([*KEYS, "metric"], sort=False)
    ]
    return pd.DataFrame(rows)


def row_names(plan: StudyPlan, grid: str, keys: list[tuple[str, float]]) -> dict[tuple[str, float], str]:
    """What each method at a compression rate is called in the first column."""
    names = {}
    for method, rate in dict.fromkeys(keys):
        names[method, rate] = plan.titles[grid, f"method {method}"]
        if rate != 1:
            names[method, rate] += f" (CR = {rate_name(rate)})"
        elif any(other == method and cr != 1 for other, cr in keys):
            names[method, rate] += " (unpruned)"
    return names


def cells(chosen: pd.DataFrame, metric: str) -> dict[Any, str]:
    """The figures of one column, the best in bold and the second best underlined, as in the paper; equals alike."""
    quantity = QUANTITIES[metric.removeprefix(topk.FULL)]
    means = {key: figure(metric, mean) for key, mean in chosen["mean"].items()}
    shown = dict(means)
    for key, row in chosen.iterrows():
        if row["seeds"] > 1 and quantity.better:
            shown[key] += f" ± {quantity.shown(row['std'])}"
    if quantity.better:
        ordered = list(
            dict.fromkeys(means[key] for key in chosen["mean"].sort_values(ascending=quantity.better == "lower").index)
        )
        for key, mean in means.items():
            if mean == ordered[0]:
                shown[key] = f"**{shown[key]}**"
            elif mean == ordered[1]:
                shown[key] = f"<u>{shown[key]}</u>"
    return shown


def terms(training: Training) -> str:
    """A sentence with the settings that all methods of a grid were trained under."""
    settings = training.model_dump(mode="json", exclude={"device", "trials_at_once", "checkpoint_seconds"})
    listed = ", ".join(
        f"`{name}: {value:g}`" if isinstance(value, float) else f"`{name}: {value}`" for name, value in settings.items()
    )
    return f"Trained under {listed}, all methods alike, save what a method's own settings and a trial's name say (an L2, a warm start, a controller's patience)."


def figure(metric: str, value: float) -> str:
    return NONE if pd.isna(value) else QUANTITIES[metric.removeprefix(topk.FULL)].shown(value)


def markdown(rows: list[list[Any]], heads: list[str]) -> str:
    align = ["left"] + ["right"] * (len(heads) - 1)
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(rows, heads, tablefmt="pipe", disable_numparse=True, colalign=align)
