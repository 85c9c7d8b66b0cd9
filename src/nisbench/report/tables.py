"""The paper's tables with the printed figures beside ours."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from nisbench.data.parquet import fields_of
from nisbench.evaluation import topk
from nisbench.params.settings import TaskKind
from nisbench.report.layout import NONE, PAPER, Part, Sheet, body, grouped, quantity, terms
from nisbench.studies import StudyPlan


def table1(plan: StudyPlan, _results: pd.DataFrame) -> Sheet:
    """Instances, fields and features of each data set, counted in its files, and how it was split."""
    rows = []
    for split in {block.needs["split"].id: block.needs["split"] for block in plan.blocks}.values():
        prepare = split.needs["prepare"]
        path, name = Path(prepare.path("instances")), prepare.dataset
        instances = pq.ParquetFile(path)
        fields = fields_of(instances.schema_arrow, path)
        counts = {
            "instances": instances.metadata.num_rows,
            "fields": len(fields),
            "features": sum(field.count for field in fields),
        }
        parts = {part: pq.read_metadata(split.path(part)).num_rows for part in split.files}
        paper = plan.params.reference.datasets.get(name)
        title = next(title for (_, entry), title in plan.titles.items() if entry == f"dataset {name}")
        rows.append(
            {"dataset": title, **counts, **parts, **{f"{key}_paper": getattr(paper, key, None) for key in counts}}
        )
    table = pd.DataFrame(rows).astype({f"{key}_paper": "Int64" for key in ("instances", "fields", "features")})
    heads = ["Data set", "Instance#", "Field#", "Feature#", "Train", "Validation", "Test"]
    lines = []
    for row in rows:
        title, *ours = list(row.values())
        lines.append([title, *(f"{value:,}" for value in ours[:6])])
        if row["instances_paper"]:
            lines.append(["*paper*", *(f"{value:,}" for value in ours[6:]), NONE, NONE, NONE])
    note = f"*paper*: as printed in {PAPER}. Train, validation and test are numbers of instances."
    return Sheet("Table 1: statistics of the data sets", [Part("", heads, lines)], note, table)


def table2(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """Methods against each other on rating prediction, a part per data set and model."""
    return _comparison(plan, results, "rating", "Table 2: rating prediction")


def table3(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """Methods against each other on click-through-rate prediction, a part per data set and model."""
    return _comparison(plan, results, "ctr", "Table 3: click-through-rate prediction")


def table4(plan: StudyPlan, results: pd.DataFrame) -> Sheet:
    """Methods against each other on top-k recommendation, two parts per data set and model, one per way of ranking."""
    return _comparison(plan, results, "topk", "Table 4: top-k recommendation")


def _comparison(plan: StudyPlan, results: pd.DataFrame, kind: TaskKind, title: str) -> Sheet:
    shown = [grid for grid, apart in plan.grids.items() if apart.varied is None]
    table = grouped(results[(results["task"] == kind) & results["grid"].isin(shown)])
    parts = []
    for grid, dataset in table[["grid", "dataset"]].drop_duplicates().itertuples(index=False):
        of_dataset = table[(table["grid"] == grid) & (table["dataset"] == dataset)]
        task = plan.grids[grid].params.task_of(dataset)
        for model, of_model in of_dataset.groupby("model", sort=False):
            heading = f"{plan.titles[grid, f'model {model}']}, {plan.heading(grid, dataset)}"
            if task.kind == "topk":
                ranked = {
                    f"{heading}: each test item among {task.candidates} sampled items ({task.sampling})": list(
                        topk.NAMES
                    ),
                    f"{heading}: each test item among all items": [topk.FULL + name for name in topk.NAMES],
                }
            else:
                ranked = {heading: [name for name in of_model["metric"].unique() if quantity(name).better]}
            for each, qualities in ranked.items():
                metrics = [*COSTS[task.kind], *qualities]
                heads = ["Search method", *(quantity(name).title for name in metrics)]
                parts.append(Part(each, heads, body(plan, of_model, metrics)))
        parts[-1] = replace(parts[-1], note=terms(plan.grids[grid].params.training))
    note = (
        f"{MEASURES[kind]}, of the trial that validation chose. {SIZES[kind]} Time cost is the whole search's: all trials, with "
        "their validation, and all training after pruning; where several trials trained at once, as the list of runs says, of all of "
        "these together. Memory is the peak of the search's whole process."
    )
    return Sheet(title, parts, note, table)


COSTS: dict[TaskKind, list[str]] = {
    "rating": ["nonzeros", "params_mib", "hours", "peak_memory_mib"],
    "ctr": ["nonzeros", "params_mib", "hours", "peak_memory_mib"],
    "topk": ["nonzeros", "hours", "peak_memory_mib"],
}
MEASURES: dict[TaskKind, str] = {
    "rating": "MSE on the test instances",
    "ctr": "AUC and logloss on the test instances",
    "topk": "Recall, MRR and NDCG at ranks up to k of each user's last item, in percent",
}
_WEIGHTS = "#Params is the number of embedding weights that are not 0, projections included"
_FILE = f"{_WEIGHTS}. Params (M), the paper's measure, is no count: it is the size in MiB of these weights as a deflated SciPy COO file."
SIZES: dict[TaskKind, str] = {"rating": _FILE, "ctr": _FILE, "topk": f"{_WEIGHTS}."}
