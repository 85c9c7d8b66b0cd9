"""A study's results, read from its runs: one row per measured value, with the paper's beside it."""

from pathlib import Path
from typing import Any

import pandas as pd

from nisbench.errors import NisbenchError
from nisbench.files import read_json
from nisbench.runs import Step, rate_name
from nisbench.studies import StudyPlan

COLUMNS = [
    "study", "grid", "dataset", "task", "k", "model", "method", "cr", "seed", "metric", "value", "paper_value",
    "weights", "nonzeros", "size_mib", "seconds", "run_id",
]  # fmt: skip


def read_run(step: Step) -> dict[str, Any]:
    path = Path(step.path("run"))
    try:
        run: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        raise NisbenchError(f"{path} is missing: {step.title()} was not run") from None
    return run


def summary(plan: StudyPlan) -> pd.DataFrame:
    """All measured values of a study, in the order of its runs. `seconds` and memory are the whole search's."""
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        pruned, searched = read_run(cell.prune), read_run(cell.search)
        paper: Any = plan.params.reference.results
        for key in (
            cell.dataset,
            cell.settings.training.base_dimension,
            cell.model,
            cell.method,
            cell.compression_rate,
        ):
            paper = paper.get(key, {})
        nonzeros = pruned["nonzeros"] + pruned["projection_weights"]
        size = pruned["size_mib"] + 4 * pruned["projection_weights"] / 2**20
        values = {
            "params_mib": size,
            "nonzeros": nonzeros,
            "peak_memory_mib": searched["peak_memory_mib"],
            "hours": (searched["seconds"] + sum(each["seconds"] for each in pruned["rounds"])) / 3600,
            **pruned["metrics"],
        }
        for metric, value in values.items():
            rows.append(
                {
                    "study": plan.name,
                    "grid": cell.grid,
                    "dataset": cell.dataset,
                    "task": cell.settings.task.kind,
                    "k": cell.settings.training.base_dimension,
                    "model": cell.model,
                    "method": cell.method,
                    "cr": cell.compression_rate,
                    "seed": cell.seed,
                    "metric": metric,
                    "value": value,
                    "paper_value": paper.get(metric),
                    "weights": pruned["weights"],
                    "nonzeros": nonzeros,
                    "size_mib": size,
                    "seconds": searched["seconds"],
                    "run_id": cell.prune.id,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def metrics(results: pd.DataFrame) -> dict[str, Any]:
    """Means over seeds as nested values: data set (and grid, if set apart) -> model -> method -> compression rate -> metric.

    For `dvc metrics`, so without times and memory, which differ at every run and would drown what changed.
    """
    nested: dict[str, Any] = {}
    results = results[~results["metric"].isin(["hours", "peak_memory_mib"])]
    keys = ["grid", "dataset", "model", "method", "cr", "metric"]
    for row in results.groupby(keys, sort=False)["value"].mean().reset_index().to_dict("records"):
        grid, dataset, model, method, cr, metric, value = row.values()
        place = nested.setdefault(f"{dataset} {grid}".strip(), {}).setdefault(model, {}).setdefault(method, {})
        place.setdefault(f"cr{rate_name(cr)}", {})[metric] = float(value)
    return nested


def provenance(plan: StudyPlan) -> dict[str, Any]:
    """Every run behind the tables: ids, resolved settings, costs and machines."""
    searches = {cell.search.id: read_run(cell.search) for cell in plan.cells}
    for run in searches.values():
        run["trials"] = [{k: v for k, v in trial.items() if k != "losses"} for trial in run["trials"]]
    return {
        "study": plan.name,
        "id": plan.id,
        "searches": list(searches.values()),
        "prunings": [read_run(cell.prune) for cell in plan.cells],
    }
