"""`lazy_adam` for a GPU: tensors of fixed shapes, and no step that the host must know of.

What is pending for a row has a closed form here. With the moments m and v that a row has after step s, let

    F_s(v) = sum_(j > 0) c_j / (u_j sqrt(v) + eps)

be the sum of `lazy_adam` over all steps to come, so that -lr m F_s(v) is the way which a weight would still go if its row were
never read again. After step t, what is left of it is -lr m' F_t(v'), with the moments m' and v' decayed by t - s steps. The
difference is what the steps s + 1 to t did:

    w <- w - lr (m F_s(v) - m' F_t(v')).

F_s is a polynomial in theta, as there, with coefficients that depend on s alone: a row of the *schedule*, beside all else that
depends on a step's number alone. So nothing is accounted for at a step, and the number of the step is itself on the device: a
captured step can be replayed.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from nisbench.embedding.distinct_rows import DistinctRows
from nisbench.training import lazy_adam_torch
from nisbench.training.lazy_adam_schedule import COLUMNS, scheduled

LONGEST = 1 << 14
"""Steps after which all rows are brought up to date, and the schedule begins again. An epoch of Criteo has 9,000."""

FILLED_AT_ONCE = 1 << 10


class StaticLazyAdam:
    """Adam for tables (N, ...) whose rows are read together."""

    def __init__(self, tables: Sequence[Tensor]) -> None:
        self.shapes = [table.shape for table in tables]
        weights = [table.detach().view(len(table), -1) for table in tables]
        self.tables = [(table, torch.zeros_like(table), torch.zeros_like(table)) for table in weights]
        """Of each: weights and both moments, (N, width)."""
        device = weights[0].device
        self.kernels = kernels_for(device)
        self.schedule = torch.full((LONGEST + 1, COLUMNS), torch.nan, device=device)
        self.now = torch.zeros((), dtype=torch.int64, device=device)
        """Steps done since the schedule begins."""
        self.synced = torch.zeros(len(tables[0]), dtype=torch.int32, device=device)
        """(N,) the step, likewise, up to which each row is up to date."""
        self.every = torch.arange(len(tables[0]), device=device)
        self.filled: int
        self._begin(0)

    def reserve(self, steps: int, learning_rate: float) -> None:
        """To be called before so many steps: what they need of the schedule is computed. At most `LONGEST` at once."""
        if self.reserved + steps > LONGEST:
            self.catch_up_all(learning_rate)
        self.reserved += steps
        self._fill()

    def _fill(self) -> None:
        """Compute what the reserved steps need of the schedule."""
        while self.filled <= self.reserved:
            end = min(self.filled + FILLED_AT_ONCE, LONGEST + 1)
            self.schedule[self.filled : end] = scheduled(self.begun, self.filled, end, self.schedule.device)
            self.filled = end

    def read(self, distinct: DistinctRows, learning_rate: float) -> list[Tensor]:
        """Leaves with each table's weights (C, ...) of the distinct rows, as dense Adam would have them now; 0 in the padding."""
        read = self._catch_up(distinct.rows, distinct.count, learning_rate)
        return [w.view(-1, *shape[1:]).requires_grad_() for w, shape in zip(read, self.shapes, strict=True)]

    def step(self, distinct: DistinctRows, leaves: Sequence[Tensor], learning_rate: float) -> None:
        """The next step of Adam, with the gradients of what `read` returned for these rows; all other rows have none."""
        last = len(self.tables) - 1
        for number, (table, leaf) in enumerate(zip(self.tables, leaves, strict=True)):
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            self.kernels.step(
                distinct.rows, distinct.count, table, gradient.view(len(leaf), -1), self.schedule, self.now, learning_rate,
                self.synced if number == last else None,
            )  # fmt: skip
        self.now += 1

    def catch_up(self, distinct: DistinctRows, learning_rate: float) -> None:
        """Bring the tables' rows to what dense Adam would have them be now."""
        self._catch_up(distinct.rows, distinct.count, learning_rate)

    def catch_up_all(self, learning_rate: float) -> None:
        """Bring all rows up to date, which reading the tables as a whole needs. The host waits for the device."""
        for rows in torch.split(self.every, self.kernels.ROWS_AT_ONCE):
            count = torch.full((), len(rows), device=rows.device)
            self._catch_up(rows, count, learning_rate, read=False)
        self._begin(self.begun + int(self.now))

    def state(self) -> list[dict[str, Tensor]]:
        """What torch's Adam keeps of each table. No step may be pending."""
        step = float(self.begun + int(self.now))
        return [
            {"exp_avg": first.view(shape), "exp_avg_sq": second.view(shape), "step": torch.tensor(step)}
            for (_, first, second), shape in zip(self.tables, self.shapes, strict=True)
        ]

    def load_state(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Restore what `state` returned."""
        for (_, first, second), of_table in zip(self.tables, state, strict=True):
            first.copy_(of_table["exp_avg"].view(first.shape))
            second.copy_(of_table["exp_avg_sq"].view(second.shape))
        self._begin(int(state[0]["step"]))

    def pending(self) -> dict[str, Tensor]:
        """Up to which step each row is up to date, and where the schedule is. Goes with `state`."""
        numbers = {"begun": torch.tensor(self.begun), "reserved": torch.tensor(self.reserved)}
        return numbers | {"synced": self.synced, "now": self.now}

    def load_pending(self, pending: Mapping[str, Tensor]) -> None:
        """Restore what `pending` returned, after `load_state`."""
        self._begin(int(pending["begun"]))
        self.reserved = int(pending["reserved"])
        self.now.copy_(pending["now"])
        self.synced.copy_(pending["synced"])
        self._fill()

    def _catch_up(self, rows: Tensor, count: Tensor, learning_rate: float, read: bool = True) -> list[Tensor]:
        """Bring `rows` (C,), the first `count` of which count, up to date; what they are then, if they are to be read."""
        last, found = len(self.tables) - 1, []
        for number, table in enumerate(self.tables):
            out = table[0].new_zeros(len(rows), table[0].shape[1]) if read else None
            self.kernels.catch_up(
                rows, count, table, self.synced, self.schedule, self.now, learning_rate, out, number == last
            )
            if out is not None:
                found.append(out)
        return found

    def _begin(self, step: int) -> None:
        """All rows are up to date: the schedule begins with what comes after so many steps."""
        self.begun, self.reserved = step, 0
        self.filled = 0
        self.now.zero_()
        self.synced.zero_()


@cache
def kernels_for(device: torch.device) -> ModuleType:
    """The module that works on rows on this device."""
    if device.type == "cuda":
        try:
            from nisbench.training import lazy_adam_triton  # noqa: PLC0415 - only where there is a GPU
        except ImportError:
            return lazy_adam_torch
        return lazy_adam_triton
    return lazy_adam_torch
