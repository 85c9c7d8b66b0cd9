"""Tables that mix candidate dimensions by learned weights (AutoDim, Zhao et al. 2021, arXiv 2006.14827)."""

from collections.abc import Sequence

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

    @property
    def features(self) -> int:
        return len(self.weight)

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    def shares(self) -> Tensor:
        """p: (U, C)."""
        return ((self.logits + self.noise) / self.temperature).softmax(1)

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        """As in `Table`. Numbers multiply the vectors before these are projected: a batch has one vector of a scalar field."""
        if values is not None:  # each occurrence is normalised by itself
            flat = ids.flatten()
            vectors = rows_of(self.weight, flat) * values.flatten()[:, None]
            mixed = self._mixed(vectors, self.unit[flat], torch.ones_like(vectors[:, 0]))
            return Embeddings(torch.arange(len(flat), device=ids.device).view(ids.shape), None, mixed)
        if self.features <= ids.numel():
            counts = torch.bincount(ids.flatten(), minlength=self.features).float()
            return Embeddings(ids, None, self._mixed(self.weight, self.unit, counts))
        rows, at, occurrences = torch.unique(ids, return_inverse=True, return_counts=True)
        mixed = self._mixed(rows_of(self.weight, rows), self.unit[rows], occurrences.float())
        return Embeddings(at, None, mixed)

    def rows(self, features: Tensor) -> Tensor:
        vectors = rows_of(self.weight, features)
        return self._mixed(vectors, self.unit[features], torch.ones_like(vectors[:, 0]))

    def _mixed(self, vectors: Tensor, unit: Tensor, counts: Tensor) -> Tensor:
        """The embeddings of vectors (n, width) in these units (n,), each of which occurs so often in the batch (n,)."""
        order = unit.argsort(stable=True)
        sizes = torch.bincount(unit, minlength=len(self.logits)).tolist()
        vectors, counts, p, parts = rows_of(vectors, order), counts[order, None], self.shares(), []
        for part, own in enumerate(vectors.split(list(self.widths), 1)):
            identity = torch.eye(own.shape[1], device=own.device).expand(len(p), 1, -1, -1)
            matrices = torch.cat([self.projections[part] * getattr(self, f"exists{part}"), identity], 1)
            # A mixture of linear functions is a linear function, and so are normalised ones up to a shift.
            factors, shift = p[:, :, None].expand(*p.shape, own.shape[1]), None
            if self.batch_norm:
                mean, variance = self._moments(part, own, matrices, counts, sizes)
                factors = factors / (variance.clamp(min=0) + EPSILON).sqrt()
                shift = (factors * mean).sum(1)
            mixing = (matrices * factors[:, :, None]).sum(1)
            mixed = ProductByField.apply(own, mixing, sizes)  # type: ignore[no-untyped-call]
            if shift is not None:
                mixed = mixed - shift.repeat_interleave(torch.tensor(sizes, device=own.device), 0)
            parts.append(mixed if self.scale is None else mixed * self.scale)
        return rows_of(torch.cat(parts, 1), order.argsort())

    def _moments(
        self, part: int, vectors: Tensor, matrices: Tensor, counts: Tensor, sizes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of each unit's projected candidates, column by column: both (U, C, width).

        They follow from the mean and covariance of the unit's vectors.
        """
        running = getattr(self, f"mean{part}"), getattr(self, f"variance{part}")
        if not self.training:
            return running
        ones, number = torch.ones_like(counts), torch.tensor(sizes, device=counts.device)
        totals = OuterByField.apply(counts, ones, sizes)  # type: ignore[no-untyped-call]
        inverse = 1 / totals.clamp(min=1)
        center = OuterByField.apply(counts, vectors, sizes) * inverse  # type: ignore[no-untyped-call]
        centered = vectors - center[:, 0].repeat_interleave(number, 0)
        covariance = OuterByField.apply(centered * counts, centered, sizes) * inverse  # type: ignore[no-untyped-call]
        mean = (center[:, :, None] @ matrices)[:, :, 0]
        variance = (matrices * (covariance[:, None] @ matrices)).sum(2)
        with torch.no_grad():
            seen = MOMENTUM * (totals > 0)
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
