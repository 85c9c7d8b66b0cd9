"""Panels: what figures and claims are about, and what is measured there."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from nisbench.params.tasks import Task
from nisbench.studies import Cell, StudyPlan


@dataclass(frozen=True)
class Panel:
    """One model on one data set under one grid's settings."""

    grid: str
    dataset: str
    model: str

    def title(self, plan: StudyPlan) -> str:
        return plan.title(self.grid, model=self.model, dataset=self.dataset)

    def task(self, plan: StudyPlan) -> Task:
        return plan.task_of(self.grid, self.dataset)


def panel_of(cell: Cell) -> Panel:
    return Panel(cell.grid, cell.dataset, cell.model)


def at(frame: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """The rows of that panel."""
    return frame[(frame["grid"] == panel.grid) & (frame["dataset"] == panel.dataset) & (frame["model"] == panel.model)]


def dnis_cells(plan: StudyPlan, pruned: bool = False) -> Iterator[Cell]:
    """The cells, or only those pruned, of one DNIS method per panel, the first, and of each search in one grid only."""
    first: dict[Panel, str] = {}
    seen: dict[str, Panel] = {}
    for cell in plan.compared:
        if plan.method_of(cell).in_paper == "DNIS" and (cell.compression_rate > 1 or not pruned):
            panel = panel_of(cell)
            if first.setdefault(panel, cell.method) == cell.method and seen.setdefault(cell.search.id, panel) == panel:
                yield cell
