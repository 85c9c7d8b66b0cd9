"""``README.md`` of a study: its findings, and how they were made, on one page."""

from typing import Any

import pandas as pd
import yaml

from nisbench import records
from nisbench.logs import duration
from nisbench.params.studies import Figure
from nisbench.records import pruning_result, search_result
from nisbench.report import claims, ranges, verdicts
from nisbench.report import runs as run_list
from nisbench.report.comparisons import Finding, Results
from nisbench.report.figures import TITLES
from nisbench.report.formatting import (
    CUT_OFF,
    FAILED,
    NONE,
    NOT_ALONE,
    PAPER,
    Sheet,
    folded,
    how_to_read,
    literal,
    markdown,
    terms,
)  # fmt: skip
from nisbench.report.results import code_of
from nisbench.report.significance import LEVEL
from nisbench.report.takeaways import takeaways
from nisbench.run_files import SearchRun
from nisbench.steps import Step, rate_name
from nisbench.studies import StudyPlan


def text(
    plan: StudyPlan,
    results: pd.DataFrame,
    findings: list[Finding],
    sheets: dict[Any, Sheet],
    captions: dict[Figure, str],
    compared: Results,
    every: StudyPlan,
) -> str:
    """The page, in Markdown. Rows of tables lead to the lines of their runs in ``runs.json``, if that is there.

    `every` plan has the cells, too, that validation did not choose: what they took is told.
    """
    searches = {cell.search.id: cell.search for cell in plan.cells}
    done = {cell.search.id: cell.search for cell in every.cells}
    results_of_all = {step_id: search_result(step) for step_id, step in done.items()}
    runs = {step_id: results_of_all[step_id] for step_id in searches}
    sections = [f"# {literal(plan.study.title)}", _head(plan, results_of_all)]
    if plan.study.note:
        sections.append(plan.study.note.strip())
    data = (sheets[name].data if name in sheets else None for name in ("area", "sweep", "storage"))
    if lines := takeaways(findings, compared, *data):
        sections += ["## In short", "\n".join(f"* {line}" for line in lines), ABOUT_TAKEAWAYS]
    if findings:
        sections += ["## Claims, checked", verdicts.matrix(findings), about_claims(plan, findings)]
        sections.append(verdicts.details(findings, run_list.lines_of(plan.folder)))
    if failures := _failures(plan, results, searches, runs):
        sections.append(failures)
    if cut_off := _cut_off(plan, searches, runs):
        sections.append(cut_off)
    if at_an_end := ranges.text(plan, every, runs):
        sections.append(at_an_end)
    if sheets:
        sections += [
            "## How to read the tables",
            f"{how_to_read(len(plan.study.seeds), plan.study.split_per_seed)} {ABOUT_METHODS}",
        ]
        links = run_list.links(plan)
        sections += [sheet.markdown(level=2, notes=False, links=links).strip() for sheet in sheets.values()]
    for figure in plan.study.figures:
        caption = literal(captions[figure])
        sections += [
            f"## {TITLES[figure]}",
            f"![{caption}]({figure}.png)",
            f"{caption} ([SVG]({figure}.svg), [data]({figure}.csv))",
        ]
    sections += [
        "## Settings",
        _settings(plan),
        "## Runs",
        _runs(plan, searches, runs, len(results_of_all)),
        "## How to repeat it",
        _repeat(plan),
    ]
    return "\n\n".join(sections) + "\n"


ABOUT_TAKEAWAYS = (
    "Rules that were fixed beforehand wrote these lines (`nisbench.report.takeaways`): they count every comparison of a claim, and quote the "
    "first of the study for it and the first against it. Differences are means over seeds. Controls are left out of the rankings. The best is of all "
    "that has the same data set, model and split, whatever its training and its K."
)


def about_claims(plan: StudyPlan, findings: list[Finding]) -> str:
    """How the comparisons are decided, and how many tests that took."""
    tests = sum(not pd.isna(finding.p) for finding in findings)
    made = f"{tests} tests were made, and p is not adjusted for their number: were there no difference at all, about {LEVEL * tests:.2g} of them "
    made = f"{made}would find one." if tests else "No test was made, because there is one seed."
    if plan.study.split_per_seed:
        cover = "initial weights, the order of batches and what else each seed draws (its split or candidates), not other data"
    else:
        cover = "initial weights and the order of batches, not another split, other users or other data"
    return (
        "A claim holds for a model where more than half of its comparisons support it and none contradicts it; likewise it is contradicted. "
        "A paired t-test over the "
        f"seeds decides a comparison of two methods (two-sided, {100 * LEVEL:.0f} %). {made} Where a claim names the best of several, it is "
        "the best on test, which is hardest to beat. To lose to it is easiest, so a claim is contradicted only if p is below "
        f"{LEVEL} when multiplied by the number of rivals (*best of* in the lists). A claim "
        f"about ranks holds if the rank correlation is at least {claims.RANK} at every seed. One seed decides nothing: it points "
        f"one way or the other. The tests cover {cover}. No claim about time is judged: see *Cost* in the tables. "
        "[claims.csv](claims.csv) has every comparison."
    )


LEARNED = "§"
"""The mark of a validation loss on instances that the search has learned from."""

ABOUT_METHODS = (
    "[The table of methods](../../docs/reference/methods.md) explains each name, such as *NIS-SE, half*; *Uniform, "
    "tuned*; or *Network pruning, one shot*. The section Settings lists the terms that all methods were trained "
    "under."
)


def _head(plan: StudyPlan, runs: dict[str, SearchRun]) -> str:
    seeds = plan.study.seeds
    trials = sum(len(run.trials) for run in runs.values())
    dates = sorted(run.machine.time[:10] for run in runs.values())
    machines = {literal(f"{run.machine.device}, torch {run.machine.packages['torch']}"): None for run in runs.values()}
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    sets = len({cell.dataset for cell in plan.cells})
    return (
        f"{len(runs)} searches with {trials} trials on {sets} data set{'s' * (sets > 1)}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}. The searches took "
        f"{duration(sum(run.seconds for run in runs.values()))} in all, added up over those that ran side by side, on "
        f"{when}, on {'; '.join(machines)}. `snakemake --cores all {plan.name}` makes this page, with the settings "
        "below. [summary.csv](summary.csv) has every number of the tables. Validation chose every trial, epoch and "
        f"selection; the test set was read once per result. *The paper* is {PAPER}."
    )


def _failures(plan: StudyPlan, results: pd.DataFrame, searches: dict[str, Step], runs: dict[str, SearchRun]) -> str:
    """The runs and the trials that diverged, and the step at which they did."""
    lines = [
        f"{plan.title(grid, model=model, method=method, dataset=dataset)}"
        f"{'' if rate == 1 else f' (CR = {rate_name(rate)})'}, seed {seed}: {cause}"
        for grid, dataset, model, method, rate, seed, cause in results[results["failed"].notna()][
            ["grid", "dataset", "model", "method", "cr", "seed", "failed"]
        ]
        .drop_duplicates()
        .itertuples(index=False)
    ]
    for step_id, run in runs.items():
        of_search = [f"{trial.name}: {trial.failed}" for trial in run.trials if trial.failed]
        if of_search and run.best_trial is not None:
            step = searches[step_id]
            count = f"{len(of_search)} of {len(run.trials)} trials failed: {'; '.join(of_search)}"
            lines.append(f"{step.dataset} {step.label}: {count}")
    about = "**Failed runs.** Tables mark them; claims and figures leave them out:"
    return "\n".join([about, "", *(f"* {literal(line)}" for line in lines)]) if lines else ""


def _cut_off(plan: StudyPlan, searches: dict[str, Step], runs: dict[str, SearchRun]) -> str:
    """The searches and the prunings in which ``max_epochs`` stopped a training."""
    lines = []
    for step_id, run in runs.items():
        if run.cut_off:
            chosen = [
                f", the chosen one (best epoch {one.best_epoch} of {one.epochs})"
                for one in run.cut_off
                if one is run.best
            ]
            step = searches[step_id]
            lines.append(
                f"* {step.dataset} {step.label}: {len(run.cut_off)} of {len(run.trials)} trials{''.join(chosen)}"
            )
    for step in {cell.prune.id: cell.prune for cell in plan.cells}.values():
        if rounds := pruning_result(step).cut_off:
            last = rounds[-1]
            at = f"{len(rounds)} rounds, the last to CR {rate_name(last.compression_rate)}"
            lines.append(f"* {step.dataset} {step.label}: {at} (best epoch {last.best_epoch} of {last.epochs})")
    if not lines:
        return ""
    about = (
        f"**Cut off.** `training.max_epochs` stopped trainings behind results ({CUT_OFF} in tables). Their loss may still have been "
        "falling, and a learning rate that drops had not ended its schedule. Raise the key to see what they find."
    )
    return f"{about}\n\n" + folded(f"In {len(lines)} run{'s' * (len(lines) > 1)}", "\n".join(lines))


def _settings(plan: StudyPlan) -> str:
    """The study's grids, and the settings of all that is in them."""
    rows = []
    for name, of_study in plan.study.grids.items():
        methods = "; ".join(
            f"{method} ({', '.join(map(rate_name, rates))})" for method, rates in of_study.methods.items()
        )
        swept = ", ".join(f"{key} = {', '.join(map(str, values))}" for key, values in (of_study.sweep or {}).items())
        rows.append([f"`{name}`", ", ".join(of_study.datasets), ", ".join(of_study.models), methods, swept])
    lines = [markdown(rows, ["Grid", "Data sets", "Models", "Methods (compression rates)", "Sweep"], align="left")]
    base = run_list.settings(plan)
    sections = {name: base[name] for name in run_list.SECTIONS}
    dump = yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    lines.append(folded("Settings of all grids", f"{terms(plan.params.training)}\n\n```yaml\n{dump}```"))
    rows = [
        [f"`{name or 'the others'}`", f"`{key}`", f"`{value}`"]
        for name in plan.grids
        for key, value in run_list.grid_differences(plan, name, base).items()
    ]
    if rows:
        differing = markdown(rows, ["Grid", "Key", "Value"], align="left")
        lines.append(folded("What single grids set differently", differing))
    return "\n\n".join(lines)


def _runs(plan: StudyPlan, searches: dict[str, Step], runs: dict[str, SearchRun], every: int) -> str:
    """A row per search that validation chose."""
    cells = {cell.search.id: cell for cell in reversed(plan.cells)}
    several = len({machine_of(run) for run in runs.values()}) > 1
    rows = []
    for step_id, step in searches.items():
        run, cell, record = runs[step_id], cells[step_id], records.read(step.record)
        best = run.best
        learns = LEARNED if plan.method_of(cell).learns_selection else ""
        rows.append(
            [
                plan.title(cell.grid, dataset=cell.dataset),
                plan.title(cell.grid, model=cell.model),
                plan.title(cell.grid, method=cell.method),
                str(cell.seed),
                f"`{step_id}`",
                trials_of(run),
                best.name if best else FAILED,
                f"{best.validation_loss:.4f}{learns}" if best else NONE,
                f"{best.best_epoch} of {best.epochs}" + f" {CUT_OFF}" * (best.stopped == "max_epochs")
                if best
                else NONE,
                duration(run.seconds) if run.measured_alone else f"{NOT_ALONE} {duration(run.seconds)}",
                f"{run.peak_memory_mib:.0f} MiB",
                f"{record.commit or NONE} {code_of(record)}",
                *([machine_of(run)] if several else []),
            ]
        )
    heads = [
        "Data set",
        "Model",
        "Method",
        "Seed",
        "id",
        "Trials",
        "Chosen",
        "Validation loss",
        "Best epoch",
        "Time",
        "Peak memory",
        "Code",
    ]
    table = markdown(rows, [*heads, "Machine"] if several else heads, align="left")
    notes = (
        f"{LEARNED} This search learns its selection from the validation instances, so its validation loss is too low to be "
        f"compared with others. {CUT_OFF} `training.max_epochs` stopped the chosen trial. {NOT_ALONE} The time was not measured "
        "alone. *Code* is the commit of the code that ran (+: with local changes) and the version of "
        "its core (*development*: its golden values were not confirmed). `nisbench show ID` prints a run's settings. "
        "[runs.json](runs.json) has the rest of every run: settings that differ, machine, versions, trials and learning curve."
    )
    behind = f"The {len(rows)} searches behind the tables" if len(rows) < every else f"All {len(rows)} searches"
    return f"{folded(behind, table)}\n\n{notes}"


def machine_of(run: SearchRun) -> str:
    machine = run.machine
    threads = (
        f", {machine.threads} thread{'s' * (machine.threads > 1)} per search"
        if machine.device.startswith("CPU")
        else ""
    )
    versions = f"nisbench {machine.packages['nisbench']}, torch {machine.packages['torch']}, Python {machine.python}"
    return f"{machine.device}{threads} ({versions})"


def trials_of(search: SearchRun) -> str:
    """How many trials a search had, and the most that were fused."""
    fused = max(trial.fused for trial in search.trials)
    failed = sum(trial.failed is not None for trial in search.trials)
    count = f"{len(search.trials)}" + (f", up to {fused} fused" if fused > 1 else "")
    count += f", {len(search.cut_off)} cut off" if search.cut_off else ""
    return count + (f", {failed} failed" if failed else "")


def _repeat(plan: StudyPlan) -> str:
    return (
        f"```sh\nmake .venv/ready && source .venv/bin/activate\nnisbench plan {plan.name}              # how long it "
        f"will take on this machine\nsnakemake --cores all {plan.name}     # if interrupted, the same command "
        f"resumes\nsnakemake --report {plan.name}.html {plan.name}   # this page and all learning curves in one "
        "file\n```\n\nOn a CPU of the same kind and with the same package versions, the same seed gives the same "
        "numbers, except times and memory."
    )
