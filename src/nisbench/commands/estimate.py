"""What a study's searches will take, as people read it."""

from itertools import groupby
from statistics import mean

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nisbench.cost import estimate
from nisbench.cost.estimate import Estimate
from nisbench.logs import duration
from nisbench.machine import provenance
from nisbench.records import done
from nisbench.studies import StudyPlan


def _row(each: Estimate) -> tuple[str, str, str]:
    return each.dataset, each.model, each.method


def show(study: StudyPlan, device: torch.device, cores: int) -> None:
    """Print what the searches that are to do will take, from step times measured now or before on this device; `cores` are there to be used."""
    console, say = Console(highlight=False), Console(stderr=True, highlight=False)
    with say.status("timing") as status:
        found, unknown = estimate.of_study(study, done, device, lambda text: status.update(escape(text)))
    if found:
        table = Table(title="What is to do will take about", title_justify="left", box=None)
        for head in ("data set", "model", "method"):
            table.add_column(head)
        for head in ("searches", "trials", "epochs each", "time", "memory", "disk"):
            table.add_column(head, justify="right")
        for key, group in groupby(sorted(found, key=_row), key=_row):
            rows = list(group)
            epochs = f"{mean(row.epochs for row in rows):.0f}" + ("*" if rows[0].assumed else "")
            time, disk = sum(row.seconds for row in rows), sum(row.disk_mib for row in rows)
            memory = max(row.memory_mib for row in rows)
            figures = [
                len(rows),
                sum(row.trials for row in rows),
                epochs,
                duration(time),
                f"{memory:,.0f} MiB",
                f"{disk:,.0f} MiB",
            ]
            table.add_row(*key, *map(str, figures))
        console.print(table)
        seconds, written = sum(row.seconds for row in found), sum(row.disk_mib for row in found)
        machine = provenance(device)
        where = machine.device
        if device.type == "cpu":
            jobs = min(len(found), cores)
            where += f" with {machine.threads} of {cores} cores, or {duration(seconds / jobs)} with {jobs} searches side by side"
        console.print(
            f"{duration(seconds)} for {len(found)} searches one by one on {where}; {written / 1024:,.1f} GiB of results."
        )
        console.print(
            "Epochs are those of the runs most like it (*: there are none; assumed). Data sets and tables come on top.\n"
        )
    for name in unknown:
        console.print(f"What {name} will take is not known before it is prepared.")
