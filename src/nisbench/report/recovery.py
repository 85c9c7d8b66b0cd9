"""Did a search find the right answer? Found dimensions against planted ones, which only generated data can tell."""

from typing import Any

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
from nisbench.steps import rate_name
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
    found = pd.DataFrame([measured(cell) for cell in cells_of_planted])
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
        body = []
        marks = of_model[of_model["metric"].isin(metrics)]
        cut_off = marks.groupby(["method", "cr"])["cut_off"].any()
        for key, name in row_names(plan, grid, list(zip(of_model["method"], of_model["cr"], strict=True))).items():
            measure = measures[grid, dataset, model, *key]
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
        tables.append(SubTable(heading, heads, body, legend(marks), terms(plan.grids[grid].params.training)))
    picture(plan, cells_of_planted)
    drawn = (("Found against planted dimensions", "recovery.png"),)
    return Sheet(title, tables, READING, found, drawn)


def dimensions(cell: Cell) -> pd.DataFrame:
    """The `planted` and the `found` dimension of each feature that occurs in train."""
    features, sizes = features_and_sizes(cell)
    if "planted_dimension" not in features.column_names:
        raise bad_file(cell.search.needs["block"].path("features"), "it has no column planted_dimension")
    both = pd.DataFrame({"planted": features["planted_dimension"].to_numpy(), "found": sizes})
    known: pd.DataFrame = both.loc[features["frequency"].to_numpy() > 0]
    return known


def measured(cell: Cell) -> dict[str, Any]:
    """One run's rank correlation, and its mean dimension."""
    both = dimensions(cell)
    constant = any(len(both[name].unique()) == 1 for name in both)
    return {
        **dict(zip(KEYS, cell.key[:5], strict=True)),
        "seed": cell.seed,
        "spearman": float("nan") if constant else float(spearmanr(both["found"], both["planted"]).statistic),
        "dimensions": float(both["found"].mean()),
    }


def picture(plan: StudyPlan, cells_of_planted: list[Cell]) -> None:
    """For each method, found by planted dimension: ``recovery.png``, ``recovery.svg``, and their data."""
    rows: list[dict[str, Any]] = []
    for cell in cells_of_planted:
        for planted, found in dimensions(cell).itertuples(index=False):
            rows.append({**dict(zip(KEYS, cell.key[:5], strict=True)), "planted": planted, "found": found})
    by_planted = pd.DataFrame(rows).groupby([*KEYS, "planted"], sort=False)["found"]
    quartiles = {
        name: by_planted.quantile(q) for name, q in (("quarter", 0.25), ("median", 0.5), ("three_quarters", 0.75))
    }
    data = pd.DataFrame(quartiles).reset_index()
    folder = plan.folder
    write_text(folder / "recovery_dimensions.csv", data.to_csv(index=False))

    groups: list[Any] = list(data.groupby(KEYS, sort=False))
    figure, axes = style.panels(len(groups), 5, (2.3, 2.2))
    several = len({key[:3] for key, _ in groups}) > 1
    colour = style.COLOURS[0]
    for axis, (key, group) in zip(axes, groups, strict=True):
        grid, dataset, model, method, rate = key
        found = group.sort_values("planted")
        highest = max(data["planted"].max(), found["three_quarters"].max())
        axis.plot([1, data["planted"].max()], [1, data["planted"].max()], color="0.6", linestyle="--", linewidth=1)
        axis.fill_between(
            found["planted"], found["quarter"], found["three_quarters"], color=colour, alpha=0.25, linewidth=0
        )
        axis.plot(found["planted"], found["median"], color=colour, marker="o", markersize=3)
        axis.set_ylim(-0.03 * highest, 1.05 * highest)
        names = [plan.title(grid, method=method) + ("" if rate == 1 else f" (CR = {rate_name(rate)})")]
        if several:
            names.append(plan.title(grid, model=model, dataset=dataset))
        axis.set_title(style.plain("\n".join(names)), fontsize=8)
        axis.tick_params(labelsize=7)
    figure.supxlabel("planted dimension", fontsize=9)
    figure.supylabel("found dimension: median and middle half", fontsize=9)
    figure.tight_layout()
    style.save(figure, folder, "recovery")


def _spread(values: pd.Series) -> str:
    if pd.isna(values["mean"]):
        return NONE
    return f"{values['mean']:.2f}" + (f" ± {values['std']:.2f}" if values["count"] > 1 else "")


READING = (
    "*Spearman*: rank correlation, over the features that occur in train, of the number of dimensions that a feature is left "
    "with and the number that was planted in it; a dash where all have the same. *Mean dimension*: over the same features. The "
    "oracle was given the planted dimensions. Quality is measured on the test instances."
)
