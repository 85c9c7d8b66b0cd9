"""``README.md`` of a study: all that it found, and how it was found, on one page."""

import base64
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markdown_it import MarkdownIt

from nisbench.console import duration
from nisbench.params.settings import Figure
from nisbench.report import claims
from nisbench.report.figures import TITLES
from nisbench.report.layout import PAPER, Sheet, markdown, terms
from nisbench.report.results import read_run
from nisbench.runs import Step, rate_name
from nisbench.studies import StudyPlan


def text(plan: StudyPlan, results: pd.DataFrame, sheets: dict[Any, Sheet], captions: dict[Figure, str]) -> str:
    """The page, in Markdown."""
    searches = {cell.search.id: cell.search for cell in plan.cells}
    runs = {step_id: read_run(step) for step_id, step in searches.items()}
    found = claims.section(plan, results)
    parts = [f"# {plan.study.title}", _head(plan, runs)]
    if found:
        parts += ["## What it says of the paper's claims", _about_claims(plan), found]
    parts += [sheet.markdown(level=2).strip() for sheet in sheets.values()]
    for figure in plan.study.figures:
        caption = f"{captions[figure]} ([SVG]({figure}.svg), [data]({figure}.csv))"
        parts += [f"## {TITLES[figure]}", f"![{TITLES[figure]}]({figure}.png)", caption]
    parts += ["## Settings", _settings(plan), "## Runs", _runs(plan, searches, runs), "## To repeat it", _repeat(plan)]
    return "\n\n".join(parts) + "\n"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px }
th, td { border: 1px solid #d0d7de; padding: 0.25rem 0.6rem } th { background: #f6f8fa }
img { max-width: 100% } code, pre { font-size: 12px } pre { background: #f6f8fa; padding: 0.8rem; overflow-x: auto }
@media print { body { max-width: none; margin: 0 } table { font-size: 9px; display: table } details { display: none } h2 { break-after: avoid } img { break-inside: avoid } }
"""


def html(plan: StudyPlan, page: str) -> str:
    """The page as one HTML file, the figures in it."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    for figure in (*plan.study.figures, *(["recovery"] if "recovery" in plan.study.tables else [])):
        picture = base64.b64encode(Path(plan.folder, f"{figure}.svg").read_bytes()).decode()
        body = body.replace(f'src="{figure}.png"', f'src="data:image/svg+xml;base64,{picture}"')
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(plan.study.title)}</title><style>{STYLE}</style>{body}</html>\n'


def _head(plan: StudyPlan, runs: dict[str, Any]) -> str:
    seeds = plan.study.seeds
    trials = sum(len(run["trials"]) for run in runs.values())
    dates = sorted(run["machine"]["time"][:10] for run in runs.values())
    machines = {
        f"{run['machine']['device']}, torch {run['machine']['packages']['torch']}": None for run in runs.values()
    }
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return (
        f"{len(runs)} searches with {trials} trials on {len({c.dataset for c in plan.cells})} data sets, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}: {duration(sum(run['seconds'] for run in runs.values()))} of training, "
        f"on {when}, on {'; '.join(machines)}. Made by `snakemake --cores all {plan.name}` from "
        f"[params/studies](../../params/studies), without a word written by hand. Validation chose every trial, epoch and selection; the "
        f"test set was read once per result. Every figure below is also in [summary.csv](summary.csv). *The paper*: {PAPER}."
    )


def _about_claims(plan: StudyPlan) -> str:
    tested = (
        "By paired t-tests over the seeds (two-sided, 5 %, each claim by itself)."
        if len(plan.study.seeds) > 1
        else "One seed: nothing can be told apart from noise here."
    )
    return f"{tested} A claim about other data than these is neither confirmed nor refuted by them."


def _settings(plan: StudyPlan) -> str:
    """Which grids there are, on what terms, and what each method is told."""
    rows = []
    for name, grid in plan.study.grids.items():
        methods = "; ".join(f"{method} ({', '.join(map(rate_name, rates))})" for method, rates in grid.methods.items())
        varied = ", ".join(f"{key} = {', '.join(map(str, values))}" for key, values in (grid.vary or {}).items())
        rows.append([f"`{name}`", ", ".join(grid.datasets), ", ".join(grid.models), methods, varied])
    lines = [markdown(rows, ["Grid", "Data sets", "Models", "Methods (compression rates)", "Varied"], align="left")]
    for name, apart in plan.grids.items():
        if apart.varied:
            continue
        used = [cell for cell in plan.cells if cell.grid == name]
        sections = {
            kind: {
                entry: getattr(apart.params, kind)[entry].model_dump(mode="json")
                for entry in dict.fromkeys(getattr(cell, kind[:-1]) for cell in used)
            }
            for kind in ("datasets", "models", "methods")
        }
        for dataset in sections["datasets"].values():
            dataset.pop("url", None)  # which may be a path of the machine that ran this
        dump = yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=140, allow_unicode=True)
        lines.append(
            _folded(
                f"Settings of {apart.title or 'the grids that nothing sets apart'}",
                f"{terms(apart.params.training)}\n\n```yaml\n{dump}```",
            )
        )
    return "\n\n".join(lines)


def _runs(plan: StudyPlan, searches: dict[str, Step], runs: dict[str, Any]) -> str:
    """A row per search, with the ids of the results that were measured on test."""
    measured: dict[str, list[str]] = {}
    for cell in plan.cells:
        name = plan.titles[cell.grid, f"method {cell.method}"]
        entry = f"`{cell.prune.id}` ({name}, CR {rate_name(cell.compression_rate)})"
        if entry not in measured.setdefault(cell.search.id, []):
            measured[cell.search.id].append(entry)
    grids = {cell.search.id: cell.grid for cell in reversed(plan.cells)}
    rows = []
    for step_id, step in searches.items():
        run = runs[step_id]
        best, machine = run["trials"][run["best_trial"]], run["machine"]
        rows.append(
            [
                " ".join(filter(None, [step.dataset, grids[step_id], step.label])),
                f"`{step_id}`",
                trials_of(run),
                best["name"],
                f"{best['validation_loss']:.4f}",
                str(best.get("best_epoch", "")),
                duration(run["seconds"]),
                f"{run['peak_memory_mib']:.0f} MiB",
                f"{machine['device']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}, torch {machine['packages']['torch']}",
                ", ".join(measured[step_id]),
            ]
        )
    heads = [
        "Search",
        "id",
        "Trials",
        "Chosen",
        "Validation loss",
        "Best epoch",
        "Time",
        "Peak memory",
        "Machine",
        "Measured on test by",
    ]
    table = markdown(rows, heads)
    note = f"`nisbench show ID` prints a run's settings. Where the runs are, `{plan.manifest.name}` holds them all."
    return f"{_folded(f'All {len(rows)} searches', table)}\n\n{note}"


def trials_of(search: dict[str, Any]) -> str:
    """How many trials a search had, and how many of them at most trained at once."""
    at_once = max(trial["at_once"] for trial in search["trials"])
    return f"{len(search['trials'])}" + (f", up to {at_once} at once" if at_once > 1 else "")


def _repeat(plan: StudyPlan) -> str:
    return (
        f"```sh\nmake .venv/ready && source .venv/bin/activate\nnisbench plan {plan.name}              # what it takes here, before it begins\n"
        f"snakemake --cores all {plan.name}     # killed or stopped, it goes on where it was\n"
        f"snakemake --report {plan.name}.html {plan.name}   # one file to send: all of this, with the curves of each search\n```\n\n"
        "On a CPU of the same kind and with the same versions the same seed gives the same figures, times and memory apart."
    )


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"
