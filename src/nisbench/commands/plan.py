"""`nisbench plan` and `nisbench studies`: steps, ids, what is done, and what the rest will take."""

import sys
from pathlib import Path
from typing import Any

from nisbench.commands.cells import described
from nisbench.commands.output import print_json, table
from nisbench.errors import NisbenchError
from nisbench.files import write_json
from nisbench.records import done
from nisbench.report.outputs import is_current
from nisbench.steps import STAGES, STEPS
from nisbench.studies import Plan, StudyPlan


def run(study: StudyPlan, threads: int | None, cores: int, json: bool) -> None:
    """Print a study's steps and, unless `threads` is None, what the searches that are to do will take with so many threads each."""
    known = as_json(study) if json else {}
    if not json:
        show(study)
    if threads and not all(done(cell.search) for cell in study.cells):
        print("Estimating what the rest will take (--no-cost leaves this out) ...", file=sys.stderr, flush=True)
        from nisbench import machine  # noqa: PLC0415 - imports torch
        from nisbench.commands import estimate  # noqa: PLC0415

        training = study.params.training
        with machine.device(training.device, threads, training.deterministic, training.precision) as device:
            found = estimate.measure(study, device)
            if json:
                known["cost"] = estimate.as_json(found, device)
            else:
                estimate.show(found, device, cores)
    if json:
        print_json(known)


def show(study: StudyPlan) -> None:
    """Print a study's steps: ids, the names that they have in params/, and which are done."""
    print(f"{study.name}: {study.study.title}\n")
    rows = [[each["step"], each["id"], each["what"], "done" if each["done"] else "to do"] for each in _steps(study)]
    made = is_current(study)
    rows.append(["tables", study.id, str(study.folder), "done" if made else "to do"])
    print(table(["step", "id", "what", "state"], rows, fold="what"))
    finished = sum(row[3] == "done" for row in rows[:-1])
    count = f"\n{finished} of {len(rows) - 1} steps are done."
    if made and finished < len(rows) - 1:
        print(f"{count} The report is up to date all the same: nothing is left to run.")
    elif made:
        print(f"{count} The report is up to date.")
    else:
        print(f"{count} To do the rest: snakemake --cores all {study.name}")
    sys.stdout.flush()  # the estimate may take a while


def as_json(study: StudyPlan) -> dict[str, Any]:
    """The same as values."""
    return {
        "study": study.name,
        "title": study.study.title,
        "id": study.id,
        "report_is_current": is_current(study),
        "steps": _steps(study),
    }


def _steps(study: StudyPlan) -> list[dict[str, Any]]:
    steps = sorted(study.steps.values(), key=lambda step: STEPS.index(step.name))
    words = described(study, steps)
    cells: dict[str, list[dict[str, Any]]] = {}
    for cell in study.cells:
        shared = {"grid": cell.grid, "dataset": cell.dataset, "model": cell.model, "method": cell.method}
        cells.setdefault(cell.prune.id, []).append(shared | {"cr": cell.compression_rate, "seed": cell.seed})
        if (of_search := shared | {"seed": cell.seed}) not in cells.setdefault(cell.search.id, []):
            cells[cell.search.id].append(of_search)
    return [
        {
            "step": step.name,
            "id": step.id,
            "what": words[step.id],
            "done": done(step),
            "folder": str(step.folder),
            "cells": cells.get(step.id, []),
        }
        for step in steps
    ]


def studies(plan: Plan, json: bool) -> None:
    """Print one entry per study."""
    found = [about(study) for study in plan.studies.values()]
    if json:
        print_json(found)
        return
    rows = [
        [each["study"], each["searches"], each["trials"], each["prunings"], f"{each['done']} of {each['steps']}",
         "up to date" if each["report_is_current"] else "to do"]
        for each in found
    ]  # fmt: skip
    heads = ["study", "searches", "trials", "prunings", "steps done", "report"]
    head, *lines = table(heads, rows, heads[1:5]).splitlines()
    print(head)
    for line, each in zip(lines, found, strict=True):
        print(f"{line}\n    {each['title']}\n    {', '.join(each['datasets'])}")
    print(
        "\n`nisbench plan STUDY` lists a study's steps and what the rest will take; `snakemake --cores all STUDY` runs it."
    )


def about(study: StudyPlan) -> dict[str, Any]:
    """What `nisbench studies` says of a study."""
    from nisbench.cost.estimate import trials_of  # noqa: PLC0415 - imports torch

    searches = {cell.search.id: cell for cell in study.cells}
    steps = study.steps.values()
    try:
        trials = sum(trials_of(cell.settings) for cell in searches.values())
    except NisbenchError:  # a method's optional package is not installed
        trials = None
    return {
        "study": study.name,
        "title": study.study.title,
        "datasets": list(dict.fromkeys(cell.dataset for cell in study.cells)),
        "searches": len(searches),
        "trials": trials,
        "prunings": len({cell.prune.id for cell in study.cells}),
        "steps": len(steps),
        "done": sum(map(done, steps)),
        "report_is_current": is_current(study),
    }


def write(plan: Plan, folder: Path) -> None:
    """Write ``<stage>/<data set>.json`` and ``report/<study>.json``: the ids that each DVC stage depends on."""
    for stage, names in STAGES.items():
        for dataset in plan.datasets:
            ids = [
                f"{step.name} {step.label} {step.id}".replace("  ", " ") for step in plan.of_dataset(dataset, *names)
            ]
            write_json(folder / stage / f"{dataset}.json", sorted(ids))
    for study in plan.studies.values():
        write_json(folder / "report" / f"{study.name}.json", study.id)
