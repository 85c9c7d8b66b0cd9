"""What embeddings take in every layout and precision, and what rounding them costs in quality."""

from collections.abc import Iterable
from dataclasses import astuple

import numpy as np
import pandas as pd

from nisbench.embedding.storage import LAYOUTS, PRECISIONS
from nisbench.records import pruning_result
from nisbench.report.formatting import NONE, Sheet, SubTable, figure, label, row_names
from nisbench.report.panels import panel_of
from nisbench.studies import StudyPlan

READING = (
    "Bytes are those of the embeddings, as means over seeds; **bold** is the layout that takes the least in a precision, which export "
    "chooses, and says nothing of quality. Quality is on test, with embeddings rounded after all training. A table that is composed of others, as by hashing, has one "
    "layout of its own."
)


def sheet(plan: StudyPlan) -> Sheet:
    """A table per panel: for each method and compression rate a row per layout, and one per metric."""
    tables, data = [], []
    for panel in dict.fromkeys(panel_of(cell) for cell in plan.compared):
        cells = [
            cell
            for cell in plan.compared
            if panel_of(cell) == panel and not plan.method_of(cell).quantise and not plan.method_of(cell).own_model
        ]
        keys = list(dict.fromkeys((cell.method, cell.compression_rate) for cell in cells))
        names = row_names(plan, panel.grid, keys) if keys else {}
        body: list[list[str]] = []
        for key in keys:
            runs = [pruning_result(cell.prune) for cell in cells if (cell.method, cell.compression_rate) == key]
            layouts = [layout for layout in LAYOUTS if layout in runs[0].bytes]
            sizes = np.array(
                [[_mean(run.bytes[layout].get(of) for run in runs) for of in PRECISIONS] for layout in layouts]
            )
            for layout, of_layout in zip(layouts, sizes, strict=True):
                shown = [_bytes(size, least) for size, least in zip(of_layout, sizes.min(axis=0), strict=True)]
                body.append([names[key] if layout == layouts[0] else "", layout, *shown])
                data += [(*astuple(panel), *key, layout, *each) for each in zip(PRECISIONS, of_layout, strict=True)]
            for metric in panel.task(plan).headlines:
                means = [_mean(run.metrics_at(precision).get(metric) for run in runs) for precision in PRECISIONS]
                body.append(["", label(metric), *(figure(metric, mean) for mean in means)])
                data += [(*astuple(panel), *key, metric, *each) for each in zip(PRECISIONS, means, strict=True)]
        if body:
            tables.append(SubTable(panel.title(plan), ["Search method", "Layout", *PRECISIONS], body))
    columns = ["grid", "dataset", "model", "method", "cr", "measure", "precision", "value"]
    return Sheet(
        "Bytes and quality by layout and precision",
        tables,
        READING,
        pd.DataFrame(data, columns=columns),
        explained=True,
    )


def _mean(values: Iterable[float | None]) -> float:
    """NaN where one is missing."""
    return float(np.mean([np.nan if value is None else value for value in values]))


def _bytes(size: float, least: float) -> str:
    if np.isnan(size):
        return NONE
    return f"**{size:,.0f}**" if size == least else f"{size:,.0f}"
