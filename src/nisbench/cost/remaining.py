"""How long a study's searches will take by the last estimate: what a search that begins says. It imports no torch."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import cast

from nisbench.errors import NisbenchError
from nisbench.files import read_json, write_json
from nisbench.logs import duration
from nisbench.records import done
from nisbench.steps import Step
from nisbench.studies import Plan

ESTIMATES = Path("logs", "estimates.json")
"""Seconds of each search by study and id, as `nisbench plan STUDY` last estimated them."""


def write(study: str, seconds: Mapping[str, float]) -> None:
    """Keep a study's estimates."""
    write_json(ESTIMATES, _read() | {study: dict(seconds)})


def lines(plan: Plan, search: Step) -> Iterator[str]:
    """For each study that asks for a search and has an estimate of it: what it will take, and the rest of the study's searches."""
    for name, seconds in _read().items():
        if name not in plan.studies or search.id not in seconds:
            continue
        steps = plan.studies[name].steps
        rest = [seconds[each] for each in seconds if each in steps and not done(steps[each])]
        yield (
            f"will take about {duration(seconds[search.id])}; the {len(rest)} searches of {name} that are not done, "
            f"one by one, {duration(sum(rest))} (by the estimate of `nisbench plan {name}`)"
        )


def seconds_of(search: Step) -> float | None:
    """What a search will take by the last estimate of any study; None if there is none."""
    return next((seconds[search.id] for seconds in _read().values() if search.id in seconds), None)


def _read() -> dict[str, dict[str, float]]:
    return _read_version(ESTIMATES.absolute(), ESTIMATES.stat().st_mtime_ns) if ESTIMATES.exists() else {}


@lru_cache(maxsize=1)
def _read_version(path: Path, _changed: int) -> dict[str, dict[str, float]]:
    """Snakemake asks once for each job."""
    try:
        found = read_json(path)
        valid = all(isinstance(value, float) for of_study in found.values() for value in of_study.values())
    except (NisbenchError, OSError, AttributeError):
        return {}
    return cast(dict[str, dict[str, float]], found) if valid else {}
