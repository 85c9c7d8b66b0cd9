"""The search methods and baselines that the DNIS paper compares."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt

from nisbench.params.base import Count, KeyPath, Problem, Settings, Width
from nisbench.params.methods.base import Method, PaperName, Role


class GridSearch(Method):
    """One dimension for all features, every candidate tried."""

    kind: Literal["grid"]
    dimensions: Annotated[list[PositiveInt], Field(min_length=1)]
    """One trial for each: this many dimensions for every feature."""

    role: ClassVar[Role] = "baseline"
    colour: ClassVar[int | str | None] = 2
    marker: ClassVar[str | None] = "D"

    @property
    def kind_in_paper(self) -> PaperName | None:
        return "Grid Search"

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        return {("dimensions",): self.dimensions}

    def columns(self) -> dict[str, int]:
        return {"dimensions": max(self.dimensions)}

    def small(self) -> Self:
        return self.model_copy(update={"dimensions": self.dimensions[::6]})


def _below(low: int, base_dimension: int) -> Iterator[Problem]:
    if low >= base_dimension:
        yield ("min_dimension",), f"{low} must be below training.base_dimension = {base_dimension}"


class RandomSearch(Method):
    """Random dimensions that descend with the blocks' frequency."""

    kind: Literal["random"]
    trials: Annotated[int, Field(gt=0, le=100_000)]
    """Selections to draw."""
    min_dimension: PositiveInt
    """No block gets fewer dimensions."""

    role: ClassVar[Role] = "baseline"
    colour: ClassVar[int | str | None] = 3
    marker: ClassVar[str | None] = "^"

    @property
    def kind_in_paper(self) -> PaperName | None:
        return "Random Search"

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from _below(self.min_dimension, base_dimension)

    def small(self) -> Self:
        return self.model_copy(update={"trials": 3})


class MDEPair(Settings):
    base_dimension: PositiveInt
    """Mean dimension over all features: the budget is this times the number of features."""
    temperature: Annotated[float, Field(ge=0, le=1)]
    """Power of a block's popularity; 0 = uniform dimensions, 1 = proportional to popularity."""


class MDE(Method):
    """Dimensions by a power law of the blocks' popularity, without projections."""

    kind: Literal["mde"]
    min_dimension: Annotated[int, Field(ge=0)]
    """No block gets fewer dimensions."""
    settings: Annotated[list[MDEPair], Field(min_length=1)]
    """One trial for each."""

    role: ClassVar[Role] = "baseline"
    colour: ClassVar[int | str | None] = 4
    marker: ClassVar[str | None] = "v"

    @property
    def kind_in_paper(self) -> PaperName | None:
        return "MDE"

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        return {("settings",): [(pair.base_dimension, pair.temperature) for pair in self.settings]}

    def columns(self) -> dict[str, int]:
        return {"settings": max(pair.base_dimension for pair in self.settings)}

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        yield from _below(self.min_dimension, base_dimension)

    def small(self) -> Self:
        return self.model_copy(update={"settings": self.settings[::6]})


class ProjectedSetting(Settings):
    base_dimension: PositiveInt
    """All embeddings are projected to this dimension. No block has more."""
    temperature: Annotated[float, Field(ge=0, le=1)]
    """Power of a feature's probability; 0 = uniform dimensions."""
    budget: Annotated[float, Field(ge=1)] | None
    """Mean dimension over all features; null = the block of most probable features has the base dimension."""


class MDEProjected(Method):
    """MDE as its authors have it: blocks of its own, projected to a common dimension."""

    kind: Literal["mde_projected"]
    blocks_per_field: Count | None
    """Of equal popularity; null = each field is a block."""
    power_of_two: bool
    """Round dimensions to powers of two."""
    settings: Annotated[list[ProjectedSetting], Field(min_length=1)]
    """One trial for each."""

    colour: ClassVar[int | str | None] = 5
    marker: ClassVar[str | None] = "<"

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        return {("settings",): [(one.base_dimension, one.temperature, one.budget) for one in self.settings]}

    def columns(self) -> dict[str, int]:
        return {"settings": max(one.base_dimension for one in self.settings)}

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        for i, one in enumerate(self.settings):
            if self.power_of_two and one.base_dimension & (one.base_dimension - 1):
                yield ("settings", i, "base_dimension"), "must be a power of two, because power_of_two is true"
            if one.budget and one.budget > one.base_dimension:
                yield ("settings", i, "budget"), f"exceeds the base dimension, {one.base_dimension}"
        if self.rewind in {"initial", "fresh"}:
            yield ("rewind",), "must be pruned: projections cannot be drawn again"

    def small(self) -> Self:
        return self.model_copy(update={"settings": self.settings[::11], "blocks_per_field": 2})


class DNIS(Method):
    """Differentiable neural input search: a soft selection per block, learned by gradient descent on validation batches."""

    kind: Literal["dnis"]
    blocks: Literal["frequency", "shuffled"]
    """The features' blocks, or, as a control, blocks of the same sizes to which features are assigned at random."""
    order: Literal[1, 2]
    """2: alpha's gradient also accounts for how alpha moves the weights (the second term of Eq. 7); 1: it does not (xi = 0)."""
    inner_learning_rate: PositiveFloat | None
    """xi of Eq. 7, for second order: of the plain descent by which the weights follow alpha; null = training.learning_rate."""
    optimizer: Literal["adam", "sgd"]
    """Of the soft selection alpha."""
    learning_rate: PositiveFloat
    """Of that optimizer."""
    normalise: bool
    """Divide each row of alpha's gradient by its mean absolute value (Eq. 8)."""
    gradient_epsilon: PositiveFloat
    """Keeps Eq. 8 from dividing by zero."""
    l1: Annotated[float, Field(ge=0)]
    """L1 penalty on alpha: this times sign(alpha) is added to its gradient, before Eq. 8."""
    warm_start_epochs: Annotated[int, Field(ge=0)]
    """Epochs of ordinary training, with alpha = 1, at most, before the search begins."""
    patience: PositiveInt
    """Replaces training.patience: how long the search goes on decides what pruning costs."""
    freeze_network: bool
    """Train embeddings and first-order weights only, once the search begins."""
    held_out: Annotated[float, Field(ge=0, lt=1)]
    """Share of the validation instances that alpha does not learn from, on which the epoch is chosen; 0 = both use all of them."""
    train_further: bool
    """Once the search has ended, train the weights further under its alpha."""

    learns_selection: ClassVar[bool] = True
    colour: ClassVar[int | str | None] = 0
    marker: ClassVar[str | None] = "o"

    @property
    def kind_in_paper(self) -> PaperName | None:
        return "DNIS" if self.blocks == "frequency" else None

    @property
    def chosen_on(self) -> float:
        return self.held_out

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        if self.freeze_network and not self.warm_start_epochs:
            yield ("freeze_network",), "would freeze a network that was not trained; set warm_start_epochs"

    def small(self) -> Self:
        return self.model_copy(update={"warm_start_epochs": min(2, self.warm_start_epochs)})


class NIS(Method):
    """Neural input search by policy gradient: a controller chooses sizes within a budget."""

    kind: Literal["nis"]
    choice: Literal["single", "multi"]
    """One size for the first row blocks and nothing for the rest (NIS-SE), or a share of rows for each column block (NIS-ME)."""
    budget: Annotated[float, Field(gt=0, le=1)]
    """Share of the full table's weights that the result may have at most."""
    column_blocks: Width
    """Into so many the columns are cut; the rows are cut as the data set's blocks."""
    learning_rate: PositiveFloat
    """Of Adam, for the controller's logits."""
    penalty: Annotated[float, Field(ge=0)]
    """Subtracted from the reward (minus the validation batch's loss), for each budget that a choice costs beyond its own."""
    baseline_decay: Annotated[float, Field(ge=0, lt=1)]
    """Of the running mean of rewards that a reward is compared with."""
    warm_start_epochs: Annotated[int, Field(ge=0)]
    """Epochs of training with everything on, at most, before the controller begins."""
    patience: PositiveInt
    """Replaces training.patience while the controller learns: the loss jumps whenever its choice does."""

    learns_selection: ClassVar[bool] = True
    colour: ClassVar[int | str | None] = 7
    marker: ClassVar[str | None] = "P"

    @property
    def slug(self) -> str:
        return "nis_se" if self.choice == "single" else "nis_me"

    @property
    def kind_in_paper(self) -> PaperName | None:
        return "NIS-SE" if self.choice == "single" else "NIS-ME"

    def columns(self) -> dict[str, int]:
        return {"column_blocks": self.column_blocks}

    def small(self) -> Self:
        return self.model_copy(update={"warm_start_epochs": 1})


class FullTable(Method):
    """All dimensions for all features: what is searched is left to pruning."""

    kind: Literal["full"]

    colour: ClassVar[int | str | None] = 1
    marker: ClassVar[str | None] = "s"

    @property
    def kind_in_paper(self) -> PaperName | None:
        return "Network pruning"
