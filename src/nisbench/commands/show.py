"""`nisbench show`: all that is known of a step, of a cell of a study, or of a study."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nisbench import records
from nisbench.commands import cells
from nisbench.commands.cells import Filter
from nisbench.commands.output import print_json, size, table
from nisbench.errors import NisbenchError, printable
from nisbench.logs import duration
from nisbench.params.datasets import Dataset
from nisbench.params.step_settings import PrepareSettings, PruneSettings, SearchSettings, SplitSettings
from nisbench.records import pruning_result, search_result
from nisbench.report.outputs import is_current
from nisbench.run_files import ALONE, Machine, PruneRun, Round, SearchRun, Trial
from nisbench.steps import Step, hashed_form
from nisbench.studies import Cell, Plan, StudyPlan

MOST_CELLS = 200
"""That a list shows."""


def show(plan: Plan, what: str, chosen: Filter, json: bool) -> None:
    """Print a study, its cells that match, or the step whose id begins with `what`."""
    if what not in plan.studies:
        if chosen:
            raise NisbenchError(f"--model, --method and so on choose a cell of a study, and {what!r} is none.")
        steps = [plan.step(what)]
    else:
        study = plan.study(what)
        found = chosen.of(study) if chosen else []
        if len({cell.prune.id for cell in found}) != 1:
            _study(study, found, json)
            return
        steps = [found[0].search, found[0].prune]
    if json:
        known = [_known(step) for step in steps]
        print_json(known[0] if len(known) == 1 else known)
    else:
        print(printable("\n\n".join("\n".join(_lines(plan, step)) for step in steps)))


def _known(step: Step) -> dict[str, Any]:
    """Settings, what it needs, its files and, where it has been run, its record and result."""
    known: dict[str, Any] = {
        "id": step.id,
        "step": step.name,
        "dataset": step.dataset,
        "label": step.label,
        "settings": hashed_form(step),
        "needs": {name: f"{needed.id} ({needed.folder})" for name, needed in step.needs.items()},
        "files": {path: Path(path).exists() for path in step.paths()},
    }
    if step.record.exists():
        record = records.read(step.record)
        known |= {"record": record.model_dump(mode="json", include={"code", "commit", "time", "files"})}
    if "run" in step.files and records.done(step):
        known |= {"result": _result(step).model_dump(mode="json")}
    return known


def _result(step: Step) -> SearchRun | PruneRun:
    return search_result(step) if step.name == "search" else pruning_result(step)


# --- studies --------------------------------------------------------------------------------------------------


def _study(study: StudyPlan, found: list[Cell], json: bool) -> None:
    """A study's cells, all unless some were chosen; the ids are of the prunings that fill them."""
    listed = found or list(study.cells)
    if json:
        rows = [
            {"grid": cell.grid, "dataset": cell.dataset, "model": cell.model, "method": cell.method,
             "cr": cell.compression_rate, "seed": cell.seed, "search": cell.search.id, "prune": cell.prune.id,
             "done": records.done(cell.prune)}
            for cell in listed
        ]  # fmt: skip
        print_json({"study": study.name, "title": study.study.title, "cells": rows})
        return
    if not found:
        report = study.folder / "README.md"
        print(f"{study.name}: {study.study.title}")
        print(f"report  {report}{'' if is_current(study) else ' (not up to date)'}\n")
    lines = [
        [cell.prune.id, cells.name(study, cell), "done" if records.done(cell.prune) else "to do"] for cell in listed
    ]
    print(table(["id", "cell", "state"], lines[:MOST_CELLS], fold="cell"))
    if len(lines) > MOST_CELLS:
        print(f"and {len(lines) - MOST_CELLS} more")
    print(
        "\nOne of them: nisbench show ID, or --grid, --dataset, --model, --method, --cr and --seed until one is left."
    )


# --- steps ----------------------------------------------------------------------------------------------------


def _lines(plan: Plan, step: Step) -> Iterator[str]:
    asked, told = cells.asked_by(plan, step), list[str]()
    record = records.read(step.record) if step.record.exists() else None
    state = f"done {record.time}, code {record.commit or 'of no commit'}" if record else "to do"
    yield f"{step.title()} ({step.id}): {state}"
    for study, cell in asked:
        entry = f"  in         {study.name}: {cells.name(study, cell, rate=step.name == 'prune')}"
        if entry not in told:
            told.append(entry)
            yield entry
    yield f"  folder     {step.folder}"
    for name, needed in step.needs.items():
        yield f"  needs      {name} {needed.id} ({'done' if records.done(needed) else 'to do'})"
    if record:
        yield f"  size       {size(sum(file.bytes for file in record.files.values()))}"
    if differing := list(_differing(plan, step, asked)):
        yield "  settings that differ from those of params/ without a study's overrides"
        yield from (f"    {line}" for line in differing)
    else:
        yield "  settings   as in params/"
    if "run" in step.files and records.done(step):
        run = _result(step)
        yield from _of_search(run) if isinstance(run, SearchRun) else _of_pruning(run)
        yield _machine(run.machine)
    yield f"  {'again' if record else 'to do it':<10} nisbench {step.name} {step.id}"
    yield f"  all of it  nisbench show {step.id} --json"


def _differing(plan: Plan, step: Step, asked: list[tuple[StudyPlan, Cell]]) -> Iterator[str]:
    """Each setting that has another value than the entry of params/ that it comes from."""
    params, settings = plan.config.params, step.settings
    pairs: list[tuple[str, Any, Any]] = []
    if asked:
        cell = asked[0][1]
        own: dict[str, Any] = dict(settings) if isinstance(settings, SearchSettings | PruneSettings) else {}
        method, model = params.methods[cell.method], params.models[cell.model]
        pairs = [
            (f"tasks.{params.datasets[cell.dataset].task}", own.get("task"), params.task_of(cell.dataset)),
            (f"models.{cell.model}", own.get("model"), method.own_model or model),
            (f"methods.{cell.method}", own.get("method"), method),
            ("training", own.get("training"), params.training),
        ]
    else:
        for name, dataset in _datasets(plan, step):
            found: Any = settings.dataset if isinstance(settings, PrepareSettings) else None
            found = settings.split if isinstance(settings, SplitSettings) else found
            if step.name == "block":
                pairs.append((f"datasets.{name}.blocks", settings, dataset.blocks))
            elif step.name == "split":
                pairs.append((f"datasets.{name}.split", found, dataset.split))
            elif found is not None:
                pairs.append((f"datasets.{name}", found, dataset))
            break
    for key, own_settings, default in pairs:
        if own_settings is not None:
            here, there = _flat(own_settings, key), _flat(default, key)
            for name in sorted(here.keys() | there.keys()):
                if here.get(name) != there.get(name):
                    yield f"{name}: {here.get(name)} (params/: {there.get(name)})"


def _datasets(plan: Plan, step: Step) -> Iterator[tuple[str, Dataset]]:
    """The entries of params/ whose data set a step prepares, by name."""
    for study in plan.studies.values():
        for block, name in study.dataset_names.items():
            if any(each.id == step.id for each in study.blocks[block].upstream()):
                yield name, plan.config.params.datasets[name]


def _flat(settings: Any, key: str) -> dict[str, Any]:
    """Values by dotted key."""
    value = settings.model_dump(mode="json") if hasattr(settings, "model_dump") else settings
    if not isinstance(value, dict):
        return {key: value}
    return {name: item for part in value for name, item in _flat(value[part], f"{key}.{part}").items()}


def _of_search(run: SearchRun) -> Iterator[str]:
    if run.failed:
        yield f"  failed     {run.failed}"
    if best := run.best:
        yield f"  best trial {best.name}: validation loss {best.loss:.5f}; {_epochs(best)}; {best.weights:,} weights"
    yield f"  took       {duration(run.seconds)}, {size(run.peak_memory_mib * 2**20)} of memory at most"
    yield f"  cost       {run.core_seconds:,.0f} core-seconds, {_measured(run)}"
    heads = ["trial", "validation loss", "best epoch", "of epochs", "time", "stopped by"]
    rows = [
        [trial.name, trial.failed or f"{trial.loss:.5f}", trial.best_epoch, trial.epochs,
         duration(trial.seconds) if trial.seconds else "-", trial.stopped]
        for trial in run.trials
    ]  # fmt: skip
    yield from (f"    {line}" for line in table(heads, rows, heads[2:5]).splitlines())


def _epochs(trained: Trial | Round) -> str:
    late = (
        ", cut off by training.max_epochs: it may not have ended its descent" if trained.stopped == "max_epochs" else ""
    )
    return f"best at epoch {trained.best_epoch} of {trained.epochs}{late}"


def _measured(run: SearchRun) -> str:
    """Whether a search had the machine to itself, and what else it did."""
    if run.measured_alone:
        return "measured alone"
    loads = [trial.other_load for trial in run.trials if trial.other_load is not None]
    fused = max(trial.fused for trial in run.trials)
    reasons = [f"up to {fused} trials trained together"] if fused > 1 else []
    reasons += (
        [f"other processes kept up to {100 * max(loads):.0f} % of the cores busy"]
        if loads and max(loads) >= ALONE
        else []
    )
    return f"not measured alone: {' and '.join(reasons) or 'the system does not tell what else it did'}"


def _of_pruning(run: PruneRun) -> Iterator[str]:
    if run.failed:
        yield f"  failed     {run.failed}"
        return
    for name, value in run.metrics.items():
        yield f"  on test    {name} = {value:.6g}"
    yield f"  weights    {run.nonzeros:,} of {run.weights:,} are left; {size(run.stored_bytes())} as stored, {size(run.size_mib * 2**20)} as the paper counts"
    counts = run.features
    yield f"  features   {counts.without_dimensions:,} of {counts.count:,} have no dimension"
    for one in run.rounds:
        yield f"  round      to CR {one.compression_rate:g}: {_epochs(one)}; {duration(one.seconds)}"


def _machine(machine: Machine) -> str:
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    return f"  machine    {machine.device}, {threads}; torch {machine.packages['torch']}, Python {machine.python}, {machine.system}"
