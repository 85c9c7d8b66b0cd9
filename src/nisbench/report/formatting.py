"""How tables show results: numbers, names of rows, marks; in Markdown and LaTeX."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from nisbench.logs import duration
from nisbench.params.kinds import kinds
from nisbench.params.tasks import Task
from nisbench.params.training import Training
from nisbench.report.significance import Better, against_best, marked
from nisbench.steps import rate_name
from nisbench.studies import StudyPlan

NONE = "-"
FAILED = "failed"
PAPER = "arXiv 2006.04466"
KEYS = ["grid", "dataset", "model", "method", "cr"]


# --- quantities -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """A metric or a cost as tables show it."""

    title: str
    shown: Callable[[float], str]
    better: Better | None = None
    """None for a cost, which is not marked."""
    context: str = ""
    """What a figure adds to the title, where no heading says it."""
    percent: bool = False


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _three_digits(value: float) -> str:
    """Whole numbers as they are, as the paper prints them."""
    return f"{value:.0f}" if value >= 10 and value == round(value) else f"{value:#.3g}".rstrip(".")


COSTS = {
    "params_mib": Quantity("Params (M)", _three_digits),
    "nonzeros": Quantity("#Params", "{:,.0f}".format),
    "hours": Quantity("Time cost", lambda value: duration(value * 3600)),
    "peak_memory_mib": Quantity("Memory", "{:,.0f} MiB".format),
}


def quantity(metric: str) -> Quantity:
    """How a cost, or a metric of any task, is shown."""
    if metric in COSTS:
        return COSTS[metric]
    for task in kinds("tasks").values():
        for one in task.metrics if issubclass(task, Task) else ():
            if one.name == metric:
                return Quantity(
                    one.title, _percent if one.percent else "{:.4f}".format, one.better, one.context, one.percent
                )
    raise KeyError(metric)


def label(metric: str) -> str:
    """A metric's title where no heading says what was ranked."""
    return quantity(metric).title + quantity(metric).context


def figure(metric: str, value: float) -> str:
    return NONE if pd.isna(value) else quantity(metric).shown(value)


def grouped(results: pd.DataFrame) -> pd.DataFrame:
    """Each metric in each cell: mean, deviation and number of seeds, the paper's figure, and whether it is the best.

    `p` is of a paired test against the best mean of its grid, data set and model (`significance`); costs have none.
    """
    rows, tested = [], []
    for (grid, dataset, model, metric), group in results.groupby(["grid", "dataset", "model", "metric"], sort=False):
        values = group.pivot(index=["method", "cr"], columns="seed", values="value")  # noqa: PD010 - keeps what is missing
        values = values.loc[list(dict.fromkeys(zip(group["method"], group["cr"], strict=True)))]
        better = quantity(str(metric)).better
        p = against_best(values, better) if better else pd.Series(float("nan"), index=values.index)
        paper = group.groupby(["method", "cr"], sort=False)["paper_value"].first()
        keys: list[tuple[str, float]] = list(values.index)
        for (method, rate), of_seeds in zip(keys, values.to_numpy(), strict=True):
            key = (grid, dataset, model, method, rate)
            measured = of_seeds[~np.isnan(of_seeds)]
            spread = measured.std(ddof=1) if len(measured) > 1 else float("nan")
            mean = measured.mean() if len(measured) else float("nan")
            rows.append((*key, metric, mean, spread, len(of_seeds), len(of_seeds) - len(measured), paper[method, rate]))
        tested.append(
            pd.DataFrame({"p": p, "best": marked(values.mean(axis=1), p, better) if better else False}).reset_index(
                drop=True
            )
        )
    table = pd.DataFrame(rows, columns=[*KEYS, "metric", "mean", "std", "seeds", "failed", "paper"])
    return table.join(pd.concat(tested, ignore_index=True)) if rows else table.assign(p=[], best=[])


# --- cells ----------------------------------------------------------------------------------------------------


def row_names(plan: StudyPlan, grid: str, keys: list[tuple[str, float]]) -> dict[tuple[str, float], str]:
    """What each method at a compression rate is called in the first column."""
    names = {}
    for method, rate in dict.fromkeys(keys):
        names[method, rate] = plan.title(grid, method=method)
        if rate != 1:
            names[method, rate] += f" (CR = {rate_name(rate)})"
        elif any(other == method and cr != 1 for other, cr in keys):
            names[method, rate] += " (as searched)"
    return names


def cells(chosen: pd.DataFrame, metric: str) -> dict[Any, str]:
    """The figures of one column by the rows' keys: mean, and deviation over several seeds; the best in bold."""
    shown = {}
    for key, row in chosen.iterrows():
        text = FAILED if row["failed"] == row["seeds"] else figure(metric, row["mean"])
        if row["seeds"] - row["failed"] > 1 and quantity(metric).better:
            text += f" ± {figure(metric, row['std'])}"
        if 0 < row["failed"] < row["seeds"]:
            text += f" ({row['failed']:.0f} of {row['seeds']:.0f} {FAILED})"
        shown[key] = f"**{text}**" if row["best"] else text
    return shown


def body(plan: StudyPlan, table: pd.DataFrame, metrics: list[str]) -> list[list[str]]:
    """Rows of one model in one grid: name, a column per metric and, below, the paper's figures if it has any."""
    by_key = table.set_index(["method", "cr"])
    columns = {metric: cells(by_key[by_key["metric"] == metric], metric) for metric in metrics}
    rows = []
    for key, name in row_names(plan, table["grid"].iloc[0], list(dict.fromkeys(by_key.index))).items():
        rows.append([name, *(column[key] for column in columns.values())])
        paper = by_key.loc[[key]].set_index("metric")["paper"].reindex(metrics)
        if paper[[metric for metric in metrics if quantity(metric).better]].notna().any():
            rows.append(["*paper*", *(figure(metric, paper[metric]) for metric in metrics)])
    return rows


def how_to_read(seeds: int) -> str:
    """What the columns, marks and rows of all tables mean."""
    if seeds == 1:
        noise = "One seed: a difference may be noise, so nothing is in bold."
    else:
        noise = (
            f"Quality is mean ± standard deviation over n = {seeds} seeds. **Bold** marks the best mean, and every "
            "result that is better than all those which a paired t-test over the seeds tells apart from the best (5 "
            "%, two-sided, adjusted for the number of rows by Benjamini and Hochberg). If the test tells nothing "
            f"apart, nothing is in bold. With {seeds} seeds the test finds large differences only."
        )
    return (
        f"{noise} *paper*: the number that {PAPER} prints for this data set, model and method. CR is the compression "
        "rate: the number of weights that the search allowed, divided by the number kept. A weight that the search "
        "has set to 0 counts as pruned. *As searched*: nothing is pruned after the search. #Params is the number of "
        "embedding weights that are not 0, projections included. Params (M) is the paper's measure: the size of "
        "these weights in MiB as a deflated SciPy COO file, not a count. Time cost is the whole search: all trials "
        "with their validation, and all training after pruning. Trials that train together share the time. Memory is "
        "the peak of the search's process."
    )


def terms(training: Training) -> str:
    """A sentence with the settings that all methods of a grid were trained with."""
    settings = training.model_dump(
        mode="json", exclude={"device", "deterministic", "fused_trials", "checkpoint_seconds"}
    )
    listed = ", ".join(
        f"`{name}: {value:g}`" if isinstance(value, float) else f"`{name}: {value}`" for name, value in settings.items()
    )
    own = "A method's own settings take precedence: an L2 penalty, a warm start, a controller's patience."
    return f"Training: {listed}. {own}"


# --- sheets ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubTable:
    """One table of a sheet."""

    heading: str
    heads: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """What people read under one name (such as Table 2), its data, and the pictures that belong to it."""

    title: str
    tables: list[SubTable]
    note: str
    data: pd.DataFrame
    pictures: tuple[tuple[str, str], ...] = ()
    """Description and file."""

    def markdown(self, level: int = 1, notes: bool = True) -> str:
        """As a section whose title is a heading of that level, with or without the notes of single tables."""
        texts = [f"{'#' * level} {self.title}"]
        for table in self.tables:
            texts += [f"{'#' * (level + 1)} {table.heading}"] if table.heading else []
            texts += [markdown(table.rows, table.heads), *([table.note] if table.note and notes else [])]
        texts += [f"![{title}]({file})" for title, file in self.pictures]
        return "\n\n".join([*texts, self.note]) + "\n"

    def latex(self, label: str, note: str) -> str:
        """A LaTeX table for each table of the sheet (packages booktabs and graphicx), with `note` below the last."""
        texts = ["% needs \\usepackage{booktabs, graphicx}"]
        for i, table in enumerate(self.tables):
            frame = pd.DataFrame(
                [[_latex(_unbroken(cell)) for cell in row] for row in table.rows],
                columns=[_latex(h) for h in table.heads],
            )
            body = frame.to_latex(index=False, escape=False, column_format="l" + "r" * (len(table.heads) - 1))
            caption = ". ".join(filter(None, [self.title.partition(": ")[2] or self.title, table.heading]))
            last = i == len(self.tables) - 1
            texts.append(
                "\n".join(
                    [
                        "\\begin{table}[ht]",
                        "\\centering",
                        f"\\caption{{{_latex(caption)}}}",
                        f"\\label{{tab:{label}{f'-{i + 1}' if len(self.tables) > 1 else ''}}}",
                        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
                        f"{body.strip()}}}",
                        *([f"\\par\\smallskip\\footnotesize {_latex(f'{self.note} {note}')}"] if last else []),
                        "\\end{table}",
                    ]
                )
            )
        return "\n\n".join(texts) + "\n"


def markdown(rows: list[list[Any]], heads: list[str], align: str = "right") -> str:
    """A table whose first column is aligned left and the others as said."""
    colalign = ["left"] + [align] * (len(heads) - 1)
    rows = [[_unbroken(str(cell)).replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(rows, heads, tablefmt="pipe", disable_numparse=True, colalign=colalign)


NO_BREAK = "\N{NO-BREAK SPACE}"


def _unbroken(text: str) -> str:
    """No-break spaces in "0.73 ± 0.01", "4 min 09 s", "1,199 MiB" and "CR = 2", so that these stay on one line."""
    return re.sub(
        r" (?=[±=] )|(?<=[±=]) |(?<=\d) (?=(?:h|min|s|MiB)\b)|(?<=\bmin) (?=\d)|(?<=\bh) (?=\d)", NO_BREAK, text
    )


_LATEX = {
    NO_BREAK: "~",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "<": r"$<$",
    ">": r"$>$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def _latex(text: str) -> str:
    """Markdown of one line as LaTeX: bold, emphasis, code, and characters that mean something there."""
    text = "".join(_LATEX.get(character, character) for character in text)
    for mark, command in ((r"\*\*", "textbf"), (r"\*", "emph"), ("`", "texttt")):
        text = re.sub(f"{mark}(.+?){mark}", rf"\\{command}{{\1}}", text)
    return text
