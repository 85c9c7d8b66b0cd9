"""Places of a study that figures and claims are about, and what is measured there."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from nisbench.evaluation import topk
from nisbench.params.settings import TaskKind
from nisbench.studies import Cell, StudyPlan

HEADLINES: dict[TaskKind, list[str]] = {
    "rating": ["mse"],
    "ctr": ["auc", "logloss"],
    "topk": ["ndcg@10", f"{topk.FULL}ndcg@10"],
}
"""The metrics that figures and claims are about, of each kind of task. What stands last is what sizes are weighed against."""


@dataclass(frozen=True)
class Place:
    """A panel: one model on one data set under one grid's settings."""

    grid: str
    dataset: str
    model: str

    def title(self, plan: StudyPlan) -> str:
        return f"{plan.titles[self.grid, f'model {self.model}']}, {plan.heading(self.grid, self.dataset)}"


def place_of(cell: Cell) -> Place:
    return Place(cell.grid, cell.dataset, cell.model)


def kind_of(plan: StudyPlan, cell: Cell) -> str:
    """The kind of a cell's method, and "variant of" it for one that is pruned otherwise than in the paper, or is a control."""
    method = plan.grids[cell.grid].params.methods[cell.method]
    otherwise = method.rounds or method.prune_by != "scaled" or (method.kind == "dnis" and method.blocks == "shuffled")
    return f"variant of {method.kind}" if otherwise else str(method.kind)


def at(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    """The rows of that place."""
    return frame[(frame["grid"] == place.grid) & (frame["dataset"] == place.dataset) & (frame["model"] == place.model)]


def dnis_cells(plan: StudyPlan, pruned: bool = False) -> Iterator[Cell]:
    """The cells, or only those pruned, of one DNIS method per place, the first, and of each search in one grid only."""
    first: dict[Place, str] = {}
    seen: dict[str, Place] = {}
    for cell in plan.compared:
        if kind_of(plan, cell) == "dnis" and (cell.compression_rate > 1 or not pruned):
            place = place_of(cell)
            if first.setdefault(place, cell.method) == cell.method and seen.setdefault(cell.search.id, place) == place:
                yield cell
