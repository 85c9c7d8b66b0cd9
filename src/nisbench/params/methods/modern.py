"""Search and pruning methods since DNIS."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt

from nisbench.params.base import KeyPath, Problem
from nisbench.params.methods.base import Budgeted, Method


class PEP(Method):
    """Thresholds that are learned together with the weights, which fall below them."""

    kind: Literal["pep"]
    threshold_per: Literal["weight", "feature", "dimension", "block", "table"]
    """What has a threshold of its own."""
    threshold_start: float
    """Of s; the threshold is sigmoid(s)."""
    threshold_learning_rate: PositiveFloat
    """Of Adam, for the thresholds."""
    threshold_decay: Annotated[float, Field(ge=0)]
    """This times s is added to its gradient. As s is negative, that makes thresholds rise: with Adam, by about the learning rate a
    step, whatever the decay is. 0 = only the loss moves them."""
    l2: Annotated[float, Field(ge=0)]
    """Replaces training.l2 while thresholds are learned."""
    epochs: PositiveInt
    """Of learning thresholds, at most. Validation does not stop it."""
    until: Annotated[float, Field(gt=0, lt=1)]
    """It ends after the epoch that leaves no larger share of the weights above their thresholds."""
    observe_every: PositiveInt
    """Steps between two looks at which weights are above their thresholds, by which they are ranked."""

    ranks_weights: ClassVar[bool] = True

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        if self.rewind == "pruned":
            yield ("rewind",), "must be initial or fresh: what thresholds took away has no weight to go on from"

    def small(self) -> Self:
        return self.model_copy(update={"epochs": 2, "until": 0.01, "threshold_start": -3.0, "observe_every": 2})


class SSEDS(Method):
    """The most salient dimensions of the trained full table, by one pass over the data, trained anew."""

    kind: Literal["sseds"]
    saliency_on: Literal["train", "validation"]
    """The split that saliencies are computed on."""
    absolute: bool
    """Add up absolute values of batches. Otherwise gradients may cancel out: on train they do."""
    per_weight: bool
    """Divide a dimension's saliency by the number of its weights."""

    ranks_weights: ClassVar[bool] = True


class Gradual(Budgeted):
    """Magnitude pruning while training, on a rising schedule."""

    kind: Literal["gradual"]
    schedule: Literal["deeplight", "cubic"]
    """How the pruned share approaches its target: exponentially, or by a cubic in `ramp_steps`."""
    half_life_steps: PositiveInt
    """deeplight: steps after which half of the target is pruned."""
    ramp_steps: PositiveInt
    """cubic: steps after which all of it is."""
    every: PositiveInt
    """Steps between two prunings."""
    warm_start_epochs: Annotated[int, Field(ge=0)]
    """Epochs before the first pruning."""
    keep_mask: bool
    """What is pruned has no gradient until the next pruning. Otherwise it is set to 0 and may grow again."""
    patience: PositiveInt
    """Replaces training.patience. Validation sees the final share throughout."""

    def small(self) -> Self:
        return self.model_copy(update={"warm_start_epochs": 1, "half_life_steps": 4, "ramp_steps": 8, "every": 2})


class AutoDim(Method):
    """A dimension for each field among candidates, by a mixture that becomes a choice; then training anew, with projections."""

    kind: Literal["autodim"]
    per: Literal["field", "block"]
    """What gets a dimension of its own; the data set's blocks are an extension of the paper's method."""
    candidates: Annotated[list[PositiveInt], Field(min_length=1)]
    """Dimensions to choose from. All are projected to the largest."""
    temperature_step: PositiveFloat
    """By so much the Gumbel softmax's temperature falls from 1 at each step of the weights."""
    temperature_floor: PositiveFloat
    """It falls no lower."""
    every: PositiveInt
    """Steps of the weights between two of the candidates' weights."""
    learning_rate: PositiveFloat
    """Of Adam, for the logits of the candidates' weights."""
    batch_norm: bool
    """Normalise the projected candidates over the batch, without a learned scale of each, so that their magnitudes compare."""
    learned_scale: bool
    """Multiply the normalised mixture by one learned number for all, which starts at the initial weights' standard deviation."""
    warm_start_epochs: Annotated[int, Field(ge=0)]
    """Epochs, at most, in which all candidates weigh the same."""
    epochs: PositiveInt
    """Of learning the candidates' weights after it. Validation does not stop it."""

    learns_selection: ClassVar[bool] = True

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        return {("candidates",): self.candidates}

    def columns(self) -> dict[str, int]:
        return {"candidates": max(self.candidates)}

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        if self.rewind in {"initial", "fresh"}:
            yield ("rewind",), "must be pruned: projections cannot be drawn again"

    def small(self) -> Self:
        few = {"candidates": [2, 4], "warm_start_epochs": 1, "epochs": 2, "temperature_step": 0.05, "every": 2}
        return self.model_copy(update=few)


class OptEmbed(Budgeted):
    """Row thresholds and a supernet under random dimensions, evolution of dimensions within a budget, then training anew."""

    kind: Literal["optembed"]
    per: Literal["field", "block"]
    """What has a threshold and a dimension of its own; the data set's blocks are an extension of the paper's method."""
    threshold_start: float
    """A row whose L1 norm is not above its threshold is left out."""
    threshold_learning_rate: PositiveFloat
    """Of plain gradient descent, for the thresholds."""
    threshold_penalty: Annotated[float, Field(ge=0)]
    """This times the sum of exp(-threshold) is added to the loss: it makes thresholds rise."""
    law: Literal["uniform", "capped", "exponential"]
    """Of the supernet's random dimensions: uniform from 1 to K; uniform with the budget as its mean, where that is below a half; or
    falling exponentially, with that mean."""
    l2: Annotated[float, Field(ge=0)]
    """Replaces training.l2 while the supernet is trained: it makes rows that are seldom seen fall below their thresholds."""
    population: Annotated[int, Field(ge=2)]
    """Candidates of a generation."""
    keep: PositiveInt
    """The best of a generation that are part of the next. All others are children, by mutation and by crossover in turn."""
    parents: PositiveInt
    """The best of a generation, from which children come."""
    generations: Annotated[int, Field(ge=0)]
    """After the first, which is random. Each child that is new costs a pass over the validation instances."""
    mutation: Annotated[float, Field(ge=0, le=1)]
    """The probability that a mutation replaces a unit's dimension; one of them it always replaces."""

    learns_selection: ClassVar[bool] = True

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        if self.keep >= self.population:
            yield ("keep",), f"{self.keep} must be below population = {self.population}: there would be no children"

    def small(self) -> Self:
        return self.model_copy(update={"population": 4, "keep": 1, "parents": 2, "generations": 2})
