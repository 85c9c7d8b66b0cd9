"""Tables of few bits per weight, trained as they are stored: with one bit width for all, or with one for each group of features.

A weight of b bits is a code from -2^(b - 1) to 2^(b - 1) - 1, times a step, plus an offset. Each bit width has a step and each
column has an offset, and both are learned (LSQ+, Bhalgat et al. 2020, arXiv 2004.09576). An embedding of 0 bits is 0; a weight of
32 bits is not rounded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nisbench.embedding.autograd import rows_of
from nisbench.embedding.batch import Embeddings
from nisbench.embedding.table import Rate, SelectedTable, Table
from nisbench.errors import NisbenchError

UNROUNDED = 32
"""The bits of a weight that is not rounded."""

ROWS_PER_START = 64
"""Where rows differ in width, so many of them share the 64 bits that say where they start."""


@dataclass(frozen=True)
class Storage:
    """The size of a table whose rows have one of several bit widths: all that is needed to look a row up.

    There are the codes; a step of 32 bits for each width that has one, and an offset of 32 bits for each column; and, if there are
    several widths, the number of each row's width, and 64 bits for every 64 rows.
    """

    rows: int
    columns: int
    widths: tuple[int, ...]

    @property
    def overhead(self) -> int:
        """The bits of all but the codes."""
        steps = sum(0 < bits < UNROUNDED for bits in self.widths)
        bits = 32 * (steps + self.columns) if steps else 0
        if len(self.widths) > 1:
            bits += self.rows * (len(self.widths) - 1).bit_length() + 64 * -(-self.rows // ROWS_PER_START)
        return bits

    def weights(self, bits: int) -> int:
        """The size with so many bits of codes, as the number of float32 weights that take as much, rounded up."""
        return max(1, -(-(self.overhead + bits) // 32))


class QuantisedTable(Table):
    """Embeddings as they come back from storage. Their weights are trained in float32, and those of a group have one bit width."""

    weight: nn.Parameter
    log_step: nn.Parameter
    """(W,) the logarithm of each width's step: steps stay positive and learn at a rate in proportion to their size."""
    offset: nn.Parameter
    """(width,)"""
    group: Tensor
    """(N,) int32: the group of each feature."""
    sizes: Tensor
    """(G,) int64: the features of each group."""
    widths: Tensor
    """(W,) int64: the bit widths that there are, ascending."""
    chosen: Tensor
    """(G,) int64: which of them each group has."""

    def __init__(self, drawn: SelectedTable, group: Tensor, widths: Sequence[int], step_rate: float) -> None:
        """All groups begin with the largest of the `widths`, which ascend. `step_rate` is Adam's for the logarithms of steps."""
        super().__init__()
        self.weight = drawn.weight
        self.storage = Storage(drawn.features, drawn.width, tuple(widths))
        mean = float(drawn.weight.detach().abs().mean())
        steps = [2 * mean / 2.0 ** ((bits - 1) / 2) for bits in widths]
        self.log_step = nn.Parameter(torch.tensor(steps).log())
        self.offset = nn.Parameter(torch.zeros(drawn.width))
        self.own_rates: Mapping[str, Rate] = {"log_step": Rate(step_rate)}
        self.register_buffer("group", group.to(torch.int32), persistent=False)
        self.register_buffer("sizes", torch.bincount(group), persistent=False)
        self.register_buffer("widths", torch.tensor(widths), persistent=False)
        self.register_buffer("chosen", torch.full((len(self.sizes),), len(widths) - 1))

    @property
    def bits(self) -> Tensor:
        """The bit width of each group: (G,) int64."""
        return self.widths[self.chosen]

    @property
    def stored_weights(self) -> int:  # type: ignore[override]  # it follows from the widths
        """As in `Table`: the bytes that are stored, divided by the 4 of a float32 weight."""
        return self.storage.weights(self.width * int((self.bits * self.sizes).sum()))  # CUDA has no integer dot product

    @property
    def quantiser(self) -> Mapping[str, Any]:  # type: ignore[override]  # it is learned
        steps, offset = self.log_step.detach().exp(), self.offset.detach()
        return {"widths": list(self.storage.widths), "steps": steps.tolist(), "offset": offset.tolist()}

    def forward(self, ids: Tensor, values: Tensor | None = None) -> Embeddings:
        if self.features <= ids.numel():  # cheaper to round each row of the table once than each occurrence of it
            return Embeddings(ids, values, self.embeddings(None))
        rows = self.embeddings(ids.flatten())
        return Embeddings(torch.arange(len(rows), device=ids.device).view(ids.shape), values, rows)

    def rows(self, features: Tensor) -> Tensor:
        return self.embeddings(features)

    def embeddings(self, features: Tensor | None) -> Tensor:
        """The embeddings of some features (n,), or all: (n, width)."""
        weights = self.weight if features is None else rows_of(self.weight, features)
        if self.storage.widths == (UNROUNDED,):
            return weights
        which = self.chosen[self.groups_of(features)]
        bits, step = self.widths[which][:, None], rows_of(self.log_step[:, None], which).exp()
        found = codes((weights - self.offset) / step, bits) * step + self.offset
        return torch.where(bits == UNROUNDED, weights, found * (bits > 0))

    def groups_of(self, features: Tensor | None) -> Tensor:
        return (self.group if features is None else self.group[features.long()]).long()

    @torch.no_grad()
    def stored(self) -> SelectedTable:
        """The dense table with the same embeddings, by which they are measured."""
        dense = self.embeddings(None).clone()
        block = torch.zeros(self.features, dtype=torch.int32, device=dense.device)
        return SelectedTable(block, torch.ones(1, self.width, device=dense.device), dense)


class MixedPrecisionTable(QuantisedTable):
    """A quantised table that learns the bit width of each group, within a budget (MPE, arXiv 2409.20305).

    Until it is settled, an embedding is in training mode the mean of those of all widths, by a softmax. In evaluation mode it has
    the width that `settle` would choose.
    """

    logits: nn.Parameter
    """(G, W)"""
    log_penalty: nn.Parameter
    """() the logarithm of lambda."""
    relative_frequency: Tensor
    """(G,) above 0."""
    initial: Tensor
    """(N, width): the weights that it began with."""

    def __init__(
        self,
        drawn: SelectedTable,
        group: Tensor,
        widths: Sequence[int],
        step_rate: float,
        *,
        relative_frequency: Tensor,
        temperature: float,
        rate: float,
        penalty: float,
        penalty_rate: float,
        limit: int,
    ) -> None:
        """The last group's features are the rarest. `rate` is Adam's for the logits.

        `penalty_rate` is that of gradient ascent, for the logarithm of lambda, which begins at `penalty`. `limit` is the size, in
        float32 weights, that the table may have. Raises `NisbenchError` if it cannot be so small.
        """
        super().__init__(drawn, group, widths, step_rate)
        self.temperature, self.room, self.settled = temperature, 32 * limit - self.storage.overhead, False
        least = max(1, drawn.weight.numel() * widths[0])
        if self.room < least:
            raise NisbenchError(
                f"this method needs at least {4 * self.storage.weights(least):,} bytes on this data set, but its budget is "
                f"{4 * limit:,}; leave out this compression rate"
            )
        self.logits = nn.Parameter(torch.zeros(len(self.sizes), len(widths)))
        self.log_penalty = nn.Parameter(torch.tensor(math.log(penalty)))
        self.own_rates = {
            "log_step": Rate(step_rate),
            "logits": Rate(rate),
            "log_penalty": Rate(penalty_rate, optimizer="sgd"),
        }
        self.register_buffer("relative_frequency", relative_frequency.float(), persistent=False)
        self.register_buffer("initial", drawn.weight.detach().clone(), persistent=False)

    @property
    def stored_weights(self) -> int:  # type: ignore[override]
        self._choose()
        return super().stored_weights

    def probabilities(self) -> Tensor:
        """Those of the widths of each group: (G, W)."""
        return (self.logits / self.temperature).softmax(1)

    def embeddings(self, features: Tensor | None) -> Tensor:
        if self.settled or not self.training:
            self._choose()
            return super().embeddings(features)
        weights = self.weight if features is None else rows_of(self.weight, features)
        return self.mixture(weights, rows_of(self.probabilities(), self.groups_of(features)))

    def mixture(self, weights: Tensor, shares: Tensor) -> Tensor:
        """Weights (n, width) in each width, times its share (n, W), added up."""
        centred, steps, found = weights - self.offset, self.log_step.exp(), torch.zeros_like(weights)
        for bits, step, share in zip(self.storage.widths, steps, shares.T[..., None], strict=True):
            if bits == UNROUNDED:
                found = found + share * weights
            elif bits:
                found = found + share * step * codes(centred / step, bits) + share * self.offset
        return found

    def penalty(self) -> Tensor | None:
        """Lambda times the expected bits over relative frequencies, and a term that makes lambda rise and fall.

        The gradient by the logarithm of lambda is minus that of expected bits over the room for them.
        """
        if self.settled:
            return None
        expected = self.probabilities() @ self.widths.float()
        cost = (expected / self.relative_frequency).sum()
        used = self.width * (expected.detach() @ self.sizes.float()) / self.room
        return self.log_penalty.detach().exp() * cost - self.log_penalty * used.clamp(min=1e-3).log()

    @torch.no_grad()
    def settle(self) -> None:
        """Give each group its width for good, and let all weights begin again. Steps and offsets go on from what they are."""
        self._choose()
        self.settled = True
        self.weight.copy_(self.initial)

    @torch.no_grad()
    def _choose(self) -> None:
        """The largest width of each group that is likely, lowered until all are within the budget."""
        if not self.settled:
            likely = self.probabilities() >= 1 / (2 * len(self.widths))
            largest = (likely * torch.arange(len(self.widths), device=likely.device)).amax(1)
            room = self.room // self.width
            found = lowered(largest.tolist(), self.sizes.tolist(), self.storage.widths, room)
            self.chosen.copy_(torch.tensor(found))


def codes(scaled: Tensor, bits: Tensor | int) -> Tensor:
    """Numbers (n, width) rounded to codes of b bits, a number or (n, 1)."""
    found: Tensor = Codes.apply(scaled, bits)  # type: ignore[no-untyped-call]
    return found


class Codes(torch.autograd.Function):
    """Rounding to the nearest code. The gradient passes straight through to numbers within the codes' range, and to no others."""

    @staticmethod
    def forward(ctx: Any, scaled: Tensor, bits: Tensor | int) -> Tensor:
        most = 2.0 ** (bits - 1)
        clipped = scaled.clamp(-most, most - 1)  # type: ignore[arg-type]  # two numbers or two tensors
        ctx.save_for_backward(clipped == scaled)
        return clipped.round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (within,) = gradients, ctx.saved_tensors
        return gradient * within, None


def lowered(chosen: Sequence[int], sizes: Sequence[int], widths: Sequence[int], room: int) -> list[int]:
    """Which of the `widths`, which ascend, each group has, lowered until the sum of size times width is at most `room`.

    From the last group to the first, each gets the next lower width, and so again for as long as it takes.
    """
    found = list(chosen)
    excess = sum(size * widths[i] for size, i in zip(sizes, found, strict=True)) - room
    while excess > 0:
        for group in reversed(range(len(found))):
            if excess > 0 and found[group] > 0:
                excess -= sizes[group] * (widths[found[group]] - widths[found[group] - 1])
                found[group] -= 1
    return found
