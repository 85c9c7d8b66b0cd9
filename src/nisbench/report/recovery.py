"""Did a search find the right answer? Found dimensions against planted ones, which only generated data can tell."""

from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from nisbench.data.parquet import read_table
from nisbench.embedding import DimensionScheme
from nisbench.params.settings import Planted
from nisbench.report.layout import KEYS, NONE, QUANTITIES, cells, grouped, markdown, row_names
from nisbench.runs import Cell, StudyPlan


def table(plan: StudyPlan, results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Rank correlation of found with planted dimensions, and quality, of all methods on generated data."""
    rows = [measured(cell) for cell in plan.cells if isinstance(plan.dataset_of(cell), Planted)]
    found = pd.DataFrame(rows)
    summary = found.groupby(KEYS, sort=False)[["spearman", "dimensions"]].agg(["mean", "std", "count"])
    places: dict[Any, pd.Series] = dict(summary.iterrows())
    quality = grouped(results)
    sections = [f"# Recovery of planted dimensions\n\n{plan.study.title}."]
    for grid, dataset, model in found[["grid", "dataset", "model"]].drop_duplicates().itertuples(index=False):
        of_model = quality[(quality["grid"] == grid) & (quality["dataset"] == dataset) & (quality["model"] == model)]
        metrics = [name for name in of_model["metric"].unique() if name in QUANTITIES and QUANTITIES[name].better]
        columns = {
            name: cells(of_model[of_model["metric"] == name].set_index(["method", "cr"]), name) for name in metrics
        }
        body = []
        for key, name in row_names(plan, grid, list(zip(of_model["method"], of_model["cr"], strict=True))).items():
            place = places[grid, dataset, model, *key]
            body.append(
                [
                    name,
                    _spread(place["spearman"]),
                    _spread(place["dimensions"]),
                    *(column[key] for column in columns.values()),
                ]
            )
        heads = ["Search method", "Spearman", "Mean dimension", *(QUANTITIES[name].title for name in metrics)]
        titles = [plan.titles[grid, f"dataset {dataset}"], plan.titles[grid, f"model {model}"]]
        if grid:
            titles.append(plan.study.grids[grid].title or grid)
        sections.append(f"## {', '.join(titles)}\n\n{markdown(body, heads)}")
    sections.append(_reading(plan))
    return "\n\n".join(sections) + "\n", found


def measured(cell: Cell) -> dict[str, Any]:
    """One run's rank correlation, over all features that occur in train, and its mean dimension."""
    features = read_table(
        Path(cell.search.needs["block"].path("features")), ["frequency", "planted_dimension"]
    ).to_pandas()
    sizes = DimensionScheme.load(Path(cell.prune.path("scheme"))).sizes()
    known = features["frequency"].to_numpy() > 0
    planted = features["planted_dimension"].to_numpy()[known]
    alike = len(set(sizes[known])) == 1 or len(set(planted)) == 1
    place = [cell.grid, cell.dataset, cell.model, cell.method, cell.compression_rate]
    return {
        **dict(zip(KEYS, place, strict=True)),
        "seed": cell.seed,
        "spearman": float("nan") if alike else float(spearmanr(sizes[known], planted).statistic),
        "dimensions": float(sizes[known].mean()),
    }


def _spread(values: pd.Series) -> str:
    if pd.isna(values["mean"]):
        return NONE
    return f"{values['mean']:.2f}" + (f" ± {values['std']:.2f}" if values["count"] > 1 else "")


def _reading(plan: StudyPlan) -> str:
    seeds = len(plan.study.seeds)
    spread = (
        f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed: small differences may be noise."
    )
    return (
        "*Spearman*: rank correlation, over the features that occur in train, of the number of dimensions that a feature is left "
        "with and the number that was planted in it; a dash where all have the same. *Mean dimension*: over the same features. The "
        "oracle was given the planted dimensions. Quality is measured on the test instances; **best**, <u>second best</u>. "
        f"{spread}"
    )
