"""Tables that mix candidate dimensions by learned weights (AutoDim, Zhao et al. 2021, arXiv 2006.14827)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nisbench.embedding.autograd import OuterByField, ProductByField, rows_of
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import SelectedTable, Table, xavier_std

EPSILON = 1e-10
"""Added to variances. Embeddings begin small: torch's 1e-5 would leave their candidates at different magnitudes."""
MOMENTUM = 0.1
"""Of the running moments, as in torch."""


class CandidateTable(Table):
    """Embeddings sum_n p_n x^n, where x^n is the projection of the first d_n entries of one shared vector to the largest d_N.

    There are U units of features, each with C candidates, matrices of its own and p = softmax((logits + noise) / temperature).
    The largest candidate is not projected, as in `models.projection`. With `batch_norm`, x^n has mean 0 and variance 1 in each
    unit and column of a batch; in evaluation mode, running moments take the place of the batch's. The sum is then multiplied by
    `scale`, if there is one.

    Logits, noise and temperature are no parameters: the method changes them.
    """

    weight: nn.Parameter
    unit: Tensor
    """(N,) int32: the unit of each feature."""
    logits: Tensor
    """(U, C)."""
    noise: Tensor
    """(U, C)."""
    temperature: Tensor
    """()."""

    def __init__(
        self,
        drawn: SelectedTable,
        unit: Tensor,
        candidates: Sequence[int],
        generator: torch.Generator,
        *,
        batch_norm: bool,
        scaled: bool,
    ) -> None:
        """`drawn` has the columns of the largest of the `candidates`, which ascend. `generator` draws the projections."""
        super().__init__()
        self.weight, self.widths, self.candidates, self.batch_norm = drawn.weight, drawn.widths, candidates, batch_norm
        units, largest = int(unit.max()) + 1, candidates[-1]
        self.scale = nn.Parameter(drawn.weight.detach().std()) if scaled else None
        self.projections = nn.ParameterList()
        for part, width in enumerate(self.widths):
            multiple = width // largest
            matrices = torch.zeros(units, len(candidates) - 1, width, width)
            exists = torch.zeros(len(candidates), width, 1)
            for number, d in enumerate(candidates):
                exists[number, : d * multiple] = 1
                if d < largest:
                    matrices[:, number, : d * multiple].normal_(0, xavier_std(d * multiple, width), generator=generator)
            self.projections.append(matrices)
            self.register_buffer(f"exists{part}", exists[:-1], persistent=False)
            self.register_buffer(f"mean{part}", torch.zeros(units, len(candidates), width))
            self.register_buffer(f"variance{part}", torch.ones(units, len(candidates), width))
        self.register_buffer("unit", unit.to(torch.int32))
        self.register_buffer("logits", torch.zeros(units, len(candidates)))
        self.register_buffer("noise", torch.zeros(units, len(candidates)))
        self.register_buffer("temperature", torch.ones(()))

    def shares(self) -> Tensor:
        """p: (U, C)."""
        return ((self.logits + self.noise) / self.temperature).softmax(1)

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        """As in `Table`. Values multiply the vectors before these are normalised: a scalar field has a single vector."""
        vectors: Tensor = self.weight
        unit, at = self.unit, ids
        if len(vectors) > ids.numel():
            rows, at = torch.unique(ids, return_inverse=True)
            vectors, unit = rows_of(self.weight, rows), self.unit[rows]
        linear, shift = self._mixed(vectors, unit, Occurrences.of(at, values, len(vectors)))
        if shift is None:
            return Embeddings(at, values, linear)
        if values is None:
            return Embeddings(at, None, linear - rows_of(shift, unit))
        each = rows_of(linear, at) * values[..., None] - rows_of(shift, self.unit[ids])
        return Embeddings(torch.arange(ids.numel(), device=ids.device).view(ids.shape), None, each.flatten(0, 1))

    def rows(self, features: Tensor) -> Tensor:
        unit = self.unit[features]
        once = Occurrences.of(torch.arange(len(features), device=features.device), None, len(features))
        linear, shift = self._mixed(rows_of(self.weight, features), unit, once)
        return linear if shift is None else linear - rows_of(shift, unit)

    def _mixed(self, vectors: Tensor, unit: Tensor, occurrences: "Occurrences") -> tuple[Tensor, Tensor | None]:
        """What vectors (n, width) of these units (n,) contribute to their embeddings (n, width), and what is subtracted (U, width).

        A mixture of linear functions is a linear function, and so is one of normalised ones, up to a shift.
        """
        order = unit.argsort(stable=True)
        sizes = torch.bincount(unit, minlength=len(self.logits)).tolist()
        vectors, p = rows_of(vectors, order), self.shares()
        linear, shifts = [], []
        for part, own in enumerate(torch.split(vectors, list(self.widths), 1)):
            identity = torch.eye(own.shape[1], device=own.device).expand(len(p), 1, -1, -1)
            matrices = torch.cat([self.projections[part] * getattr(self, f"exists{part}"), identity], 1)
            factors = p[:, :, None].expand(*p.shape, own.shape[1])
            if self.scale is not None:
                factors = factors * self.scale
            if self.batch_norm:
                mean, variance = self._moments(part, own, matrices, occurrences.sorted(order), sizes)
                factors = factors / (variance.clamp(min=0) + EPSILON).sqrt()
                shifts.append((factors * mean).sum(1))
            mixing = (matrices * factors[:, :, None]).sum(1)
            linear.append(ProductByField.apply(own, mixing, sizes))  # type: ignore[no-untyped-call]
        return rows_of(torch.cat(linear, 1), order.argsort()), torch.cat(shifts, 1) if shifts else None

    def _moments(
        self, part: int, vectors: Tensor, matrices: Tensor, occurrences: "Occurrences", sizes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of each unit's projected candidates, column by column: both (U, C, width).

        They follow from the mean and covariance of the unit's vectors.
        """
        running = getattr(self, f"mean{part}"), getattr(self, f"variance{part}")
        if not self.training:
            return running

        def summed(left: Tensor, right: Tensor) -> Tensor:
            total: Tensor = OuterByField.apply(left, right, sizes)  # type: ignore[no-untyped-call]
            return total

        counts = occurrences.counts[:, None]
        total = summed(counts, torch.ones_like(counts))
        inverse = 1 / total.clamp(min=1)
        averages = vectors if occurrences.means is None else vectors * occurrences.means[:, None]
        center = summed(counts, averages) * inverse
        centered = averages - center[:, 0].repeat_interleave(torch.tensor(sizes, device=counts.device), 0)
        covariance = summed(centered * counts, centered) * inverse
        if occurrences.spreads is not None:
            covariance = covariance + summed(vectors * occurrences.spreads[:, None], vectors) * inverse
        mean = (center[:, :, None] @ matrices)[:, :, 0]
        variance = (matrices * (covariance[:, None] @ matrices)).sum(2)
        with torch.no_grad():
            seen = MOMENTUM * (total > 0)
            for kept, now in zip(running, (mean, variance), strict=True):
                kept.add_(seen * (now - kept))
        return mean, variance

    @torch.no_grad()
    def stored(self) -> SelectedTable:
        """The shared vectors, cut to each unit's likeliest candidate. Their projections are trained anew after the search."""
        dimensions = torch.tensor(self.candidates, device=self.logits.device)[self.logits.argmax(1)]
        columns = [
            torch.arange(width, device=dimensions.device) * self.candidates[-1] // width for width in self.widths
        ]
        selection = (torch.cat(columns) < dimensions[:, None]).float()
        return SelectedTable(self.unit, selection, self.weight.detach())


@dataclass(frozen=True)
class Occurrences:
    """How often vectors occur in a batch, and with which values: all are (n,)."""

    counts: Tensor
    means: Tensor | None
    """Of a vector's values; None = all are 1."""
    spreads: Tensor | None
    """The sums of their squared differences from the mean."""

    @classmethod
    def of(cls, at: Tensor, values: Tensor | None, n: int) -> "Occurrences":
        """`at` has the indices of vectors, below `n`, and `values` their values: both are (B, M)."""
        flat = at.flatten().long()
        counts = torch.bincount(flat, minlength=n).float()
        if values is None:
            return cls(counts, None, None)
        zero, of_each = torch.zeros_like(counts), values.flatten()
        means = zero.index_add(0, flat, of_each) / counts.clamp(min=1)
        return cls(counts, means, zero.index_add(0, flat, (of_each - means[flat]).square()))

    def sorted(self, order: Tensor) -> "Occurrences":
        """Of the vectors in this order."""
        means, spreads = (None if each is None else each[order] for each in (self.means, self.spreads))
        return Occurrences(self.counts[order], means, spreads)
