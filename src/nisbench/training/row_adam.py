"""Adam at the cost of the batch: dense Adam's result for tables of which a batch reads few rows.

Dense Adam moves all rows of a table at every step: where a row has no gradient, its moments decay and its weights still follow
what is left of the first one. Here a row that is not read owes these steps, and pays them all at once before it is read next
(and at the end of an epoch). With the moments m and v that it had after step s, the steps s + 1 to t move its weights by

    -lr m sum_j c_j / (u_j sqrt(v) + eps),    c_j = beta1^j / (1 - beta1^(s+j)),    u_j^2 = beta2^j / (1 - beta2^(s+j)),

in which only s and t, and through eps the weight's own sqrt(v), matter. As a function of theta = u_1 sqrt(v) / (u_1 sqrt(v) + eps)
in [0, 1], the sum is (1 / (u_1 sqrt(v) + eps)) sum_j c_j / (1 + theta (u_j / u_1 - 1)), which a polynomial of low degree equals to
single precision: its coefficients are kept for each s, and a row costs a few multiplications however many steps it owes.
(Kingma & Ba 2015, arXiv 1412.6980, is Adam. "Lazy" or "sparse" Adam of other libraries skips what is owed: another optimizer.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults

REMEMBERED = 200
"""Steps after which what is left of a first moment moves nothing: 0.9^200 < 1e-9."""

EARLY = 128
"""Steps after which u_j changes so slowly with j that a polynomial of low degree is enough."""

DEGREE_EARLY, DEGREE = 10, 4
"""Relative errors of the polynomials: below 3e-6 from the first step on, and below 3e-8 from step 100 on."""

CHUNK = 1 << 17
"""Weights that are worked on at once on a CPU, so that they stay in its cache."""


class RowAdam:
    """Adam for tables (N, ...) whose rows are read together, by their numbers."""

    def __init__(self, tables: Sequence[Tensor], learning_rate: float) -> None:
        self.tables = [table.detach().view(len(table), -1) for table in tables]
        self.shapes = [table.shape for table in tables]
        self.first = [torch.zeros_like(table) for table in self.tables]
        self.second = [torch.zeros_like(table) for table in self.tables]
        self.learning_rate = learning_rate
        self.steps = 0
        self.device = self.tables[0].device
        self.paid = torch.zeros(len(tables[0]), dtype=torch.int32, device=self.device)
        """(N,) the step up to which each row owes nothing."""
        self.reading: tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]] | None = None
        self._forget()

    # --- a step -----------------------------------------------------------------------------------------------

    def read(self, rows: Tensor) -> list[Tensor]:
        """Each table's weights (n, ...) of some rows, as dense Adam would have them now, to be differentiated by; `rows` (n,) differ."""
        weights, first, second = self._paid_for(rows)
        leaves = [w.view(-1, *shape[1:]).requires_grad_() for w, shape in zip(weights, self.shapes, strict=True)]
        self.reading = rows, leaves, first, second
        return leaves

    def step(self) -> None:
        """The next step of Adam, with the gradients that the weights read last have by now; all other rows have none."""
        assert self.reading is not None
        rows, leaves, first, second = self.reading
        self.reading = None
        gradients = [leaf.grad.view(len(rows), -1) for leaf in leaves if leaf.grad is not None]
        weights = [leaf.detach().view(len(rows), -1) for leaf in leaves]
        number = [torch.tensor(float(self.steps), device=self.device) for _ in weights]
        adam(
            weights, gradients, first, second, [], number, fused=True, amsgrad=False, beta1=BETA1, beta2=BETA2,
            lr=self.learning_rate, weight_decay=0.0, eps=EPSILON, maximize=False,
        )  # fmt: skip
        self._write(rows, weights, first, second)
        self.paid[rows] = self.steps + 1
        self._go_on()

    def pay(self, rows: Tensor) -> None:
        """Bring the tables' rows to what dense Adam would have them be now."""
        self._write(rows, *self._paid_for(rows))
        self.paid[rows] = self.steps

    def pay_all(self) -> None:
        """Bring all rows up to date, which reading the tables as a whole needs."""
        for rows in torch.split(torch.arange(len(self.paid), device=self.device), 1 << 18):
            self.pay(rows)
        self._forget()

    def state(self) -> dict[int, dict[str, Tensor]]:
        """For each table what torch's Adam keeps of it, nothing being owed."""
        return {
            i: {"exp_avg": first.view(shape), "exp_avg_sq": second.view(shape), "step": torch.tensor(float(self.steps))}
            for i, (first, second, shape) in enumerate(zip(self.first, self.second, self.shapes, strict=True))
        }

    def load_state(self, state: dict[int, dict[str, Tensor]]) -> None:
        """Set what `state` gave."""
        for i, of_table in state.items():
            self.first[i].copy_(of_table["exp_avg"].view(self.first[i].shape))
            self.second[i].copy_(of_table["exp_avg_sq"].view(self.second[i].shape))
            self.steps = int(of_table["step"])
        self.paid.fill_(self.steps)
        self._forget()

    # --- what rows owe ----------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Nothing is owed: begin to keep account from here."""
        self.begun = self.steps
        degree = DEGREE if self.begun >= EARLY else DEGREE_EARLY
        places = torch.arange(degree + 1, dtype=torch.float64)
        self.nodes = ((1 - torch.cos(torch.pi * (places + 0.5) / (degree + 1))) / 2).to(self.device)  # Chebyshev's
        self.to_coefficients = torch.linalg.inv(self.nodes[:, None] ** places.to(self.device)).T
        self.sums = torch.zeros(0, degree + 1, dtype=torch.float64, device=self.device)
        """Of the rows paid up to step begun + i: the sum at each node, of all steps since."""
        self.coefficients = torch.zeros(0, degree + 1, device=self.device)
        self._room()

    def _room(self) -> None:
        more = max(1024, len(self.sums))
        self.sums = torch.cat([self.sums, self.sums.new_zeros(more, self.sums.shape[1])])
        self.coefficients = torch.cat([self.coefficients, self.coefficients.new_zeros(more, self.sums.shape[1])])

    def _go_on(self) -> None:
        """Account for one more step, which all rows owe that were paid up to one of the last `REMEMBERED` steps."""
        self.steps += 1
        t = self.steps
        if t - self.begun >= len(self.sums):
            self._room()
        start = max(self.begun, t - REMEMBERED)
        s = torch.arange(start, t, dtype=torch.float64, device=self.device)
        c = BETA1 ** (t - s) / (1 - BETA1**t)
        ratio = (BETA2 ** (t - s) / (1 - BETA2**t)).sqrt() / _first_scale(s)
        open_ = slice(start - self.begun, t - self.begun)
        self.sums[open_] += c[:, None] / (1 + (ratio[:, None] - 1) * self.nodes)
        self.coefficients[open_] = (self.sums[open_] @ self.to_coefficients).float()
        if t == EARLY:
            self.pay_all()

    def _paid_for(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Copies of the rows' weights and moments in each table, all that they owe being paid."""
        since = self.paid[rows]
        owed = (self.steps - since)[:, None].float()
        coefficients = self.coefficients.index_select(0, since - self.begun).T.contiguous()[..., None]
        scale, decay = _first_scale(since.double())[:, None].float(), BETA2**owed
        weights, first, second = (
            [table.index_select(0, rows) for table in tables] for tables in (self.tables, self.first, self.second)
        )
        for w, m, v in zip(weights, first, second, strict=True):
            size = max(1, CHUNK // w.shape[1]) if self.device.type == "cpu" else max(1, len(rows))
            for at in range(0, len(rows), size):
                part = slice(at, at + size)
                _pay(w[part], m[part], v[part], coefficients[:, part], scale[part], self.learning_rate)
                m[part] *= BETA1 ** owed[part]
                v[part] *= decay[part]
        return weights, first, second

    def _write(self, rows: Tensor, weights: list[Tensor], first: list[Tensor], second: list[Tensor]) -> None:
        for tables, values in ((self.tables, weights), (self.first, first), (self.second, second)):
            for table, value in zip(tables, values, strict=True):
                if self.device.type == "cpu":  # numpy copies row by row, up to twice as fast as torch
                    table.numpy()[rows.numpy()] = value.detach().numpy()
                else:
                    table.index_copy_(0, rows, value)


def _first_scale(s: Tensor) -> Tensor:
    """u_1 of rows that are paid up to step s."""
    return (BETA2 / (1 - BETA2 ** (s + 1))).sqrt()


def _pay(w: Tensor, m: Tensor, v: Tensor, coefficients: Tensor, scale: Tensor, learning_rate: float) -> None:
    """Move weights (n, width) by the steps they owe, in place; coefficients (degree + 1, n, 1), u_1 (n, 1)."""
    below = v.sqrt().mul_(scale).add_(EPSILON)
    theta = (below - EPSILON).div_(below)
    value = coefficients[-1].expand_as(theta)
    for coefficient in reversed(coefficients[:-1].unbind()):
        value = torch.addcmul(coefficient, value, theta)
    w.addcdiv_(value * m, below, value=-learning_rate)
