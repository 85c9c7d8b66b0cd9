"""`nisbench show`: all that is known of a step."""

import json
from pathlib import Path
from typing import Any

from nisbench import records
from nisbench.report.results import pruning_result, search_result
from nisbench.steps import Step, hashed_form


def show_step(step: Step) -> None:
    """Print a step's settings, what it needs, its files and, where it has been run, its record."""
    known: dict[str, Any] = {
        "id": step.id,
        "step": step.name,
        "dataset": step.dataset,
        "label": step.label,
        "settings": hashed_form(step),
        "needs": {name: f"{needed.id} ({needed.folder})" for name, needed in step.needs.items()},
        "files": {path: Path(path).exists() for path in step.paths()},
    }
    if step.record.exists():
        record = records.read(step.record)
        known |= {"record": record.model_dump(mode="json", include={"code", "commit", "time", "files"})}
    if "run" in step.files and records.done(step):
        result = search_result(step) if step.name == "search" else pruning_result(step)
        known |= {"result": result.model_dump(mode="json")}
    print(json.dumps(known, indent=2))
