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
from nisbench.steps import Step
from nisbench.studies import Plan


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
        return plan.step(what[0], "prune")
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
