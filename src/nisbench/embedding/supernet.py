"""A table under random dimensions and learned row thresholds (OptEmbed, Lyu et al. 2022, arXiv 2208.04482)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nisbench.embedding.autograd import rows_of
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import Rate, SelectedTable, Table


class SupernetTable(Table):
    """Embeddings e_i * [||e_i||_1 > t_u] * prefix(d), with a learned threshold t_u for each unit u of features.

    In training mode, d is drawn for each feature of each instance. In evaluation mode, it is ``dimensions[u]``.
    """

    weight: nn.Parameter
    threshold: nn.Parameter
    """t: (U,)."""
    unit: Tensor
    """(N,) int32: the unit of each feature."""
    dimensions: Tensor
    """(U,) int64."""
    base_column: Tensor
    """(width,) the dimension, from 0, that each column belongs to."""

    def __init__(
        self,
        drawn: SelectedTable,
        unit: Tensor,
        law: Tensor,
        generator: torch.Generator,
        *,
        start: float,
        rate: Rate,
        penalty: float,
    ) -> None:
        """`law` (K,) has the probabilities of the dimensions 1 to K. `penalty` times the sum of exp(-t) is lowered, too."""
        super().__init__()
        self.weight, self.factor = drawn.weight, penalty
        units = int(unit.max()) + 1
        self.threshold = nn.Parameter(torch.full((units,), start))
        self.own_rates: Mapping[str, Rate] = {"threshold": rate}
        self.generator = generator
        possible = law.nonzero()[:, 0] + 1
        self.cumulative = law.double().cumsum(0) if len(possible) > 1 else None
        self.register_buffer("unit", unit.to(torch.int32))
        self.register_buffer("dimensions", possible.max().repeat(units))
        base = [torch.arange(width) * len(law) // width for width in drawn.widths]
        self.register_buffer("base_column", torch.cat(base), persistent=False)

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        scales = None
        if self.training and self.cumulative is not None:
            scales = self.prefixes(self.drawn(tuple(ids.shape)))
        if len(self.weight) <= ids.numel():  # cheaper to mask each row of the table once than each occurrence of it
            return Embeddings(ids, values, self._masked(None, scales is None), scales)
        rows = self._masked(ids.flatten(), scales is None)
        return Embeddings(torch.arange(len(rows), device=ids.device).view(ids.shape), values, rows, scales)

    def rows(self, features: Tensor) -> Tensor:
        return self._masked(features, True)

    def _masked(self, features: Tensor | None, prefixes: bool) -> Tensor:
        """The rows of some features, or all, without those below their thresholds; if asked for, cut to their dimensions."""
        weights = self.weight if features is None else rows_of(self.weight, features)
        unit = (self.unit if features is None else self.unit[features]).long()
        excess = weights.abs().sum(1) - rows_of(self.threshold[:, None], unit)[:, 0]
        kept: Tensor = KeepAbove.apply(excess)  # type: ignore[no-untyped-call]
        masked = weights * kept[:, None]
        return masked * self.prefixes(self.dimensions[unit]) if prefixes else masked

    def prefixes(self, dimensions: Tensor) -> Tensor:
        """Masks of the first so many dimensions, in each of the model's embeddings: (...) -> (..., width)."""
        return (self.base_column < dimensions[..., None]).to(self.weight.dtype)

    def drawn(self, shape: tuple[int, ...]) -> Tensor:
        """Dimensions drawn by the law, on the CPU, so that a GPU sees the same."""
        assert self.cumulative is not None
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        found = torch.searchsorted(self.cumulative, uniform, right=True).clamp(max=len(self.cumulative) - 1) + 1
        return found.to(self.weight.device, non_blocking=True)

    def penalty(self) -> Tensor:
        return self.factor * (-self.threshold).exp().sum()

    @torch.no_grad()
    def kept(self) -> Tensor:
        """Which rows are above their thresholds: (N,) bool."""
        return self.weight.abs().sum(1) > self.threshold[self.unit.long()]

    @torch.no_grad()
    def stored(self) -> SelectedTable:
        """Each feature is a block of its own: its row may have gone, whatever the dimensions of its unit."""
        selection = self.prefixes(self.dimensions[self.unit.long()]) * self.kept()[:, None]
        return SelectedTable(torch.arange(self.features, device=selection.device), selection, self.weight.detach())


class KeepAbove(torch.autograd.Function):
    """1 where a value is above 0, else 0. Its gradient is a long-tailed surrogate (OptEmbed, after Xu et al. 2018)."""

    @staticmethod
    def forward(ctx: Any, excess: Tensor) -> Tensor:
        ctx.save_for_backward(excess)
        return (excess > 0).to(excess.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,), (excess,) = gradients, ctx.saved_tensors
        return gradient * surrogate(excess)


def surrogate(excess: Tensor) -> Tensor:
    """2 - 4|u| up to |u| = .4; .4 up to 1; 0 beyond."""
    size = excess.abs()
    return torch.where(size <= 0.4, 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0))
