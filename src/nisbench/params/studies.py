"""Studies: grids of runs, the tables and figures to make of them, and the paper's printed figures."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from nisbench.params.base import Name, Seed, Settings, Title, matching
from nisbench.params.datasets import AnyDataset
from nisbench.params.kinds import kinds
from nisbench.params.methods import AnyMethod, Rounded
from nisbench.params.models import AnyModel
from nisbench.params.tasks import AnyTask, Task
from nisbench.params.training import Training

Figure = Literal["figure2a", "figure2b", "figure3a", "figure3b", "figure3c", "pareto"]
"""Those of the paper, and quality against size."""

TABLES = ("table1", "recovery", "area", "sweep", "storage")
"""Tables that belong to no task: the data sets, found against planted dimensions, one number per method over all sizes, what a swept
setting changes, and bytes in every layout and precision."""


def task_tables() -> dict[str, type[Task]]:
    """The tables that compare methods, each on one kind of task."""
    return {kind.table: kind for kind in kinds("tasks").values() if issubclass(kind, Task)}


CompressionRate = Annotated[float, Field(ge=1)]
Swept = int | float | str | bool | None


class Grid(Settings):
    """Every one of the data sets with every model and every method."""

    datasets: Annotated[list[str], Field(min_length=1)]
    models: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[dict[str, Annotated[list[CompressionRate], Field(min_length=1)]], Field(min_length=1)]
    """Method -> the compression rates to prune its result at; 1 = unpruned."""
    title: Title | None = None
    """What tables add to a data set's name, to tell this grid from the others."""
    tune: dict[str, Annotated[dict[str, Annotated[list[Swept], Field(min_length=1)]], Field(min_length=1)]] | None = (
        None
    )
    """Method -> keys of it, or of training as ``training.KEY``, -> values to try. All combinations run, and validation chooses one for
    each compression rate and seed."""
    overrides: dict[str, Any] | None = None
    """What this grid sets differently from its study: the same keys as params/, merged over them."""
    quantise: Annotated[list[Rounded | None], Field(min_length=1)] = Field(default=[None])
    """Precisions that embeddings are rounded to after all training, each with rows of its own; null = float32. It costs no runs."""
    sweep: (
        Annotated[
            dict[str, Annotated[list[Swept], Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=1)
        ]
        | None
    ) = None
    """One key, such as training.base_dimension, and the values it takes one after another. Figure 2 draws the sweeps of
    training.base_dimension and of a number of blocks; tables show those of any other key. Entries that extend the swept one keep the
    value they have."""

    @property
    def variants(self) -> list[tuple[str, Swept] | None]:
        """The swept key with each of its values; one None if there is no sweep."""
        return [(key, value) for key, values in (self.sweep or {}).items() for value in values] or [None]


class Study(Settings):
    """Grids of runs, and the tables and figures to make of them."""

    title: Title
    note: Annotated[str, matching(r"^([\n\t]|[^\p{C}])*$", "text that can be printed", 10_000)] | None = None
    """Markdown for the report's head: what a reader should know of the data, and of how this differs from the paper."""
    grids: Annotated[dict[Name, Grid], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Seeds of initial weights, batch order and the methods' own draws."""
    split_per_seed: bool = False
    """Each seed also draws a split of its own (and top-k its candidates), so that intervals cover users and data, not only the
    initial weights and the order of batches."""
    tables: list[str]
    figures: list[Figure] = Field(default=[])
    overrides: dict[str, Any] | None = None
    """What this study sets differently from the other files: the same keys as theirs, merged over them."""


class DatasetReference(Settings):
    """A row of the paper's Table 1."""

    instances: PositiveInt
    fields: PositiveInt
    features: PositiveInt


class Reference(Settings):
    """What the paper prints."""

    datasets: dict[Name, DatasetReference]
    results: dict[Name, dict[PositiveInt, dict[Name, dict[Name, dict[CompressionRate, dict[str, PositiveFloat]]]]]]
    """Data set -> base dimension K -> model -> method -> compression rate -> costs and metrics, as results name them."""


class Params(Settings):
    """All of ``params/``, with overlays merged in."""

    tasks: dict[Name, AnyTask]
    datasets: dict[Name, AnyDataset]
    models: dict[Name, AnyModel]
    methods: dict[Name, AnyMethod]
    training: Training
    reference: Reference
    studies: dict[Name, Study]

    def task_of(self, dataset: str) -> Task:
        task: Task = self.tasks[self.datasets[dataset].task]
        return task
