"""Adam at the cost of the batch: dense Adam's result for tables of which a batch reads few rows.

Dense Adam moves all rows of a table at every step: where a row has no gradient, its moments decay and its weights still
follow what is left of the first one. Here such steps are pending for a row that is not read. It catches up with all of
them at once before it is read next, and at the end of an epoch. With the moments m and v that it had after step s, the
steps s + 1 to t move its weights by

    -lr m sum_j c_j / (u_j sqrt(v) + eps),    c_j = beta1^j / (1 - beta1^(s+j)),    u_j^2 = beta2^j / (1 - beta2^(s+j)),

in which only s and t, and through eps the weight's own sqrt(v), matter. As a function of theta = u_1 sqrt(v) / (u_1
sqrt(v) + eps) in [0, 1], the sum is (1 / (u_1 sqrt(v) + eps)) sum_j c_j / (1 + theta (u_j / u_1 - 1)), which a
polynomial of low degree equals to single precision. Its coefficients are kept for each s, so a row costs a few
multiplications however many steps are pending. (Adam is Kingma & Ba 2015, arXiv 1412.6980. The "lazy" or "sparse" Adam
of other libraries skips the pending steps: another optimizer.)
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nisbench.training.adam import BETA1, BETA2, first_scale

MOMENTUM_HORIZON = 200
"""After this many steps without a gradient, a first moment no longer moves a weight: 0.9^200 < 1e-9."""

POLY_SWITCH_STEP = 128
"""Steps after which u_j changes so slowly with j that a polynomial of low degree is enough."""

DEGREE_EARLY, DEGREE = 10, 4
"""Relative errors of the polynomials: below 3e-6 from the first step on, and below 3e-8 from step 100 on."""


class LazyAdam:
    """Adam for tables (N, ...) whose rows are read together, by their numbers. For a CPU; `lazy_adam_static` is for a GPU."""

    def __init__(self, tables: Sequence[Tensor], learning_rate: float) -> None:
        self.shapes = [table.shape for table in tables]
        weights = [table.detach().view(len(table), -1) for table in tables]
        self.tables = [(table, torch.zeros_like(table), torch.zeros_like(table)) for table in weights]
        """Of each: weights and both moments, (N, width)."""
        self.learning_rate = learning_rate
        self.steps = 0
        self.device = weights[0].device
        from nisbench.training import lazy_adam_numba  # noqa: PLC0415 - not all runs need what it compiles

        self.kernels = lazy_adam_numba
        self.synced_step = torch.zeros(len(tables[0]), dtype=torch.int32, device=self.device)
        """(N,) the step up to which each row is up to date."""
        self.reading: tuple[Tensor, list[Tensor]] | None = None
        self._restart()

    # --- a step -----------------------------------------------------------------------------------------------

    def read(self, rows: Tensor) -> list[Tensor]:
        """Leaves with each table's weights (n, ...) of distinct `rows` (n,), as dense Adam would have them now."""
        self.catch_up(rows)
        read = [weights.index_select(0, rows) for weights, _, _ in self.tables]
        leaves = [w.view(-1, *shape[1:]).requires_grad_() for w, shape in zip(read, self.shapes, strict=True)]
        self.reading = rows, leaves
        return leaves

    def step(self) -> None:
        """The next step of Adam, with the gradients of what `read` returned last; all other rows have none."""
        assert self.reading is not None
        rows, leaves = self.reading
        self.reading = None
        for tables, leaf in zip(self.tables, leaves, strict=True):
            if leaf.grad is not None:
                gradient = leaf.grad.view(len(rows), -1)
                self.kernels.step(rows, tables, gradient, self.steps + 1, self.learning_rate)
        self._account()
        self.synced_step[rows] = self.steps
        if self.steps == POLY_SWITCH_STEP:
            self.catch_up_all()

    def catch_up(self, rows: Tensor) -> None:
        """Bring the tables' rows to what dense Adam would have them be now."""
        since = self.synced_step.index_select(0, rows)
        pending = self.steps - since
        coefficients = self.coefficients.index_select(0, since - self.begun)
        for tables in self.tables:
            self.kernels.catch_up(rows, tables, since, pending, coefficients, self.learning_rate)
        self.synced_step[rows] = self.steps

    def catch_up_all(self) -> None:
        """Bring all rows up to date, which reading the tables as a whole needs."""
        for rows in torch.split(torch.arange(len(self.synced_step), device=self.device), 1 << 18):
            self.catch_up(rows)
        self._restart()

    def state(self) -> list[dict[str, Tensor]]:
        """What torch's Adam keeps of each table. No step may be pending."""
        return [
            {"exp_avg": first.view(shape), "exp_avg_sq": second.view(shape), "step": torch.tensor(float(self.steps))}
            for (_, first, second), shape in zip(self.tables, self.shapes, strict=True)
        ]

    def load_state(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Restore what `state` returned."""
        for (_, first, second), of_table in zip(self.tables, state, strict=True):
            first.copy_(of_table["exp_avg"].view(first.shape))
            second.copy_(of_table["exp_avg_sq"].view(second.shape))
            self.steps = int(of_table["step"])
        self.synced_step.fill_(self.steps)
        self._restart()

    def pending(self) -> dict[str, Tensor]:
        """Up to which step each row is up to date, and the account of the steps since. Goes with `state`."""
        account = {"synced_step": self.synced_step, "sums": self.sums, "coefficients": self.coefficients}
        return account | {
            "begun": torch.tensor(self.begun),
            "learning_rate": torch.tensor(self.learning_rate, dtype=torch.float64),
        }

    def load_pending(self, pending: Mapping[str, Tensor]) -> None:
        """Restore what `pending` returned, after `load_state`."""
        steps, self.steps = self.steps, int(pending["begun"])
        self._restart()
        self.steps, self.learning_rate = steps, float(pending["learning_rate"])
        self.sums, self.coefficients = pending["sums"].clone(), pending["coefficients"].clone()
        self.synced_step.copy_(pending["synced_step"])

    # --- pending steps ----------------------------------------------------------------------------------------

    def _restart(self) -> None:
        """No step is pending: the account of pending steps begins here."""
        self.begun = self.steps
        degree = DEGREE if self.begun >= POLY_SWITCH_STEP else DEGREE_EARLY
        powers = torch.arange(degree + 1, dtype=torch.float64)
        self.nodes = ((1 - torch.cos(torch.pi * (powers + 0.5) / (degree + 1))) / 2).to(self.device)  # Chebyshev's
        self.to_coefficients = torch.linalg.inv(self.nodes[:, None] ** powers.to(self.device)).T
        self.sums = torch.zeros(0, degree + 1, dtype=torch.float64, device=self.device)
        """Of rows up to date since step begun + i: the sum at each node, over all steps since."""
        self.coefficients = torch.zeros(0, degree + 1, device=self.device)
        self._grow()

    def _grow(self) -> None:
        more = max(1024, len(self.sums))
        self.sums = torch.cat([self.sums, self.sums.new_zeros(more, self.sums.shape[1])])
        self.coefficients = torch.cat([self.coefficients, self.coefficients.new_zeros(more, self.sums.shape[1])])

    def _account(self) -> None:
        """Account for one more step: pending for all rows up to date within the last `MOMENTUM_HORIZON` steps."""
        self.steps += 1
        t = self.steps
        if t - self.begun >= len(self.sums):
            self._grow()
        start = max(self.begun, t - MOMENTUM_HORIZON)
        s = torch.arange(start, t, dtype=torch.float64, device=self.device)
        c = BETA1 ** (t - s) / (1 - BETA1**t)
        ratio = (BETA2 ** (t - s) / (1 - BETA2**t)).sqrt() / first_scale(s)
        open_ = slice(start - self.begun, t - self.begun)
        self.sums[open_] += c[:, None] / (1 + (ratio[:, None] - 1) * self.nodes)
        self.coefficients[open_] = (self.sums[open_] @ self.to_coefficients).float()
