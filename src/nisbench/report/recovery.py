"""Did a search find the right answer? Found dimensions against planted ones, which only generated data can tell."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from nisbench.files import bad_file, write_text
from nisbench.report import style
from nisbench.report.formatting import (
    CUT_OFF,
    KEYS,
    NONE,
    Sheet,
    SubTable,
    cells,
    grouped,
    legend,
    quantity,
    row_names,
    terms,
)  # fmt: skip
from nisbench.report.results import features_and_sizes
from nisbench.studies import Cell, StudyPlan


def sheet(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """Rank correlation of found with planted dimensions, and quality, of all methods on generated data."""
    title = "Recovery of planted dimensions"
    cells_of_planted = [cell for cell in plan.compared if plan.dataset_of(cell).planted]
    if not cells_of_planted:
        data, figure, caption = style.nothing()
        write_text(plan.folder / "recovery_dimensions.csv", data.to_csv(index=False))
        style.save(figure, plan.folder, "recovery")
        return Sheet(title, [], caption, data, ((caption, "recovery.png"),))
    left = [dimensions(cell) for cell in cells_of_planted]
    found = pd.DataFrame([measured(*each) for each in zip(cells_of_planted, left, strict=True)])
    summary = found.groupby(KEYS, sort=False)[["spearman", "dimensions"]].agg(["mean", "std", "count"])
    measures: dict[Any, pd.Series] = dict(summary.iterrows())
    quality = grouped(results)
    tables = []
    for grid, dataset, model in found[["grid", "dataset", "model"]].drop_duplicates().itertuples(index=False):
        of_model = quality[(quality["grid"] == grid) & (quality["dataset"] == dataset) & (quality["model"] == model)]
        metrics = [name for name in of_model["metric"].unique() if quantity(name).better and not quantity(name).context]
        columns = {
            name: cells(of_model[of_model["metric"] == name].set_index(["method", "cr"]), name) for name in metrics
        }
        body: list[list[str]] = []
        keys: list[tuple[Any, ...]] = []
        marks = of_model[of_model["metric"].isin(metrics)]
        cut_off = marks.groupby(["method", "cr"])["cut_off"].any()
        for key, name in row_names(plan, grid, list(zip(of_model["method"], of_model["cr"], strict=True))).items():
            keys.append((grid, dataset, model, *key))
            measure = measures[keys[-1]]
            body.append(
                [
                    f"{name} {CUT_OFF}" if cut_off[key] else name,
                    _spread(measure["spearman"]),
                    _spread(measure["dimensions"]),
                    *(column[key] for column in columns.values()),
                ]
            )
        heads = ["Search method", "Spearman", "Mean dimension", *(quantity(name).title for name in metrics)]
        heading = plan.title(grid, model=model, dataset=dataset)
        tables.append(SubTable(heading, heads, body, legend(marks), terms(plan.grids[grid].params.training), keys))
    picture(plan, cells_of_planted, left, found)
    drawn = (("Rank correlation of found with planted dimensions, by method", "recovery.png"),)
    return Sheet(title, tables, READING, found, drawn)


def dimensions(cell: Cell) -> pd.DataFrame:
    """The `planted` and the `found` dimension of each feature that occurs in train."""
    features, sizes = features_and_sizes(cell)
    if "planted_dimension" not in features.column_names:
        raise bad_file(cell.search.needs["block"].path("features"), "it has no column planted_dimension")
    both = pd.DataFrame({"planted": features["planted_dimension"].to_numpy(), "found": sizes})
    known: pd.DataFrame = both.loc[features["frequency"].to_numpy() > 0]
    return known


def measured(cell: Cell, both: pd.DataFrame) -> dict[str, Any]:
    """One run's rank correlation, and its mean dimension, of its `dimensions`."""
    constant = any(len(both[name].unique()) == 1 for name in both)
    return {
        **dict(zip(KEYS, cell.key[:5], strict=True)),
        "seed": cell.seed,
        "spearman": float("nan") if constant else float(spearmanr(both["found"], both["planted"]).statistic),
        "dimensions": float(both["found"].mean()),
    }


def picture(plan: StudyPlan, cells_of_planted: list[Cell], left: list[pd.DataFrame], found: pd.DataFrame) -> None:
    """Each method's rank correlation, in one panel per model: ``recovery.png`` and ``recovery.svg``.

    `left` are the `dimensions` of each cell, `found` what was `measured` of them. ``recovery_dimensions.csv`` has what is behind it: the quartiles of the found dimension by planted dimension.
    """
    keys = list(dict.fromkeys(cell.key[:5] for cell in cells_of_planted))
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.repeat([row_of[cell.key[:5]] for cell in cells_of_planted], [len(each) for each in left])
    by_planted = pd.concat(left, ignore_index=True).assign(row=rows).groupby(["row", "planted"], sort=False)["found"]
    quartiles = {
        name: by_planted.quantile(q) for name, q in (("quarter", 0.25), ("median", 0.5), ("three_quarters", 0.75))
    }
    data = pd.DataFrame(quartiles).reset_index()
    data = pd.DataFrame([keys[row] for row in data.pop("row")], columns=KEYS).join(data)
    folder = plan.folder
    write_text(folder / "recovery_dimensions.csv", data.to_csv(index=False))

    groups: list[Any] = list(found.groupby(["grid", "dataset", "model"], sort=False))
    figure, axes = style.panels(len(groups), 2, (6.0, 0.6 + 0.22 * max(len(_ranks(plan, of)) for _, of in groups)))
    for axis, ((grid, dataset, model), of_panel) in zip(axes, groups, strict=True):
        ranks = _ranks(plan, of_panel)
        for is_control, of_kind in ranks.groupby("control"):
            axis.errorbar(
                of_kind["mean"], of_kind["place"], xerr=of_kind["std"].fillna(0), linestyle="none", capsize=2,
                marker="D" if is_control else "o", color="0.35" if is_control else style.COLOURS[0],
                label="control" if is_control else "method",
            )  # fmt: skip
        axis.set_yticks(ranks["place"], [style.plain(name) for name in ranks["name"]], fontsize=7)
        axis.axvline(0, color="0.6", linewidth=1)
        axis.set_xlim(min(-0.05, ranks["mean"].min() - 0.1), 1.05)
        axis.set_xlabel("Spearman, found against planted dimensions")
        searched = ranks[~ranks["control"]]
        best = (
            f"best but for controls: {searched['name'].iloc[-1]}, {searched['mean'].iloc[-1]:.2f}"
            if len(searched)
            else ""
        )
        title = plan.title(grid, model=model, dataset=dataset)
        axis.set_title(style.plain("\n".join(filter(None, [title, best]))), fontsize=8)
        axis.legend(loc="lower right", fontsize=7)
    figure.tight_layout()
    style.save(figure, folder, "recovery")


def _ranks(plan: StudyPlan, found: pd.DataFrame) -> pd.DataFrame:
    """Each method's rank correlation, the best last. Where all features have the same dimension, there is none."""
    ranks = found.groupby(KEYS, sort=False)["spearman"].agg(["mean", "std"]).dropna(subset="mean").reset_index()
    names = row_names(plan, str(found["grid"].iloc[0]), list(zip(found["method"], found["cr"], strict=True)))
    keys: list[tuple[str, float]] = list(zip(ranks["method"], ranks["cr"], strict=True))
    methods = plan.grids[str(found["grid"].iloc[0])].params.methods
    ranks = ranks.assign(
        name=[names[key] for key in keys], control=[methods[method].shown_role == "control" for method, _ in keys]
    )
    ranks = ranks.sort_values("mean", kind="stable").reset_index(drop=True)
    return ranks.assign(place=range(len(ranks)))


def _spread(values: pd.Series) -> str:
    if pd.isna(values["mean"]):
        return NONE
    return f"{values['mean']:.2f}" + (f" ± {values['std']:.2f}" if values["count"] > 1 else "")


READING = (
    "*Spearman*: rank correlation, over the features that occur in train, of the number of dimensions that a feature is left "
    "with and the number that was planted in it; a dash where all have the same. *Mean dimension*: over the same features. The "
    "oracle was given the planted dimensions. Quality is measured on the test instances."
)
