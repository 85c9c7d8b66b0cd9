"""`nisbench export`: a pruned model as a folder that stands alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from nisbench import serving
from nisbench.commands import cells
from nisbench.commands.cells import Filter
from nisbench.embedding.storage import Layout, Precision
from nisbench.errors import NisbenchError
from nisbench.report.results import chosen as chosen_cells
from nisbench.serving import programs
from nisbench.steps import Step, rate_name
from nisbench.studies import Plan, StudyPlan


def run(
    plan: Plan,
    what: Sequence[str],
    folder: Path,
    chosen: Filter,
    layout: Layout | Literal["auto"],
    values: Precision,
    *,
    onnx: bool,
) -> None:
    """Export the pruning that an id, or a study and a cell, names, and print what the folder holds."""
    if len(what) == 1 and what[0] in plan.studies:
        raise _forgotten(plan.studies[what[0]], str(folder))
    serving.export(_pruning(plan, what, chosen), folder, layout, values)
    if onnx:
        programs.export_onnx(folder)
    model = serving.load_model(folder)
    about = model.description
    print(f"{folder}: {', '.join(f'{name} {value:.5f}' for name, value in model.metrics.items())}")
    print(f"embeddings {about.bytes:,} bytes ({about.layout}, {about.values}), network {about.network_bytes:,} bytes")


def _pruning(plan: Plan, what: Sequence[str], chosen: Filter) -> Step:
    if len(what) == 1:
        if chosen:
            raise NisbenchError(
                "--dataset, --grid and --seed choose among a study's cells: nisbench export STUDY CELL FOLDER"
            )
        return _step(plan, what[0])
    if len(what) != 2:
        raise NisbenchError(
            "Give the id of a pruning, or a study and a cell, and then a folder: nisbench export demo mf/dnis@2 small/"
        )
    study, text = chosen_cells(plan.study(what[0])), what[1]
    found = cells.named(study, text, replace(chosen, seed=None))
    if chosen.seed is not None:
        found = [cell for cell in found if cell.seed == chosen.seed]
    if len(found) != 1:
        seeds = ", ".join(str(cell.seed) for cell in cells.named(study, text, replace(chosen, seed=None)))
        raise NisbenchError(f"{text!r} has one model per seed: add --seed with one of {seeds}")
    return found[0].prune


def _forgotten(study: StudyPlan, given: str) -> NisbenchError:
    """The error about a study and one thing more: a cell, or a folder."""
    match = cells.SIDE.fullmatch(given)
    if match and (match["cr"] or match["method"] in {cell.method for cell in study.cells}):
        missing, cell, folder = "the folder to write", given, "small/"
    else:
        first = study.cells[0]
        cell = f"{first.model}/{first.method}@{rate_name(first.compression_rate)}"
        missing, folder = f"a cell of the study {study.name}", given
    return NisbenchError(f"{missing} is missing. Example: nisbench export {study.name} {cell} {folder}")


def _step(plan: Plan, prefix: str) -> Step:
    """The pruning whose id begins so."""
    try:
        return plan.step(prefix, "prune")
    except NisbenchError:
        other = plan.step(prefix)
    study = next((study.name for study in plan.studies.values() if other.id in study.steps), "STUDY")
    raise NisbenchError(
        f"{prefix} is the id of a {other.name} step, but only a pruning is a model to export. `nisbench results {study} --by-seed` "
        "lists the ids of those that are done."
    )
