"""Tables whose small weights are cut off at thresholds that are learned (PEP, Liu et al. 2021, arXiv 2101.07577)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nisbench.embedding.autograd import rows_of
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import Rate, SelectedTable, Table


class ThresholdedTable(Table):
    """Embeddings sign(v) * relu(|v| - sigmoid(s)), with weights v (N, width) and thresholds s that share its rows or columns.

    A weight below its threshold has no gradient. Nor does a threshold that no weight exceeds.
    """

    capturable = True
    weight: nn.Parameter
    threshold: nn.Parameter
    """s: (N, width), or 1 in place of N, of width or of both; by block (L, 1)."""
    block: Tensor
    last_alive: Tensor
    """(N, width) int32: the last step at which each weight was seen above its threshold."""

    def __init__(self, drawn: SelectedTable, shape: tuple[int, int], start: float, rate: Rate, by_block: bool) -> None:
        """`shape` is that of the thresholds, which all begin at `start`; `by_block` says that they have a row per block."""
        super().__init__()
        self.weight = drawn.weight
        self.threshold = nn.Parameter(torch.full(shape, start))
        self.by_block = by_block
        self.own_rates: Mapping[str, Rate] = {"threshold": rate}
        self.register_buffer("block", drawn.block)
        self.register_buffer("last_alive", torch.zeros(self.weight.shape, dtype=torch.int32))

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        if self.features <= ids.numel():  # cheaper to cut each row of the table once than each occurrence of it
            return Embeddings(ids, values, soft_threshold(self.weight, self.limits()))
        rows = self.rows(ids.flatten())
        return Embeddings(torch.arange(len(rows), device=ids.device).view(ids.shape), values, rows)

    def rows(self, features: Tensor) -> Tensor:
        return soft_threshold(rows_of(self.weight, features), self.limits(features))

    def limits(self, features: Tensor | None = None) -> Tensor:
        """The thresholds sigmoid(s) of some features, or all, as they broadcast to their weights."""
        s: Tensor = self.threshold
        if self.by_block:
            s = rows_of(s, self.block if features is None else self.block[features])
        elif len(s) > 1 and features is not None:
            s = rows_of(s, features)
        return s.sigmoid()

    @torch.no_grad()
    def margins(self) -> Tensor:
        """By how much each weight exceeds its threshold: (N, width)."""
        return self.weight.abs() - self.limits()

    @torch.no_grad()
    def stored(self) -> SelectedTable:
        cut = soft_threshold(self.weight, self.limits())
        return SelectedTable(torch.zeros_like(self.block), torch.ones(1, self.width, device=cut.device), cut)


def soft_threshold(weights: Tensor, limits: Tensor) -> Tensor:
    """sign(v) * relu(|v| - limit), element by element."""
    return weights.sign() * (weights.abs() - limits).relu()
