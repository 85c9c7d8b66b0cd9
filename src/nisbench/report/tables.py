"""The paper's tables with our figures beside the printed ones, in Markdown and CSV."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from nisbench.console import log
from nisbench.data.parquet import fields_of
from nisbench.evaluation import topk
from nisbench.files import write_json, write_text
from nisbench.params.settings import TaskKind
from nisbench.report import recovery
from nisbench.report.layout import NONE, PAPER_NOTE, QUANTITIES, cells, figure, grouped, markdown, row_names, terms
from nisbench.report.results import metrics, provenance, read_run, summary
from nisbench.runs import Cell, StudyPlan, rate_name, table_files


def run(plan: StudyPlan) -> None:
    """Write a study's tables, ``summary.csv``, ``metrics.json`` and, last, the manifest of the runs behind them."""
    folder = Path(plan.folder)
    results = summary(plan)
    makers = {"table1": table1, "table2": table2, "table3": table3, "table4": table4, "recovery": recovery.table}
    for name in plan.study.tables:
        text, table = makers[name](plan, results)
        write_text(folder / f"{name}.md", text)
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_text(folder / "summary.csv", results.to_csv(index=False))
    write_json(folder / "metrics.json", metrics(results))
    manifest = Path(plan.manifest)
    unlisted = [folder / file for name in makers for file in table_files(name)]
    for old in [*folder.glob("runs-*.json"), *unlisted]:
        if str(old) not in plan.outputs():
            old.unlink(missing_ok=True)
    write_json(manifest, provenance(plan))
    for name in plan.study.tables:
        log.info("%s", folder / f"{name}.md")


# --- Table 1 --------------------------------------------------------------------------------------------------


def table1(plan: StudyPlan, _results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
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
    heads = ["Dataset", "Instance#", "paper", "Field#", "paper", "Feature#", "paper"]
    body = [
        [row[0], *(NONE if pd.isna(cell) else f"{cell:,}" for cell in row[1:])] for row in table.itertuples(index=False)
    ]
    text = f"# Table 1: statistics of the data sets\n\n{markdown(body, heads)}\n\n{PAPER_NOTE}\n"
    return text, table


# --- Tables 2 to 4 --------------------------------------------------------------------------------------------


def table2(plan: StudyPlan, results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Methods against each other on rating prediction, a section per data set."""
    return _comparison(plan, results, "rating", "Table 2: rating prediction", _by_model)


def table3(plan: StudyPlan, results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Methods against each other on click-through-rate prediction, a section per data set."""
    return _comparison(plan, results, "ctr", "Table 3: click-through-rate prediction", _by_model)


def table4(plan: StudyPlan, results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Methods against each other on top-k recommendation, a section per data set and a table per way of ranking."""
    return _comparison(plan, results, "topk", "Table 4: top-k recommendation", _by_ranking)


def _comparison(
    plan: StudyPlan,
    results: pd.DataFrame,
    task: TaskKind,
    title: str,
    section: Callable[[StudyPlan, pd.DataFrame], str],
) -> tuple[str, pd.DataFrame]:
    results = results[results["task"] == task]
    table = grouped(results)
    sections = [f"# {title}\n\n{plan.study.title}."]
    for grid, dataset in table[["grid", "dataset"]].drop_duplicates().itertuples(index=False):
        part = table[(table["grid"] == grid) & (table["dataset"] == dataset)]
        heading = plan.titles[grid, f"dataset {dataset}"]
        if grid:
            heading += f", {plan.study.grids[grid].title or grid}"
        sections.append(f"## {heading}\n\n{section(plan, part)}\n\n{terms(plan.by_grid[grid].training)}")
    cells = [cell for cell in plan.cells if cell.dataset in set(table["dataset"])]
    sections += [_reading(plan, task), f"## Runs\n\n{_runs(plan, cells)}"]
    return "\n\n".join(sections) + "\n", table


def _by_model(plan: StudyPlan, table: pd.DataFrame) -> str:
    """One row per method and compression rate, and per model its costs and qualities with the paper's beside."""
    grid = table["grid"].iloc[0]
    with_paper = bool(table["paper"].notna().any())
    heads, columns = ["Search method"], []
    for model in table["model"].unique():
        for metric in table[table["model"] == model]["metric"].unique():
            if metric == "nonzeros":
                continue
            chosen = table[(table["model"] == model) & (table["metric"] == metric)].set_index(["method", "cr"])
            heads.append(f"{plan.titles[grid, f'model {model}']}: {QUANTITIES[metric].title}")
            columns.append(cells(chosen, metric))
            if with_paper:
                heads.append("paper")
                columns.append({key: figure(metric, value) for key, value in chosen["paper"].items()})
    names = row_names(plan, grid, list(zip(table["method"], table["cr"], strict=True)))
    body = [[name, *(column.get(key, NONE) for column in columns)] for key, name in names.items()]
    return markdown(body, heads)


def _by_ranking(plan: StudyPlan, table: pd.DataFrame) -> str:
    """Two tables: among sampled candidates, with a row of the paper's figures where it has them; and among all items."""
    grid, dataset = table[["grid", "dataset"]].iloc[0]
    task = next(cell.settings.task for cell in plan.cells if (cell.grid, cell.dataset) == (grid, dataset))
    assert task.kind == "topk"
    models = list(table["model"].unique())
    texts = []
    for prefix, title in (
        ("", f"Each test item among {task.candidates} sampled items ({task.sampling})"),
        (topk.FULL, "Each test item among all items"),
    ):
        metrics = [prefix + name for name in topk.NAMES]
        body = []
        for model in models:
            of_model = table[table["model"] == model].set_index(["method", "cr"])
            columns = {
                name: cells(of_model[of_model["metric"] == name], name) for name in ["nonzeros", *metrics, "hours"]
            }
            for key, name in row_names(plan, grid, list(dict.fromkeys(of_model.index))).items():
                label = [name] if len(models) == 1 else [plan.titles[grid, f"model {model}"], name]
                body.append([*label, *(column[key] for column in columns.values())])
                paper = of_model.loc[[key]].set_index("metric")["paper"]
                if paper[metrics].notna().any():
                    empty = [""] * (len(label) - 1)
                    body.append([*empty, "*paper*", *(figure(name, paper[name]) for name in columns)])
        heads = ["Search method"] if len(models) == 1 else ["Model", "Search method"]
        heads += [QUANTITIES[name.removeprefix(prefix)].title for name in columns]
        texts.append(f"### {title}\n\n{markdown(body, heads)}")
    return "\n\n".join(texts)


MEASURES = {
    "rating": "MSE on the test instances",
    "ctr": "AUC and logloss on the test instances",
    "topk": "Recall, MRR and NDCG at ranks up to k of each user's last item, in percent",
}
SIZES = {
    "topk": "#Params is the number of embedding weights that are not 0, projections of them included.",
    "": "Params (M) is the size in MiB of the embedding weights as a deflated SciPy COO file, the paper's measure, and of projections of them.",
}


def _reading(plan: StudyPlan, task: TaskKind) -> str:
    seeds = plan.study.seeds
    noise = (
        "One seed: small differences may be noise."
        if len(seeds) == 1
        else f"Mean ± standard deviation over {len(seeds)} seeds."
    )
    return (
        f"{MEASURES[task]}, of the trial that validation chose; **best**, <u>second best</u>. "
        f"{noise} {SIZES.get(task, SIZES[''])} "
        "Time cost is the whole search's: all trials, with their validation; where several were trained at once, as the list of "
        "runs says, of all of these together. A method without a CR is unpruned. "
        f"{PAPER_NOTE}"
    )


def trials_of(search: dict[str, Any]) -> str:
    """How many trials a search had, and how many of them at most trained at once."""
    at_once = max(trial["at_once"] for trial in search["trials"])
    return f"{len(search['trials'])}" + (f", up to {at_once} at once" if at_once > 1 else "")


def _runs(plan: StudyPlan, cells: list[Cell]) -> str:
    """What was run for the table: a row per search, with its pruning ids."""
    rows: dict[str, list[Any]] = {}
    for cell in cells:
        search = cell.search
        if search.id not in rows:
            found = read_run(search)
            best = found["trials"][found["best_trial"]]
            rows[search.id] = [
                f"{cell.dataset} {cell.grid} {search.label}".replace("  ", " "),
                f"`{search.id}`",
                trials_of(found),
                best["name"],
                f"{best['validation_loss']:.4f}",
                f"{found['peak_memory_mib']:.0f} MiB",
                f"{found['machine']['device']}, {found['machine']['threads']} threads, torch {found['machine']['packages']['torch']}",
                [],
            ]
        rows[search.id][-1].append(
            f"`{cell.prune.id}` ({plan.titles[cell.grid, f'method {cell.method}']}, CR {rate_name(cell.compression_rate)})"
        )
    body = [[*row[:-1], ", ".join(row[-1])] for row in rows.values()]
    heads = ["Search", "id", "Trials", "Chosen", "Validation loss", "Peak memory", "Machine", "Measured on test by"]
    note = f"`nisbench show ID` prints a run's settings; `{plan.manifest.name}` holds them all."
    return f"{markdown(body, heads)}\n\n{note}"
