"""`nisbench check-plugin`: put a method, model, task or data format of one's own to the claims that all others meet."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from nisbench.conformance import (
    CLAIMS,
    DATA_CLAIMS,
    MODEL_CLAIMS,
    TASK_CLAIMS,
    Case,
    ClaimError,
    ends,
    explains_its_settings,
    is_made_small,
    settings_claims,
    short_training,
)
from nisbench.errors import NisbenchError
from nisbench.logs import log
from nisbench.params.base import Kind
from nisbench.params.datasets import Archive, Dataset
from nisbench.params.kinds import OWN, VARIABLE, blamed, load_plugin, plugin_files
from nisbench.params.loading import load
from nisbench.params.methods import Method
from nisbench.params.models import Model
from nisbench.params.studies import Params
from nisbench.params.tasks import Task

MODELS = {"rating": "mf", "ctr": "deepfm", "topk": "neumf"}
METHODS = ("grid", "dnis")
"""The kinds that stand beside the plug-in's."""


def run(path: Path) -> int:
    """Check the kinds of a plug-in's file, a line per claim; 0 if all hold. Raises `NisbenchError` if it cannot be used at all."""
    kinds = load_plugin(path)
    if path.resolve() not in [other.resolve() for other in plugin_files()]:
        os.environ[VARIABLE] = ":".join(filter(None, [os.environ.get(VARIABLE), str(path)]))
    params = _with_examples(load(Path(), overlays=[]).params, kinds)
    report, level = Report(path), log.level
    log.setLevel(logging.ERROR)  # what each search says would drown the answers
    try:
        with tempfile.TemporaryDirectory(prefix="nisbench-") as folder:
            for kind in kinds:  # each in a folder of its own: they may be tried in the same searches
                own = Path(folder, kind.__name__)
                own.mkdir()
                _check_kind(kind, params, own, report)
    finally:
        log.setLevel(level)
    return report.finish()


def _check_kind(kind: type[Kind], params: Params, folder: Path, report: "Report") -> None:
    report.head(f"{kind.__name__}, {kind.tag} {kind.kind_name()}, of {kind.section}")
    held = {claim: report.claim(claim, kind) for claim in settings_claims(kind)}
    usable = all(holds for claim, holds in held.items() if claim is not explains_its_settings)
    entry = report.claim(_example, kind)
    if not usable or entry is None or not report.claim(_fits, entry, params):
        return
    if not report.claim(is_made_small, entry):
        return
    before = DATA_CLAIMS if isinstance(entry, Dataset) else ()
    after = MODEL_CLAIMS if isinstance(entry, Model) else TASK_CLAIMS if isinstance(entry, Task) else ()
    for where, case in _cases(entry, params, folder):
        report.head(where)
        for claim in (*before, *CLAIMS, *after):
            if not report.claim(claim, case) and claim in (*DATA_CLAIMS, ends):
                break  # no other can hold


# --- what the plug-in is tried on -----------------------------------------------------------------------------


def _with_examples(params: Params, kinds: Sequence[type[Kind]]) -> Params:
    """The parameters with the plug-in's examples, each named like its kind: kinds of one file may need each other."""
    sections: dict[str, dict[str, Any]] = {section: dict(getattr(params, section)) for section in OWN}
    for kind in kinds:
        with suppress(ClaimError):
            sections[kind.section].setdefault(str(kind.kind_name()), _example(kind))
    return params.model_copy(update=sections)


def _example(kind: type[Kind]) -> Kind:
    """EXAMPLE, an entry as params/ would have it, is valid."""
    given = getattr(kind.module(), "EXAMPLE", [])
    examples = given if isinstance(given, list) else [given]
    example = next((one for one in examples if isinstance(one, dict) and one.get(kind.tag) == kind.kind_name()), None)
    if example is None:
        example = {kind.tag: kind.kind_name()}
        needed = [name for name, field in kind.model_fields.items() if field.is_required() and name not in example]
        if needed:
            text = f"it has settings without a value ({', '.join(needed)}) and nothing to test it with. Define EXAMPLE"
            raise ClaimError(
                f"{text} = {{{kind.tag!r}: {kind.kind_name()!r}, ...}}, a mapping like an entry of params/, or a list of several"
            )
    try:
        entry = kind.model_validate(example)
    except ValidationError as error:
        raise ClaimError("; ".join(_explained(error, kind))) from None
    return entry


def _explained(error: ValidationError, kind: type[Kind]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(map(str, problem["loc"]))
        close = get_close_matches(key, kind.model_fields, n=1) if problem["type"] == "extra_forbidden" else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        yield f"EXAMPLE: {key}: {problem['msg'][0].lower()}{problem['msg'][1:]}{hint}"


def _fits(entry: Kind, params: Params) -> bool:
    """The settings of EXAMPLE fit together."""
    problems: list[Any] = []
    if isinstance(entry, Method):
        problems = list(entry.problems(params.training.base_dimension))
    if isinstance(entry, Dataset):
        if entry.task not in params.tasks:
            raise ClaimError(
                f"EXAMPLE: task: there is no task {entry.task} in params/; there is: {', '.join(params.tasks)}"
            )
        problems = list(entry.problems(params.tasks[entry.task]))
    if problems:
        raise ClaimError("; ".join(f"EXAMPLE: {'.'.join(map(str, key))}: {text}" for key, text in problems))
    return True


def _cases(entry: Kind, params: Params, folder: Path) -> Iterator[tuple[str, Case]]:
    """Where the plug-in is tried, in words, and the case."""
    training = short_training(params.training)
    for task, model, method in _combinations(entry, params):
        dataset = entry if isinstance(entry, Dataset) else _dataset_for(task, params)
        names = [str(one.kind_name()) for one in (method, model, task)]
        case = Case(folder / "-".join(names), _with_archive(dataset.small(), folder), task, model, method, training)
        yield f"{names[0]} with {names[1]} on {names[2]}", case


def _combinations(entry: Kind, params: Params) -> list[tuple[Task, Model, Method]]:
    tasks = {str(task.kind_name()): task.small() for task in params.tasks.values()}
    methods = [_first(params.methods, kind).small() for kind in METHODS]
    if isinstance(entry, Method):
        return [(tasks[task], _first(params.models, model), entry.small()) for task, model in MODELS.items()]
    if isinstance(entry, Model):
        unknown = [task for task in entry.tasks if task not in tasks]
        if unknown:
            raise NisbenchError(f"params/tasks.yaml has no entry of the kind {unknown[0]}, to try the model on")
        return [(tasks[task], entry.small(), method) for task in entry.tasks for method in methods]
    if isinstance(entry, Task):
        return [(entry.small(), _serving(entry, params), method) for method in methods]
    assert isinstance(entry, Dataset)
    task = params.tasks[entry.task].small()
    return [(task, _serving(task, params), methods[0])]


def _dataset_for(task: Task, params: Params) -> Dataset:
    """A generated data set, or one whose archive the plug-in makes."""
    serving = [dataset for dataset in params.datasets.values() if task.is_served_by(dataset.tasks)]
    makes = [dataset for dataset in serving if hasattr(dataset.module(), "example_archive")]
    found = next((dataset for dataset in serving if dataset.planted), next(iter(makes), None))
    if found is None:
        problem = f"no generated data set of params/ is for the task {task.kind_name()}"
        raise NisbenchError(f"{problem}: say which it is a `variant_of`, or define a format and example_archive(path)")
    return found


def _serving(task: Task, params: Params) -> Model:
    found = next((model for model in params.models.values() if task.is_served_by(model.tasks)), None)
    if found is None:
        raise NisbenchError(f"no model of params/ is for the task {task.kind_name()}: say which it is a `variant_of`")
    return found


def _first(entries: Mapping[str, Any], kind: str) -> Any:
    found = next((entry for entry in entries.values() if entry.kind_name() == kind), None)
    if found is None:
        raise NisbenchError(f"params/ has no entry of the kind {kind}, which plug-ins are tried with")
    return found


def _with_archive(dataset: Dataset, folder: Path) -> Dataset:
    """The data set with the archive that the plug-in makes for its EXAMPLE, or else the one beside its file."""
    module, make = dataset.module(), getattr(dataset.module(), "example_archive", None)
    if not isinstance(dataset, Archive) or dataset.url.startswith("https://"):
        return dataset
    archive = Path(str(module.__file__)).parent / dataset.url
    if make and not archive.exists():
        archive = folder / "archive"
        make(archive)
    return dataset.model_copy(update={"url": str(archive)})


# --- what is said ---------------------------------------------------------------------------------------------


class Report:
    """A line per claim."""

    def __init__(self, path: Path) -> None:
        self.path, self.console = path, Console(highlight=False, soft_wrap=True)
        self.held, self.failed = 0, 0

    def head(self, text: str) -> None:
        self.console.print(f"[bold]{escape(text)}[/]")

    def claim(self, claim: Callable[..., Any], *of: Any) -> Any:
        """What the claim's function returns, or True; None if it does not hold. An error in the plug-in is shown with its line."""
        said = (claim.__doc__ or claim.__name__).partition("\n")[0].rstrip(".")
        try:
            found = claim(*of)
        except ClaimError as error:
            self._failed(said, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - whatever a plug-in raises
            self._failed(said, blamed(error, self.path))
            return None
        self.held += 1
        self.console.print(f"  [green]ok[/]      {escape(said)}")
        return True if found is None else found

    def _failed(self, said: str, why: str) -> None:
        self.failed += 1
        self.console.print(f"  [red]failed[/]  {escape(said)}: {escape(why)}")

    def finish(self) -> int:
        """Sum up; the exit status."""
        count = f"{self.held + self.failed} claims"
        if self.failed:
            self.console.print(f"[red]{self.failed} of {count} do not hold.[/]")
            return 1
        self.console.print(f"All {count} hold. To use it: {VARIABLE}={escape(str(self.path))} snakemake ...")
        return 0
