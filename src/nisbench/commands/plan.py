"""The plan as people and DVC read it: steps, ids, and what is done."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nisbench.files import write_json
from nisbench.records import done
from nisbench.report.outputs import is_current
from nisbench.steps import STAGES, STEPS
from nisbench.studies import Plan, StudyPlan


def show(studies: list[StudyPlan]) -> None:
    """Print each study's steps and which of them are done."""
    console = Console(highlight=False)
    for study in studies:
        steps = sorted(study.steps.values(), key=lambda step: STEPS.index(step.name))
        table = Table(title=f"{study.name}: {escape(study.study.title)}", title_justify="left", box=None)
        for head in ("step", "id", "data set", "run", ""):
            table.add_column(head, overflow="fold")
        for step in steps:
            table.add_row(step.name, step.id, step.dataset, step.label, "[green]done[/]" if done(step) else "to do")
        made = is_current(study)
        table.add_row("tables", study.id, "", str(study.folder), "[green]done[/]" if made else "to do")
        console.print(table)
        count = f"{sum(map(done, steps))} of {len(steps)} steps are done."
        if made:
            console.print(f"{count} The tables are up to date; missing intermediate files are not needed.\n")
        else:
            console.print(f"{count} Run: snakemake --cores all {study.name}\n")


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
