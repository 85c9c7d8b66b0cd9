"""What DNIS learns: the soft selection of each feature block, and the dimensions that pruning leaves."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from nisbench.embedding.scheme import DimensionScheme
from nisbench.models.pruned import selection_in
from nisbench.report import style
from nisbench.report.panels import Panel, at, dnis_cells, panel_of
from nisbench.report.results import features_and_sizes
from nisbench.report.style import Drawn
from nisbench.steps import rate_name
from nisbench.studies import Cell, StudyPlan

ENOUGH = 5
"""Features of a bin from which a mean is shown."""


def figure3a(plan: StudyPlan, _results: pd.DataFrame) -> Drawn:
    """The distribution of the trained soft selection alpha in each feature block."""
    panels: dict[Panel, dict[str, Cell]] = {}
    for cell in dnis_cells(plan):
        panels.setdefault(panel_of(cell), {}).setdefault(cell.search.id, cell)
    rows = []
    for panel, searches in panels.items():
        alphas = [selection_of(cell) for cell in searches.values()]  # (L, columns) each; L may differ with the split
        for block in range(max(map(len, alphas))):
            row = np.concatenate([alpha[block] for alpha in alphas if block < len(alpha)])
            rows.append({**vars(panel), "block": block + 1, **distribution(row)})
    data = pd.DataFrame(rows)
    picture, axes = style.panels(len(panels), 3, (3.6, 2.8))
    for axis, panel in zip(axes, panels, strict=True):
        of_panel = at(data, panel)
        axis.bxp(
            [
                {"med": row.median, "q1": row.quarter, "q3": row.three_quarters, "whislo": row.low, "whishi": row.high,
                 "mean": row.mean, "label": row.block}
                for row in of_panel.itertuples()
            ],
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            widths=0.6,
            boxprops={"facecolor": "#b3d1e8", "edgecolor": style.COLOURS[0]},
            medianprops={"color": "black"},
            meanprops={"marker": "o", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 3.5},
        )  # fmt: skip
        axis.set_ylim(-0.03, 1.03)
        for i, tick in enumerate(axis.get_xticklabels()):
            tick.set_visible(len(of_panel) <= 12 or i % 3 == 0)
        style.entitle(axis, panel.title(plan))
        axis.set_xlabel("feature block (1: most frequent)")
        axis.set_ylabel("soft selection α")
        axis.set_axisbelow(True)
    picture.tight_layout()
    caption = (
        "The soft selection α at the end of the search, by block of features, the most frequent first. A box shows "
        "the median and the middle half, the circle the mean, the whiskers 5 to 95 %, over the columns of the "
        f"table{' and all seeds' if len(plan.study.seeds) > 1 else ''}. α begins at 1."
    )
    return data, picture, caption


def selection_of(cell: Cell) -> np.ndarray:
    """The selection (L, width) that a search ended with."""
    return selection_in(cell.search.path("weights"))


def distribution(values: np.ndarray) -> dict[str, float]:
    names = ("low", "quarter", "median", "three_quarters", "high")
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    return {
        **{name: float(value) for name, value in zip(names, quantiles, strict=True)},
        "mean": float(values.mean()),
        "zeros": float((values == 0).mean()),
    }


def figure3b(plan: StudyPlan, _results: pd.DataFrame) -> Drawn:
    """How many dimensions pruning leaves to features of each frequency: a histogram of both."""
    panels: dict[Panel, list[Cell]] = {}
    for cell in dnis_pruned(plan):
        panels.setdefault(panel_of(cell), []).append(cell)
    tables = []
    picture, axes = style.panels(len(panels), 3, (3.8, 2.9))
    for axis, (panel, cells) in zip(axes, panels.items(), strict=True):
        frequency, size = (np.concatenate(each) for each in zip(*map(frequency_and_size, cells), strict=True))
        across = np.unique(np.geomspace(frequency.min(), frequency.max() + 1, 25).round())
        width = max(1, math.ceil((size.max() + 1) / 40))  # of a bin, in dimensions
        along = np.arange(-0.5, size.max() + width, width)
        counts, _, _ = np.histogram2d(frequency, size, [across, along])
        shown = np.where(counts.T > 0, counts.T, np.nan)
        drawn = axis.pcolormesh(across, along, shown, norm=LogNorm(), cmap="Blues", rasterized=True)
        picture.colorbar(drawn, ax=axis, label="features")
        of_bin = pd.Series(size).groupby(np.digitize(frequency, across))
        means = of_bin.mean()[of_bin.size() >= ENOUGH]
        middles = np.sqrt(across[:-1] * across[1:])
        axis.plot(middles[means.index - 1], means, color="black", marker="o", markersize=3)
        axis.axhline(size.mean(), color=style.COLOURS[1], linestyle="--", linewidth=1.2, label="no preference")
        axis.legend(loc="upper left", fontsize=7)
        axis.set_xscale("log")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=3))
        axis.grid(visible=False)
        style.entitle(axis, f"{panel.title(plan)}, CR = {rate_name(cells[0].compression_rate)}")
        axis.set_xlabel("frequency in train")
        axis.set_ylabel(f"dimensions left, of {DimensionScheme.load(Path(cells[0].prune.path('scheme'))).k}")
        table = pd.DataFrame(
            [
                {"cr": cells[0].compression_rate, "frequency_from": across[i], "frequency_below": across[i + 1],
                 "dimensions_from": along[j], "dimensions_below": along[j + 1], "features": int(counts[i, j])}
                for i, j in zip(*np.nonzero(counts), strict=True)
            ]
        )  # fmt: skip
        tables.append(pd.concat([pd.DataFrame([vars(panel)] * len(table)), table], axis=1))
    picture.tight_layout()
    caption = (
        "Number of features by frequency in train and by the dimensions that pruning leaves them. The line is the "
        f"mean of each bin with at least {ENOUGH} "
        f"features, the dashed line what each would have without preference.{' All seeds together.' if len(plan.study.seeds) > 1 else ''} Features that do not occur in train "
        "are left out."
    )
    return pd.concat(tables, ignore_index=True), picture, caption


def dnis_pruned(plan: StudyPlan) -> list[Cell]:
    """DNIS's pruned cells at one compression rate per panel: the least of at least 2, or else the largest there is."""
    cells = list(dnis_cells(plan, pruned=True))
    rates: dict[Panel, set[float]] = {}
    for cell in cells:
        rates.setdefault(panel_of(cell), set()).add(cell.compression_rate)
    chosen = {panel: min((rate for rate in found if rate >= 2), default=max(found)) for panel, found in rates.items()}
    return [cell for cell in cells if cell.compression_rate == chosen[panel_of(cell)]]


def frequency_and_size(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Of each feature that occurs in train, how often it does, and the dimensions that pruning left it."""
    features, size = features_and_sizes(cell)
    frequency = features["frequency"].to_numpy()
    return frequency[frequency > 0], size[frequency > 0]
