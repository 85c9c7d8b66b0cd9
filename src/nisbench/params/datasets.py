"""Data sets: where instances come from, how they are split, and how their features are blocked."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, PositiveFloat, PositiveInt, SerializeAsAny, Tag

from nisbench.errors import NisbenchError
from nisbench.params.base import UNHASHED, Count, Kind, Name, Problem, Seed, Settings, Title, Width, matching
from nisbench.params.kinds import chosen_by_tag
from nisbench.params.tasks import Task

Md5 = Annotated[
    str,
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    matching(r"^[0-9a-f]{32}$", "32 hexadecimal digits"),
]
ArchiveMember = Annotated[
    str, matching(r"^[^/\\:][^\\:]*$", "a path inside the archive, such as folder/file.csv, without : or \\")
]

MOST_FEATURES = 10**8
"""Of a field that is generated."""


class RandomSplit(Settings):
    proportions: Annotated[list[Annotated[int, Field(gt=0, le=10**6)]], Field(min_length=3, max_length=3)]
    """Shares of train : validation : test, such as [8, 1, 1]."""
    seed: Seed
    """Seed of the random assignment of instances to splits."""


NamedSplit = Literal["leave_one_out", "published"]
"""Each user's last instance for test and the one before for validation; or as the publisher divided the instances."""

AnySplit = Annotated[
    Annotated[RandomSplit, Tag("(at random)")] | Annotated[NamedSplit, Tag("(by name)")],
    Discriminator(lambda value: "(by name)" if isinstance(value, str) else "(at random)"),
]


FIXED_SPLIT = "its split is published, so no seed can draw another"


class BlockSettings(Settings):
    by: Literal["count", "magnitude"]
    """Blocks of equal feature count, or one for each power of ten of the frequency, the last for all below 100."""
    count: Count
    """L, the number of blocks. By magnitude, empty blocks are left out."""


class Dataset(Kind):
    """What all data sets have."""

    section: ClassVar[str] = "datasets"
    tag: ClassVar[str] = "format"
    package: ClassVar[str] = "nisbench.data"

    title: Annotated[Title, UNHASHED]
    """The name that tables show."""
    task: Name
    """What is predicted: an entry of `tasks`."""
    split: AnySplit
    blocks: BlockSettings

    tasks: ClassVar[tuple[str, ...]]
    """The kinds of task that data of this format can serve."""
    published_split: ClassVar[Literal["never", "may be", "always"]] = "never"
    """Whether instances come divided by their publisher (a column ``split``)."""
    planted: ClassVar[bool] = False
    """Whether the data are generated, and each feature's true dimension is known."""
    field_count: ClassVar[int | None] = None
    """Number of fields, where the format fixes it."""
    number_fields: ClassVar[int] = 0
    """Number of them that hold numbers, where the format fixes it."""

    def problems(self, task: Task) -> Iterator[Problem]:
        """What does not fit together, given the task that `task` names."""
        kind = str(task.kind_name())
        if not task.is_served_by(self.tasks):
            yield (
                ("task",),
                (
                    f"{self.task} is of the kind {kind}, but data of the format {self.kind_name()} serve only: {', '.join(self.tasks)}"
                ),
            )
        elif task.splits_by_user != (self.split == "leave_one_out"):
            needed = f"must be leave_one_out for the task {kind}"
            yield ("split",), needed if task.splits_by_user else f"leave_one_out is not for the task {kind}"
        elif self.published_split == "always" and self.split != "published":
            yield ("split",), f"must be published for data of the format {self.kind_name()}"
        elif self.published_split == "never" and self.split == "published":
            yield ("split",), f"cannot be published for data of the format {self.kind_name()}"

    def memory_to_prepare(self) -> float:
        """The least bytes that preparing these data takes at once, as far as the settings say."""
        return 0.0

    def expected_size(self) -> tuple[tuple[int, ...], int] | None:
        """The number of features of each field, and of instances, as far as the settings say."""
        return None

    def redrawn(self, seed: int) -> Self:
        """The same with a split that is drawn by the split's own seed and this one.

        `leave_one_out` has nothing to draw. Raises `NisbenchError` if the split is published.
        """
        from nisbench.seeds import derived  # noqa: PLC0415 - imports NumPy

        if self.split == "published":
            raise NisbenchError(f"{self.title}: {FIXED_SPLIT}")
        if not isinstance(self.split, RandomSplit):
            return self
        drawn = derived(self.split.seed, "split", seed) % 2**31
        return self.model_copy(update={"split": self.split.model_copy(update={"seed": drawn})})


class Archive(Dataset):
    """A data set that its publisher packs into one archive."""

    url: str
    """Address or path of the archive."""
    md5: Md5 | None
    """MD5 sum of the archive, or null where the publisher fixes none."""


class MovieLens(Archive):
    """MovieLens ratings, as GroupLens publishes them."""

    format: Literal["movielens"]
    ratings: ArchiveMember
    """Path of the ratings inside the archive: .dat (user::movie::rating::timestamp) or .csv (with a header)."""
    movies: ArchiveMember | None
    """Path of the list of all movies, each of which is a feature; null = only rated movies are."""

    tasks: ClassVar[tuple[str, ...]] = ("rating", "topk")
    field_count: ClassVar[int | None] = 2

    @property
    def label(self) -> str:
        """The folder that the publisher keeps the ratings in, such as ml-1m."""
        folder = re.sub(r"[^a-z0-9_-]+", "-", PurePosixPath(self.ratings).parent.name.lower()).strip("-")
        return folder[:48] or "movielens"


class Criteo(Archive):
    """Criteo's click log, as Criteo publishes it."""

    format: Literal["criteo"]
    member: ArchiveMember
    """Path of the instances inside the archive: label, 13 numbers, 26 tokens a line, separated by tabs."""
    min_count: PositiveInt
    """A token that occurs less often, in the whole file, becomes its field's unknown feature."""
    scalar_maxima: Annotated[list[PositiveInt], Field(min_length=13, max_length=13)]
    """At most these are the maxima by which the numbers are scaled. The numbers themselves are not cut."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)
    field_count: ClassVar[int | None] = 39
    number_fields: ClassVar[int] = 13


class Member(Settings):
    path: ArchiveMember
    """Inside the archive."""
    md5: Md5 | None
    """MD5 sum of this file, or null where the publisher fixes none."""


class CriteoX1(Archive):
    """Criteo's click log, encoded and divided as BARS publishes it."""

    format: Literal["criteo_x1"]
    train: Member
    """Like the others: label, I1 to I13, C1 to C26, separated by commas, behind a header."""
    validation: Member
    """Likewise."""
    test: Member
    """Likewise."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)
    published_split: ClassVar[Literal["never", "may be", "always"]] = "always"
    field_count: ClassVar[int | None] = 39
    number_fields: ClassVar[int] = 13

    def problems(self, task: Task) -> Iterator[Problem]:
        yield from super().problems(task)
        paths = [member.path for member in (self.train, self.validation, self.test)]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            yield ("test", "path"), f"{path!r} is listed twice"


class Planted(Dataset):
    """A generated data set, whose features have known dimensions."""

    instances: Annotated[int, Field(ge=10, le=10**9)]
    rank: Width
    """The largest planted dimension."""
    levels: Count
    """Frequency levels over which the planted dimension falls from `rank` to 1."""
    scatter: Annotated[int, Field(ge=0, le=1 << 16)]
    """A feature's planted dimension lies up to this far from its level's."""
    zipf_exponent: Annotated[float, Field(ge=0, le=100)]
    """Frequency of a field's r-th most frequent feature is proportional to r ** -zipf_exponent."""
    seed: Seed

    planted: ClassVar[bool] = True

    def memory_to_prepare(self) -> float:
        sizes, _ = self.expected_size() or ((), 0)
        return 8.0 * sum(sizes) * (self.rank + 4)


class PlantedRatings(Planted):
    """Generated ratings."""

    format: Literal["planted_ratings"]
    users: Annotated[int, Field(ge=2, le=MOST_FEATURES)]
    """Number of users."""
    items: Annotated[int, Field(ge=2, le=MOST_FEATURES)]
    """Number of items."""
    signal: PositiveFloat
    """Standard deviation of what the embeddings contribute to a rating."""
    noise: Annotated[float, Field(ge=0)]
    """Standard deviation of the part of a rating that nothing explains. Its square is the least MSE any model can have."""

    tasks: ClassVar[tuple[str, ...]] = ("rating",)
    field_count: ClassVar[int | None] = 2

    def expected_size(self) -> tuple[tuple[int, ...], int]:
        return (self.users, self.items), self.instances

    def memory_to_prepare(self) -> float:
        return super().memory_to_prepare() + 16.0 * self.instances * (self.rank + 2)

    def small(self) -> Self:
        return self.model_copy(update={"users": 60, "items": 40, "instances": 3000, "rank": 4, "levels": 3})


class PlantedTopK(Planted):
    """Generated implicit feedback."""

    format: Literal["planted_topk"]
    users: Annotated[int, Field(ge=2, le=MOST_FEATURES)]
    """Number of users."""
    items: Annotated[int, Field(ge=6, le=MOST_FEATURES)]
    """Number of items."""
    signal: PositiveFloat
    """Standard deviation of what the embeddings contribute to an item's log-odds of being taken by a user."""

    tasks: ClassVar[tuple[str, ...]] = ("topk",)
    field_count: ClassVar[int | None] = 2

    def expected_size(self) -> tuple[tuple[int, ...], int]:
        return (self.users, self.items), self.instances

    def memory_to_prepare(self) -> float:
        return super().memory_to_prepare() + 24.0 * self.instances

    def small(self) -> Self:
        return self.model_copy(update={"users": 80, "items": 50, "instances": 1600, "rank": 4, "levels": 3})


class PlantedCTR(Planted):
    """A generated click log."""

    format: Literal["planted_ctr"]
    scalar_fields: Annotated[int, Field(ge=0, le=1000)]
    """The number of fields that hold numbers."""
    categorical_fields: Annotated[
        list[Annotated[int, Field(gt=0, le=MOST_FEATURES)]], Field(min_length=2, max_length=1000)
    ]
    """The number of tokens in each categorical field."""
    missing: Annotated[float, Field(ge=0, lt=1)]
    """Share of the numbers and tokens that are missing."""
    click_rate: Annotated[float, Field(gt=0, lt=1)]
    """Share of instances that are clicks."""
    first_order: Annotated[float, Field(ge=0)]
    """Standard deviation of the logit's first-order term."""
    second_order: Annotated[float, Field(ge=0)]
    """Of its second-order term, which only models with pairs of embeddings, or hidden layers, can express."""
    wave: Annotated[float, Field(ge=0)]
    """Of the term that only models with hidden layers can express."""

    tasks: ClassVar[tuple[str, ...]] = ("ctr",)

    def expected_size(self) -> tuple[tuple[int, ...], int]:
        unknown = 1  # a feature of each categorical field that stands for missing tokens
        return (*[1] * self.scalar_fields, *(unknown + count for count in self.categorical_fields)), self.instances

    def small(self) -> Self:
        fields = {"scalar_fields": 2, "categorical_fields": [40, 20, 5]}
        return self.model_copy(update={"instances": 3000, "rank": 4, "levels": 3, **fields})


AnyDataset = Annotated[SerializeAsAny[Dataset], chosen_by_tag(Dataset)]
