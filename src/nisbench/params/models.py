"""Models: what happens to the embeddings of an instance."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny
from pydantic_core import PydanticCustomError

from nisbench.params.base import UNHASHED, WIDEST, Kind, Title, Width
from nisbench.params.kinds import chosen_by_tag


def _checked_width(value: Any) -> Any:
    if (type(value) is int and 0 < value <= WIDEST) or (
        isinstance(value, str) and re.fullmatch(r"([1-9]\d{0,2})?d", value)
    ):
        return value
    raise PydanticCustomError(
        "layer_width", f"must be a whole number from 1 to {WIDEST}, or a multiple of the dimension such as 2d"
    )


Layers = Annotated[list[Annotated[int | str, BeforeValidator(_checked_width)]], Field(min_length=1)]
"""Widths of hidden layers: numbers, or multiples of the embeddings' dimension d, such as 2d."""

Reduction = Literal["sum", "mean"]


class Model(Kind):
    """What all models have."""

    section: ClassVar[str] = "models"
    package: ClassVar[str] = "nisbench.models"

    title: Annotated[Title, UNHASHED]
    """The name that tables show."""

    tasks: ClassVar[tuple[str, ...]]
    """The kinds of task that the model is for."""
    user_and_item: ClassVar[bool] = False
    """Whether it takes instances of exactly two fields."""
    has_mean: ClassVar[bool] = True
    """Whether it can start from the mean rating. If not, its first-order weights do."""
    best_in_paper: ClassVar[bool] = False
    """Whether the paper finds it the best of the models of its task."""

    @property
    def embedding_multiples(self) -> tuple[int, ...]:
        """The embeddings that the model has per feature, in multiples of the base dimension."""
        return (1,)


class MF(Model):
    """Matrix factorisation, with biases."""

    kind: Literal["mf"]
    global_mean: bool
    """Add what is predicted for all alike: the mean rating in train, or the log-odds of a positive in training."""
    biases: bool
    """Add one learned number per feature."""
    reduction: Reduction
    """Over the dimensions of the product of two embeddings: sum = inner product, as in the paper; mean = released code."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "topk")
    user_and_item: ClassVar[bool] = True
    best_in_paper: ClassVar[bool] = True


class MLP(Model):
    """A multi-layer perceptron over the embeddings side by side."""

    kind: Literal["mlp"]
    global_mean: bool
    """Add what is predicted for all alike: the mean rating in train, or the log-odds of a positive in training."""
    hidden: Layers
    """Widths of the MLP's hidden layers."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "topk")


class NeuMF(Model):
    """Neural matrix factorisation: a factorisation (GMF) and an MLP, each with its own embeddings."""

    kind: Literal["neumf"]
    global_mean: bool
    """Add what is predicted for all alike: the mean rating in train, or the log-odds of a positive in training."""
    mlp_dimension: Width
    """The MLP's own embeddings have this many times the dimension of GMF's."""
    hidden: Layers
    """Widths of the MLP's hidden layers."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "topk")
    user_and_item: ClassVar[bool] = True

    @property
    def embedding_multiples(self) -> tuple[int, ...]:
        """GMF's embeddings and the MLP's."""
        return 1, self.mlp_dimension


class FM(Model):
    """A factorisation machine."""

    kind: Literal["fm"]
    reduction: Reduction
    """Of the second-order term over dimensions: sum, as in the FM paper; mean, as in the released code."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "ctr")
    has_mean: ClassVar[bool] = False


class WideDeep(Model):
    """First-order weights and an MLP over the embeddings side by side."""

    kind: Literal["wide_deep"]
    hidden: Layers
    """Widths of the MLP's hidden layers."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "ctr")
    has_mean: ClassVar[bool] = False


class DeepFM(Model):
    """A factorisation machine and an MLP over the same embeddings."""

    kind: Literal["deepfm"]
    reduction: Reduction
    """Of FM's second-order term over dimensions."""
    hidden: Layers
    """Widths of the MLP's hidden layers."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "ctr")
    has_mean: ClassVar[bool] = False
    best_in_paper: ClassVar[bool] = True


class FirstOrder(Model):
    """A model without embeddings: what controls without embeddings train, in the place of any model."""

    kind: Literal["first_order"]
    biases: bool
    """Add one learned number per feature to what is predicted for all alike."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "ctr", "topk")


AnyModel = Annotated[SerializeAsAny[Model], chosen_by_tag(Model)]
