"""Steps of Adam on a recommender's weights: on all rows of its tables, or, with the same result, on those that a batch reads."""

from typing import Protocol

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.evaluation.tasks import Task
from nisbench.models.recommender import Recommender
from nisbench.params.settings import Training
from nisbench.training.adam import Adam
from nisbench.training.row_adam import RowAdam

LARGE = 1 << 22
"""Weights of a table from which on it is cheaper to read rows only: what no longer fits into a CPU's cache."""


class Optimizer(Protocol):
    """What the training loop asks of an optimizer."""

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        """One step on a batch's loss, which is returned: (), or (T,) of T recommenders."""

    def settle(self, batch: Instances | None = None) -> None:
        """Bring the recommender's weights up to date: those that a batch reads, or all."""

    def state(self) -> dict[str, Tensor]:
        """Adam's exp_avg, exp_avg_sq and step of each parameter, by name, the weights being settled."""

    def load_state(self, state: dict[str, Tensor]) -> None: ...


def build(recommender: Recommender, task: Task, settings: Training, fields: int) -> Optimizer:
    """The cheaper one, for batches of instances with so many `fields`."""
    kind = BatchRows if worth_reading_rows(recommender, settings, fields) else AllRows
    return kind(recommender, task, settings)


def worth_reading_rows(recommender: Recommender, settings: Training, fields: int) -> bool:
    """Whether a batch reads few of the rows of a large table. An L2 penalty gives every row a gradient at every step."""
    table = recommender.embedding.weight
    few = table.numel() >= LARGE and len(table) > settings.batch_size * fields
    return few and not settings.l2 and recommender.projection is None


class AllRows:
    """torch's Adam."""

    def __init__(self, recommender: Recommender, task: Task, settings: Training) -> None:
        self.recommender, self.task = recommender, task
        learned = {name: p for name, p in recommender.named_parameters() if p.requires_grad}
        self.adam = Adam(learned, settings.l2)

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        self.adam.zero_grad()
        loss = self.task.loss(self.recommender(batch), batch.labels)
        torch.autograd.backward(loss.sum())
        self.adam.step(learning_rate)
        return loss.detach()

    def settle(self, batch: Instances | None = None) -> None:
        """They always are."""

    def state(self) -> dict[str, Tensor]:
        return self.adam.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.adam.load_state(state)


class BatchRows:
    """Adam on the rows that a batch reads, and on all that is no table; see `row_adam`."""

    def __init__(self, recommender: Recommender, task: Task, settings: Training) -> None:
        self.recommender, self.task = recommender, task
        self.tables = recommender.tables()
        self.rows = RowAdam(list(self.tables.values()), settings.learning_rate)
        others = {n: p for n, p in recommender.named_parameters() if p.requires_grad and n not in self.tables}
        self.others = Adam(others)
        self.place = torch.zeros_like(recommender.embedding.block)

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        rows, at = self._rows_of(batch.ids)
        weights = self.rows.read(rows)
        self.others.zero_grad()
        self.rows.learning_rate = learning_rate
        prediction = self.recommender.on_rows(batch, at, rows, dict(zip(self.tables, weights, strict=True)))
        loss = self.task.loss(prediction, batch.labels)
        torch.autograd.backward(loss.sum())
        self.rows.step()
        self.others.step(learning_rate)
        return loss.detach()

    def settle(self, batch: Instances | None = None) -> None:
        if batch is None:
            self.rows.pay_all()
        else:
            self.rows.pay(self._rows_of(batch.ids)[0])

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
        """The features (U,) in `ids` (B, M), each once, and where among them each of the ids is (B, M)."""
        if ids.is_cuda:  # where it depends on chance which of several equal ids is written last
            rows, at = torch.unique(ids, return_inverse=True)
            return rows.long(), at
        flat, count = ids.flatten(), torch.arange(ids.numel(), dtype=self.place.dtype)
        self.place[flat] = count
        rows = flat[self.place.index_select(0, flat) == count].long()
        self.place[rows] = count[: len(rows)]
        return rows, self.place.index_select(0, flat).view(ids.shape)
