"""What scripts and notebooks use. ``import nisbench as nb`` has all of it under ``nb``.

All work goes through the pipeline's own steps, so ids, files, resuming and records are the pipeline's, and a run that
the pipeline made is found. Files are kept in the checkout that the current folder is in; outside of one, in
NISBENCH_HOME or else in ``~/.cache/nisbench``. Defaults are the entries of that checkout's ``params/``, or else of
the package's own copy.

Nothing is printed. To see progress: ``logging.basicConfig(level="INFO", format="%(message)s")``.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from nisbench import execution, records
from nisbench.checkout import DEFAULTS
from nisbench.checkout import check as check_code
from nisbench.errors import NisbenchError
from nisbench.identity import kind_file
from nisbench.params import datasets, methods, models, tasks
from nisbench.params.base import Kind, Settings
from nisbench.params.checks import check_run, explained
from nisbench.params.kinds import OWN, kinds
from nisbench.params.loading import OVERLAYS_VARIABLE, Config, checked_urls, load
from nisbench.params.training import Training as TrainingSettings
from nisbench.params.tree import Tree, dotted, nearest
from nisbench.run_files import PruneRun, SearchRun
from nisbench.steps import Step, block_step, prune_step, search_step
from nisbench.studies import plan_study

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from nisbench.embedding.scheme import DimensionScheme
    from nisbench.embedding.storage import Layout, Precision
    from nisbench.models.recommender import Recommender

# NumPy, pandas and torch are imported where they are used: settings, and what was recorded of a run, need none of them.

HOME_VARIABLE = "NISBENCH_HOME"

S = TypeVar("S", bound=Settings)
K = TypeVar("K", bound=Kind)


# --- where files and defaults are -----------------------------------------------------------------------------


def home() -> Path:
    """The folder that holds ``data/`` and ``results/``: the checkout, or NISBENCH_HOME, or the user's cache."""
    here = _checkout()
    if here:
        return here
    chosen = os.environ.get(HOME_VARIABLE)
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(chosen) if chosen else cache_folder / "nisbench").expanduser().absolute()


def _checkout() -> Path | None:
    """The folder with ``params/`` and a Snakefile that is, or holds, the current one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "params" / "datasets.yaml").is_file():
            check_code(folder)
            return folder
    return None


def _config() -> Config:
    """All parameters, read again only when a file of theirs has changed."""
    root = _checkout() or DEFAULTS
    overlays = [Path(name) for name in os.environ.get(OVERLAYS_VARIABLE, "").split(":") if name]
    files = [*(root / "params").rglob("*.yaml"), *(file for file in overlays if file.exists())]
    return _loaded(root, tuple(overlays), frozenset((file, file.stat().st_mtime_ns) for file in files))


@cache
def _loaded(root: Path, overlays: tuple[Path, ...], _state: frozenset[tuple[Path, int]]) -> Config:
    return load(root, list(overlays))


# --- settings by keyword --------------------------------------------------------------------------------------


def settings(kind: type[S], **changes: Any) -> S:
    """Settings of a class from keyword arguments: what `nb.DNIS` is for DNIS, for a class of your own.

    >>> from square_root import SquareRoot
    >>> nb.search(nb.settings(SquareRoot, mean_dimension=16), nb.MF(), data)
    """
    return _changed(kind, _entry(kind, None), changes, kind.__name__)


def _maker(kind: type[S]) -> Callable[..., S]:
    """A function that makes settings of a class from keyword arguments and, for the rest, an entry of ``params/``."""

    def make(entry: str | None = None, /, **changes: Any) -> S:
        return _changed(kind, _entry(kind, entry), changes, f"nb.{kind.__name__}")

    names = [name for name in kind.model_fields if name != getattr(kind, "tag", None)]
    unchanged = type("Unchanged", (), {"__repr__": lambda _self: "..."})()
    described = (f"{name}: {kind.model_fields[name].description or ''}".strip() for name in names)
    start = inspect.Parameter("entry", inspect.Parameter.POSITIONAL_ONLY, default=None, annotation="str | None")
    keywords = (inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=unchanged) for name in names)
    make.__name__ = make.__qualname__ = kind.__name__
    make.__module__ = "nisbench"
    make.__signature__ = inspect.Signature([start, *keywords])  # type: ignore[attr-defined]
    make.__doc__ = "\n\n".join(
        [
            inspect.cleandoc(kind.__doc__ or kind.__name__),
            "What is not given is as in `entry`, the name of an entry of params/ (default: the first of this kind).",
            "\n".join(described),
        ]
    )
    return make


def _entry(kind: type[Settings], name: str | None) -> Mapping[str, Any]:
    """The values of an entry of ``params/``, or of the first of that kind; where there is none, what all kinds have."""
    params = _config().params
    if not issubclass(kind, Kind):
        if name is not None:
            raise NisbenchError(f"nb.{kind.__name__} takes keyword arguments only, not {name!r}")
        return dict(params.training)
    entries: dict[str, Kind] = getattr(params, kind.section)
    own = {key: value for key, value in entries.items() if type(value) is kind}
    if name is None and getattr(kind, "from_nothing", False):
        return {kind.tag: kind.kind_name()}
    if name is None:
        shared = {"importance": "effective", "rounds": 0} if issubclass(kind, methods.Method) else {}
        return dict(next(iter(own.values()))) if own else {kind.tag: kind.kind_name(), "title": kind.__name__, **shared}
    if name not in own:
        raise NisbenchError(
            f"params/ has no {kind.kind_name()} called {name!r} among {kind.section}{nearest(name, own)}"
        )
    return dict(own[name])


def _changed(kind: type[S], base: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> S:
    """Settings with some values changed; a mapping is merged into what it changes, key by key."""
    values = dict(base)
    fixed = getattr(kind, "tag", None)
    for name, change in changes.items():
        if name not in kind.model_fields or name == fixed:
            known = [field for field in kind.model_fields if field != fixed]
            raise NisbenchError(f"{where}: there is no {name!r}{nearest(name, known)}")
        old = values.get(name)
        merge = isinstance(change, Mapping) and isinstance(old, Settings)
        values[name] = {**dict(cast(Settings, old)), **change} if merge else _plain(change)
    # As an entry of a file, so that problems are found and explained as in one.
    section = getattr(kind, "section", None)
    form: Any = dict[str, dict[str, kind]] if section else dict[str, kind]  # type: ignore[valid-type]
    tree = Tree({section: {"entry": values}} if section else {"training": values})
    try:
        (found,) = TypeAdapter(form).validate_python(tree.values).values()
    except ValidationError as error:
        lines = [f"{where}: {dotted(path[2 if section else 1 :])}: {text}" for path, text in explained(error, tree)]
        raise NisbenchError("\n".join(lines)) from None
    return cast(S, found["entry"] if section else found)


def _plain(value: Any) -> Any:
    """A value as YAML would have it: lists and plain numbers for tuples and NumPy's."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if type(value).__module__ == "numpy" else value


Training = _maker(TrainingSettings)

DNIS = _maker(methods.DNIS)
FullTable = _maker(methods.FullTable)
GridSearch = _maker(methods.GridSearch)
MDE = _maker(methods.MDE)
MDEProjected = _maker(methods.MDEProjected)
NIS = _maker(methods.NIS)
NoEmbeddings = _maker(methods.NoEmbeddings)
Oracle = _maker(methods.Oracle)
RandomSearch = _maker(methods.RandomSearch)
UniformTuned = _maker(methods.UniformTuned)

PEP = _maker(methods.PEP)
SSEDS = _maker(methods.SSEDS)
TPE = _maker(methods.TPE)
Gradual = _maker(methods.Gradual)
AutoDim = _maker(methods.AutoDim)
OptEmbed = _maker(methods.OptEmbed)
MPE = _maker(methods.MPE)
Hashing = _maker(methods.Hashing)
Laws = _maker(methods.Laws)
LowRank = _maker(methods.LowRank)
Quantised = _maker(methods.Quantised)
QuotientRemainder = _maker(methods.QuotientRemainder)
Uniform = _maker(methods.Uniform)

DeepFM = _maker(models.DeepFM)
FM = _maker(models.FM)
MF = _maker(models.MF)
MLP = _maker(models.MLP)
NeuMF = _maker(models.NeuMF)
WideDeep = _maker(models.WideDeep)

CTR = _maker(tasks.CTR)
Rating = _maker(tasks.Rating)
TopK = _maker(tasks.TopK)

Criteo = _maker(datasets.Criteo)
CriteoX1 = _maker(datasets.CriteoX1)
MovieLens = _maker(datasets.MovieLens)
PlantedCTR = _maker(datasets.PlantedCTR)
PlantedRatings = _maker(datasets.PlantedRatings)
PlantedTopK = _maker(datasets.PlantedTopK)
DataTable = _maker(datasets.DataTable)


def __getattr__(name: str) -> Any:
    """Settings classes of plug-ins, under their own names; and what needs torch."""
    if name in {"load_model", "ServedModel"}:
        from nisbench import serving

        return getattr(serving, name)
    for section in OWN if name[0].isupper() else ():
        for kind in kinds(section).values():
            if kind.__name__ == name:
                return _maker(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# --- data -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class PreparedDataset:
    """A data set, split and blocked. It is fetched and prepared when something first needs it, once."""

    settings: datasets.Dataset
    task_settings: tasks.Task
    root: Path
    """The folder that holds ``data/`` and ``results/``."""

    @cached_property
    def step(self) -> Step:
        """The last of its steps in the pipeline: blocking."""
        return block_step(self.settings, self.task_settings, self.root)

    @property
    def train(self) -> "pd.DataFrame":
        """The training instances: ``label``, and a column of feature ids, or of numbers, for each field."""
        return self._split("train")

    @property
    def validation(self) -> "pd.DataFrame":
        """The validation instances, as in `train`."""
        return self._split("validation")

    @property
    def test(self) -> "pd.DataFrame":
        """The test instances, as in `train`. Searches do not read them."""
        return self._split("test")

    @property
    def features(self) -> "pd.DataFrame":
        """One row per feature id: ``field``, ``token``, ``frequency`` in train and ``block``.

        Generated data have ``planted_dimension``, too.
        """
        return _frame(self.step, "features")

    def redrawn(self, seed: int) -> "PreparedDataset":
        """The same, with the split (and the top-k candidates) that a study with ``split_per_seed`` has for that seed.

        Raises `NisbenchError` if the split is published.
        """
        return replace(self, settings=self.settings.redrawn(seed), task_settings=self.task_settings.redrawn(seed))

    def _split(self, name: str) -> "pd.DataFrame":
        return _frame(self.step.needs["split"], name)

    def __repr__(self) -> str:
        task = self.task_settings.kind_name()
        return f"<data set {self.settings.title}: {self.settings.slug}, task {task}, id {self.step.id}>"


def load_dataset(dataset: str | datasets.Dataset, /, **changes: Any) -> PreparedDataset:
    """A data set: an entry of ``params/datasets.yaml``, or settings; keyword arguments change it.

    `task` may be the name of a task or settings of one, such as ``nb.TopK(candidates=50)``. Nothing is fetched until
    it is needed. Raises `NisbenchError` for unknown names and for settings that do not fit together.

    >>> nb.load_dataset("planted_ratings", users=200, items=100, instances=20000, split={"seed": 2})
    """
    params, root = _config().params, home()
    where = "nb.load_dataset"
    if isinstance(dataset, str):
        if dataset not in params.datasets:
            raise NisbenchError(f"{where}: there is no data set {dataset!r}{nearest(dataset, params.datasets)}")
        dataset = params.datasets[dataset]
    _expect(dataset, datasets.Dataset, where, "the name of a data set, or settings such as nb.PlantedRatings()")
    _check_source(dataset)
    given, task = changes.get("task"), None
    if isinstance(given, tasks.Task):
        task, changes = given, {**changes, "task": str(given.kind_name())}
        _check_source(task)
    settings = _changed(type(dataset), dict(dataset), changes, where) if changes else dataset
    if isinstance(settings, datasets.Archive):
        try:
            settings = settings.model_copy(update={"url": checked_urls(settings.url, Path())})
        except NisbenchError as error:
            raise NisbenchError(f"{where}: url: {error}") from error
    if task is None:
        if settings.task not in params.tasks:
            raise NisbenchError(f"{where}: there is no task {settings.task!r}{nearest(settings.task, params.tasks)}")
        task = params.tasks[settings.task]
    problems = [f"{where}: {dotted(path)}: {text}" for path, text in settings.problems(task)]
    if problems:
        raise NisbenchError("\n".join(problems))
    return PreparedDataset(settings, task, root)


# --- search and pruning ---------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search found: its trials, and the selection of dimensions that validation chose."""

    data: PreparedDataset
    method: methods.Method
    step: Step
    threads: int = 0

    @cached_property
    def run(self) -> SearchRun:
        """All that was recorded, as in ``run.json``."""
        return records.search_result(self.step)

    @property
    def failed(self) -> str | None:
        """Why there is no result; None if there is one."""
        return self.run.failed

    @property
    def validation_loss(self) -> float:
        """Of the best trial, after its best epoch; infinite if all trials failed."""
        return self.run.best.loss if self.run.best else float("inf")

    @property
    def trials(self) -> "pd.DataFrame":
        """One row per trial, in the order in which they were trained."""
        import pandas as pd

        return pd.DataFrame([trial.model_dump() for trial in self.run.trials]).rename_axis("trial")

    @cached_property
    def selection(self) -> "np.ndarray":
        """The chosen selection (L, columns) float32, a row per block of features: 1 = the dimension exists, 0 = not."""
        from nisbench.models.pruned import selection_in

        if self.failed:
            raise NisbenchError(f"the search has no result: {self.failed}")
        return selection_in(self.step.path("weights"))

    def prune(
        self,
        compression_rate: float = 1,
        *,
        importance: methods.Importance | None = None,
        rounds: int | None = None,
        rewind: methods.Rewind | None = None,
    ) -> "PruneResult":
        """Keep ``1 / compression_rate`` of the embedding weights, and measure what is left on the test instances.

        A rate of 1 prunes nothing. `importance`, `rounds` and `rewind` are the method's own by default; rounds of training start
        at the pruned weights, if nothing else is said.
        """
        if self.method.budgeted and compression_rate != 1:
            raise NisbenchError(
                f"prune: the result of {type(self.method).__name__} is within its budget already, and is not pruned; search with "
                f"budget={1 / compression_rate:g}, and prune at 1"
            )
        given = {"importance": importance, "rounds": rounds}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if "rounds" in changes or rewind:
            changes["rewind"] = (rewind or self.method.rewind or "pruned") if changes.get("rounds", 1) else None
        method = _changed(type(self.method), dict(self.method), changes, "prune")
        if not isinstance(compression_rate, int | float) or not 1 <= compression_rate < float("inf"):
            raise NisbenchError(f"prune: compression_rate must be a number from 1 on, not {compression_rate!r}")
        settings = cast(Any, self.step.settings)
        rate = float(compression_rate)
        check_run(self.data.settings, settings.task, settings.model, method, settings.training, rate, settings.seed)
        step = prune_step(self.step, method, rate)
        execution.run_with_inputs(step, self.threads)
        return PruneResult(self, step)

    def __repr__(self) -> str:
        head = f"<search {self.step.dataset} {self.step.label}, id {self.step.id}: "
        if self.run.failed:
            return f"{head}failed: {self.run.failed}>"
        count = len(self.run.trials)
        trials = "1 trial" if count == 1 else f"best of {count} trials"
        return f"{head}validation loss {self.validation_loss:.5f} ({trials}), {self.run.weights:,} embedding weights>"


@dataclass(frozen=True, repr=False)
class PruneResult:
    """A pruned model, measured on the test instances."""

    search: SearchResult
    step: Step

    @cached_property
    def run(self) -> PruneRun:
        """All that was recorded, as in ``run.json``."""
        return records.pruning_result(self.step)

    @property
    def failed(self) -> str | None:
        """Why there is no result; None if there is one."""
        return self.run.failed

    @property
    def metrics(self) -> dict[str, float]:
        """Quality on the test instances, by the task's names; empty if the run failed."""
        return dict(self.run.metrics)

    @cached_property
    def scheme(self) -> "DimensionScheme":
        """The dimensions that each feature has, and their weights."""
        from nisbench.embedding.scheme import DimensionScheme

        return DimensionScheme.load(self.step.path("scheme"))

    @property
    def bytes(self) -> int:
        """What the embeddings take in float32, in the layout that takes the least, and their projections, if any."""
        return self.run.stored_bytes()

    def recommender(self) -> "Recommender":
        """The model that was measured, a torch module on the CPU."""
        from nisbench.models.pruned import PrunedModel

        if self.failed:
            raise NisbenchError(f"there is no model: {self.failed}")
        settings = cast(Any, self.step.settings).model
        return PrunedModel.load(self.step.path("scheme"), self.step.path("model"), settings).to_recommender()

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        layout: "Layout | Literal['auto']" = "auto",
        values: "Precision" = "float32",
        onnx: bool = False,
    ) -> Path:
        """Write a folder that stands alone, for `load_model`, and return its path.

        It holds weights, vocabulary, fields, and a README with quality and bytes. `layout` is auto (the fewest bytes),
        dense, prefix, csr or mask; `values` is float32, float16, int8 or int4. `onnx` adds a file for ONNX Runtime.
        """
        from nisbench.serving import export

        exported = export(self.step, Path(folder), layout, values)
        if onnx:
            from nisbench.serving import programs

            programs.export_onnx(exported)
        return exported

    def __repr__(self) -> str:
        head = f"<pruning {self.step.dataset} {self.step.label}, id {self.step.id}: "
        if self.failed:
            return f"{head}failed: {self.failed}>"
        metrics = ", ".join(f"{name} {value:.5f}" for name, value in self.metrics.items())
        return f"{head}{metrics}; {self.run.nonzeros:,} embedding weights, {self.bytes:,} bytes>"


def search(
    method: methods.Method,
    model: models.Model,
    data: PreparedDataset | datasets.Dataset | str,
    training: TrainingSettings | None = None,
    *,
    seed: int = 1,
    threads: int | None = None,
) -> SearchResult:
    """Train `model` under every selection of dimensions that `method` proposes; validation chooses one.

    A run that is done is found, not repeated; one that was cut short goes on. `training` is ``nb.Training()`` by
    default, `threads` as many as torch takes. A method may bring a model of its own, which then stands in for `model`
    (`Method.own_model`). Raises `NisbenchError` for settings that do not fit together.

    >>> nb.search(nb.DNIS(learning_rate=0.02), nb.MF(), data, nb.Training(base_dimension=16), seed=1)
    """
    where = "nb.search"
    _expect(method, methods.Method, where, "settings of a method, such as nb.DNIS()")
    _expect(model, models.Model, where, "settings of a model, such as nb.MF()")
    if not isinstance(data, PreparedDataset):
        data = load_dataset(data)
    training = Training() if training is None else training
    _expect(training, TrainingSettings, where, "settings of training, such as nb.Training(base_dimension=16)")
    if type(seed) is not int:
        raise NisbenchError(f"{where}: seed must be a whole number, not {seed!r}")
    for kind in (method, model):
        _check_source(kind)
    rate = 2.0 if (method.rounds or method.importance == "random") and not method.own_model else 1.0
    check_run(data.settings, data.task_settings, model, method, training, rate, seed)
    step = search_step(data.step, data.task_settings, model, method, training, seed)
    execution.run_with_inputs(step, threads or 0)
    return SearchResult(data, method, step, threads or 0)


# --- results --------------------------------------------------------------------------------------------------


def results(study: str) -> "pd.DataFrame":
    """A study's results, one row per measured value.

    They are read from its runs that are done; where none is, from the table that was published with the checkout.
    ``.attrs`` says which: ``source`` is "runs" or the table's path, ``missing`` counts the runs that are not done.

    >>> nb.results("movielens_1m").query("metric == 'mse'").groupby(["method", "cr"])["value"].mean()
    """
    import pandas as pd

    from nisbench.report.results import chosen, summary

    config, root = _config(), home()
    if study not in config.by_study:
        raise NisbenchError(f"nb.results: there is no study {study!r}{nearest(study, config.by_study)}")
    plan = plan_study(study, config, root)
    done = tuple(cell for cell in plan.cells if records.done(cell.prune) and records.done(cell.search))
    table = root / "results" / study / "summary.csv"
    if done:
        frame = summary(chosen(replace(plan, cells=done)))
        frame.attrs["source"] = "runs"
    elif table.is_file():
        frame = pd.read_csv(table)
        frame.attrs["source"] = str(table)
    else:
        raise NisbenchError(
            f"nb.results: no run of the study {study} is done in {root}, and there is no {table.name} of it. "
            f"In a checkout: snakemake --cores all {study}"
        )
    frame.attrs["missing"] = len(plan.cells) - len(done)
    return frame


# --- helpers --------------------------------------------------------------------------------------------------


def _frame(step: Step, file: str) -> "pd.DataFrame":
    """A file of a step as a data frame; the step is done first if it is not."""
    from nisbench.data.parquet import read_table

    execution.run_with_inputs(step)
    records.check(step)
    frame: pd.DataFrame = read_table(step.path(file)).to_pandas()
    return frame


def _expect(value: Any, base: type[Settings], where: str, wanted: str) -> None:
    if not isinstance(value, base):
        called = getattr(value, "__module__", "") == "nisbench" and callable(value)
        hint = f"; call it: nb.{value.__name__}()" if called else ""
        raise NisbenchError(f"{where}: expected {wanted}, not {value!r:.80}{hint}")


def _check_source(settings: Kind) -> None:
    """Raise `NisbenchError` if a kind's code has no file, or not what is in it now: ids are made from the file."""
    kind = type(settings)
    try:
        file = kind_file(kind)
    except NisbenchError:
        raise NisbenchError(
            f"{kind.__name__} is defined in a notebook or at a prompt, so no run of it can be given an id. Put the "
            f"class and its function into a file of their own, such as {kind.kind_name()}.py, and import it."
        ) from None
    if file.read_bytes() != _when_first_used(file):
        raise NisbenchError(
            f"{file} was changed since it was first used. Restart Python, so that the new code is the one that runs."
        )


@cache
def _when_first_used(file: Path) -> bytes:
    return file.read_bytes()
