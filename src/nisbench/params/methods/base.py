"""What all search methods have: how their results are pruned, and how they are shown."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from nisbench.params.base import UNHASHED, KeyPath, Kind, Problem, Settings, Title
from nisbench.params.models import Model

Importance = Literal["effective", "raw", "random", "search"]
"""Pruning criterion: magnitude of weight x selection (Eq. 9), magnitude of the weight alone, random, or as the search ranked
the weights."""

Rewind = Literal["pruned", "initial", "fresh"]
"""Where training after pruning starts: at the pruned model; at the initial weights of the search, network included (Frankle and
Carbin 2019, arXiv 1803.03635); or at newly drawn ones."""

Rounded = Literal["float16", "int8", "int4"]
"""A precision below float32, as `nisbench.embedding.storage` has it."""


def rounded_entry(entry: str, precision: str | None) -> str:
    """What a method's entry is called where a grid asks for it in another precision than its own."""
    return f"{entry}_{precision}" if precision else entry


Role = Literal["method", "baseline", "reference", "control"]
"""A search method; a baseline, which searches by trying out; the tuned baseline that every result is held against; or a control,
which bounds what a search can bring."""

PaperName = Literal["DNIS", "Grid Search", "Random Search", "MDE", "NIS-SE", "NIS-ME", "Network pruning"]


class Rounds(Settings):
    """As many rounds as a compression rate needs."""

    keep: Annotated[float, Field(gt=0, lt=1)]
    """The share of what is left that a round keeps, at least."""

    def at(self, compression_rate: float) -> int:
        return max(1, math.ceil(math.log(compression_rate) / -math.log(self.keep) - 1e-9))


class Method(Kind):
    """What all methods have. How they are pruned is no part of a search's id: it is of the pruning's."""

    section: ClassVar[str] = "methods"
    package: ClassVar[str] = "nisbench.search"

    title: Annotated[Title, UNHASHED]
    """The name that tables show."""
    importance: Annotated[Importance, UNHASHED]
    """Pruning criterion: weights of the least importance go first."""
    rounds: Annotated[Annotated[int, Field(ge=0)] | Rounds, UNHASHED]
    """Pruning rounds, each followed by training; rates rise geometrically. 0 = prune once, without training."""
    rewind: Annotated[Rewind | None, UNHASHED] = None
    """Where each round's training starts. It must be set if there are rounds."""

    quantise: Annotated[Rounded | None, Field(default=None, exclude=True)]
    """The precision that embeddings are rounded to after all training, for this entry's rows of tables. Part of no id: every pruning
    is measured in all precisions. null = float32."""

    role: ClassVar[Role] = "method"
    ranks_weights: ClassVar[bool] = False
    """Whether the search ranks the weights for pruning (`importance: search`)."""
    budgeted: ClassVar[bool] = False
    """Whether each compression rate has a search of its own, which keeps within that budget. Its result is not pruned."""
    learns_selection: ClassVar[bool] = False
    """Whether the search trains its selection on validation instances, so that its validation loss is lower than its test loss."""
    needs_planted: ClassVar[bool] = False
    """Whether it must be told the planted dimensions of generated data."""
    stores_own_form: ClassVar[bool] = False
    """Whether its result is stored in a form of its own, which no `quantise` rounds: rows that features share, factors or codes."""
    colour: ClassVar[int | str | None] = None
    """In figures: a place in the colour-blind palette, or a colour's name. None = a free one."""
    marker: ClassVar[str | None] = None
    """In figures. None = a free one."""

    @property
    def kind_in_paper(self) -> PaperName | None:
        """What the paper compares under this name; None if it has no such method."""
        return None

    @property
    def in_paper(self) -> PaperName | None:
        """`kind_in_paper`, unless the result is pruned differently from the paper, or rounded."""
        as_there = self.importance == "effective" and not self.rounds and not self.quantise
        return self.kind_in_paper if as_there else None

    @property
    def shown_role(self) -> Role:
        """Its role in tables, figures and claims: pruned at random, every method is a control."""
        return "control" if self.importance == "random" else self.role

    @property
    def predicts_mean(self) -> bool:
        """Whether it predicts the same for every instance: the lower end of scales of quality."""
        return False

    @property
    def own_model(self) -> Model | None:
        """The model that it trains in the place of any other. Its result has no embeddings to prune."""
        return None

    @property
    def chosen_on(self) -> float:
        """The share of validation that nothing of the search learned from, where it keeps one apart; 0: it does not."""
        return 0.0

    def rounds_at(self, compression_rate: float) -> int:
        """How many rounds there are at a compression rate."""
        if compression_rate == 1:
            return 0
        return self.rounds if isinstance(self.rounds, int) else self.rounds.at(compression_rate)

    def at(self, _compression_rate: float) -> Self:
        """The settings of the search that serves a compression rate. One search serves all rates unless it is `budgeted`."""
        return self

    def tried(self) -> dict[KeyPath, Sequence[Any]]:
        """What it tries one by one, by key: a repeated value would be a wasted trial."""
        return {}

    def columns(self) -> dict[str, int]:
        """The keys that ask for columns of the table, and the most that they ask for."""
        return {}

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        """What does not fit together, in a table of so many columns."""
        for key, most in self.columns().items():
            if most > base_dimension:
                yield (key,), f"{most} exceeds training.base_dimension = {base_dimension}"
        if self.rounds and not self.rewind:
            yield ("rewind",), "must be set, because there are rounds of training: pruned, initial or fresh"
        if self.rewind and not self.rounds:
            yield ("rewind",), "needs rounds of at least 1: without rounds nothing is trained after pruning"
        if self.importance == "search" and not self.ranks_weights:
            yield ("importance",), "cannot be search: this method does not rank weights"


class Budgeted(Method):
    """Base of methods that are given a budget: each compression rate has a search of its own."""

    budget: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the full table's weights that the result may have at most. A study's compression rates set it."""

    budgeted: ClassVar[bool] = True

    def at(self, compression_rate: float) -> Self:
        return self.model_copy(update={"budget": 1 / compression_rate})

    def problems(self, base_dimension: int) -> Iterator[Problem]:
        yield from super().problems(base_dimension)
        if self.rounds:
            yield ("rounds",), "must be 0: each compression rate has a search of its own, and nothing is pruned"
