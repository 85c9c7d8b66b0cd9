"""Parts that models share."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class FirstOrder(nn.Module):
    """The sum over an instance's features of one learned number each (times its value, for a scalar field)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, 1))

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Tensor:
        """(B, M) ids, and (B, M) values or None -> (B,)."""
        weights = functional.embedding(ids, self.weight)[..., 0]
        return (weights if values is None else weights * values).sum(1)
