"""Which files a study's report consists of. Read by Snakemake too, so it imports nothing that draws."""

from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from nisbench import records
from nisbench.errors import NisbenchError
from nisbench.files import read_json
from nisbench.params.studies import Figure
from nisbench.records import Hash
from nisbench.studies import Cell, StudyPlan


def outputs(plan: StudyPlan) -> list[str]:
    """All files of the report, relative to the project's top folder. The manifest, which is written last, is the last."""
    study = plan.study
    names = [name for item in (*study.tables, *study.figures) for name in item_files(item)]
    names += [*curves(plan), "README.md", "page.html", "runs.json", "leaderboard.csv"]
    names += ["claims.csv", "summary.csv", "metrics.json"]
    return [*(str(plan.folder / name) for name in names), str(manifest(plan))]


def item_files(item: str) -> list[str]:
    """The files of a table or a figure. The recovery table has a picture beside it, and the picture's data."""
    if item in get_args(Figure):
        return [f"{item}.png", f"{item}.svg", f"{item}.csv"]
    picture = ["recovery.png", "recovery.svg", "recovery_dimensions.csv"] if item == "recovery" else []
    return [f"{item}.md", f"{item}.csv", f"{item}.tex", *picture]


def curves(plan: StudyPlan) -> dict[str, list[Cell]]:
    """The files of learning curves, one per search method, model and data set: a cell for each search in it."""
    files: dict[str, list[Cell]] = {}
    seen = set()
    for cell in plan.compared:
        if cell.search.id not in seen:
            seen.add(cell.search.id)
            name = "-".join(filter(None, [cell.dataset, cell.grid, cell.model, cell.method]))
            files.setdefault(f"curves/{name}.svg", []).append(cell)
    return files


def manifest(plan: StudyPlan) -> Path:
    """The manifest of today's report: ``runs-<id>.json``, named by the study's id.

    It holds the sums of the files beside it. While they are as it says, the report is up to date. If one was changed or lost (git
    may put another commit's tables beside a manifest that it does not know), a free name is returned: that file is missing, so the
    report is made again.
    """
    first = plan.folder / f"runs-{plan.id}.json"
    for path in sorted(plan.folder.glob(f"{first.stem}*.json")):
        if _is_true(path):
            return path
    number, free = 1, first
    while free.exists():
        number += 1
        free = plan.folder / f"runs-{plan.id}-{number}.json"
    return free


def is_current(plan: StudyPlan) -> bool:
    """Whether the whole report exists and shows today's runs."""
    return all(Path(path).exists() for path in outputs(plan))


def _is_true(path: Path) -> bool:
    """Whether the files beside a manifest are as it says."""
    try:
        files = TypeAdapter(dict[str, Hash]).validate_python(read_json(path)["files"])
        return all(records.sums_of(Path(name)).sha256 == found for name, found in files.items())
    except (NisbenchError, ValidationError, TypeError, LookupError, OSError):
        return False
