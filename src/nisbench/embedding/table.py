"""Embedding tables: where embeddings come from, and what is stored of them in the end.

A *selection* is an (L, K) matrix over feature blocks: 1 = the dimension exists, 0 = it does not, between = softly.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nisbench.embedding.autograd import rows_of
from nisbench.embedding.batch import Embeddings


@dataclass(frozen=True)
class Rate:
    """How a parameter is trained that does not follow the trial's learning rate and L2 penalty: by an optimizer of its own."""

    learning_rate: float
    decay: float = 0.0
    """This times the parameter is added to its gradient."""
    optimizer: Literal["adam", "sgd"] = "adam"


class Table(nn.Module, ABC):
    """The table of one trial. Models are handed `Embeddings`, and cannot tell which table these come from.

    A method may propose a table of its own (`TrialSpec.table`). Everything else that a trial needs is here:
    differentiable embeddings for ids, parameters (those of the module), and what is stored.
    """

    row_parameters: tuple[str, ...] = ()
    """Parameters (N, ...) with one row per feature, of which a batch reads the rows of its ids only. Large selected
    tables are trained by such rows; other kinds of table are always trained as a whole."""
    own_rates: Mapping[str, Rate] = {}
    """Parameters with learning rates of their own."""
    stored_weights: int | None = None
    """What is stored, where the embeddings are composed of fewer weights; None = each weight that is selected."""
    quantiser: Mapping[str, Any] | None = None
    """Of a table of few bits: its `widths` in bits (W,), the `steps` of each (W,), and the `offset` of each column (width,), as lists."""
    importance: Tensor | None = None
    """(N, width): how the search ranked the weights for pruning, the least first; None = it did not."""
    capturable: bool = False
    """Whether `forward` and `penalty` do the same operations of torch at every step, on tensors of the same shapes, and neither
    read values on the host nor draw numbers there. On a GPU, steps are then captured once and replayed. It is not inherited: a
    class with a `forward` of its own says it again."""

    weight: nn.Parameter
    """(N, width); a table without such weights says otherwise what its size is."""

    @property
    def features(self) -> int:
        """N."""
        return len(self.weight)

    @property
    def width(self) -> int:
        """The number of columns of an embedding."""
        return self.weight.shape[1]

    @abstractmethod
    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        """The embeddings of a batch: (B, M) ids, and (B, M) values of scalar fields or None."""

    @abstractmethod
    def rows(self, features: Tensor) -> Tensor:
        """The embeddings of distinct features: (n,) -> (n, width)."""

    def penalty(self) -> Tensor | None:
        """What training lowers besides the loss of its batches: (), or None if there is nothing."""
        return None

    @abstractmethod
    def stored(self) -> "SelectedTable":
        """The selected table with the same embeddings, which is stored and pruned in the end."""


class SelectedTable(Table):
    """Embeddings e~_i = e_i * selection[block(i)] (paper, Eq. 4). A scalar field's row is multiplied by its value.

    `weight` (N, width) is learned. `block` (N,) int32 and `selection` (L, width) are not, by this module. `soft` says
    that something else changes the selection during training. `widths` are those of the model's embeddings, which stand
    side by side in the columns.
    """

    weight: nn.Parameter
    block: Tensor
    selection: Tensor
    row_parameters: tuple[str, ...] = ("weight",)
    capturable = True

    def __init__(
        self,
        block: Tensor,
        selection: Tensor,
        weight: Tensor,
        soft: bool = False,
        widths: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.widths = widths or (weight.shape[1],)
        self.weight = nn.Parameter(weight)
        self.register_buffer("block", block.to(torch.int32))
        self.register_buffer("selection", selection)
        self.selective = soft or bool((selection != 1).any())  # else there is nothing to multiply by

    def forward(
        self, ids: Tensor, values: Tensor | None = None, weight: Tensor | None = None, scales: Tensor | None = None
    ) -> Embeddings:
        """As in `Table`. `weight` times `scales`, both (U, width), replaces the table; `ids` then number its rows."""
        if weight is not None:
            return Embeddings(ids, values, weight if scales is None else weight * scales)
        if not self.selective:
            return Embeddings(ids, values, self.weight)
        if len(self.weight) <= ids.numel():  # cheaper to scale each row of the table once than each occurrence of it
            return Embeddings(ids, values, self.effective_weight())
        of_ids = rows_of(self.selection, self.block.index_select(0, ids.flatten()).view(ids.shape))
        return Embeddings(ids, values, self.weight, of_ids)

    def rows(self, features: Tensor) -> Tensor:
        weights, scales = rows_of(self.weight, features), self.scales(features)
        return weights if scales is None else weights * scales

    def scales(self, features: Tensor) -> Tensor | None:
        """What the weights of some features (n,) are multiplied by: (n, width), or None if all factors are 1."""
        return rows_of(self.selection, self.block[features]) if self.selective else None

    def effective_weight(self) -> Tensor:
        """E~ (N, width): each feature's weights times the selection of its block."""
        return self.weight * rows_of(self.selection, self.block) if self.selective else self.weight

    def stored(self) -> "SelectedTable":
        return self


def used_columns(selection: Tensor) -> Tensor:
    """(L, K) -> indices of the columns that any block selects, or the first if none does."""
    used = selection.ne(0).any(0).nonzero()[:, 0]
    return used if len(used) else torch.zeros(1, dtype=torch.long)


def xavier_std(features: int, k: int) -> float:
    """Standard deviation that Glorot & Bengio (2010) give an (N, K) table, as in the released code."""
    return float((2.0 / (features + k)) ** 0.5)
