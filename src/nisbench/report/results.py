"""A study's results, read from its runs: one row per measured value, with the paper's beside it."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from nisbench import records
from nisbench.data.parquet import read_features
from nisbench.embedding.scheme import DimensionScheme
from nisbench.files import bad_file
from nisbench.records import Record, pruning_result, search_result
from nisbench.steps import Step, rate_name
from nisbench.studies import Cell, StudyPlan

COLUMNS = [
    "study", "grid", "dataset", "task", "k", "model", "method", "cr", "seed", "metric", "value", "paper_value",
    "weights", "nonzeros", "kept", "size_mib", "bytes", "best_epoch", "epochs", "stopped", "cut_off", "measured_alone", "tuned", "validation_loss", "run_id", "code", "failed",
]  # fmt: skip

MEASURED_COSTS = ["core_seconds", "peak_memory_mib"]
"""What differs from one run of the same step to the next. It is kept out of files that are versioned."""


def made(plan: StudyPlan) -> StudyPlan:
    """The study with only those cells and data sets that are done."""
    cells = tuple(cell for cell in plan.cells if not _not_done(cell))
    blocks = {step_id: block for step_id, block in plan.blocks.items() if all(map(records.done, block.upstream()))}
    return replace(plan, cells=cells, blocks=blocks)


def chosen(plan: StudyPlan) -> StudyPlan:
    """The study with one cell for each place in its grids: where a grid tunes a method, the one of the least validation loss.

    Of those that are done, if any is. Raises `NisbenchError` if one's file does not say what its validation loss was.
    """
    places: dict[Any, list[Cell]] = {}
    for cell in plan.cells:
        places.setdefault(cell.key, []).append(cell)
    cells = tuple(tried[0] if len(tried) == 1 else min(tried, key=_validation_loss) for tried in places.values())
    return replace(plan, cells=cells)


def _validation_loss(cell: Cell) -> float:
    if _not_done(cell):
        return math.inf
    result = pruning_result(cell.prune)
    if result.validation_loss is None and not result.failed:
        raise bad_file(cell.prune.path("run"), "validation_loss is missing, so validation cannot choose")
    return sys.float_info.max if result.validation_loss is None else result.validation_loss


def _not_done(cell: Cell) -> str | None:
    return records.why_not_done(cell.search) or records.why_not_done(cell.prune)


def summary(plan: StudyPlan, partial: bool = False) -> pd.DataFrame:
    """All measured values of a study, in the order of its runs. Costs are the whole search's.

    Epochs are of the trial that validation chose. `cut_off` counts the trials of its search, and the rounds after it, that
    ``max_epochs`` stopped.
    Where a run failed, its values are missing and `failed` says why; likewise, if `partial`, where it is not done.
    """
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        missing = _not_done(cell) if partial else None
        pruned, searched = (None, None) if missing else (pruning_result(cell.prune), search_result(cell.search))
        k, failed = cell.settings.training.base_dimension, missing or (pruned and pruned.failed)
        paper: Any = plan.params.reference.results
        for key in (cell.dataset, k, cell.model, cell.method, cell.compression_rate):
            paper = paper.get(key, {})
        task, precision = cell.settings.task, plan.method_of(cell).quantise or "float32"
        stored = mean_error = kept = None
        nonzeros = size = memory = cost = best = None
        metrics: Mapping[str, float | None] = dict.fromkeys(metric.name for metric in task.metrics)
        cut_off, alone = 0, False
        if pruned and searched:
            memory, best = searched.peak_memory_mib, searched.best
            cost = searched.core_seconds + pruned.core_seconds
            cut_off = len(searched.cut_off) + len(pruned.cut_off)
            alone = searched.measured_alone and all(one.measured_alone for one in pruned.rounds)
        if pruned and not failed:
            nonzeros = pruned.nonzeros + pruned.projection_weights
            size, metrics = pruned.size_mib + 4 * pruned.projection_weights / 2**20, pruned.metrics_at(precision)
            stored, mean_error = pruned.stored_bytes(precision), pruned.mean_error
            full = pruned.features.count * k * sum(cell.settings.model.embedding_multiples)
            kept = nonzeros / full if full and not plan.method_of(cell).own_model else 0.0
        values = {
            "params_mib": size,
            "nonzeros": nonzeros,
            "bytes": stored,
            "peak_memory_mib": memory,
            "core_seconds": cost,
            **({"mean_error": mean_error} if task.has_base_rate else {}),
            **metrics,
        }
        if "hours" in paper:  # of one GPU
            paper = {**paper, "core_seconds": 3600 * paper["hours"]}
        shared = {
            "study": plan.name,
            "grid": cell.grid,
            "dataset": cell.dataset,
            "task": task.kind_name(),
            "k": k,
            "model": cell.model,
            "method": cell.method,
            "cr": cell.compression_rate,
            "seed": cell.seed,
            "weights": pruned.weights if pruned else None,
            "nonzeros": nonzeros,
            "kept": kept,
            "size_mib": size,
            "bytes": stored,
            "best_epoch": best and best.best_epoch,
            "epochs": best and best.epochs,
            "stopped": best and best.stopped,
            "cut_off": cut_off,
            "measured_alone": alone,
            "tuned": ", ".join(f"{key}={value}" for key, value in cell.tuned),
            "validation_loss": pruned.validation_loss if pruned else None,
            "run_id": cell.prune.id,
            "code": code_of(records.read(cell.prune.record)) if pruned else None,
            "failed": failed,
        }
        for metric, value in values.items():
            rows.append({**shared, "metric": metric, "value": value, "paper_value": paper.get(metric)})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float, "best_epoch": "Int64", "epochs": "Int64"})


def code_of(record: Record) -> str:
    """The version of the core that computed a run; "development" where its golden values had not been confirmed."""
    core = record.code.get("core", {})
    return f"v{core.get('version', '?')}" + (" development" if "development" in core else "")


def features_and_sizes(cell: Cell) -> tuple[pa.Table, np.ndarray]:
    """The features of a cell's data set, and the number of dimensions that its pruning left each: N rows, and (N,)."""
    path = cell.prune.path("scheme")
    features, sizes = _features_of(cell.search.needs["block"]), DimensionScheme.load(path).sizes()
    if len(features) != len(sizes):
        raise bad_file(path, f"it has {len(sizes):,} features, but the data set {len(features):,}")
    return features, sizes


@lru_cache(maxsize=1)
def _features_of(block: Step) -> pa.Table:
    """Cells of the same data set follow each other."""
    return read_features(block.path("features"))


def complete(plan: StudyPlan, results: pd.DataFrame) -> tuple[StudyPlan, pd.DataFrame]:
    """The study without the methods, at a compression rate, that failed at any seed: the rest can be compared."""
    keys = ["grid", "dataset", "model", "method", "cr"]
    out = {tuple(row) for row in results.loc[results["failed"].notna(), keys].to_numpy()}
    cells = [cell for cell in plan.cells if cell.key[:5] not in out]
    kept = [tuple(row) not in out for row in results[keys].to_numpy()]
    return replace(plan, cells=tuple(cells)), results[kept]


def metrics(results: pd.DataFrame) -> dict[str, Any]:
    """Means over seeds, nested: data set (and grid, if set apart) -> model -> method -> compression rate -> metric.

    For `dvc metrics`, so without times and memory, which differ at every run and would drown what changed.
    """
    nested: dict[str, Any] = {}
    results = results[~results["metric"].isin(MEASURED_COSTS) & results["value"].notna()]
    keys = ["grid", "dataset", "model", "method", "cr", "metric"]
    for row in results.groupby(keys, sort=False)["value"].mean().reset_index().to_dict("records"):
        grid, dataset, model, method, cr, metric, value = row.values()
        of_method = nested.setdefault(f"{dataset} {grid}".strip(), {}).setdefault(model, {}).setdefault(method, {})
        of_method.setdefault(f"cr{rate_name(cr)}", {})[metric] = float(value)
    return nested


def provenance(plan: StudyPlan) -> dict[str, Any]:
    """Every run behind the tables: ids, resolved settings, costs and machines."""
    searches = []
    for step in {cell.search.id: cell.search for cell in plan.cells}.values():
        run = search_result(step).model_dump(mode="json")
        run["trials"] = [{key: value for key, value in trial.items() if key != "losses"} for trial in run["trials"]]
        searches.append(_record_of(step) | run)
    prunings = [_record_of(cell.prune) | pruning_result(cell.prune).model_dump(mode="json") for cell in plan.cells]
    return {"study": plan.name, "id": plan.id, "searches": searches, "prunings": prunings}


def _record_of(step: Step) -> dict[str, Any]:
    return records.read(step.record).model_dump(mode="json")
