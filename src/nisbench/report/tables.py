"""The paper's tables with our figures beside the printed ones, in Markdown and CSV."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow.parquet as pq
from tabulate import tabulate

from nisbench.console import duration, log
from nisbench.data.parquet import fields_of
from nisbench.files import write_json, write_text
from nisbench.params.settings import Task
from nisbench.report.results import metrics, provenance, read_run, summary
from nisbench.runs import Cell, StudyPlan, rate_name

NONE = "-"


def run(plan: StudyPlan) -> None:
    """Write a study's tables, ``summary.csv``, ``metrics.json`` and, last, the manifest of the runs behind them."""
    folder = Path(plan.folder)
    results = summary(plan)
    makers = {"table1": table1, "table2": table2, "table3": table3}
    for name in plan.study.tables:
        text, table = makers[name](plan, results)
        write_text(folder / f"{name}.md", text)
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_text(folder / "summary.csv", results.to_csv(index=False))
    write_json(folder / "metrics.json", metrics(results))
    manifest = Path(plan.manifest)
    unlisted = [folder / f"{name}.{suffix}" for name in makers for suffix in ("md", "csv")]
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
    for name, block in plan.blocks.items():
        instances = pq.ParquetFile(block.needs["prepare"].path("instances"))
        counts = {
            "instances": instances.metadata.num_rows,
            "fields": len(fields_of(instances.schema_arrow, Path(block.needs["prepare"].path("instances")))),
            "features": pq.read_metadata(block.path("features")).num_rows,
        }
        paper = plan.params.reference.datasets.get(name)
        row: dict[str, Any] = {"dataset": plan.params.datasets[name].title}
        for key, value in counts.items():
            row |= {key: value, f"{key}_paper": getattr(paper, key, None)}
        rows.append(row)
    table = pd.DataFrame(rows).astype({f"{key}_paper": "Int64" for key in ("instances", "fields", "features")})
    heads = ["Dataset", "Instance#", "paper", "Field#", "paper", "Feature#", "paper"]
    body = [
        [row[0], *(NONE if pd.isna(cell) else f"{cell:,}" for cell in row[1:])] for row in table.itertuples(index=False)
    ]
    text = f"# Table 1: statistics of the data sets\n\n{_markdown(body, heads)}\n\n{_PAPER_NOTE}\n"
    return text, table


# --- Tables 2 and 3 -------------------------------------------------------------------------------------------

_PAPER_NOTE = "*paper*: as printed in arXiv 2006.04466, where it has this data set."


@dataclass(frozen=True)
class Quality:
    """A metric as tables show it."""

    title: str
    better: Literal["lower", "higher"]


QUALITIES = {"mse": Quality("MSE", "lower"), "auc": Quality("AUC", "higher"), "logloss": Quality("Logloss", "lower")}
COSTS = {"params_mib": "Params (M)", "hours": "Time cost"}


def table2(plan: StudyPlan, results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Methods against each other on rating prediction, a section per data set."""
    return _comparison(plan, results, "rating", "Table 2: rating prediction")


def table3(plan: StudyPlan, results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Methods against each other on click-through-rate prediction, a section per data set."""
    return _comparison(plan, results, "ctr", "Table 3: click-through-rate prediction")


def _comparison(plan: StudyPlan, results: pd.DataFrame, task: Task, title: str) -> tuple[str, pd.DataFrame]:
    results = results[results["task"] == task]
    keys = ["dataset", "model", "method", "cr"]
    rows = [
        {
            **dict(zip(keys, group, strict=True)),
            "metric": metric,
            "mean": values["value"].mean(),
            "std": values["value"].std(),
            "seeds": len(values),
            "paper": values["paper_value"].iloc[0],
        }
        for (*group, metric), values in results.groupby([*keys, "metric"], sort=False)
    ]
    table = pd.DataFrame(rows)
    sections = [f"# {title}\n\n{plan.study.title}."]
    for dataset in table["dataset"].unique():
        heading = plan.params.datasets[dataset].title
        sections.append(f"## {heading}\n\n{_section(plan, table[table['dataset'] == dataset])}")
    shown = [quality.title for metric, quality in QUALITIES.items() if metric in set(table["metric"])]
    cells = [cell for cell in plan.cells if cell.dataset in set(table["dataset"])]
    sections += [_reading(plan, shown), f"## Runs\n\n{_runs(plan, cells)}"]
    return "\n\n".join(sections) + "\n", table


def _section(plan: StudyPlan, table: pd.DataFrame) -> str:
    """One row per method and compression rate, and per model its costs and qualities with the paper's beside."""
    with_paper = bool(table["paper"].notna().any())
    heads, columns = ["Search method"], []
    for model in table["model"].unique():
        for metric in table[table["model"] == model]["metric"].unique():
            chosen = table[(table["model"] == model) & (table["metric"] == metric)].set_index(["method", "cr"])
            name = QUALITIES[metric].title if metric in QUALITIES else COSTS[metric]
            heads.append(f"{plan.params.models[model].title}: {name}")
            columns.append(_cells(chosen, metric))
            if with_paper:
                heads.append("paper")
                columns.append({key: _figure(metric, value) for key, value in chosen["paper"].items()})
    keys = list(dict.fromkeys(zip(table["method"], table["cr"], strict=True)))
    body = []
    for method, rate in keys:
        name = plan.params.methods[method].title
        if rate != 1:
            name += f" (CR = {rate_name(rate)})"
        elif any(other == method and cr != 1 for other, cr in keys):
            name += " (unpruned)"
        body.append([name, *(column.get((method, rate), NONE) for column in columns)])
    return _markdown(body, heads)


def _cells(chosen: pd.DataFrame, metric: str) -> dict[Any, str]:
    """The figures of one column, the best in bold and the second best underlined, as in the paper."""
    cells = {}
    for key, row in chosen.iterrows():
        spread = f" ± {row['std']:.4f}" if row["seeds"] > 1 and metric in QUALITIES else ""
        cells[key] = _figure(metric, row["mean"]) + spread
    if metric in QUALITIES:
        ordered = sorted(set(chosen["mean"]), reverse=QUALITIES[metric].better == "higher")
        for key, mean in chosen["mean"].items():
            if mean == ordered[0]:
                cells[key] = f"**{cells[key]}**"
            elif mean == ordered[1]:
                cells[key] = f"<u>{cells[key]}</u>"
    return cells


def _figure(metric: str, value: float) -> str:
    if pd.isna(value):
        return NONE
    if metric == "hours":
        return duration(value * 3600)
    return f"{value:.4f}" if metric in QUALITIES else f"{value:.3g}"


def _reading(plan: StudyPlan, shown: list[str]) -> str:
    seeds = plan.study.seeds
    noise = (
        "One seed: small differences may be noise."
        if len(seeds) == 1
        else f"Mean ± standard deviation over {len(seeds)} seeds."
    )
    return (
        f"{' and '.join(shown)} on the test instances, of the trial that validation chose; **best**, <u>second best</u>. "
        f"{noise} Params (M) is the size in MiB of the embedding weights as a deflated SciPy COO file, the paper's measure. "
        "Time cost is the whole search's: all trials, with their validation. A method without a CR is unpruned. "
        f"{_PAPER_NOTE}"
    )


def _runs(plan: StudyPlan, cells: list[Cell]) -> str:
    """What was run for the table: a row per search, with its pruning ids."""
    rows: dict[str, list[Any]] = {}
    for cell in cells:
        search = cell.prune.needs["search"]
        if search.id not in rows:
            found = read_run(search)
            best = found["trials"][found["best_trial"]]
            rows[search.id] = [
                f"{cell.dataset} {search.label}",
                f"`{search.id}`",
                len(found["trials"]),
                best["name"],
                f"{best['validation_loss']:.4f}",
                f"{found['peak_memory_mib']:.0f} MiB",
                f"{found['machine']['device']}, {found['machine']['threads']} threads, torch {found['machine']['packages']['torch']}",
                [],
            ]
        rows[search.id][-1].append(f"`{cell.prune.id}` (CR {rate_name(cell.compression_rate)})")
    body = [[*row[:-1], ", ".join(row[-1])] for row in rows.values()]
    heads = ["Search", "id", "Trials", "Chosen", "Validation loss", "Peak memory", "Machine", "Measured on test by"]
    note = f"`nisbench show ID` prints a run's settings; `{plan.manifest.name}` holds them all."
    return f"{_markdown(body, heads)}\n\n{note}"


def _markdown(rows: list[list[Any]], heads: list[str]) -> str:
    align = ["left"] + ["right"] * (len(heads) - 1)
    return tabulate(rows, heads, tablefmt="pipe", disable_numparse=True, colalign=align)
