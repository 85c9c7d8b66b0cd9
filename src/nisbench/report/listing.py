"""The plan as people and DVC read it: steps, ids, and what is done."""

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from nisbench import records
from nisbench.errors import NisbenchError
from nisbench.files import write_json
from nisbench.records import done
from nisbench.report.results import read_run
from nisbench.runs import STAGES, STEPS, Step, hashed_form
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
        made = all(Path(path).exists() for path in study.outputs())
        table.add_row("tables", study.id, "", str(study.folder), "[green]done[/]" if made else "to do")
        console.print(table)
        count = f"{sum(map(done, steps))} of {len(steps)} steps are done."
        if made:
            console.print(f"{count} The tables are of today's parameters; what is not here is not needed for them.\n")
        else:
            console.print(f"{count} Run: snakemake --cores all {study.name}\n")


def show_step(step: Step) -> None:
    """Print a step's settings, what it needs, its files and, where it has been run, its record."""
    known = {
        "id": step.id,
        "step": step.name,
        "dataset": step.dataset,
        "label": step.label,
        "settings": hashed_form(step),
        "needs": {name: f"{needed.id} ({needed.folder})" for name, needed in step.needs.items()},
        "files": {path: Path(path).exists() for path in step.paths()},
    }
    if Path(step.record).exists():
        known |= {
            "record": records.read(Path(step.record)).model_dump(
                mode="json", include={"code", "commit", "time", "files", "adopted"}
            )
        }
    if "run" in step.files and records.done(step):
        known |= {"result": {key: value for key, value in read_run(step).items() if key != "record"}}
    print(json.dumps(known, indent=2))


def verify(steps: list[Step], remove: bool) -> int:
    """Check the files of those steps that are done; 0 if they are as they were written, or were removed."""
    console = Console(highlight=False, soft_wrap=True)
    there = [step for step in steps if records.done(step)]
    wrong = []
    for step in track(there, "reading", transient=True, console=Console(stderr=True)):
        try:
            records.check(step)
        except NisbenchError as error:
            wrong.append(step)
            console.print(f"[red]wrong[/] {step.title()}: {escape(str(error).partition(' To have it')[0])}")
            if remove:
                records.remove(step)
    console.print(f"{len(there) - len(wrong)} of {len(there)} steps that are done are as they were written.")
    if wrong and remove:
        console.print("The others were removed. The command that made them makes them again.")
    elif wrong:
        console.print("To have the others made again: the same with --remove, and then the command that made them.")
    return 1 if wrong and not remove else 0


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
