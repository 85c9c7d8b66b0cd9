"""`nisbench results` and `nisbench compare`: measured values of a study's cells, and differences between two of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nisbench import records
from nisbench.commands import cells
from nisbench.commands.cells import Filter
from nisbench.commands.formats import Format
from nisbench.commands.output import print_json, table
from nisbench.errors import NisbenchError, printable
from nisbench.params.step_settings import PruneSettings
from nisbench.params.tasks import Task
from nisbench.params.tree import nearest
from nisbench.records import pruning_result
from nisbench.report.results import chosen as chosen_cells
from nisbench.report.results import summary
from nisbench.report.significance import LEVEL, paired
from nisbench.report.significance import shown as p_value
from nisbench.steps import Step, rate_name
from nisbench.studies import Plan, StudyPlan

KEYS = ["grid", "dataset", "model", "method", "cr"]
TRAINED = ["best_epoch", "epochs", "cut_off"]
NUMBERS = {"cr", "seed", "value", "mean", "sd", "n", "failed", *TRAINED}


def show(
    study: StudyPlan, chosen: Filter, metrics: Sequence[str], sort: str | None, by_seed: bool, form: Format
) -> None:
    """Print one row per cell and metric: mean, standard deviation and number of seeds; or, `by_seed`, each value.

    Beside it stand the best epoch and the epochs done, as means over seeds, and in how many of these training was cut off.
    """
    study = chosen_cells(study)
    wanted = chosen.of(study)
    done = [cell for cell in wanted if records.done(cell.prune) and records.done(cell.search)]
    if not done:
        raise NisbenchError(f"None of these {len(wanted)} cells is done. Run: snakemake --cores all {study.name}")
    rows = _chosen(study, summary(replace(study, cells=tuple(done))), metrics)
    frame = (
        rows[[*KEYS, "seed", "metric", "value", *TRAINED, "stopped", "run_id", "failed"]] if by_seed else _means(rows)
    )
    if sort:
        column, descending = sort.removeprefix("-"), sort.startswith("-")
        if column not in frame:
            raise NisbenchError(f"--sort: there is no column {column!r}{nearest(column, list(frame))}")
        frame = frame.sort_values(column, ascending=not descending, kind="stable")
    if form is Format.json:
        print_json(frame.astype(object).where(frame.notna(), None).to_dict("records"))
    elif form is Format.csv:
        print(printable(frame.to_csv(index=False, lineterminator="\n")), end="")
    else:
        print(_readable(frame, "pipe" if form is Format.md else "plain"))
        if len(done) < len(wanted) and form is Format.table:
            print(f"\n{len(wanted) - len(done)} more cells are not done. Run: snakemake --cores all {study.name}")


def _chosen(study: StudyPlan, results: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of these metrics; of each task's first headline unless some are named, and of all for "all"."""
    if not metrics:
        first = {
            (grid, dataset): study.task_of(grid, dataset).headlines[0]
            for grid, dataset in results[["grid", "dataset"]].drop_duplicates().to_numpy()
        }
        pairs = zip(results["grid"], results["dataset"], results["metric"], strict=True)
        headline: pd.DataFrame = results[[first[grid, dataset] == metric for grid, dataset, metric in pairs]]
        return headline
    known = list(dict.fromkeys(results["metric"]))
    for metric in metrics:
        if metric not in known and metric != "all":
            raise NisbenchError(f"--metric: there is no {metric!r} here{nearest(metric, ['all', *known])}")
    named: pd.DataFrame = results if "all" in metrics else results[results["metric"].isin(metrics)]
    return named


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    grouped = rows.groupby([*KEYS, "metric"], sort=False)
    value = grouped["value"]
    columns = {"mean": value.mean(), "sd": value.std(), "n": value.count()}
    columns |= {name: grouped[name].mean().astype(float) for name in ("best_epoch", "epochs")}
    columns |= {
        "cut_off": grouped["cut_off"].agg(lambda counts: (counts > 0).sum()),
        "failed": grouped["failed"].count(),
    }
    return pd.DataFrame(columns).reset_index()


def _readable(frame: pd.DataFrame, form: str) -> str:
    """Columns in which nothing stands are left out."""
    empty = [name for name in ("grid", "cut_off", "failed") if not any(value for value in frame[name].fillna(0))]
    heads = [str(name) for name in frame if name not in empty]
    rows = [[_cell(*cell) for cell in zip(heads, row, strict=True)] for row in frame[heads].to_numpy(dtype=object)]
    return table(heads, rows, [name for name in heads if name in NUMBERS], form=form)


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return "-"
    if name in {"best_epoch", "epochs"}:
        return f"{value:.3g}"
    if name in {"value", "mean"}:
        return _figure(value)
    return f"{value:.2g}" if name == "sd" else rate_name(value) if name == "cr" else str(value)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.5g}"


# --- compare --------------------------------------------------------------------------------------------------


def compare(plan: Plan, what: Sequence[str], chosen: Filter, metrics: Sequence[str], json: bool) -> None:
    """Print the values of two cells of a study, or of two prunings, seed by seed, and their differences."""
    if len(what) == 3 and what[0] in plan.studies:
        study = chosen_cells(plan.study(what[0]))
        sides = [cells.named(study, text, chosen) for text in what[1:]]
        runs = [{cell.seed: cell.prune for cell in side} for side in sides]
        names = [cells.name(study, side[0], seed=False) for side in sides]
    elif len(what) == 2 and what[0] not in plan.studies:
        if chosen:
            raise NisbenchError("--dataset and --grid choose among a study's cells: nisbench compare STUDY A B")
        steps = [plan.step(text, "prune") for text in what]
        runs, names = [{_settings(step).seed: step} for step in steps], [f"{step.label} ({step.id})" for step in steps]
    else:
        if len(what) == 3:
            plan.study(what[0])  # says what is wrong with the name
        raise NisbenchError(
            "Give a study and two of its cells (nisbench compare STUDY mf/dnis@2 mf/uniform_tuned@2), or the ids of two prunings."
        )
    found = Comparison(runs[0], runs[1])
    each = [found.of(metric) for metric in found.chosen(metrics)]
    if json:
        print_json({"a": names[0], "b": names[1], "metrics": each, "notes": found.notes})
        return
    print(f"A  {names[0]}\nB  {names[1]}")
    for one in each:
        print(f"\n{_text(one)}")
    if (tests := sum(one["p"] is not None for one in each)) > 1:
        print(f"\n{tests} tests were made; p is not adjusted for their number.")
    print("".join(f"\n{note}" for note in found.notes), end="\n" if found.notes else "")


def _settings(step: Step) -> PruneSettings:
    assert isinstance(step.settings, PruneSettings)
    return step.settings


class Comparison:
    """The values of two cells, by seed."""

    def __init__(self, a: dict[int, Step], b: dict[int, Step]) -> None:
        self.notes: list[str] = []
        tasks = [_settings(next(iter(side.values()))).task for side in (a, b)]
        if type(tasks[0]) is not type(tasks[1]):
            raise NisbenchError(f"A and B are of different tasks ({tasks[0].kind_name()}, {tasks[1].kind_name()}).")
        self.task: Task = tasks[0]
        self.values = [self._measured(side) for side in (a, b)]
        measured_on = [{seed: (s.needs["split"].id, _settings(s).task) for seed, s in side.items()} for side in (a, b)]
        shared = measured_on[0].keys() & measured_on[1].keys()
        self.same_data = all(measured_on[0][seed] == measured_on[1][seed] for seed in shared)
        if not self.same_data:
            self.notes.append(
                "Not paired: A and B are on different data, splits of it or settings of the task, so a seed has nothing in common."
            )
        elif len({str(_settings(next(iter(side.values()))).model) for side in (a, b)}) > 1:
            self.notes.append(
                "A and B are different models: a seed gives them the same order of batches only, not the same weights."
            )
        self._tell_apart(a, b)

    def _measured(self, side: dict[int, Step]) -> dict[int, dict[str, float]]:
        missing = [step for step in side.values() if not records.done(step)]
        if len(missing) == len(side):
            raise NisbenchError(
                f"{missing[0].title()} is not done. Run: snakemake --cores all STUDY, or: nisbench prune {missing[0].id}"
            )
        found = {}
        for seed, step in side.items():
            if step in missing:
                self.notes.append(f"Not done, and left out: {step.title()} ({step.id}).")
            elif (run := pruning_result(step)).failed:
                self.notes.append(f"Failed, and left out: {step.title()} ({step.id}): {run.failed}")
            else:
                found[seed] = run.metrics | {"nonzeros": run.nonzeros + run.projection_weights}
        return found

    def _tell_apart(self, a: dict[int, Step], b: dict[int, Step]) -> None:
        alone = [sorted(side.keys() - other.keys()) for side, other in ((a, b), (b, a))]
        for name, seeds in zip("AB", alone, strict=True):
            if seeds and self.same_data:
                self.notes.append(f"Not paired: seed {', '.join(map(str, seeds))}, which {name} alone has.")
        if all(a[seed].id == b[seed].id for seed in a.keys() & b.keys()) and a.keys() & b.keys():
            self.notes.append("A and B are the very same runs.")

    def chosen(self, metrics: Sequence[str]) -> list[str]:
        known = [*(metric.name for metric in self.task.metrics), "nonzeros"]
        for metric in metrics:
            if metric not in known:
                raise NisbenchError(f"--metric: there is no {metric!r} here{nearest(metric, known)}")
        return list(metrics) or list(self.task.headlines)

    def of(self, metric: str) -> dict[str, Any]:
        """Values by seed, the mean of their differences A - B, its 95 % interval and a p-value, by a paired t-test."""
        a, b = ({seed: values[metric] for seed, values in side.items() if metric in values} for side in self.values)
        seeds = sorted(a.keys() | b.keys())
        pairs = [seed for seed in seeds if seed in a and seed in b and self.same_data]
        left, right = (pd.Series([side[seed] for seed in pairs], dtype=float) for side in (a, b))
        difference = (left - right).to_numpy()
        n = len(pairs)
        mean = float(difference.mean()) if n else None
        interval = p = None
        if n > 1:
            half = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * difference.std(ddof=1) / np.sqrt(n))
            interval, p = [float(difference.mean()) - half, float(difference.mean()) + half], paired(left, right)
        better = next((each.better for each in self.task.metrics if each.name == metric), "lower")
        rows = [
            {
                "seed": seed,
                "a": a.get(seed),
                "b": b.get(seed),
                "difference": a[seed] - b[seed] if seed in pairs else None,
            }
            for seed in seeds
        ]
        return {
            "metric": metric, "better": better, "seeds": rows, "pairs": n, "mean_difference": mean,
            "interval_95": interval, "p": p,
        }  # fmt: skip


def _text(one: dict[str, Any]) -> str:
    rows = [
        [row["seed"], *("-" if row[side] is None else _figure(row[side]) for side in ("a", "b")),
         "-" if row["difference"] is None else f"{row['difference']:+.3g}"]
        for row in one["seeds"]
    ]  # fmt: skip
    heads = ["seed", "A", "B", "A - B"]
    lines = [f"{one['metric']} ({one['better']} is better)", table(heads, rows, heads)]
    mean, n = one["mean_difference"], one["pairs"]
    if mean is None:
        lines.append("No pair of values, so no difference.")
    elif n == 1:
        lines.append(f"mean difference {mean:+.3g}; one pair gives no interval")
    else:
        low, high = one["interval_95"]
        side = "" if mean == 0 else f"; {'A' if (mean < 0) == (one['better'] == 'lower') else 'B'} is better on average"
        lines.append(
            f"mean difference {mean:+.3g}, 95 % interval {low:+.3g} to {high:+.3g}, p = {p_value(one['p'])} (paired t, n = {n}){side}"
        )
    return "\n".join(lines)
