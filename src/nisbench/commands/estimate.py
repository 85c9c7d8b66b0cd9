"""What a study's searches will take, as people read it."""

from dataclasses import asdict
from itertools import groupby
from statistics import mean
from typing import Any

import torch

from nisbench.commands.output import progress, size, table
from nisbench.cost import estimate
from nisbench.cost.estimate import Estimate
from nisbench.logs import duration
from nisbench.machine import provenance
from nisbench.records import done
from nisbench.studies import StudyPlan

Found = tuple[list[Estimate], list[str]]


def measure(study: StudyPlan, device: torch.device) -> Found:
    """Estimates of the searches that are to do, from step times measured now or before on this device."""
    with progress("timing step") as say:
        return estimate.of_study(study, done, device, say)


def show(found: Found, device: torch.device, cores: int) -> None:
    """Print what the searches that are to do will take; `cores` are there to be used."""
    estimates, unknown = found
    if estimates:
        print("\nWhat is to do will take about\n")
        heads = ["", "searches", "trials", "epochs", "time", "memory", "disk"]
        lines = table(heads, [_row(list(group)) for _, group in _grouped(estimates)], heads[1:]).splitlines()
        print(f"  {lines[0]}")
        of = ""
        for line, ((dataset, model, _), _) in zip(lines[1:], _grouped(estimates), strict=True):
            if of != f"{dataset} {model}":
                of = f"{dataset} {model}"
                print(of)
            print(f"  {line}")
        print(_total(estimates, device, cores))
    for name in unknown:
        print(f"What {name} will take is not known before it is prepared.")


def as_json(found: Found, device: torch.device) -> dict[str, Any]:
    estimates, unknown = found
    return {
        "machine": provenance(device).model_dump(mode="json"),
        "searches": [asdict(each) for each in estimates],
        "unknown_datasets": unknown,
    }


def _grouped(estimates: list[Estimate]) -> list[tuple[tuple[str, str, str], list[Estimate]]]:
    def names(each: Estimate) -> tuple[str, str, str]:
        return each.dataset, each.model, each.method

    return [(key, list(group)) for key, group in groupby(sorted(estimates, key=names), names)]


def _row(of: list[Estimate]) -> list[Any]:
    epochs = f"{mean(each.epochs for each in of):.0f}" + ("*" if any(each.assumed for each in of) else "")
    return [
        of[0].method,
        len(of),
        sum(each.trials for each in of),
        epochs,
        duration(sum(each.seconds for each in of)),
        size(max(each.memory_bytes for each in of)),
        size(sum(each.disk_bytes for each in of)),
    ]


def _total(estimates: list[Estimate], device: torch.device, cores: int) -> str:
    seconds, written = sum(each.seconds for each in estimates), sum(each.disk_bytes for each in estimates)
    machine = provenance(device)
    lines = [
        f"\n{duration(seconds)} for {len(estimates)} searches one by one on {machine.device}; {size(written)} of results."
    ]
    if device.type == "cpu":
        jobs = max(1, min(len(estimates), cores // machine.threads))
        if jobs > 1:
            lines.append(
                f"{duration(seconds / jobs)} with {jobs} searches side by side, each with {machine.threads} of {cores} cores."
            )
    lines.append("Epochs are of each trial: a mean over the runs most like it (*: there are none; assumed).")
    lines.append("Data sets, prunings without training and tables come on top.")
    return "\n".join(lines)
