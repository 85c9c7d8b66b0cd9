"""Baselines within a budget: what any search method must beat at the same size."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt

from nisbench.params.base import KeyPath, Problem
from nisbench.params.methods.base import Budgeted, Role

Law = Literal["power", "exponential", "normal", "log_normal"]
"""How dimensions fall with a feature's rank by frequency."""

Order = Literal["random", "frequency"]
"""How the features of a field are numbered before they are assigned to shared rows."""


class TunedAtBudget(Budgeted):
    """Base of methods whose size the budget decides, so that trials are left to tune how they are trained."""

    l2: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """One trial for each pair of one of these, which replaces training.l2, and of a learning rate."""
    learning_rate: Annotated[list[PositiveFloat], Field(min_length=1)]
    """These replace training.learning_rate."""

    role: ClassVar[Role] = "baseline"

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        return {("l2",): self.l2, ("learning_rate",): self.learning_rate}

    def small(self) -> Self:
        return self.model_copy(update={"l2": [0.0, 1e-5], "learning_rate": [1e-2]})


class Uniform(TunedAtBudget):
    """One dimension for all features, as large as the budget allows, with L2 penalty and learning rate tuned for it."""

    kind: Literal["uniform"]

    role: ClassVar[Role] = "reference"
    colour: ClassVar[int | str | None] = "black"
    marker: ClassVar[str | None] = "*"

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        yield from _too_small(self.budget, base_dimension, 1)


class Laws(Budgeted):
    """Random dimensions that fall with frequency by a parametric law, all of them exactly on the budget."""

    kind: Literal["laws"]
    trials: PositiveInt
    """Draws; they take the laws in turn, by name."""
    laws: Annotated[dict[Law, PositiveFloat], Field(min_length=1)]
    """Each law's steepest slope. A trial draws its slope between 0, which is one dimension for all, and this."""
    min_dimension: Annotated[int, Field(ge=0)]
    """No feature gets fewer dimensions."""

    role: ClassVar[Role] = "baseline"

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        yield from _too_small(self.budget, base_dimension, self.min_dimension)

    def small(self) -> Self:
        return self.model_copy(update={"trials": 3})


class TPE(Budgeted):
    """Black-box search: a tree-structured Parzen estimator proposes the blocks' dimensions, trial after trial."""

    kind: Literal["tpe"]
    trials: PositiveInt
    """Proposals, each trained before the next is made."""
    startup_trials: PositiveInt
    """So many of them are random."""
    min_dimension: Annotated[int, Field(ge=0)]
    """No block gets fewer dimensions."""

    role: ClassVar[Role] = "baseline"

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        yield from _too_small(self.budget, base_dimension, self.min_dimension)
        if self.startup_trials > self.trials:
            yield ("startup_trials",), f"{self.startup_trials} exceeds trials = {self.trials}"

    def small(self) -> Self:
        return self.model_copy(update={"trials": 3, "startup_trials": 2})


class Hashing(TunedAtBudget):
    """Fewer rows than features: features of a field share them (the hashing trick)."""

    kind: Literal["hashing"]
    order: Order
    """random: features share a row by chance; frequency: a row has one feature of each frequency level."""

    stores_own_form: ClassVar[bool] = True


class QuotientRemainder(TunedAtBudget):
    """An embedding is made of a row that the features of a small group share and of another that tells these apart."""

    kind: Literal["quotient_remainder"]
    order: Order
    """random: features share a row by chance; frequency: a group's features are of similar frequency."""
    combine: Literal["product", "sum"]
    """What is done with the two rows, element by element."""

    stores_own_form: ClassVar[bool] = True


class LowRank(TunedAtBudget):
    """Each field's table is the product of two narrow matrices."""

    kind: Literal["low_rank"]

    stores_own_form: ClassVar[bool] = True

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        yield from _too_small(self.budget, base_dimension, 1)


def _too_small(budget: float, base_dimension: int, low: int) -> Iterator[Problem]:
    """The problem of a budget that does not give each feature `low` dimensions."""
    if base_dimension * budget + 1e-9 < low:
        text = f"{budget:g} of training.base_dimension = {base_dimension} is {base_dimension * budget:.3g} dimensions a feature"
        yield ("budget",), f"{text}, fewer than {low}; leave out compression rates above {base_dimension / low:g}"
