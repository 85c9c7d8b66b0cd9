"""Several recommenders as one: columns of one table, read and trained in common, under models of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nisbench.embedding import Embeddings, SelectedEmbedding
from nisbench.models.recommender import Recommender
from nisbench.row_functions import SumByPart


class Parts(nn.Module):
    """Sums over each part of columns that stand side by side."""

    membership: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)
        owner = torch.arange(len(self.widths)).repeat_interleave(torch.tensor(self.widths))
        self.register_buffer("membership", functional.one_hot(owner, len(self.widths)).float(), persistent=False)

    def forward(self, columns: Tensor) -> Tensor:
        """(..., columns) -> (..., T)."""
        if columns.is_cuda:  # one operation; on a CPU a slow one
            return columns @ self.membership
        summed: Tensor = SumByPart.apply(columns, self.widths)  # type: ignore[no-untyped-call]
        return summed


class SideBySide(nn.Module):
    """T models of one kind, each on its columns.

    A kind that can compute all predictions at once has a static method `together(models, embeddings, first_order, parts)`.
    """

    def __init__(self, models: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.parts = Parts(widths)
        self.first_order = getattr(models[0], "first_order", False)
        self.together = getattr(models[0], "together", None)

    def forward(self, embeddings: Embeddings, first_order: Tensor | None) -> Tensor:
        """(B, M, columns) embeddings, (B, T) first-order terms if any -> (B, T)."""
        if self.together:
            predictions: Tensor = self.together(list(self.models), embeddings, first_order, self.parts)
            return predictions
        terms = [None] * len(self.models) if first_order is None else first_order.unbind(1)
        parts = embeddings.split(self.parts.widths)
        each = [model(part, term) for model, part, term in zip(self.models, parts, terms, strict=True)]
        return torch.stack(each, 1)


def pack(members: Sequence[Recommender]) -> Recommender:
    """One recommender (B) -> (B, T) of several for the same features, their weights copied, their models shared."""
    embeddings = [member.embedding for member in members]
    wide = SelectedEmbedding(
        embeddings[0].block,
        torch.cat([each.selection for each in embeddings], 1),
        torch.cat([each.weight.detach() for each in embeddings], 1),
    )
    widths = [each.weight.shape[1] for each in embeddings]
    packed = Recommender(wide, SideBySide([member.model for member in members], widths), tuple(widths))
    if packed.first_order is not None:
        terms = [member.first_order for member in members if member.first_order is not None]
        packed.first_order = nn.Parameter(torch.stack([term.detach() for term in terms], 1))
    return packed.to(wide.weight.device)


@torch.no_grad()
def unpack(packed: Recommender, members: Sequence[Recommender]) -> None:
    """Copy the packed weights back into the members."""
    parts = torch.split(packed.embedding.weight, list(packed.widths), 1)
    for i, (member, part) in enumerate(zip(members, parts, strict=True)):
        member.embedding.weight.copy_(part)
        if packed.first_order is not None and member.first_order is not None:
            member.first_order.copy_(packed.first_order[:, i])


def narrowed(state: dict[str, Tensor], widths: Sequence[int], kept: Sequence[int]) -> dict[str, Tensor]:
    """What an optimizer keeps of a pack of these `widths`, for the pack of those members only whose places are `kept`."""
    columns = torch.cat([torch.arange(sum(widths[:i]), sum(widths[: i + 1])) for i in kept])
    found = {}
    for name, tensor in state.items():
        if name.startswith("model.models."):
            place, rest = name.removeprefix("model.models.").split(".", 1)
            if int(place) in kept:
                found[f"model.models.{kept.index(int(place))}.{rest}"] = tensor
        elif tensor.dim() == 2:
            of = columns if name.startswith("embedding.weight.") else torch.tensor(kept)
            found[name] = tensor.index_select(1, of.to(tensor.device))
        else:
            found[name] = tensor
    return found
