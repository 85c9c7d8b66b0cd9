"""The paper's tables with the printed figures below ours."""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from nisbench import records
from nisbench.data.parquet import open_instances
from nisbench.params.tasks import Task
from nisbench.report.formatting import FAILED, NONE, PAPER, Sheet, SubTable, body, grouped, quantity, terms
from nisbench.steps import Step
from nisbench.studies import StudyPlan


def table1(plan: StudyPlan, _results: pd.DataFrame) -> Sheet:
    """Instances, fields and features of each data set, counted in its files, and how it was split."""
    rows = []
    heads = ["Data set", "Instance#", "Field#", "Feature#", "Train", "Validation", "Test"]
    failed: list[list[str]] = []
    splits = {block.needs["split"].id: (name, block.needs["split"]) for name, block in _named_blocks(plan)}
    for name, split in splits.values():
        heading = next(grid.params.datasets[name].title for grid in plan.grids.values() if name in grid.params.datasets)
        if not records.done(split):  # in a partial report
            failed.append([heading, FAILED, *[NONE] * (len(heads) - 2)])
            continue
        instances = open_instances(split.needs["prepare"].path("instances"))
        features = sum(instances.field_sizes)
        counts = {"instances": len(instances), "fields": len(instances.fields), "features": features}
        sizes = {of: len(open_instances(split.path(of))) for of in split.files}
        paper = plan.params.reference.datasets.get(name)
        rows.append(
            {"dataset": heading, **counts, **sizes, **{f"{key}_paper": getattr(paper, key, None) for key in counts}}
        )
    table = pd.DataFrame(rows).astype({f"{key}_paper": "Int64" for key in ("instances", "fields", "features")})
    lines: list[list[str]] = []
    for row in rows:
        title, *ours = list(row.values())
        lines.append([str(title), *(f"{value:,}" for value in ours[:6])])
        if row["instances_paper"]:
            lines.append(["*paper*", *(f"{value:,}" for value in ours[6:]), NONE, NONE, NONE])
    note = f"*paper*: as printed in {PAPER}. Train, validation and test are numbers of instances."
    if len(plan.first_blocks) < len(plan.blocks):
        note += f" Each seed has its own split; these are of seed {plan.study.seeds[0]}."
    return Sheet("Table 1: statistics of the data sets", [SubTable("", heads, lines + failed)], note, table)


def _named_blocks(plan: StudyPlan) -> Iterator[tuple[str, Step]]:
    """The study's blocking steps, of the first seed if each seed has its own, each with the entry of `datasets` that asks for it."""
    for block in plan.first_blocks:
        yield plan.dataset_names[block.id], block


def comparison(plan: StudyPlan, results: pd.DataFrame, task: type[Task]) -> Sheet:
    """Methods against each other on one kind of task, a table per data set and model."""
    compared = [name for name, grid in plan.grids.items() if grid.tabled]
    table = grouped(results[(results["task"] == task.kind_name()) & results["grid"].isin(compared)])
    tables: list[SubTable] = []
    for grid, dataset in table[["grid", "dataset"]].drop_duplicates().itertuples(index=False):
        of_dataset = table[(table["grid"] == grid) & (table["dataset"] == dataset)]
        for model, of_model in of_dataset.groupby("model", sort=False):
            heading = plan.title(grid, model=str(model), dataset=dataset)
            for context, qualities in plan.task_of(grid, dataset).column_groups().items():
                metrics = [*task.costs, *(["mean_error"] if task.has_base_rate else []), *qualities]
                heads = ["Search method", "Kept", *(quantity(name).title for name in metrics), "Best epoch"]
                title = f"{heading}: {context}" if context else heading
                rows, legend, keys = body(plan, of_model, metrics)
                cells = [key and (grid, dataset, model, *key) for key in keys]
                tables.append(SubTable(title, heads, rows, legend, cells=cells))
        tables[-1] = replace(tables[-1], note=terms(plan.grids[grid].params.training))
    note = f"{task.measured}, of the trial that validation chose."
    return Sheet(task.table_title, tables, note, table)
