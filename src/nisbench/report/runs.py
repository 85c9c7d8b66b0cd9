"""``runs.json``: what is behind each number of a study's tables, in git, so that nobody needs the runs themselves to look it up.

It has what ``summary.csv`` has not. A run stands on a line of its own, so a page can link to the line. Settings are those of the study,
once; a grid and a run have only what they set differently.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nisbench import records
from nisbench.files import write_text
from nisbench.identity import canonical_json
from nisbench.params.step_settings import PruneSettings
from nisbench.records import Record, pruning_result, search_result
from nisbench.report.panels import Panel, panel_of
from nisbench.report.results import code_of
from nisbench.run_files import Machine, PruneRun, SearchRun
from nisbench.studies import Cell, StudyPlan

NAME = "runs.json"
SECTIONS = ("tasks", "datasets", "models", "methods")
OF_THIS_MACHINE = {"url", "device", "fused_trials", "checkpoint_seconds"}
"""Settings that change no result, and may differ from one machine to the next."""


def write(plan: StudyPlan) -> None:
    """The file of a study whose runs are done, in its folder: a line for each run, searches first, in the order of the plan."""
    searches: dict[str, Cell] = {}
    prunings: dict[str, Cell] = {}
    places: dict[Any, int] = {}
    for cell in plan.cells:
        searches.setdefault(cell.search.id, cell)
        prunings.setdefault(cell.prune.id, cell)
        places.setdefault(cell.key[:5], len(places))
    machines: list[dict[str, Any]] = []
    blocks: dict[str, dict[str, Any]] = {"searches": {}, "prunings": {}}
    for step_id, cell in searches.items():
        blocks["searches"][step_id] = _search(plan, cell, machines)
    for step_id, cell in sorted(prunings.items(), key=lambda item: places[item[1].key[:5]]):  # seeds side by side
        blocks["prunings"][step_id] = _pruning(cell, machines)
    about = {**_about(plan), "machines": machines}
    lines = [f" {json.dumps(key)}: {_one_line(value)}," for key, value in about.items()]
    for name, block in blocks.items():
        entries = [f"  {json.dumps(step_id)}: {_one_line(value)}" for step_id, value in block.items()]
        lines += [f" {json.dumps(name)}: {{", *(f"{entry}," for entry in entries[:-1]), *entries[-1:], " },"]
    lines[-1] = " }"
    write_text(plan.folder / NAME, "\n".join(["{", *lines, "}"]) + "\n")


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def lines_of(folder: Path) -> dict[str, int]:
    """The line of each run in the file; none without the file."""
    found: dict[str, int] = {}
    if not (folder / NAME).exists():
        return found
    for number, line in enumerate((folder / NAME).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith('  "'):
            found[line.split('"')[1]] = number
    return found


def links(plan: StudyPlan) -> dict[tuple[Any, ...], str]:
    """For each place in the study's tables, where the file has its runs: the lines of all seeds, or else of the first."""
    lines = lines_of(plan.folder)
    found: dict[tuple[Any, ...], list[int]] = {}
    for cell in plan.compared:
        if cell.prune.id in lines:  # a report may be of what is done only
            found.setdefault(cell.key[:5], []).append(lines[cell.prune.id])
    return {key: f"{NAME}#{_range(of_key)}" for key, of_key in found.items()}


def _range(lines: list[int]) -> str:
    together = len(lines) > 1 and max(lines) - min(lines) + 1 == len(lines)
    return f"L{min(lines)}-L{max(lines)}" if together else f"L{lines[0]}"


# --- the study ------------------------------------------------------------------------------------------------


def _about(plan: StudyPlan) -> dict[str, Any]:
    study, base = plan.study, settings(plan)
    grids = {
        name: {
            "grid": grid.name,
            "title": grid.title,
            "swept": list(grid.swept) if grid.swept else None,
            "differs": grid_differences(plan, name, base),
        }
        for name, grid in plan.grids.items()
    }
    return {
        "study": {
            "name": plan.name,
            "title": study.title,
            "seeds": study.seeds,
            "split_per_seed": study.split_per_seed,
        },
        **base,
        "grids": grids,
    }


def settings(plan: StudyPlan) -> dict[str, Any]:
    """The study's settings: of training, and of those entries of the other sections that its cells use."""
    return {"training": plain(plan.params.training)} | {section: _entries(plan, section) for section in SECTIONS}


def grid_differences(plan: StudyPlan, grid: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """What a grid sets differently from the study: dotted key -> value."""
    params, used = plan.grids[grid].params, [cell for cell in plan.cells if cell.grid == grid]
    datasets = {cell.dataset for cell in used}
    names = {
        "tasks": {params.datasets[name].task for name in datasets},
        "datasets": datasets,
        "models": {cell.model for cell in used},
        "methods": {cell.method for cell in used},
    }
    sections = {
        section: {name: plain(getattr(params, section)[name]) for name in sorted(of_section)}
        for section, of_section in names.items()
    }
    return differences(base, sections | {"training": plain(params.training)})


def _entries(plan: StudyPlan, section: str) -> dict[str, dict[str, Any]]:
    """Those entries of a section that cells use, as the study has them; or else, as the first grid has them."""
    found: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        params = plan.grids[cell.grid].params
        name = params.datasets[cell.dataset].task if section == "tasks" else getattr(cell, section[:-1])
        if name not in found:
            found[name] = plain(getattr(plan.params, section).get(name) or getattr(params, section)[name])
    return found


def full_bytes(plan: StudyPlan, panel: Panel) -> float | None:
    """What a panel's full table takes in float32; None if no run of its model is done."""
    cells = (cell for cell in plan.cells if panel_of(cell) == panel and not plan.method_of(cell).own_model)
    for cell in cells:
        settings, count = cell.settings, pruning_result(cell.prune).features.count
        if count:
            return 4.0 * count * settings.training.base_dimension * sum(settings.model.embedding_multiples)
    return None


def plain(settings: BaseModel) -> dict[str, Any]:
    """Settings as JSON, with their title, and without what is of one machine only."""
    title = getattr(settings, "title", None)  # which is in no dump, because it enters no id
    dumped: dict[str, Any] = settings.model_dump(mode="json", exclude=OF_THIS_MACHINE)
    return {**({"title": title} if title else {}), **dumped}


def differences(base: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What `other` sets differently from `base`: dotted key -> value. What only `base` has is no difference."""
    found: dict[str, Any] = {}
    for key, value in other.items():
        name = f"{prefix}{key}"
        if key in base and isinstance(value, Mapping) and isinstance(base[key], Mapping):
            found |= differences(base[key], value, f"{name}.")
        elif key not in base or canonical_json(base[key]) != canonical_json(value):
            found[name] = value
    return found


# --- a run ----------------------------------------------------------------------------------------------------


def _search(plan: StudyPlan, cell: Cell, machines: list[dict[str, Any]]) -> dict[str, Any]:
    step, run = cell.search, search_result(cell.search)
    record, best = records.read(step.record), run.best
    base, entries = plan.params, plan.grids[cell.grid].params.methods
    usual = {
        "training": plain(base.training),
        "method": plain(base.methods.get(cell.method) or entries[cell.method]),
        "model": plain(base.models[cell.model]) if cell.model in base.models else {},
        "task": plain(base.task_of(cell.dataset)) if cell.dataset in base.datasets else {},
    }
    own = {name: plain(getattr(cell.settings, name)) for name in usual}
    if plan.method_of(cell).own_model:
        usual.pop("model")
        own.pop("model")
    for each in (usual, own):
        for section in each.values():
            section.pop("title", None)
    return {
        "run": step.folder.as_posix(),
        "differs": differences(usual, own),
        **_made(record, run, machines),
        "seconds": _short(run.seconds),
        "alone": run.measured_alone,
        "peak_memory_mib": round(run.peak_memory_mib),
        **({"failed": run.failed} if run.failed else {}),
        "chosen": run.best_trial,
        "trials": [
            [trial.name, None if trial.validation_loss is None else _short(trial.validation_loss), trial.best_epoch,
             trial.epochs, trial.stopped]
            for trial in run.trials
        ],
        "losses": [_short(loss) for loss in best.losses] if best else [],
    }  # fmt: skip


def _pruning(cell: Cell, machines: list[dict[str, Any]]) -> dict[str, Any]:
    step, run = cell.prune, pruning_result(cell.prune)
    assert isinstance(step.settings, PruneSettings)
    rounds = [
        [one.compression_rate, _short(one.validation_loss), one.best_epoch, one.epochs, one.stopped]
        for one in run.rounds
    ]
    return {
        "search": cell.search.id,
        "run": step.folder.as_posix(),
        **({"tuned": dict(cell.tuned)} if cell.tuned else {}),
        **({"recalibrated": _short(run.offset)} if run.offset else {}),
        **({"rounds": rounds} if rounds else {}),
        "features": [run.features.count, run.features.without_dimensions],
        **_made(records.read(step.record), run, machines),
    }


def _made(record: Record, run: SearchRun | PruneRun, machines: list[dict[str, Any]]) -> dict[str, Any]:
    """By which code, when, and the number, among `machines`, of the machine that did it."""
    machine = _machine(run.machine, record)
    if machine not in machines:
        machines.append(machine)
    return {
        "machine": machines.index(machine),
        "time": run.machine.time,
        "commit": record.commit,
        "code": code_of(record),
    }


def _machine(machine: Machine, record: Record) -> dict[str, Any]:
    return machine.model_dump(mode="json", exclude={"time"}) | {"cores": record.cores}


def _short(value: float) -> float:
    """To five significant figures: more tells nobody more."""
    return float(f"{value:.5g}")
