"""Methods that bound what a search can bring, and the reference that every result is held against."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt

from nisbench.params.base import KeyPath, Problem
from nisbench.params.methods.base import Method, Role
from nisbench.params.models import FirstOrder, Model


class NoEmbeddings(Method):
    """A control without embeddings, in the place of any model."""

    kind: Literal["no_embeddings"]
    biases: bool
    """Add first-order weights to what is predicted for all alike."""

    role: ClassVar[Role] = "control"
    colour: ClassVar[int | str | None] = 6
    marker: ClassVar[str | None] = "p"

    @property
    def predicts_mean(self) -> bool:
        return not self.biases

    @property
    def own_model(self) -> Model | None:
        return FirstOrder(kind="first_order", title="", biases=self.biases)


class Oracle(Method):
    """A control that is told the planted dimensions."""

    kind: Literal["oracle"]

    role: ClassVar[Role] = "control"
    needs_planted: ClassVar[bool] = True
    colour: ClassVar[int | str | None] = 9
    marker: ClassVar[str | None] = "h"


class UniformTuned(Method):
    """A baseline that the paper lacks: one dimension for all features, tuned together with its L2 penalty."""

    kind: Literal["uniform_tuned"]
    dimensions: Annotated[list[PositiveInt], Field(min_length=1)]
    """Candidates for the dimension of all features."""
    l2: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """One trial for each pair of a dimension and one of these, which stands in for training.l2."""

    role: ClassVar[Role] = "reference"
    colour: ClassVar[int | str | None] = "black"
    marker: ClassVar[str | None] = "*"

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        return {("dimensions",): self.dimensions, ("l2",): self.l2}

    def columns(self) -> dict[str, int]:
        return {"dimensions": max(self.dimensions)}

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        if self.rounds:
            yield ("rounds",), "must be 0: retraining would not use the tuned L2 penalty"
        else:
            yield from super().problems(base_dimension)

    def small(self) -> Self:
        return self.model_copy(update={"dimensions": [4, 8], "l2": [0.0, 1e-4]})
