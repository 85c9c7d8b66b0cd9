"""The paper's tables with the printed figures beside ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from nisbench.data.parquet import fields_of
from nisbench.evaluation import topk
from nisbench.params.settings import TaskKind
from nisbench.report.layout import (
    NONE,
    PAPER,
    QUANTITIES,
    Part,
    Sheet,
    cells,
    grouped,
    how_to_read,
    quantity,
    row_names,
    terms,
)
from nisbench.studies import StudyPlan


def table1(plan: StudyPlan, _results: pd.DataFrame) -> Sheet:
    """Instances, fields and features of each data set, counted in its files."""
    rows = []
    for prepare in {block.needs["prepare"].id: block.needs["prepare"] for block in plan.blocks}.values():
        path, name = Path(prepare.path("instances")), prepare.dataset
        instances = pq.ParquetFile(path)
        fields = fields_of(instances.schema_arrow, path)
        counts = {
            "instances": instances.metadata.num_rows,
            "fields": len(fields),
            "features": sum(field.count for field in fields),
        }
        paper = plan.params.reference.datasets.get(name)
        title = next(title for (_, entry), title in plan.titles.items() if entry == f"dataset {name}")
        row: dict[str, Any] = {"dataset": title}
        for key, value in counts.items():
            row |= {key: value, f"{key}_paper": getattr(paper, key, None)}
        rows.append(row)
    table = pd.DataFrame(rows).astype({f"{key}_paper": "Int64" for key in ("instances", "fields", "features")})
    heads = [("", head) for head in ("Dataset", "Instance#", "paper", "Field#", "paper", "Feature#", "paper")]
    body = [
        [row[0], *(NONE if pd.isna(cell) else f"{cell:,}" for cell in row[1:])] for row in table.itertuples(index=False)
    ]
    notes = [f"*paper*: as printed in {PAPER}; {NONE}: it does not have this data set."]
    return Sheet("Table 1: statistics of the data sets", [Part("", heads, body)], notes, table)


def table2(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """Methods against each other on rating prediction, a part per data set."""
    return _comparison(plan, results, "rating", "Table 2: rating prediction", _by_model)


def table3(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """Methods against each other on click-through-rate prediction, a part per data set."""
    return _comparison(plan, results, "ctr", "Table 3: click-through-rate prediction", _by_model)


def table4(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """Methods against each other on top-k recommendation, two parts per data set, one per way of ranking."""
    return _comparison(plan, results, "topk", "Table 4: top-k recommendation", _by_ranking)


def _comparison(
    plan: StudyPlan,
    results: pd.DataFrame,
    task: TaskKind,
    title: str,
    parts_of: Callable[[StudyPlan, pd.DataFrame, str], list[Part]],
) -> Sheet:
    shown = [grid for grid, apart in plan.grids.items() if apart.varied is None]
    table = grouped(results[(results["task"] == task) & results["grid"].isin(shown)])
    parts = []
    for grid, dataset in table[["grid", "dataset"]].drop_duplicates().itertuples(index=False):
        part = table[(table["grid"] == grid) & (table["dataset"] == dataset)]
        parts += parts_of(plan, part, plan.heading(grid, dataset))
    note = (
        f"{MEASURES[task]}, of the trial that validation chose. {how_to_read(len(plan.study.seeds))} {SIZES.get(task, SIZES[''])} "
        "Time cost is the whole search's: all trials, with their validation, and all training after pruning; where several trials "
        "were trained at once, as the list of runs says, of all of these together. Memory is the most that the search's process "
        "held. A method without a CR is unpruned."
    )
    return Sheet(title, parts, [note], table)


def _by_model(plan: StudyPlan, table: pd.DataFrame, heading: str) -> list[Part]:
    """One row per method and compression rate, and per model its costs and qualities."""
    grid = table["grid"].iloc[0]
    heads, columns = [("", "Search method")], []
    for model in table["model"].unique():
        of_model = table[table["model"] == model].set_index(["method", "cr"])
        for metric in [name for name in QUANTITIES if name in set(of_model["metric"]) - {"nonzeros"}]:
            heads.append((plan.titles[grid, f"model {model}"], QUANTITIES[metric].title))
            columns.append(cells(of_model[of_model["metric"] == metric], metric))
    names = row_names(plan, grid, list(zip(table["method"], table["cr"], strict=True)))
    body = [[name, *(column[key] for column in columns)] for key, name in names.items()]
    return [Part(heading, heads, body, terms(plan.grids[grid].params.training))]


def _by_ranking(plan: StudyPlan, table: pd.DataFrame, heading: str) -> list[Part]:
    """Two tables: among sampled candidates, as in the paper, and among all items."""
    grid, dataset = table[["grid", "dataset"]].iloc[0]
    task = plan.grids[grid].params.task_of(dataset)
    assert task.kind == "topk"
    models = list(table["model"].unique())
    parts = []
    for prefix, ranking in (
        ("", f"each test item among {task.candidates} sampled items ({task.sampling})"),
        (topk.FULL, "each test item among all items"),
    ):
        metrics = ["nonzeros", *(prefix + name for name in topk.NAMES), "hours", "peak_memory_mib"]
        body = []
        for model in models:
            of_model = table[table["model"] == model].set_index(["method", "cr"])
            columns = [cells(of_model[of_model["metric"] == name], name) for name in metrics]
            for key, name in row_names(plan, grid, list(dict.fromkeys(of_model.index))).items():
                label = [name] if len(models) == 1 else [plan.titles[grid, f"model {model}"], name]
                body.append([*label, *(column[key] for column in columns)])
        heads = [("", "Search method")] if len(models) == 1 else [("", "Model"), ("", "Search method")]
        heads += [("", quantity(name).title) for name in metrics]
        parts.append(
            Part(f"{heading}: {ranking}", heads, body, terms(plan.grids[grid].params.training) if prefix else "")
        )
    return parts


MEASURES = {
    "rating": "MSE on the test instances",
    "ctr": "AUC and logloss on the test instances",
    "topk": "Recall, MRR and NDCG at ranks up to k of each user's last item, in percent",
}
SIZES = {
    "topk": "#Params is the number of embedding weights that are not 0, projections of them included.",
    "": "Params (M) is the size in MiB of the embedding weights as a deflated SciPy COO file, the paper's measure, and of projections of them.",
}
