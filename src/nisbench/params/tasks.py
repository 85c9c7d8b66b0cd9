"""Tasks: what is predicted, and what tables show of it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import SerializeAsAny

from nisbench.params.base import Count, Kind, Seed
from nisbench.params.kinds import chosen_by_tag


@dataclass(frozen=True)
class Metric:
    """A measure of quality on the test instances, as tables show it."""

    name: str
    title: str
    better: Literal["lower", "higher"]
    percent: bool = False
    """Shown times 100, with two digits instead of four."""
    context: str = ""
    """What a figure adds to the title, where no heading says it."""


class Task(Kind):
    """What all tasks have."""

    section: ClassVar[str] = "tasks"
    package: ClassVar[str] = "nisbench.tasks"

    metrics: ClassVar[tuple[Metric, ...]]
    """What a pruning measures on test, in the order of tables."""
    headlines: ClassVar[tuple[str, ...]]
    """The metrics that figures and claims are about. The last is the one that sizes are weighed against."""
    table: ClassVar[str]
    """The name of the table that compares methods on this task."""
    table_title: ClassVar[str]
    measured: ClassVar[str]
    """What the table's figures are, as the beginning of a sentence."""
    predicts_logits: ClassVar[bool] = False
    """Whether predictions are the logits of probabilities, which are what a served model answers with."""
    costs: ClassVar[tuple[str, ...]] = ("nonzeros", "params_mib", "bytes", "core_seconds", "peak_memory_mib")
    """What tables show beside the metrics."""
    pruned_rates: ClassVar[tuple[float, ...] | None] = None
    """Where the paper compares DNIS with search baselines: the compression rates at which it still wins on all models."""
    has_base_rate: ClassVar[bool] = False
    """Whether predictions (or their probabilities, where they are logits) should have the mean of the labels."""
    splits_by_user: ClassVar[bool] = False
    """Whether each user's last instances are held out (leave_one_out)."""
    user_and_item: ClassVar[bool] = False
    """Whether it is for instances of exactly two fields."""
    variant_of: ClassVar[str | None] = None
    """Another kind of task: its data sets and its models serve this one too."""

    @classmethod
    def is_served_by(cls, tasks: Collection[str]) -> bool:
        """Whether a model or a data format that names these kinds of `tasks` can be used for this one."""
        return cls.kind_name() in tasks or cls.variant_of in tasks

    def column_groups(self) -> dict[str, list[str]]:
        """Metrics that stand in one table, by what the table's heading says of them."""
        return {"": [metric.name for metric in self.metrics]}

    @property
    def examples_per_instance(self) -> int:
        """Examples that an epoch of training goes through, for each instance of train."""
        return 1

    @property
    def predictions_per_instance(self) -> int:
        """Predictions that validation makes, for each instance."""
        return 1

    def redrawn(self, seed: int) -> Self:  # noqa: ARG002
        """The same, with what is drawn to measure quality drawn by its own seed and this one."""
        return self


class Rating(Task):
    """The rating that a user gives an item."""

    kind: Literal["rating"]

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mse", "MSE", "lower"),)
    headlines: ClassVar[tuple[str, ...]] = ("mse",)
    table: ClassVar[str] = "table2"
    table_title: ClassVar[str] = "Table 2: rating prediction"
    measured: ClassVar[str] = "MSE on the test instances"
    has_base_rate: ClassVar[bool] = True
    pruned_rates: ClassVar[tuple[float, ...] | None] = (2,)


class CTR(Task):
    """Whether an impression is clicked."""

    kind: Literal["ctr"]

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("auc", "AUC", "higher"), Metric("logloss", "Logloss", "lower"))
    headlines: ClassVar[tuple[str, ...]] = ("auc", "logloss")
    table: ClassVar[str] = "table3"
    table_title: ClassVar[str] = "Table 3: click-through-rate prediction"
    measured: ClassVar[str] = "AUC and logloss on the test instances"
    predicts_logits: ClassVar[bool] = True
    has_base_rate: ClassVar[bool] = True
    pruned_rates: ClassVar[tuple[float, ...] | None] = (20, 30)


CUTOFFS = {"recall": (1, 5, 10), "mrr": (5, 10), "ndcg": (5, 10)}
"""The ranks that each top-k metric looks at."""

RANKED = [f"{name}@{k}" for name, cutoffs in CUTOFFS.items() for k in cutoffs]

FULL = "full_"
"""Prefix of the names of full-ranking metrics."""


def _ranked(prefix: str, context: str) -> tuple[Metric, ...]:
    titles = [name.replace("recall", "r").upper() for name in RANKED]
    return tuple(
        Metric(prefix + name, title, "higher", percent=True, context=context)
        for name, title in zip(RANKED, titles, strict=True)
    )


class TopK(Task):
    """The item that a user takes next, from implicit feedback."""

    kind: Literal["topk"]
    negatives: Count
    """Items sampled per positive to train against, anew in every epoch."""
    candidates: Count
    """Items sampled once per positive that is evaluated, to rank it among."""
    sampling: Literal["uniform", "popularity"]
    """How candidates are drawn: all alike, or in proportion to their frequency in train."""
    seed: Seed
    """Of the candidates: one draw for all runs, so that methods are compared on the same ones."""

    metrics: ClassVar[tuple[Metric, ...]] = (*_ranked("", ""), *_ranked(FULL, " among all items"))
    headlines: ClassVar[tuple[str, ...]] = ("ndcg@10", f"{FULL}ndcg@10")
    table: ClassVar[str] = "table4"
    table_title: ClassVar[str] = "Table 4: top-k recommendation"
    measured: ClassVar[str] = "Recall, MRR and NDCG at ranks up to k of each user's last item, in percent"
    costs: ClassVar[tuple[str, ...]] = ("nonzeros", "bytes", "core_seconds", "peak_memory_mib")
    splits_by_user: ClassVar[bool] = True
    user_and_item: ClassVar[bool] = True

    def column_groups(self) -> dict[str, list[str]]:
        return {
            f"each test item among {self.candidates} sampled items ({self.sampling})": list(RANKED),
            "each test item among all items": [FULL + name for name in RANKED],
        }

    @property
    def examples_per_instance(self) -> int:
        return 1 + self.negatives

    @property
    def predictions_per_instance(self) -> int:
        return 1 + self.candidates

    def redrawn(self, seed: int) -> Self:
        from nisbench.seeds import derived  # noqa: PLC0415 - imports NumPy

        return self.model_copy(update={"seed": derived(self.seed, "candidates", seed) % 2**31})

    def small(self) -> "TopK":
        return self.model_copy(update={"candidates": 19})


AnyTask = Annotated[SerializeAsAny[Task], chosen_by_tag(Task)]
