"""Methods that train weights in the few bits that they are stored in. Their budgets are shares of the full table's bytes."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt

from nisbench.params.base import KeyPath, Problem
from nisbench.params.methods.base import Budgeted
from nisbench.params.methods.baselines import TunedAtBudget


class MPE(Budgeted):
    """A bit width for each group of features of similar frequency, learned within a budget; then training anew in these widths."""

    kind: Literal["mpe"]
    groups: PositiveInt
    """Groups of equal size by frequency, each with a bit width of its own."""
    widths: Annotated[list[Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 32]], Field(min_length=1)]
    """Bits of a weight to choose from. 0 is the embedding 0, and 32 a weight that is not rounded."""
    temperature: PositiveFloat
    """Of the softmax over a group's widths."""
    learning_rate: PositiveFloat
    """Of Adam, for the logits of that softmax. Its ratio to the temperature says how fast widths are decided."""
    step_learning_rate: PositiveFloat
    """Of Adam, for the logarithms of the quantiser's steps."""
    penalty: PositiveFloat
    """lambda at the start: this times the expected bits of each group, over its frequency relative to the rarest's, is added to the loss."""
    penalty_learning_rate: Annotated[float, Field(ge=0)]
    """At each step, the logarithm of lambda rises by this times that of expected bits over the budget's. 0 = lambda stays, as in the
    paper, and widths that are too large are lowered at the end only."""
    search_epochs: PositiveInt
    """Of learning widths, at most. Validation chooses the epoch, under the widths that it would end with."""

    stores_own_form: ClassVar[bool] = True

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        return {("widths",): self.widths}

    def small(self) -> Self:
        few = {"groups": 4, "search_epochs": 2, "learning_rate": 3e-3, "penalty_learning_rate": 0.2}
        return self.model_copy(update=few)


class Quantised(TunedAtBudget):
    """One bit width for all weights, which are trained in it, and as many dimensions as the budget then allows."""

    kind: Literal["quantised"]
    bits: Literal[1, 2, 3, 4, 5, 6, 7, 8, 32]
    """Of a weight. 32 = it is not rounded."""
    step_learning_rate: PositiveFloat
    """Of Adam, for the logarithm of the quantiser's step."""

    stores_own_form: ClassVar[bool] = True

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        most = base_dimension * 32 / self.bits
        if self.budget * most + 1e-9 < 1:
            text = f"{self.budget:g} of training.base_dimension = {base_dimension} float32 weights is less than {self.bits} bits"
            yield ("budget",), f"{text}, one dimension; leave out compression rates above {most:g}"
