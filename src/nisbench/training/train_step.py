"""One training step: forward pass, loss, gradients, Adam; on whole tables or, with the same result, a batch's rows."""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.embedding.table import SelectedTable
from nisbench.models.recommender import TABLE, Recommender
from nisbench.params.training import Training
from nisbench.tasks.task import Task
from nisbench.training.adam import SGD, Adam
from nisbench.training.lazy_adam import LazyAdam

LARGE = 1 << 22
"""A table of this many weights no longer fits into a CPU's cache: reading only a batch's rows is cheaper."""


class TrainStep(Protocol):
    """What the training loop asks for."""

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        """One step on a batch's loss, which is returned: (), or (T,) of T fused recommenders.

        The learning rate may change only after `sync`: pending steps are made at the rate of the step that makes them.
        """

    def sync(self, batch: Instances | None = None) -> None:
        """Bring the recommender's weights up to date: those that a batch reads, or all.

        Between a step and this call, rows that the last batch did not read may be behind.
        """

    def state(self) -> dict[str, Tensor]:
        """Adam's exp_avg, exp_avg_sq and step of each parameter, by name. Call `sync` before."""

    def load_state(self, state: dict[str, Tensor]) -> None: ...


def build(recommender: Recommender, task: Task, settings: Training, fields: int) -> TrainStep:
    """The cheaper kind of step, given the number of an instance's fields."""
    kind = LazyStep if worth_reading_rows(recommender, settings, fields) else DenseStep
    return kind(recommender, task, settings)


def worth_reading_rows(recommender: Recommender, settings: Training, fields: int) -> bool:
    """Whether a batch reads few rows of a large table. With an L2 penalty, every row has a gradient."""
    table = recommender.embedding
    few = table.features * table.width >= LARGE and table.features > settings.batch_size * fields
    by_rows = isinstance(table, SelectedTable) and bool(table.row_parameters) and recommender.projection is None
    return few and by_rows and not settings.l2


class DenseStep:
    """torch's Adam on all parameters."""

    def __init__(self, recommender: Recommender, task: Task, settings: Training) -> None:
        self.recommender, self.task = recommender, task
        learned = {name: p for name, p in recommender.named_parameters() if p.requires_grad}
        own = {TABLE + name: rate for name, rate in recommender.embedding.own_rates.items()}
        self.adam = Adam({name: p for name, p in learned.items() if name not in own}, settings.l2)
        self.own: list[tuple[Adam | SGD, float]] = [
            ((Adam if rate.optimizer == "adam" else SGD)({name: learned[name]}, rate.decay), rate.learning_rate)
            for name, rate in own.items()
        ]

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        for optimizer in self._all():
            optimizer.zero_grad()
        loss = self.task.loss(self.recommender(batch), batch.labels)
        penalty = self.recommender.embedding.penalty()
        torch.autograd.backward(loss.sum() if penalty is None else loss.sum() + penalty)
        self.adam.step(learning_rate)
        for optimizer, rate in self.own:
            optimizer.step(rate)
        return loss.detach()

    def sync(self, batch: Instances | None = None) -> None:
        """All weights are always up to date."""

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for optimizer in self._all() for name, tensor in optimizer.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for optimizer in self._all():
            optimizer.load_state(state)

    def _all(self) -> list[Adam | SGD]:
        return [self.adam, *(optimizer for optimizer, _ in self.own)]


class LazyStep:
    """Adam on the rows that a batch reads, and on all parameters without rows; see `lazy_adam`."""

    def __init__(self, recommender: Recommender, task: Task, settings: Training) -> None:
        self.recommender, self.task = recommender, task
        self.tables = recommender.row_parameters()
        self.rows = LazyAdam(list(self.tables.values()), settings.learning_rate)
        others = {n: p for n, p in recommender.named_parameters() if p.requires_grad and n not in self.tables}
        self.others = Adam(others)
        self.place = torch.zeros(recommender.embedding.features, dtype=torch.int32, device=self.rows.device)

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        rows, at = self._rows_of(batch.ids)
        weights = dict(zip(self.tables, self.rows.read(rows), strict=True))
        self.others.zero_grad()
        self.rows.learning_rate = learning_rate
        numbered = replace(batch, ids=at)
        prediction = self.recommender(numbered, weights, self.recommender.selected.scales(rows))
        loss = self.task.loss(prediction, batch.labels)
        torch.autograd.backward(loss.sum())
        self.rows.step()
        self.others.step(learning_rate)
        return loss.detach()

    def sync(self, batch: Instances | None = None) -> None:
        if batch is None:
            self.rows.catch_up_all()
        else:
            self.rows.catch_up(self._rows_of(batch.ids)[0])

    def state(self) -> dict[str, Tensor]:
        return self.others.state() | {
            f"{name}.{key}": tensor
            for name, of_table in zip(self.tables, self.rows.state(), strict=True)
            for key, tensor in of_table.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        keys = ("exp_avg", "exp_avg_sq", "step")
        self.rows.load_state([{key: state[f"{name}.{key}"] for key in keys} for name in self.tables])
        self.others.load_state(state)

    def _rows_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct features (U,) in `ids` (B, M), and the index of each id among them (B, M)."""
        if ids.is_cuda:  # where it depends on chance which of several equal ids is written last
            rows, at = torch.unique(ids, return_inverse=True)
            return rows.long(), at
        flat, count = ids.flatten(), torch.arange(ids.numel(), dtype=self.place.dtype)
        self.place[flat] = count
        rows = flat[self.place.index_select(0, flat) == count].long()
        self.place[rows] = count[: len(rows)]
        return rows, self.place.index_select(0, flat).view(ids.shape)
