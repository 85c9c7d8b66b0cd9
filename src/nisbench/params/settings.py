"""Every parameter there is: its type, its range and what it means.

No setting of a run has a default here: what a run uses stands in ``params/``. A settings object's JSON form is part of the id of
the runs made with it, except for the fields marked ``UNHASHED``, which cannot change a result.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    Tag,
)
from pydantic_core import PydanticCustomError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)]
"""Names become parts of paths: lower-case letters, digits and underscores; four of them fit into the name of one file."""

Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
ArchiveMember = Annotated[str, StringConstraints(pattern=r"^[^/\\:][^\\:]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
UNHASHED = Field(exclude=True)


class Settings(BaseModel):
    """Base of all settings: unknown keys, inexact types and infinities are errors; values never change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


# --- tasks ----------------------------------------------------------------------------------------------------


class Rating(Settings):
    kind: Literal["rating"]


class CTR(Settings):
    kind: Literal["ctr"]


class TopK(Settings):
    kind: Literal["topk"]
    negatives: PositiveInt
    """Items sampled per positive to train against, anew in every epoch."""
    candidates: PositiveInt
    """Items sampled once per positive that is evaluated, to rank it among."""
    sampling: Literal["uniform", "popularity"]
    """How candidates are drawn: all alike, or in proportion to their frequency in train."""
    seed: Seed
    """Of the candidates: one draw for all runs, so that methods are compared on the same ones."""


AnyTask = Annotated[Rating | CTR | TopK, Field(discriminator="kind")]

TaskKind = Literal["rating", "ctr", "topk"]


# --- data sets ------------------------------------------------------------------------------------------------


class RandomSplit(Settings):
    proportions: Annotated[list[Annotated[int, Field(gt=0, le=10**6)]], Field(min_length=3, max_length=3)]
    """Shares of train : validation : test, such as [8, 1, 1]."""
    seed: Seed
    """Seed of the random assignment of instances to parts."""


NamedSplit = Literal["leave_one_out", "published"]
"""Each user's last instance for test and the one before for validation; or as the publisher divided the instances."""

AnySplit = Annotated[
    Annotated[RandomSplit, Tag("(at random)")] | Annotated[NamedSplit, Tag("(by name)")],
    Discriminator(lambda value: "(by name)" if isinstance(value, str) else "(at random)"),
]


class BlockSettings(Settings):
    by: Literal["count", "magnitude"]
    """Blocks of equal feature count, or one for each power of ten of the frequency, the last for all below 100."""
    count: PositiveInt
    """L, the number of blocks; by magnitude, those that would be empty are left out."""


class Dataset(Settings):
    """What all data sets have."""

    title: Annotated[str, UNHASHED]
    """The name that tables show."""
    task: Name
    """What is predicted: an entry of `tasks`."""
    split: AnySplit
    blocks: BlockSettings


class Archive(Dataset):
    """A data set that its publisher packs into one archive."""

    url: str
    """Address or path of the archive."""
    md5: Md5 | None
    """MD5 sum of the archive, or null where the publisher fixes none."""


class MovieLens(Archive):
    format: Literal["movielens"]
    ratings: ArchiveMember
    """Path of the ratings inside the archive: .dat (user::movie::rating::timestamp) or .csv (with a header)."""
    movies: ArchiveMember | None
    """Path of the list of all movies, each of which is a feature; null = only rated movies are."""


class Criteo(Archive):
    format: Literal["criteo"]
    member: ArchiveMember
    """Path of the instances inside the archive: label, 13 numbers, 26 tokens a line, separated by tabs."""
    min_count: PositiveInt
    """A token that occurs less often, in the whole file, becomes its field's unknown feature."""
    scalar_maxima: Annotated[list[PositiveInt], Field(min_length=13, max_length=13)]
    """At most these are the maxima by which the numbers are scaled; the numbers themselves are not cut."""


class Member(Settings):
    path: ArchiveMember
    """Inside the archive."""
    md5: Md5 | None
    """MD5 sum of this file, or null where the publisher fixes none."""


class CriteoX1(Archive):
    format: Literal["criteo_x1"]
    train: Member
    """Like the others: label, I1 to I13, C1 to C26, separated by commas, behind a header."""
    validation: Member
    test: Member


class Planted(Dataset):
    """A generated data set, whose features have known dimensions."""

    instances: Annotated[int, Field(ge=10)]
    rank: PositiveInt
    """The largest planted dimension."""
    levels: PositiveInt
    """Frequency levels over which the planted dimension falls from `rank` to 1."""
    scatter: Annotated[int, Field(ge=0)]
    """A feature's planted dimension lies up to this far from its level's."""
    zipf_exponent: Annotated[float, Field(ge=0)]
    """Frequency of a field's r-th most frequent feature is proportional to r ** -zipf_exponent."""
    seed: Seed


class PlantedRatings(Planted):
    format: Literal["planted_ratings"]
    users: Annotated[int, Field(ge=2)]
    items: Annotated[int, Field(ge=2)]
    signal: PositiveFloat
    """Standard deviation of what the embeddings contribute to a rating."""
    noise: Annotated[float, Field(ge=0)]
    """Standard deviation of what nothing explains: its square is the least MSE any model can have."""


class PlantedTopK(Planted):
    format: Literal["planted_topk"]
    users: Annotated[int, Field(ge=2)]
    items: Annotated[int, Field(ge=6)]
    signal: PositiveFloat
    """Standard deviation of what the embeddings contribute to an item's log-odds of being taken by a user."""


class PlantedCTR(Planted):
    format: Literal["planted_ctr"]
    scalar_fields: Annotated[int, Field(ge=0)]
    categorical_fields: Annotated[list[PositiveInt], Field(min_length=2)]
    """The number of tokens in each categorical field."""
    missing: Annotated[float, Field(ge=0, lt=1)]
    """Share of the numbers and tokens that are missing."""
    click_rate: Annotated[float, Field(gt=0, lt=1)]
    first_order: Annotated[float, Field(ge=0)]
    """Standard deviation of the logit's first-order part."""
    second_order: Annotated[float, Field(ge=0)]
    """Of its second-order part, which only models with pairs of embeddings, or hidden layers, can express."""
    wave: Annotated[float, Field(ge=0)]
    """Of the part that only models with hidden layers can express."""


AnyDataset = Annotated[
    MovieLens | Criteo | CriteoX1 | PlantedRatings | PlantedCTR | PlantedTopK, Field(discriminator="format")
]

FORMAT_TASKS: dict[str, tuple[TaskKind, ...]] = {
    "movielens": ("rating", "topk"),
    "criteo": ("ctr",),
    "criteo_x1": ("ctr",),
    "planted_ratings": ("rating",),
    "planted_ctr": ("ctr",),
    "planted_topk": ("topk",),
}
"""The kinds of task that each data format can serve."""


# --- models ---------------------------------------------------------------------------------------------------


def _checked_width(value: Any) -> Any:
    if (type(value) is int and value > 0) or (isinstance(value, str) and re.fullmatch(r"([1-9]\d*)?d", value)):
        return value
    raise PydanticCustomError(
        "layer_width", "must be a whole number above 0, or a multiple of the dimension such as 2d"
    )


Layers = Annotated[list[Annotated[int | str, BeforeValidator(_checked_width)]], Field(min_length=1)]
"""Widths of hidden layers: numbers, or multiples of the embeddings' dimension d, such as 2d."""


class Model(Settings):
    """What all models have."""

    title: Annotated[str, UNHASHED]
    """The name that tables show."""


class MF(Model):
    kind: Literal["mf"]
    global_mean: bool
    """Add what is predicted for all alike: the mean rating in train, or the log-odds of a positive in training."""
    biases: bool
    """Add one learned number per feature."""
    reduction: Literal["sum", "mean"]
    """Over the dimensions of the product of two embeddings: sum = inner product, as in the paper; mean = released code."""


class MLP(Model):
    kind: Literal["mlp"]
    global_mean: bool
    """Add what is predicted for all alike: the mean rating in train, or the log-odds of a positive in training."""
    hidden: Layers


class NeuMF(Model):
    kind: Literal["neumf"]
    global_mean: bool
    """Add what is predicted for all alike: the mean rating in train, or the log-odds of a positive in training."""
    mlp_dimension: PositiveInt
    """The MLP's own embeddings have this many times the dimension of the GMF part's."""
    hidden: Layers


class FM(Model):
    kind: Literal["fm"]
    reduction: Literal["sum", "mean"]
    """Of the second-order term over dimensions: sum, as in the FM paper; mean, as in the released code."""


class WideDeep(Model):
    kind: Literal["wide_deep"]
    hidden: Layers


class DeepFM(Model):
    kind: Literal["deepfm"]
    reduction: Literal["sum", "mean"]
    """Of FM's second-order term over dimensions."""
    hidden: Layers


class FirstOrderModel(Model):
    """A model without embeddings: what controls without embeddings train, in the place of any model."""

    kind: Literal["first_order"]
    biases: bool
    """Add one learned number per feature to what is predicted for all alike."""


AnyModel = Annotated[MF | MLP | NeuMF | FM | WideDeep | DeepFM, Field(discriminator="kind")]

MODEL_TASKS: dict[str, tuple[TaskKind, ...]] = {
    "mf": ("rating", "topk"),
    "mlp": ("rating", "topk"),
    "neumf": ("rating", "topk"),
    "fm": ("ctr",),
    "wide_deep": ("ctr",),
    "deepfm": ("ctr",),
}
"""The kinds of task that each kind of model is for."""


# --- search methods -------------------------------------------------------------------------------------------


class Method(Settings):
    """What all methods have. How they are pruned is no part of a search's id: it is of the pruning's."""

    title: Annotated[str, UNHASHED]
    """The name that tables show."""
    prune_by: Annotated[Literal["scaled", "weights", "random"], UNHASHED]
    """Which weights go first: the least in magnitude with the selection multiplied into them (Eq. 9), or without it; or any."""
    rounds: Annotated[int, Field(ge=0), UNHASHED]
    """Prune in so many rounds, at rates that rise geometrically, and train what is left after each; 0 = once, without training."""


class GridSearch(Method):
    kind: Literal["grid"]
    dimensions: Annotated[list[PositiveInt], Field(min_length=1)]
    """One trial for each: this many dimensions for every feature."""


class RandomSearch(Method):
    kind: Literal["random"]
    trials: PositiveInt
    min_dimension: PositiveInt
    """No block gets fewer dimensions."""


class MDEPair(Settings):
    base_dimension: PositiveInt
    """Mean dimension over all features: the budget is this times the number of features."""
    temperature: Annotated[float, Field(ge=0, le=1)]
    """Power of a block's popularity; 0 = uniform dimensions, 1 = proportional to popularity."""


class MDE(Method):
    kind: Literal["mde"]
    min_dimension: Annotated[int, Field(ge=0)]
    """No block gets fewer dimensions."""
    settings: Annotated[list[MDEPair], Field(min_length=1)]
    """One trial for each."""


class ProjectedSetting(Settings):
    base_dimension: PositiveInt
    """That all embeddings are projected to; no block has more dimensions."""
    temperature: Annotated[float, Field(ge=0, le=1)]
    """Power of a feature's probability; 0 = uniform dimensions."""
    budget: Annotated[float, Field(ge=1)] | None
    """Mean dimension over all features; null = the block of most probable features has the base dimension."""


class MDEProjected(Method):
    kind: Literal["mde_projected"]
    blocks_per_field: PositiveInt | None
    """Of equal popularity; null = each field is a block."""
    power_of_two: bool
    """Round dimensions to powers of two."""
    settings: Annotated[list[ProjectedSetting], Field(min_length=1)]
    """One trial for each."""


class DNIS(Method):
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
    """L1 penalty: added to alpha's gradient, after Eq. 8."""
    warm_start_epochs: Annotated[int, Field(ge=0)]
    """Epochs of ordinary training, with alpha = 1, before the search begins."""
    freeze_network: bool
    """Train embeddings and first-order weights only, once the search begins."""


class NIS(Method):
    kind: Literal["nis"]
    choice: Literal["single", "multi"]
    """One size for the first row blocks and nothing for the rest (NIS-SE), or a share of rows for each column block (NIS-ME)."""
    budget: Annotated[float, Field(gt=0, le=1)]
    """Share of the full table's weights that the result may have at most."""
    column_blocks: PositiveInt
    """Into so many the columns are cut; the rows are cut as the data set's blocks."""
    learning_rate: PositiveFloat
    """Of Adam, for the controller's logits."""
    penalty: Annotated[float, Field(ge=0)]
    """Taken from the reward, minus the validation batch's loss, for each budget that a choice costs beyond the one it has."""
    baseline_decay: Annotated[float, Field(ge=0, lt=1)]
    """Of the running mean of rewards that a reward is compared with."""
    warm_start_epochs: Annotated[int, Field(ge=0)]
    """Epochs of training with everything on, at most, before the controller begins."""
    patience: PositiveInt
    """Stands in for training.patience while the controller learns: the loss jumps whenever its choice does."""


class FullTable(Method):
    """All dimensions for all features: what is searched is left to pruning."""

    kind: Literal["full"]


class NoEmbeddings(Method):
    """A control without embeddings, in the place of any model."""

    kind: Literal["no_embeddings"]
    biases: bool
    """Add first-order weights to what is predicted for all alike."""


class Oracle(Method):
    """A control that is told the planted dimensions."""

    kind: Literal["oracle"]


class UniformTuned(Method):
    """A control: one dimension for all features, chosen on validation together with the L2 penalty of its training."""

    kind: Literal["uniform_tuned"]
    dimensions: Annotated[list[PositiveInt], Field(min_length=1)]
    l2: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """One trial for each pair of a dimension and one of these, which stands in for training.l2."""


AnyMethod = Annotated[
    GridSearch | RandomSearch | MDE | MDEProjected | NIS | DNIS | FullTable | Oracle | UniformTuned | NoEmbeddings,
    Field(discriminator="kind"),
]


# --- training -------------------------------------------------------------------------------------------------


class Training(Settings):
    base_dimension: PositiveInt
    """K, the columns of the embedding table before selection."""
    embedding_std: Literal["xavier"] | PositiveFloat
    """Standard deviation of the initial embedding weights; xavier = sqrt(2 / (features + K))."""
    learning_rate: PositiveFloat
    """Of Adam, for embeddings and model."""
    learning_rate_drop: Annotated[float, Field(gt=0, le=1)]
    """By this it is multiplied after every epoch without a lower validation loss; 1 = never dropped."""
    l2: Annotated[float, Field(ge=0)]
    """L2 penalty: this times a weight is added to its gradient, for embeddings and model."""
    batch_size: PositiveInt
    max_epochs: PositiveInt
    """Of a trial; a warm start before it has its own."""
    patience: PositiveInt
    """Epochs without a lower validation loss after which a trial stops."""
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), UNHASHED]
    """auto, cpu, cuda or cuda:INDEX."""
    deterministic: bool
    """On a GPU: whether the same run gives the same bytes, which takes longer; else sums differ in their last digits. On a CPU it always does."""
    trials_at_once: Annotated[PositiveInt, UNHASHED]
    """Trials of a search that train together, at most, where that is faster; their results are the same to rounding."""
    checkpoint_seconds: Annotated[float, Field(ge=0), UNHASHED]
    """A running trial is saved this often, at the end of an epoch."""


# --- studies --------------------------------------------------------------------------------------------------

Table = Literal["table1", "table2", "table3", "table4", "recovery"]

TABLE_TASKS: dict[Table, TaskKind] = {"table2": "rating", "table3": "ctr", "table4": "topk"}
"""The kind of task whose results a table shows; Table 1 shows data sets."""

Figure = Literal["figure2a", "figure2b", "figure3a", "figure3b", "figure3c", "pareto"]
"""Those of the paper, and quality against size."""

CompressionRate = Annotated[float, Field(ge=1)]
Varied = int | float | str | bool | None


class Grid(Settings):
    """Every one of the data sets with every model and every method."""

    datasets: Annotated[list[str], Field(min_length=1)]
    models: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[dict[str, Annotated[list[CompressionRate], Field(min_length=1)]], Field(min_length=1)]
    """Method -> the compression rates to prune its result at; 1 = unpruned."""
    title: str | None = None
    """What tables add to a data set's name, to tell this grid from the others."""
    overrides: dict[str, Any] | None = None
    """What this grid sets otherwise than its study: the same keys as params/, merged over them."""
    vary: (
        Annotated[
            dict[str, Annotated[list[Varied], Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=1)
        ]
        | None
    ) = None
    """One key, such as training.base_dimension, and the values it is given one after another: what figures are of. Entries that are
    like the varied one keep the value they have."""

    @property
    def variants(self) -> list[tuple[str, Varied] | None]:
        """The key with each of its values; if nothing is varied, one None."""
        return [(key, value) for key, values in (self.vary or {}).items() for value in values] or [None]


class Study(Settings):
    """Grids of runs, and the tables and figures to make of them."""

    title: str
    note: str | None = None
    """Markdown for the report's head: what a reader should know of the data, and of how this differs from the paper."""
    grids: Annotated[dict[Name, Grid], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Seeds of initial weights, batch order and the methods' own draws."""
    tables: list[Table]
    figures: list[Figure] = []
    overrides: dict[str, Any] | None = None
    """What this study sets otherwise than the other files: the same keys as theirs, merged over them."""


# --- the paper's figures --------------------------------------------------------------------------------------


class DatasetReference(Settings):
    """A row of the paper's Table 1."""

    instances: PositiveInt
    fields: PositiveInt
    features: PositiveInt


Printed = Literal[
    "params_mib", "nonzeros", "hours", "mse", "auc", "logloss",
    "recall@1", "recall@5", "recall@10", "mrr@5", "mrr@10", "ndcg@5", "ndcg@10",
]  # fmt: skip
"""Costs and metrics that the paper prints, as results name them."""


class Reference(Settings):
    datasets: dict[Name, DatasetReference]
    results: dict[Name, dict[PositiveInt, dict[Name, dict[Name, dict[CompressionRate, dict[Printed, PositiveFloat]]]]]]
    """Data set -> base dimension K -> model -> method -> compression rate -> figures."""


class Params(Settings):
    """All of ``params/``, with overlays merged in."""

    tasks: dict[Name, AnyTask]
    datasets: dict[Name, AnyDataset]
    models: dict[Name, AnyModel]
    methods: dict[Name, AnyMethod]
    training: Training
    reference: Reference
    studies: dict[Name, Study]

    def task_of(self, dataset: str) -> AnyTask:
        return self.tasks[self.datasets[dataset].task]
