"""`nisbench adopt`: after a change of code that changes no result, keep the runs that there are.

A run's id holds its code's version, so a refactoring asks for every run anew. Instead, today's code does a little of the work again
for each kind of run, of the cheapest one that there is: the first epochs of a search, a whole pruning, a whole preparation. Only
where it finds the very numbers that the old run recorded, its golden losses, do runs of that kind get today's ids. Their records
keep what computed them.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape

from nisbench import machine, records
from nisbench.code_version import canonical_json
from nisbench.console import log
from nisbench.data import steps
from nisbench.errors import NisbenchError
from nisbench.records import Adoption, Record
from nisbench.runs import STEPS, PruneSettings, SearchSettings, Step, hashed_form
from nisbench.search import pruning, trials
from nisbench.studies import StudyPlan


@dataclass(frozen=True)
class Candidate:
    """A step of today's plan that is to do, and the folder of an older one that had the same settings and inputs."""

    step: Step
    folder: Path
    record: Record

    @property
    def kind(self) -> tuple[str, ...]:
        """Steps of one kind take the same ways through the same code, and are compared once: they differ in data, K and seed."""
        form = hashed_form(self.step)
        if isinstance(self.step.settings, SearchSettings):
            ways = [form["method"], {**form["training"], "base_dimension": None}]
        elif isinstance(self.step.settings, PruneSettings):
            ways = [form["prune_by"], form["rounds"]]
        else:
            ways = [form]
        return (self.step.name, *self.step.modules, canonical_json(ways))


def run(plan: StudyPlan, epochs: int) -> int:
    """Adopt what can be; print what was compared. Returns the number of kinds that were found to differ."""
    console = Console(highlight=False, soft_wrap=True)
    log.setLevel(logging.WARNING)  # the work that is done again is not what is asked about
    found, wrong = find(plan), 0
    if not found:
        console.print("There is nothing to adopt: no step that is to do has an older run of the same settings.")
        return 0
    # The order of the steps: what a step reads is adopted before it.
    kinds: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in found:
        kinds.setdefault(candidate.kind, []).append(candidate)
    for candidates in sorted(kinds.values(), key=lambda each: STEPS.index(each[0].step.name)):
        able = [each for each in candidates if all(records.done(needed) for needed in each.step.needs.values())]
        if not able:
            console.print(f"[yellow]left[/]     {candidates[0].step.title()}: what it reads was not adopted")
            continue
        cheapest = min(able, key=_cost)
        what = f"{cheapest.step.title()} ({cheapest.record.id})"
        try:
            compared = compare(cheapest, epochs)
        except NisbenchError as error:
            wrong += 1
            console.print(
                f"[red]differs[/]  {escape(what)}: {escape(str(error))}; {len(candidates)} runs are left as they are"
            )
            continue
        for each in able:
            adopt(each, f"{what}: {compared}")
        console.print(f"[green]adopted[/]  {len(able)} as {escape(what)}: {escape(compared)}")
    return wrong


def find(plan: StudyPlan) -> list[Candidate]:
    """Of each step that is to do, the newest older run that had its settings, and inputs of which the same is true."""
    ids: dict[str, set[str]] = {}
    """What a step was called, under any code, by its id of today."""
    found = []
    for step in plan.steps.values():  # each after those it needs
        ids[step.id] = {step.id}
        matching = []
        for folder, record in _older(step):
            inputs = record.needs.keys() == step.needs.keys() and all(
                record.needs[name] in ids[needed.id] for name, needed in step.needs.items()
            )
            if inputs and record.settings == hashed_form(step) and record.id != step.id:
                ids[step.id].add(record.id)
                matching.append(Candidate(step, folder, record))
        if matching and not records.done(step):
            found.append(max(matching, key=lambda each: each.record.time))
    return found


def _older(step: Step) -> Iterator[tuple[Path, Record]]:
    """The folders beside a step's own, of runs of the same name, and their records."""
    own = Path(step.folder)
    for folder in sorted(own.parent.glob(f"{own.name.removesuffix(step.id)}*")):
        try:
            record = records.read(folder / "step.json")
        except FileNotFoundError:
            continue
        except NisbenchError as error:
            log.warning("%s", error)
            continue
        whole = set(record.files) == set(step.files.values())
        if (record.step, record.dataset, record.label) == (step.name, step.dataset, step.label) and whole:
            yield folder, record


def _cost(candidate: Candidate) -> float:
    """What comparing takes, in no unit: the recorded seconds of a run, or the size of a data set's files."""
    if "run.json" not in candidate.record.files:
        return float(sum(each.bytes for each in candidate.record.files.values()))
    return float(_run_of(candidate)["seconds"])


def _run_of(candidate: Candidate) -> Any:
    read = records.read_search if candidate.step.name == "search" else records.read_pruning
    return read(candidate.folder / "run.json")


# --- comparing ------------------------------------------------------------------------------------------------


def compare(candidate: Candidate, epochs: int) -> str:
    """Do some of a run's work by today's code; say what was found alike. Raises `NisbenchError` if anything is not."""
    _check_files(candidate)
    step = candidate.step
    with tempfile.TemporaryDirectory(prefix="nisbench-adopt-") as name:
        if isinstance(step.settings, SearchSettings):
            return _compare_search(candidate, step.settings, epochs, Path(name))
        if isinstance(step.settings, PruneSettings):
            return _compare_pruning(candidate, step.settings, Path(name))
        return _compare_data(candidate, Path(name))


def _check_files(candidate: Candidate) -> None:
    for name, written in candidate.record.files.items():
        if not (candidate.folder / name).exists() or records.sums_of(candidate.folder / name) != written:
            raise NisbenchError(f"{candidate.folder / name} is missing or damaged")


def _compare_search(candidate: Candidate, settings: SearchSettings, epochs: int, folder: Path) -> str:
    """The validation losses of the first epochs of every trial that does not depend on the end of another."""
    before, step = records.read_search(candidate.folder / "run.json"), candidate.step
    few = settings.training.model_copy(update={"max_epochs": epochs})
    shortened = settings.model_copy(update={"training": few})
    files = (Path(step.needs["split"].path("train")), Path(step.needs["split"].path("validation")))
    features = Path(step.needs["block"].path("features"))
    with machine.device(few.device, before["machine"]["threads"], few.deterministic) as device:
        independent = len(trials.prepare(shortened, *files, features, folder / "trials", device).proposals())
        trials.run(shortened, *files, features, folder, device)
    now = records.read_search(folder / "run.json")
    losses = 0
    for old, new in list(zip(before["trials"], now["trials"], strict=False))[:independent]:
        shared = min(len(old["losses"]), len(new["losses"]))
        if (
            old["name"] != new["name"]
            or old["losses"][:shared] != new["losses"][:shared]
            or not (shared or old["failed"])
        ):
            raise NisbenchError(f"{old['name']}: losses {old['losses'][:epochs]} then, {new['losses'][:epochs]} now")
        losses += shared
    if not losses:
        raise NisbenchError("it has no losses to compare")
    return f"the same {losses} golden losses"


def _compare_pruning(candidate: Candidate, settings: PruneSettings, folder: Path) -> str:
    """All: metrics, sizes, and the scheme's bytes."""
    before, step = records.read_pruning(candidate.folder / "run.json"), candidate.step
    search, split = step.needs["search"], step.needs["split"]
    parts = {part: Path(split.path(part)) for part in split.files}
    with machine.device(settings.device, before["machine"]["threads"], settings.deterministic) as device:
        pruning.run(settings, Path(search.path("weights")), Path(search.path("run")), parts, folder, device)
    now = records.read_pruning(folder / "run.json")
    costs = {"seconds", "machine", "rounds"}
    for key in before.keys() - costs:
        if before[key] != now[key]:  # type: ignore[literal-required]
            raise NisbenchError(f"{key}: {before[key]} then, {now[key]} now")  # type: ignore[literal-required]
    if records.sums_of(folder / "scheme.safetensors") != candidate.record.files["scheme.safetensors"]:
        raise NisbenchError("scheme.safetensors has other bytes")
    return "the same metrics, and the same scheme byte by byte"


def _compare_data(candidate: Candidate, folder: Path) -> str:
    """All rows of all files."""
    made = {key: folder / name for key, name in candidate.step.files.items()}
    steps.make(candidate.step, made)
    for key, name in candidate.step.files.items():
        same = records.sums_of(made[key]) == candidate.record.files[name]  # else the writer may be another version
        if not same and not pq.read_table(made[key]).equals(
            pq.read_table(candidate.folder / name), check_metadata=True
        ):
            raise NisbenchError(f"{name} has other rows")
    return "the same rows in every file"


# --- adopting -------------------------------------------------------------------------------------------------


def adopt(candidate: Candidate, compared: str) -> None:
    """Give a run today's id: link or copy its files, and write a record that says where they are from."""
    step, old = candidate.step, candidate.record
    _check_files(candidate)
    records.remove(step)
    folder = Path(step.folder)
    folder.mkdir(parents=True)
    for name in old.files:
        try:
            os.link(candidate.folder / name, folder / name)
        except OSError:  # another file system, or one without links
            shutil.copy2(candidate.folder / name, folder / name)
    first = old.adopted.id if old.adopted else old.id
    adoption = Adoption(id=first, compared=compared, time=records.now())
    today = records.describe(step, old.files)
    records.write_record(
        step, today.model_copy(update={"code": old.code, "commit": old.commit, "time": old.time, "adopted": adoption})
    )
