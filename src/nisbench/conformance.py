"""What every method, model, task and data format must do, as claims that can be tested: one function each.

A claim is a function whose docstring says what must hold. It returns if that holds and raises `ClaimError`, which says what was
found, if not. The claims of the package's own kinds are tests; `nisbench check-plugin` puts a plug-in through the same ones.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from nisbench.data import instances, parquet
from nisbench.data.split import SPLITS
from nisbench.embedding.scheme import DimensionScheme
from nisbench.embedding.table import SelectedTable
from nisbench.errors import NisbenchError
from nisbench.execution import run_with_inputs
from nisbench.files import DELETE
from nisbench.models.pruned import PrunedModel
from nisbench.models.recommender import Recommender
from nisbench.params.base import Kind, Name
from nisbench.params.datasets import Dataset
from nisbench.params.kinds import kinds
from nisbench.params.methods import Method
from nisbench.params.models import FirstOrder, Model
from nisbench.params.step_settings import SearchSettings
from nisbench.params.studies import TABLES
from nisbench.params.tasks import Task
from nisbench.params.training import Training
from nisbench.run_files import PruneRun, SearchRun, read_pruning, read_search
from nisbench.search.context import SearchContext
from nisbench.search.dnis import second_order
from nisbench.search.trial_spec import TrialSpec
from nisbench.steps import Step, block_step, prune_step, search_step
from nisbench.tasks import task as tasks
from nisbench.tensor_files import load_tensors

CPU = torch.device("cpu")
RATES = (1.0, 4.0)
"""Compression rates that results are pruned at."""
SEARCHED_AT = 2.0
"""The compression rate that searches within a budget are for. Small data sets allow little more."""


SettingsClaim = Callable[[type[Kind]], None]


class ClaimError(NisbenchError):
    """A claim does not hold; the text says what was found."""


class Killed(BaseException):
    """Ends a search at a chosen moment. No handler of errors can hold it up."""


def check(holds: object, text: str) -> None:
    if not holds:
        raise ClaimError(text)


def short_training(training: Training) -> Training:
    """The same with little work: few, small batches. Every epoch is saved, so that a kill can hit anything."""
    few = {"batch_size": 256, "max_epochs": 3, "learning_rate": 0.01, "checkpoint_seconds": 0.0, "device": "cpu"}
    return training.model_copy(update=few)


# --- a case ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A method on a model, a task and a data set, in a folder of its own. All steps are those of a study, run once."""

    root: Path
    dataset: Dataset
    task: Task
    model: Model
    method: Method
    training: Training

    def search(self, seed: int = 1, root: Path | None = None) -> Step:
        """The search; where each rate has one of its own, that of `SEARCHED_AT`."""
        block = block_step(self.dataset, self.task, root or self.root)
        return search_step(block, self.task, self.model, self.method.at(SEARCHED_AT), self.training, seed)

    @cached_property
    def settings(self) -> SearchSettings:
        settings = self.search().settings
        assert isinstance(settings, SearchSettings)
        return settings

    @cached_property
    def splits(self) -> dict[str, Path]:
        """The files of train, validation and test."""
        run_with_inputs(self.search().needs["block"])
        return {name: self.search().needs["split"].path(name) for name in SPLITS}

    @cached_property
    def context(self) -> SearchContext:
        known = {name: self.splits[name] for name in ("train", "validation")}
        return SearchContext.read(self.settings, known, self.search().needs["block"].path("features"), CPU)

    @cached_property
    def _searched(self) -> tuple[SearchRun, int]:
        with evaluations(self.context) as counted:
            run_with_inputs(self.search())
        return read_search(self.search().path("run")), len(counted)

    @property
    def run(self) -> SearchRun:
        return self._searched[0]

    @property
    def evaluated(self) -> int:
        """How often the search evaluated a model on validation."""
        return self._searched[1]

    @cached_property
    def stored(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The search's weights, and what is said of them."""
        assert self.run
        return load_tensors(self.search().path("weights"))

    @cached_property
    def found(self) -> PrunedModel:
        """What the search found, unpruned."""
        return PrunedModel.of_search(*self.stored, self.settings.model, parquet.field_sizes(self.splits["train"]))

    @cached_property
    def pruned(self) -> dict[float, tuple[Step, PruneRun]]:
        """The result of pruning, by compression rate."""
        assert self.run
        steps = {rate: prune_step(self.search(), self.method, rate) for rate in RATES}
        for step in steps.values():
            run_with_inputs(step)
        return {rate: (step, read_pruning(step.path("run"))) for rate, step in steps.items()}

    def validation_loss(self, recommender: Recommender) -> float:
        return self.context.data.task.validation_loss(recommender, self.context.data.validation)

    @cached_property
    def trivial_loss(self) -> float:
        """The validation loss of predicting the same for all instances."""
        model = FirstOrder(kind="first_order", title="", biases=False)
        context = replace(self.context, settings=self.settings.model_copy(update={"model": model}))
        return self.validation_loss(context.recommender(self.any_trial))

    @cached_property
    def modest_loss(self) -> float:
        """The validation loss that a few epochs must reach: that of predicting the same for all.

        A model that begins far above it, because it does not start from the task's prior, must come half of the way there.
        """
        untrained = self.validation_loss(self.context.recommender(self.any_trial))
        return self.trivial_loss if untrained < 2 * self.trivial_loss else (self.trivial_loss + untrained) / 2

    @property
    def any_trial(self) -> TrialSpec:
        return TrialSpec("all", torch.ones(len(self.context.features), self.training.base_dimension))


@contextmanager
def evaluations(context: SearchContext, at_most: int | None = None) -> Iterator[list[None]]:
    """Count evaluations on validation; where there are `at_most` so many, the next one raises `Killed`."""
    kind, counted = type(context.data.task), list[None]()
    evaluate = kind.validation_loss

    def counting(task: tasks.Task, recommender: Recommender, data: instances.Instances) -> float:
        if len(counted) == at_most:
            raise Killed
        counted.append(None)
        return evaluate(task, recommender, data)

    with mock.patch.object(kind, "validation_loss", counting):
        yield counted


# --- claims of a case -----------------------------------------------------------------------------------------


def ends(case: Case) -> None:
    """A search ends with a result, and leaves its files and nothing else."""
    run, folder = case.run, case.search().folder
    check(run.failed is None, f"it has no result: {run.failed}")
    left = sorted(path.name for path in folder.iterdir())
    check(left == ["run.json", "step.json", "weights.safetensors"], f"{folder} holds {', '.join(left)}")
    total = sum(trial.seconds for trial in run.trials)
    check(math.isclose(run.seconds, total), f"it took {run.seconds} s, but its trials {total} s")
    selection = case.stored[0]["embedding.selection"]
    low, high = float(selection.min()), float(selection.max())
    check(low >= 0 and high <= 1, f"the selection lies between {low} and {high}, not between 0 and 1")


def validation_chose(case: Case) -> None:
    """The result is the trial of the lowest validation loss; of equal ones, the first."""
    specs = case.context.specs()
    # A trial whose selection another is trained with is no result.
    results = [i for i in range(len(case.run.trials)) if i >= len(specs) or not specs[i].then]
    best = min(results, key=lambda i: (case.run.trials[i].loss, i))
    check(case.run.best_trial == best, f"trial {case.run.best_trial} was chosen, but trial {best} has the lowest loss")


def kept_what_it_measured(case: Case) -> None:
    """The weights that are kept have the validation loss that was measured."""
    assert case.run.best
    chosen_on = case.context.data_for(case.context.specs()[0]).validation  # a method may hold some of it out
    loss = case.context.data.task.validation_loss(case.found.to_recommender(), chosen_on)
    recorded = case.run.best.loss
    check(
        math.isclose(loss, recorded, rel_tol=1e-5),
        f"the loss of the weights on disk is {loss}, the one recorded {recorded}",
    )


def seed_matters(case: Case) -> None:
    """Another seed gives another result."""
    other = case.search(seed=2)
    run_with_inputs(other)
    losses = [[trial.losses for trial in run.trials] for run in (case.run, read_search(other.path("run")))]
    check(losses[0] != losses[1], "all losses are the same for the seeds 1 and 2")


def learns(case: Case) -> None:
    """A few epochs of training beat the prediction that is the same for all."""
    if case.method.own_model:  # a control may well not
        return
    assert case.run.best
    text = f"the validation loss is {case.run.best.loss:.5f}, not below {case.modest_loss:.5f}"
    check(case.run.best.loss < case.modest_loss, f"{text}; predicting the same for all has {case.trivial_loss:.5f}")


def resumes(case: Case) -> None:
    """A search that is killed and started again has the same result, to the byte, as one that was not."""
    together = max(trial.fused for trial in case.run.trials)
    # In the first trial, and, if there are several, in a later one, or in the last epoch of those trained together.
    for kill_at in sorted({together, min(5 if together == 1 else 3 * together, case.evaluated - 1)}):
        root = case.root / f"killed-{kill_at}-{case.search().id}"
        root.mkdir()
        (root / "data").symlink_to((case.root / "data").absolute())
        step = case.search(root=root)
        try:
            with evaluations(case.context, kill_at):
                run_with_inputs(step)
        except Killed:
            pass
        saved = step.folder / "trials"
        when = f"killed in evaluation {kill_at + 1} of {case.evaluated}"
        check(saved.exists() and not step.path("run").exists(), f"{when}, it left no trials, or a result")
        if kill_at > together:  # the best trial's weights got lost, and another's result is damaged
            for file in saved.glob("?.safetensors"):
                file.unlink()
            (saved / "0.json").write_text("{")
        run_with_inputs(step)
        again, resumed = read_search(step.path("run")), load_tensors(step.path("weights"))[0]
        for before, after in zip(case.run.trials, again.trials, strict=True):
            check(before.losses == after.losses, f"{when}, {after.name} has losses {after.losses}, not {before.losses}")
        for name, tensor in case.stored[0].items():
            check(torch.equal(tensor, resumed[name]), f"{when}, its weights {name} are others")


def prunes(case: Case) -> None:
    """Pruning keeps as many weights as the compression rate says, and what is left still predicts."""
    whole = int(np.count_nonzero(case.found.embeddings))
    for rate, (step, run) in _pruned(case):
        scheme = DimensionScheme.load(step.path("scheme"))
        weights, stored = int(np.count_nonzero(scheme.to_dense())), case.found.stored_weights
        counted = weights if stored is None else stored
        check(run.nonzeros == counted, f"run.json counts {run.nonzeros} weights at CR {rate:g}, not {counted}")
        if case.method.budgeted:
            columns = case.training.base_dimension * sum(case.model.embedding_multiples)
            most = int(len(case.context.features.block) * columns / SEARCHED_AT)
            check(run.nonzeros <= most, f"{run.nonzeros} weights are left, but the budget is {most}")
            check(weights == whole, f"pruning took {whole - weights} weights of a result that is within its budget")
        elif case.method.importance == "search":  # of weights that may be 0 now; equal ones stay or go together
            most = int(case.run.weights / rate)
            check(0 < weights <= most, f"{weights} weights are left at CR {rate:g}, more than {most}, or none")
        else:
            most = min(int(case.run.weights / rate), whole)
            check(weights == most, f"{weights} weights are left at CR {rate:g}, not {most}")
        metrics, listed = list(run.metrics), [metric.name for metric in case.task.metrics]
        check(metrics == listed, f"it measures {', '.join(metrics)}; the task's settings list {', '.join(listed)}")
        if case.method.importance != "random":
            loss = case.validation_loss(_on_disk(case, step).to_recommender())
            check(0 < loss < 3 * case.modest_loss, f"the validation loss at CR {rate:g} is {loss:.5f}")


def files_hold_the_model(case: Case) -> None:
    """The files of a pruning hold the whole model: measured again, they have the metrics that were recorded."""
    for rate, (step, run) in _pruned(case):
        task = tasks.build(case.task, case.splits, CPU)
        again = task.evaluate(_on_disk(case, step).to_recommender(), instances.read(case.splits["test"], CPU))
        for name, value in run.metrics.items():
            same = math.isclose(again[name], value, rel_tol=1e-6, abs_tol=1e-9)
            check(same, f"{name} at CR {rate:g} is {again[name]}, but {value} was recorded")


def _pruned(case: Case) -> Iterator[tuple[float, tuple[Step, PruneRun]]]:
    for rate, (step, run) in case.pruned.items():
        check(run.failed is None, f"pruning at CR {rate:g} has no result: {run.failed}")
        yield rate, (step, run)


def _on_disk(case: Case, step: Step) -> PrunedModel:
    return PrunedModel.load(step.path("scheme"), step.path("model"), case.settings.model)


def one_forward(case: Case) -> None:
    """A model predicts the same from weights that are handed to it, and its loss can be differentiated twice."""
    recommender = case.context.recommender(case.any_trial)
    if not isinstance(recommender.embedding, SelectedTable) or case.method.own_model:
        return
    training, validation = case.context.data.training[:64], case.context.data.validation[:64]
    handed = recommender(training, dict(recommender.named_parameters()))
    check(
        torch.allclose(handed, recommender(training), atol=1e-5),
        "it predicts other values from weights that are handed to it",
    )
    task = case.context.data.task
    gradient = second_order(recommender, task, task.examples("validation", validation, 1), training, 0.01)
    check(gradient.isfinite().all(), "the gradient of second-order DNIS is not finite")


def scores_each_prediction(case: Case) -> None:
    """The task has a loss for each prediction, of one shape with them, and a finite prior."""
    task, labels = case.context.data.task, case.context.data.training.labels[:8]
    for one in (labels, labels[:, None].expand(-1, 2)):  # trials that train together have a column each
        losses = task.losses(torch.full_like(one, 0.5), one)
        check(
            losses.shape == one.shape, f"losses of {tuple(one.shape)} predictions have the shape {tuple(losses.shape)}"
        )
    prior = task.prior(case.context.data.training)
    check(math.isfinite(prior), f"the prior is {prior}")


CLAIMS: tuple[Callable[[Case], None], ...] = (
    ends, validation_chose, kept_what_it_measured, seed_matters, learns, resumes, prunes, files_hold_the_model,
)  # fmt: skip
"""What must hold for each method on each model and task. `ends` comes first: without it no other does."""

MODEL_CLAIMS: tuple[Callable[[Case], None], ...] = (one_forward,)
"""What must hold besides for each model."""

TASK_CLAIMS: tuple[Callable[[Case], None], ...] = (scores_each_prediction,)
"""And for each task."""


# --- claims of a data set -------------------------------------------------------------------------------------


def prepares(case: Case) -> None:
    """The data set is prepared in the one form that all have."""
    prepare = case.search().needs["split"].needs["prepare"]
    run_with_inputs(prepare)
    path = prepare.path("instances")
    try:
        file = parquet.open_instances(path)
        for _ in file.batches(1 << 20):
            pass
        parquet.read_vocabulary(prepare.path("vocabulary"), file.fields)
    except NisbenchError as error:
        raise ClaimError(str(error).removesuffix(DELETE)) from error
    fields = file.fields
    numbers = sum(field.kind == "scalar" for field in fields)
    said = type(case.dataset).field_count
    check(said in {None, len(fields)}, f"it has {len(fields)} fields, but its settings class says {said}")
    check(
        said is None or type(case.dataset).number_fields == numbers,
        f"{numbers} of its fields hold numbers, unlike it says",
    )
    size = case.dataset.expected_size()
    is_size = size == (file.field_sizes, len(file))
    check(size is None or is_size, f"it has not the size {size} that its settings say")


def prepares_the_same(case: Case) -> None:
    """Prepared twice, the data set is the same, to the byte."""
    prepare, again = (
        block_step(case.dataset, case.task, root).needs["prepare"] for root in (case.root, case.root / "prepared-again")
    )
    for step in (prepare, again):
        run_with_inputs(step)
    for name in prepare.files:
        check(
            prepare.path(name).read_bytes() == again.path(name).read_bytes(), f"{prepare.files[name]} is another file"
        )


def splits_and_blocks(case: Case) -> None:
    """Every instance is in one split, no split is empty, and every feature is in a block."""
    counts = {name: parquet.open_parquet(path).metadata.num_rows for name, path in case.splits.items()}
    whole = parquet.open_parquet(case.search().needs["split"].needs["prepare"].path("instances")).metadata.num_rows
    check(all(counts.values()) and sum(counts.values()) == whole, f"of {whole} instances, the splits hold {counts}")
    block = parquet.read_table(case.search().needs["block"].path("features"))["block"].to_numpy()
    check(len(np.unique(block)) == block.max() + 1, "the numbers of blocks have gaps")
    check(len(block) == sum(parquet.field_sizes(case.splits["train"])), "there are not as many features as ids")


DATA_CLAIMS: tuple[Callable[[Case], None], ...] = (prepares, prepares_the_same, splits_and_blocks)
"""What must hold for each data set, in this order: each needs those before it."""


# --- claims of a settings class -------------------------------------------------------------------------------

FUNCTIONS = {
    "methods": ("propose", "settings, features, k, seed"),
    "models": ("build", "settings, shape"),
    "tasks": ("build", "settings, splits, device"),
    "datasets": ("prepare", "settings, archive, instances_file, vocabulary_file"),
}
"""The function that each section's kinds have in their modules, and what it is handed."""


def has_a_name(kind: type[Kind]) -> None:
    """Its name is lower-case letters, digits and underscores, and it says what it is."""
    name = str(kind.kind_name())
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ClaimError(f"{kind.tag}: {name!r} is not lower-case letters, digits and underscores") from None
    check(kind.__doc__, f"the class {kind.__name__} has no docstring")


def explains_its_settings(kind: type[Kind]) -> None:
    """Each of its settings has a docstring, which says what the value means."""
    silent = [name for name in kind.__annotations__ if name in kind.model_fields and name != kind.tag]
    silent = [name for name in silent if not kind.model_fields[name].description]
    check(not silent, f'no docstring stands below {", ".join(silent)}: """what it is, in which unit."""')


def has_its_function(kind: type[Kind]) -> None:
    """The function that computes is beside it, and takes what it is handed."""
    name, arguments = FUNCTIONS[kind.section]
    function = getattr(kind.module(), name, None)
    if not callable(function):
        raise ClaimError(f"there is no function {name}({arguments})")
    try:
        inspect.signature(function).bind(*arguments.split(", "))
    except TypeError as error:
        raise ClaimError(f"{name} must take ({arguments}): {error}") from None


def names_its_tasks(kind: type[Kind]) -> None:
    """It names the kinds of task that it is for."""
    named, known = getattr(kind, "tasks", ()), kinds("tasks")
    check(named, 'it needs tasks: ClassVar[tuple[str, ...]] = ("rating", ...)')
    unknown = [name for name in named if name not in known]
    check(not unknown, f"there is no task {', '.join(unknown)}; there is: {', '.join(known)}")


def can_be_shown(kind: type[Kind]) -> None:
    """It has metrics, headlines among them, and a table of its own."""
    assert issubclass(kind, Task)
    wanted = ("metrics", "headlines", "table", "table_title", "measured")
    missing = [name for name in wanted if not getattr(kind, name, None)]
    check(not missing, f"it must say: {', '.join(missing)}")
    names = [metric.name for metric in kind.metrics]
    check(set(kind.headlines) <= set(names), f"headlines must be among the metrics {', '.join(names)}")
    for other in kinds("tasks").values():
        assert issubclass(other, Task)
        if other is not kind:
            check(kind.table not in {other.table, *TABLES}, f"there is a table {kind.table} already")
            for one in other.metrics:
                same = next((metric for metric in kind.metrics if metric.name == one.name), one)
                check(same == one, f"the task {other.kind_name()} has another metric {one.name}")


def settings_claims(kind: type[Kind]) -> list[SettingsClaim]:
    """What must hold for a settings class."""
    claims: list[SettingsClaim] = [has_a_name, explains_its_settings, has_its_function]
    if issubclass(kind, Model | Dataset):
        claims.append(names_its_tasks)
    if issubclass(kind, Task):
        claims.append(can_be_shown)
    return claims


def is_made_small(entry: Kind) -> None:
    """`small()` gives valid settings of the same kind."""
    small = entry.small()
    check(type(small) is type(entry), f"small() gives a {type(small).__name__}")
    try:
        type(entry).model_validate(dict(small))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ClaimError(f"small(): {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
