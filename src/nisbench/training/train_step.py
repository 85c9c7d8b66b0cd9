"""One training step: forward pass, loss, gradients, Adam; on whole tables or, with the same result, a batch's rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.embedding.distinct_rows import DistinctRows
from nisbench.embedding.table import SelectedTable
from nisbench.models.recommender import TABLE, ReadRows, Recommender
from nisbench.params.training import Training
from nisbench.tasks.task import Task
from nisbench.training.adam import SGD, Adam
from nisbench.training.lazy_adam import LazyAdam
from nisbench.training.lazy_adam_static import LONGEST, StaticLazyAdam

MOST_RESERVED = LONGEST
"""Steps that may be announced at once."""

LARGE = 1 << 22
"""A table of this many weights no longer fits into a CPU's cache: reading only a batch's rows is cheaper."""


RowsAdam = TypeVar("RowsAdam", LazyAdam, StaticLazyAdam)


class TrainStep(Protocol):
    """What the training loop asks for."""

    capturable: bool
    """Whether steps on batches of one shape do the same operations on the device, none of which the host waits for."""

    def reserve(self, steps: int, learning_rate: float) -> None:
        """To be called before so many steps, at most `MOST_RESERVED`: what the device must know of them is put there."""

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        """One step on a batch's loss, which is returned: (), or (T,) of T fused recommenders.

        The learning rate may change only after `sync`: pending steps are made at the rate of the step that makes them.
        """

    def sync(self, batch: Instances | None = None) -> None:
        """Bring the recommender's weights up to date: those that a batch reads, or all.

        Between a step and this call, rows that the last batch did not read may be behind.
        """

    def state(self) -> dict[str, Tensor]:
        """Adam's exp_avg, exp_avg_sq and step of each parameter, by name. Call `sync` before, or save `pending` beside it."""

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def pending(self) -> dict[str, Tensor]:
        """Which rows are behind the others, and what they need to catch up."""

    def load_pending(self, pending: dict[str, Tensor]) -> None:
        """Restore what `pending` returned, after `load_state`."""


def build(recommender: Recommender, task: Task, settings: Training, fields: int) -> TrainStep:
    """The cheaper kind of step, given the number of an instance's fields."""
    if not worth_reading_rows(recommender, settings, fields):
        return DenseStep(recommender, task, settings)
    on_cpu = recommender.selected.weight.device.type == "cpu"
    return (LazyStep if on_cpu else StaticLazyStep)(recommender, task, settings)


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

        self.capturable = is_capturable(recommender)

    def reserve(self, steps: int, learning_rate: float) -> None:
        """Nothing depends on a step's number but Adam's own counter, which is on the device."""

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

    def pending(self) -> dict[str, Tensor]:
        return {}

    def load_pending(self, pending: dict[str, Tensor]) -> None:
        """No row is ever behind."""

    def _all(self) -> list[Adam | SGD]:
        return [self.adam, *(optimizer for optimizer, _ in self.own)]


class _StepOnRows(Generic[RowsAdam]):
    """What both kinds of steps on a batch's rows share."""

    def __init__(self, recommender: Recommender, task: Task, rows: Callable[[list[Tensor]], RowsAdam]) -> None:
        self.recommender, self.task = recommender, task
        self.tables = recommender.row_parameters()
        self.rows: RowsAdam = rows(list(self.tables.values()))
        others = {n: p for n, p in recommender.named_parameters() if p.requires_grad and n not in self.tables}
        self.others = Adam(others)

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

    def pending(self) -> dict[str, Tensor]:
        return self.rows.pending()

    def load_pending(self, pending: dict[str, Tensor]) -> None:
        self.rows.load_pending(pending)

    def _loss(self, batch: Instances, rows: Tensor, at: Tensor, leaves: list[Tensor]) -> Tensor:
        """The loss of a batch that reads `leaves`, of `rows`, by the indices `at`; its gradients are computed."""
        self.others.zero_grad()
        weights = dict(zip(self.tables, leaves, strict=True))
        prediction = self.recommender(replace(batch, ids=at), weights, self.recommender.selected.scales(rows))
        loss = self.task.loss(prediction, batch.labels)
        torch.autograd.backward(loss.sum())
        return loss.detach()


class LazyStep(_StepOnRows[LazyAdam]):
    """Adam on the rows that a batch reads, and on all parameters without rows; see `lazy_adam`. For a CPU."""

    capturable = False

    def __init__(self, recommender: Recommender, task: Task, settings: Training) -> None:
        super().__init__(recommender, task, lambda tables: LazyAdam(tables, settings.learning_rate))
        self.place = torch.zeros(recommender.embedding.features, dtype=torch.int32, device=self.rows.device)

    def reserve(self, steps: int, learning_rate: float) -> None:
        """Steps are not replayed here."""

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        rows, at = self._rows_of(batch.ids)
        leaves = self.rows.read(rows)
        self.rows.learning_rate = learning_rate
        loss = self._loss(batch, rows, at, leaves)
        self.rows.step()
        self.others.step(learning_rate)
        return loss

    def sync(self, batch: Instances | None = None) -> None:
        if batch is None:
            self.rows.catch_up_all()
        else:
            rows, at = self._rows_of(batch.ids)
            self.rows.catch_up(rows)
            self.recommender.read = ReadRows(batch.ids, rows, at)

    def _rows_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct features (U,) in `ids` (B, M), and the index of each id among them (B, M)."""
        flat, count = ids.flatten(), torch.arange(ids.numel(), dtype=self.place.dtype)
        self.place[flat] = count
        rows = flat[self.place.index_select(0, flat) == count].long()
        self.place[rows] = count[: len(rows)]
        return rows, self.place.index_select(0, flat).view(ids.shape)


class StaticLazyStep(_StepOnRows[StaticLazyAdam]):
    """The same for a GPU: in tensors of fixed shapes, without the host; see `lazy_adam_static`."""

    def __init__(self, recommender: Recommender, task: Task, settings: Training) -> None:
        super().__init__(recommender, task, StaticLazyAdam)
        self.learning_rate = settings.learning_rate
        self.capturable = is_capturable(recommender)

    def reserve(self, steps: int, learning_rate: float) -> None:
        self.rows.reserve(steps, learning_rate)

    def step(self, batch: Instances, learning_rate: float) -> Tensor:
        self.learning_rate = learning_rate
        distinct = self._distinct(batch)
        leaves = self.rows.read(distinct, learning_rate)
        loss = self._loss(batch, distinct.rows, distinct.at, leaves)
        self.rows.step(distinct, leaves, learning_rate)
        self.others.step(learning_rate)
        return loss

    def sync(self, batch: Instances | None = None) -> None:
        if batch is None:
            self.rows.catch_up_all(self.learning_rate)
        else:
            distinct = self._distinct(batch)
            self.rows.catch_up(distinct, self.learning_rate)
            self.recommender.read = ReadRows(batch.ids, distinct.rows, distinct.at)

    def _distinct(self, batch: Instances) -> DistinctRows:
        return DistinctRows.of(batch.ids, self.recommender.most_distinct(batch))


def is_capturable(recommender: Recommender) -> bool:
    """Whether a recommender's forward pass may be captured. A model says no by an attribute `capturable`."""
    return (
        bool(vars(type(recommender.embedding)).get("capturable", False))
        and recommender.projection is None
        and bool(getattr(recommender.model, "capturable", True))
    )
