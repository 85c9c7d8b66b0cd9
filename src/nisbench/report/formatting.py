"""How tables show results: numbers, names of rows, marks; in Markdown and LaTeX."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from nisbench.errors import printable
from nisbench.params.kinds import kinds
from nisbench.params.tasks import Task
from nisbench.params.training import Training
from nisbench.report.significance import LEVEL, Better, against_best, rounded
from nisbench.run_files import ALONE
from nisbench.steps import rate_name
from nisbench.studies import StudyPlan

NONE = "-"
FAILED = "failed"
PAPER = "arXiv 2006.04466"
KEYS = ["grid", "dataset", "model", "method", "cr"]

OWN_SPLITS = "Each seed draws its own split or, where each user's last items are left out, its own candidates."

TIED, CUT_OFF, NOT_ALONE = "†", "‡", "≈"
"""Marks: of what is not told apart from the best, of a result behind which training was cut off, and of a cost that was not
measured alone."""


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


TIMES = "\N{MULTIPLICATION SIGN}"


def _times(value: float) -> str:
    return (f"{value:.0f}" if value >= 9.95 else f"{value:#.2g}") + TIMES


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


COSTS = {
    "params_mib": Quantity("Params (M)", _three_digits),
    "nonzeros": Quantity("#Params", "{:,.0f}".format),
    "bytes": Quantity("Bytes", "{:,.0f}".format),
    "mean_error": Quantity("Mean error", "{:+.4f}".format),
    "core_seconds": Quantity("Cost", _times),  # as a multiple of another row's
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
    """Each metric in each cell: mean, deviation and number of seeds, the paper's figure, and whether it is the best or tied.

    `p` is of a paired test against the best mean of its grid, data set and model (`significance`); costs have none. Epochs are
    means over seeds; `cut_off` and `measured_alone` say whether the former is so at any seed, the latter at all.
    """
    rows, tested = [], []
    for (grid, dataset, model, metric), group in results.groupby(["grid", "dataset", "model", "metric"], sort=False):
        values = group.pivot(index=["method", "cr"], columns="seed", values="value")  # noqa: PD010 - keeps what is missing
        values = values.loc[list(dict.fromkeys(zip(group["method"], group["cr"], strict=True)))]
        better = quantity(str(metric)).better
        nothing = pd.DataFrame({"p": float("nan"), "best": False, "tied": False}, index=values.index)
        tested.append(against_best(values, better) if better else nothing)
        by_key = group.groupby(["method", "cr"], sort=False)
        paper, best, done = by_key["paper_value"].first(), by_key["best_epoch"].mean(), by_key["epochs"].mean()
        kept = by_key["kept"].mean()
        cut_off, alone = by_key["cut_off"].max() > 0, by_key["measured_alone"].all()
        keys: list[tuple[str, float]] = list(values.index)
        for (method, rate), of_seeds in zip(keys, values.to_numpy(), strict=True):
            key = (grid, dataset, model, method, rate)
            measured = of_seeds[~np.isnan(of_seeds)]
            spread = measured.std(ddof=1) if len(measured) > 1 else float("nan")
            mean = measured.mean() if len(measured) else float("nan")
            counts = (len(of_seeds), len(of_seeds) - len(measured))
            of_key = (series[method, rate] for series in (kept, best, done, cut_off, alone))
            rows.append((*key, metric, mean, spread, *counts, paper[method, rate], *of_key))
    heads = [
        *KEYS, "metric", "mean", "std", "seeds", "failed", "paper", "kept", "best_epoch", "epochs", "cut_off", "measured_alone",
    ]  # fmt: skip
    tests = pd.concat(tested, ignore_index=True) if tested else pd.DataFrame({"p": [], "best": [], "tied": []})
    return pd.DataFrame(rows, columns=heads).join(tests.assign(p=tests["p"].map(rounded)))


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
    """The figures of one column by the rows' keys: mean, and deviation over several seeds; with their marks."""
    shown = {}
    for key, row in chosen.iterrows():
        text = FAILED if row["failed"] == row["seeds"] else figure(metric, row["mean"])
        if row["seeds"] - row["failed"] > 1 and quantity(metric).better:
            text += f" ± {figure(metric, row['std'])}"
        if 0 < row["failed"] < row["seeds"]:
            text += f" ({row['failed']:.0f} of {row['seeds']:.0f} {FAILED})"
        text = f"**{text}**" if row["best"] else f"{text} {TIED}" if row["tied"] else text
        shown[key] = f"{NOT_ALONE} {text}" if metric == "core_seconds" and not row["measured_alone"] else text
    return shown


def body(
    plan: StudyPlan, table: pd.DataFrame, metrics: list[str]
) -> tuple[list[list[str]], str, list[tuple[str, float] | None]]:
    """Rows of one model in one grid, what their marks mean, and each row's method and compression rate.

    A row has a name, the kept share, a column per metric, the best epoch and, in a row below, the paper's figures if it has any.
    """
    names = row_names(plan, table["grid"].iloc[0], list(zip(table["method"], table["cr"], strict=True)))
    table, about_cost = with_relative_cost(plan, table, names)
    by_key = table[table["metric"].isin(metrics)].set_index(["method", "cr"])
    columns = {metric: cells(by_key[by_key["metric"] == metric], metric) for metric in metrics}
    rows: list[list[str]] = []
    keys: list[tuple[str, float] | None] = []
    for key, name in names.items():
        of_key = by_key.loc[[key]]
        mark = f" {CUT_OFF}" if of_key["cut_off"].iloc[0] else ""
        kept = share(of_key["kept"].iloc[0])
        rows.append([name + mark, kept, *(column[key] for column in columns.values()), epochs_of(of_key.iloc[0])])
        keys.append(key)
        paper = of_key.set_index("metric")["paper"].reindex(metrics)
        if paper[[metric for metric in metrics if quantity(metric).better]].notna().any():
            rows.append(["*paper*", NONE, *(figure(metric, paper[metric]) for metric in metrics), NONE])
            keys.append(None)
    return rows, " ".join(filter(None, [legend(by_key), about_cost if "core_seconds" in metrics else ""])), keys


def share(kept: float) -> str:
    """A share in percent, to two significant figures below 10 %."""
    return NONE if pd.isna(kept) else f"{100 * kept:.0f} %" if kept >= 0.0995 or kept == 0 else f"{100 * kept:.2g} %"


def with_relative_cost(
    plan: StudyPlan, table: pd.DataFrame, names: dict[tuple[str, float], str]
) -> tuple[pd.DataFrame, str]:
    """The table with each cost, and each of the paper's, as a multiple of one row's, and a sentence that names that row.

    It is Grid Search's, which the paper measures against too, or else the cheapest that is no control's.
    """
    methods = plan.grids[table["grid"].iloc[0]].params.methods
    is_cost = table["metric"] == "core_seconds"
    costs = table[is_cost & (table["mean"] > 0)].sort_values("mean", kind="stable")
    roles = [methods[name].shown_role for name in costs["method"]]
    searched = costs[[methods[name].in_paper == "Grid Search" for name in costs["method"]]]
    units = pd.concat([searched, costs[[role != "control" for role in roles]], costs]).to_dict("records")
    if not units:
        return table, ""
    unit, table = units[0], table.copy()
    for column in ("mean", "paper"):
        table.loc[is_cost, column] /= unit[column]
    text = f"Cost is a multiple of that of {names[unit['method'], unit['cr']]}, {_amount(unit['mean'])} core-seconds."
    if not table.loc[is_cost, "measured_alone"].all():
        text += f" {NOT_ALONE} Not measured alone: trials trained together, or other processes took cores meanwhile."
    return table, text


def epochs_of(row: pd.Series) -> str:
    """The best epoch and the epochs done, as means over seeds."""
    return NONE if pd.isna(row["epochs"]) else f"{row['best_epoch']:.0f} of {row['epochs']:.0f}"


def legend(table: pd.DataFrame) -> str:
    """What the marks in a table's rows mean, as far as there are any, and how many tests decided them."""
    tests, texts = int(table["p"].notna().sum()), []
    if table["best"].any():
        tied = f"; {TIED} is not told apart from it (p ≥ {LEVEL})" if table["tied"].any() else ""
        texts.append(f"**Bold** is the best mean{tied}; {tests} paired t-test{'s' * (tests > 1)}.")
    if table["cut_off"].any():
        texts.append(f"{CUT_OFF} A training behind this result was cut off by `training.max_epochs`.")
    return " ".join(texts)


def how_to_read(seeds: int, split_per_seed: bool = False) -> str:
    """What the columns, marks and rows of all tables mean."""
    if seeds == 1:
        noise = "One seed: a difference may be noise, so nothing is in bold."
    else:
        split = f"{OWN_SPLITS} " if split_per_seed else "All seeds share one split. "
        noise = (
            f"Quality is mean ± standard deviation over n = {seeds} seeds. {split}**Bold** marks the best mean and nothing else. "
            f"{TIED} marks each result that a paired t-test over the seeds does not tell apart from the best "
            f"({100 * LEVEL:.0f} %, two-sided, adjusted for the number of rows of a column by Benjamini and Hochberg). Below a table "
            f"stands how many tests it took. With {seeds} seeds the test finds large differences only."
        )
    return (
        f"{noise} *paper*: the number that {PAPER} prints for this data set, model and method. CR is the compression "
        "rate: the number of weights that the search allowed, divided by the number kept. A weight that the search "
        "has set to 0 counts as pruned. *As searched*: nothing is pruned after the search. *Kept* is the true share: the weights that are "
        "not 0, of all that the full table of K columns has. #Params is the number of "
        "embedding weights that are not 0, projections included. Params (M) is the paper's measure: the size of "
        "these weights in MiB as a deflated SciPy COO file, not a count. Bytes is what the embeddings take as they are served, "
        "in the layout that takes the least (dense, prefix, CSR or bit mask), in float32 or the precision that the row names. "
        "Mean error is the mean prediction on test less the mean label, in float32. Cost is of the whole search, all trials with their "
        "validation and all training after pruning, in core-seconds (seconds times threads; of a GPU, seconds), as a multiple of "
        "one row's: Grid Search's, or else the cheapest's. The paper's are hours of one GPU, likewise. "
        f"{NOT_ALONE} marks a cost that was not measured alone: trials trained together and shared the time, or other processes "
        f"kept more than {100 * ALONE:.0f} % of the machine's cores busy. No verdict rests on a cost. Memory is the peak of the "
        f"search's process. *Best epoch*, of the epochs done, is of the trial that validation chose. {CUT_OFF} marks a result "
        "behind which at least one training, of any trial of its search or after pruning, was stopped by `training.max_epochs`: "
        "it may not have ended its descent."
    )


def terms(training: Training) -> str:
    """A sentence with the settings that all methods of a grid were trained with."""
    settings = training.model_dump(
        mode="json", exclude={"device", "deterministic", "fused_trials", "checkpoint_seconds"}
    )
    listed = ", ".join(
        f"`{name}: {value:g}`" if isinstance(value, float) else f"`{name}: {value}`" for name, value in settings.items()
    )
    own = "A method's own settings take precedence: an L2 penalty, a warm start, the patience of one that learns its selection."
    return f"Training: {listed}. {own}"


# --- sheets ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubTable:
    """One table of a sheet."""

    heading: str
    heads: list[str]
    rows: list[list[str]]
    legend: str = ""
    """What its marks mean; always below it."""
    note: str = ""
    cells: Sequence[tuple[Any, ...] | None] = ()
    """Of each row, the keys (`KEYS`) of the runs behind it, if any."""


@dataclass(frozen=True)
class Sheet:
    """What people read under one name (such as Table 2), its data, and the pictures that belong to it."""

    title: str
    tables: list[SubTable]
    note: str
    data: pd.DataFrame
    pictures: tuple[tuple[str, str], ...] = ()
    """Description and file."""
    explained: bool = False
    """Whether `note` explains all that the tables show, so that what holds for tables of results need not stand there."""

    def markdown(
        self,
        level: int = 1,
        notes: bool = True,
        links: Mapping[tuple[Any, ...], str] | None = None,
        how_to_read: str = "",
    ) -> str:
        """As a section whose title is a heading of that level, with or without the notes of single tables.

        What explains the tables stands before them. `links` say where a row's runs are found, by its keys.
        """
        texts = [
            f"{'#' * level} {literal(self.title)}",
            *filter(None, [self.note, "" if self.explained else how_to_read]),
        ]
        for table in self.tables:
            texts += [f"{'#' * (level + 1)} {literal(table.heading)}"] if table.heading else []
            targets = [(links or {}).get(key or (), "") for key in table.cells] or [""] * len(table.rows)
            rows = [
                [Link(row[0], target) if target else row[0], *row[1:]]
                for row, target in zip(table.rows, targets, strict=True)
            ]
            texts += [markdown(rows, table.heads), *([literal(table.legend)] if table.legend else [])]
            texts += [table.note] if table.note and notes else []
        texts += [f"![{literal(title)}]({file})" for title, file in self.pictures]
        return "\n\n".join(texts) + "\n"

    def latex(self, label: str, note: str) -> str:
        """A LaTeX table for each table of the sheet (packages booktabs and graphicx), with `note` below the last."""
        texts = ["% needs \\usepackage{booktabs, graphicx}"]
        for i, table in enumerate(self.tables):
            frame = pd.DataFrame(
                [[_latex(_unbroken(cell)) for cell in row] for row in table.rows],
                columns=[_latex(h) for h in table.heads],
            )
            body = frame.to_latex(index=False, escape=False, column_format="l" + "r" * (len(table.heads) - 1))
            title = self.title.partition(": ")[2] or self.title
            caption = ". ".join(filter(None, [title[:1].upper() + title[1:], table.heading]))
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
                        *([f"\\par\\smallskip\\footnotesize {_latex(table.legend)}"] if table.legend else []),
                        *([f"\\par\\smallskip\\footnotesize {_latex(f'{self.note} {note}')}"] if last else []),
                        "\\end{table}",
                    ]
                )
            )
        return "\n\n".join(texts) + "\n"


def folded(title: str, content: str) -> str:
    """Markdown that code hosts show folded. The title's own code is not rendered there, so it should have none."""
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def literal(text: str) -> str:
    """Text from elsewhere for Markdown, in one line: nothing in it is HTML, a link or a picture."""
    text = " ".join(printable(text).split())
    for pattern, instead in ((r"&(?=#?\w+;)", "&amp;"), (r"<(?=[A-Za-z/!?])", "&lt;"), (r"\]\(", r"]\\(")):
        text = re.sub(pattern, instead, text)
    return text


@dataclass(frozen=True)
class Link:
    """A cell of a Markdown table that leads somewhere."""

    text: str
    target: str
    """Ours, without spaces or brackets."""


def markdown(rows: Sequence[Sequence[Any]], heads: list[str], align: str = "right") -> str:
    """A table whose first column is aligned left and the others as said. Cells of figures, which are aligned right, do not wrap."""
    colalign = ["left"] + [align] * (len(heads) - 1)
    whole = align == "right"
    body = [[_cell(cell, whole) for cell in row] for row in rows]
    heads = [_cell(head, whole) for head in heads]
    return tabulate(body, heads, tablefmt="pipe", disable_numparse=True, colalign=colalign)


LONGEST = 60
"""Characters of a cell that is kept on one line."""


def _cell(value: Any, whole: bool) -> str:
    text = literal(str(value.text if isinstance(value, Link) else value)).replace("|", "\\|")
    text = text.replace(" ", NO_BREAK) if whole and len(text) <= LONGEST else _unbroken(text)
    if isinstance(value, Link):
        text = re.sub(r"([\[\]])", r"\\\1", text)
        return f"[{text}]({value.target})"
    return text


NO_BREAK = "\N{NO-BREAK SPACE}"


def _unbroken(text: str) -> str:
    """No-break spaces in "0.73 ± 0.01 †", "≈ 2.0" and a sign, "4 min 09 s", "1,199 MiB" and "CR = 2", so that these stay on one line."""
    return re.sub(
        r" (?=[±=] )|(?<=[±=≈]) | (?=[†‡])|(?<=\d) (?=(?:h|min|s|MiB)\b)|(?<=\bmin) (?=\d)|(?<=\bh) (?=\d)",
        NO_BREAK,
        text,
    )


_LATEX = {
    NO_BREAK: "~",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    TIMES: r"$\times$",
    "≈": r"$\approx$",
    "≥": r"$\geq$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
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
