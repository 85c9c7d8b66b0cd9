"""A study's results, read from its runs: one row per measured value, with the paper's beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from nisbench import records
from nisbench.evaluation import topk
from nisbench.params.settings import TaskKind
from nisbench.records import Record
from nisbench.runs import Step, rate_name
from nisbench.studies import StudyPlan

COLUMNS = [
    "study", "grid", "dataset", "task", "k", "model", "method", "cr", "seed", "metric", "value", "paper_value",
    "weights", "nonzeros", "size_mib", "seconds", "run_id", "search_code", "prune_code", "failed",
]  # fmt: skip

METRICS: dict[TaskKind, list[str]] = {
    "rating": ["mse"],
    "ctr": ["auc", "logloss"],
    "topk": [*topk.NAMES, *(topk.FULL + name for name in topk.NAMES)],
}
"""What a pruning measures; of one that failed, what is missing."""


def read_run(step: Step) -> Any:
    """A step's result, once its files are seen to be what was written: a `SearchRun` or a `PruneRun`."""
    record = records.check(step)
    run: Any = (records.read_search if step.name == "search" else records.read_pruning)(Path(step.path("run")))
    return {**run, "record": record}


def summary(plan: StudyPlan) -> pd.DataFrame:
    """All measured values of a study, in the order of its runs. `seconds` and memory are the whole search's.

    Where a run failed, its values are missing and `failed` says why.
    """
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
        failed = pruned["failed"]
        nonzeros = None if failed else pruned["nonzeros"] + pruned["projection_weights"]
        size = None if failed else pruned["size_mib"] + 4 * pruned["projection_weights"] / 2**20
        values = {
            "params_mib": size,
            "nonzeros": nonzeros,
            "peak_memory_mib": searched["peak_memory_mib"],
            "hours": (searched["seconds"] + sum(each["seconds"] for each in pruned["rounds"])) / 3600,
            **(dict.fromkeys(METRICS[cell.settings.task.kind]) if failed else pruned["metrics"]),
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
                    "search_code": code_of(searched["record"]),
                    "prune_code": code_of(pruned["record"]),
                    "failed": failed,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float})


def code_of(record: Record) -> str:
    """By which code a run was computed: its version, and where today's is another that was seen to do alike, a word on that."""
    return record.code[:12] + (" adopted" if record.adopted else "")


def complete(plan: StudyPlan, results: pd.DataFrame) -> tuple[StudyPlan, pd.DataFrame]:
    """The study without the methods, at a compression rate, of which a run failed at any seed: what is left can be compared."""
    keys = ["grid", "dataset", "model", "method", "cr"]
    out = {tuple(row) for row in results.loc[results["failed"].notna(), keys].to_numpy()}
    cells = [c for c in plan.cells if (c.grid, c.dataset, c.model, c.method, c.compression_rate) not in out]
    kept = [tuple(row) not in out for row in results[keys].to_numpy()]
    return replace(plan, cells=tuple(cells)), results[kept]


def metrics(results: pd.DataFrame) -> dict[str, Any]:
    """Means over seeds as nested values: data set (and grid, if set apart) -> model -> method -> compression rate -> metric.

    For `dvc metrics`, so without times and memory, which differ at every run and would drown what changed.
    """
    nested: dict[str, Any] = {}
    results = results[~results["metric"].isin(["hours", "peak_memory_mib"]) & results["value"].notna()]
    keys = ["grid", "dataset", "model", "method", "cr", "metric"]
    for row in results.groupby(keys, sort=False)["value"].mean().reset_index().to_dict("records"):
        grid, dataset, model, method, cr, metric, value = row.values()
        place = nested.setdefault(f"{dataset} {grid}".strip(), {}).setdefault(model, {}).setdefault(method, {})
        place.setdefault(f"cr{rate_name(cr)}", {})[metric] = float(value)
    return nested


def provenance(plan: StudyPlan) -> dict[str, Any]:
    """Every run behind the tables: ids, resolved settings, costs and machines."""
    searches = [_whole(step) for step in {cell.search.id: cell.search for cell in plan.cells}.values()]
    for run in searches:
        run["trials"] = [{k: v for k, v in trial.items() if k != "losses"} for trial in run["trials"]]
    prunings = [_whole(cell.prune) for cell in plan.cells]
    return {"study": plan.name, "id": plan.id, "searches": searches, "prunings": prunings}


def _whole(step: Step) -> dict[str, Any]:
    """All that is known of a run: its record, and its result."""
    run: dict[str, Any] = read_run(step)
    record: Record = run.pop("record")
    return record.model_dump(mode="json") | run
