"""All studies on one page, ``results/index.html`` and ``results/README.md``, made from the files of their reports that are in git."""

import shutil
from html import escape
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt

from nisbench.files import write_text
from nisbench.report import paper_claims, verdicts, web
from nisbench.report import runs as run_list
from nisbench.report.comparisons import FAILS, HOLDS
from nisbench.report.formatting import NONE, Link, label, literal, markdown
from nisbench.report.reports import Report, reports

TITLE = "nisbench: results of all studies"
COPIED = ("*.csv", "*.md", "*.tex", "*.svg", "*.png", "runs.json", "metrics.json")


def write_index(results: Path) -> None:
    """Make ``index.html`` in `results`."""
    write_text(results / "index.html", web.document(TITLE, _body(reports(results))))


def publish(results: Path, into: Path) -> list[Path]:
    """Make every study's page and the index anew, from committed files, in the folder `into`, with the files that they link to."""
    written = []
    for report in reports(results):
        folder = into / report.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "page.html", web.page(report.folder))
        written.append(folder / "page.html")
        for pattern in COPIED if into.resolve() != results.resolve() else ():
            for path in report.folder.glob(pattern):
                shutil.copyfile(path, folder / path.name)
    into.mkdir(parents=True, exist_ok=True)
    write_text(into / "index.html", web.document(TITLE, _body(reports(results))))
    write_text(into / "README.md", overview(results))
    return [*written, into / "index.html", into / "README.md"]


def overview(results: Path) -> str:
    """The page as Markdown, for code hosts: the studies, and what becomes of the paper's claims and of those that several check.

    It is in git, so what is not (`NOT_IN_GIT`) is left out. Reports of older versions are named.
    """
    found = [report for report in reports(results) if report.folder.name not in NOT_IN_GIT]
    rows = [[Link(report.title, f"{report.folder.name}/README.md"), *_about(report)] for report in found]
    sections = [f"# {TITLE}", markdown(rows, ["Study", *ABOUT], align="left")]
    if older := sorted(path.parent.name for path in results.glob("*/summary.csv") if not _runs_beside(path)):
        links = ", ".join(f"[{name}]({name})" for name in older)
        sections.append(f"Reports of an older version, which say less, are only listed: {links}.")
    for title, about, claims in _claim_tables(found):
        sections += [f"## {title}", about]
        sections.append(markdown(claims.reset_index().to_numpy().tolist(), ["Claim", *claims], align="left"))
    for report in found:
        if lines := _in_short(report):
            sections += [f"## {literal(report.title)}", "\n".join(lines)]
    return "\n\n".join([*sections, "`nisbench pages` makes this page from the studies' files."]) + "\n"


NOT_IN_GIT = {"demo"}


def _runs_beside(path: Path) -> bool:
    return path.with_name(run_list.NAME).exists()


def claims_of_all(found: list[Report]) -> pd.DataFrame:
    """The verdicts on each claim that several studies check, a column per study and model."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    studies: dict[str, set[str]] = {}
    for report in found:
        every = pd.read_csv(report.folder / "claims.csv", keep_default_na=False)
        for key, of_model in every.groupby(["claim", "model"], sort=False):
            claim, model = map(str, key)
            columns.setdefault((report.folder.name, model), {})[claim] = verdicts.cell(list(of_model["verdict"]))
            studies.setdefault(claim, set()).add(report.folder.name)
    titles = [report.title for report in found]
    names = {
        report.folder.name: f"{report.title} ({report.folder.name})" if titles.count(report.title) > 1 else report.title
        for report in found
    }
    table = pd.DataFrame({f"{model}: {names[study]}": cells for (study, model), cells in columns.items()}).fillna("")
    kept = table.loc[[claim for claim in table.index if len(studies[claim]) > 1]]
    return kept.loc[:, (kept != "").any()].rename_axis("Claim")


CLAIMS = "Claims that several studies check"
ABOUT_CLAIMS = (
    "A column is a model in a study. How a claim is judged, and by which comparisons, is on the study's own page. A study of one seed "
    "decides nothing."
)


def _body(found: list[Report]) -> str:
    if not found:
        return f"<h1>{escape(TITLE)}</h1><p>No study has a report yet.</p>"
    rows = "".join(_row(report) for report in found)
    heads = "".join(f"<th>{head}</th>" for head in ("Study", *ABOUT))
    short = "".join(_takeaways(report) for report in found)
    return (
        f'<h1>{escape(TITLE)}</h1><div class="wide"><table><tr>{heads}</tr>{rows}</table></div>'
        f"{_claims(found)}{_areas(found)}<h2>In short</h2>{short}"
    )


def _claim_tables(found: list[Report]) -> list[tuple[str, str, pd.DataFrame]]:
    """Titles, what is to know, and tables, of those that have lines."""
    tables = [
        (paper_claims.TITLE, paper_claims.ABOUT, paper_claims.table(found)),
        (CLAIMS, ABOUT_CLAIMS, claims_of_all(found)),
    ]
    return [table for table in tables if not table[2].empty]


def _claims(found: list[Report]) -> str:
    parts = []
    for title, about, claims in _claim_tables(found):
        heads = "".join(f"<th>{escape(str(head))}</th>" for head in ("Claim", *claims))
        rows = "".join(f"<tr>{''.join(map(_verdict, row))}</tr>" for row in claims.reset_index().to_numpy())
        parts.append(
            f'<h2>{escape(title)}</h2><p>{escape(about)}</p><div class="wide"><table><tr>{heads}</tr>{rows}</table></div>'
        )
    return "".join(parts)


def _verdict(cell: str | Link) -> str:
    text = cell.text if isinstance(cell, Link) else cell
    inner = escape(text)
    if isinstance(cell, Link):
        inner = f'<a href="{escape(cell.target.replace("README.md", "page.html"))}">{inner}</a>'
    return f'<td class="{web.MARKS.get(text[:1], "")}">{inner}</td>'


ABOUT = ("Data sets", "Models", "Methods", "Runs in the tables", "Seeds", "Claims: ✓ hold, ○ undecided, ✗ contradicted")


def _row(report: Report) -> str:
    link = f'<a href="{escape(report.folder.name)}/page.html">{escape(report.title)}</a>'
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in (link, *map(escape, _about(report))))}</tr>"


def _about(report: Report) -> list[str]:
    """What `ABOUT` names, of a study."""
    claims = pd.read_csv(report.folder / "claims.csv")
    holds, fails = ((claims["verdict"] == verdict).sum() for verdict in (HOLDS, FAILS))
    seeds = report.about["study"]["seeds"]
    return [
        *(
            ", ".join(report.entry(section, name) for name in report.about[section])
            for section in ("datasets", "models")
        ),
        str(len(report.about["methods"])),
        f"{len(report.about['searches'])} searches, {len(report.about['prunings'])} prunings",
        str(len(seeds)),
        f"✓ {holds}, ○ {len(claims) - holds - fails}, ✗ {fails}",
    ]


def _in_short(report: Report) -> list[str]:
    """The first lines of a study's page."""
    _, _, rest = (report.folder / "README.md").read_text(encoding="utf-8").partition("\n## In short\n")
    return [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("* ")]


def _takeaways(report: Report) -> str:
    lines = _in_short(report)
    text = MarkdownIt("commonmark", {"html": False}).render("\n".join(lines))
    return f"<h3>{escape(report.title)}</h3>{text}" if lines else ""


def _areas(found: list[Report]) -> str:
    """One number per method and panel, and its mean, of those methods that all panels have."""
    columns: dict[str, dict[str, float]] = {}
    for report in found:
        path = report.folder / "area.csv"
        if path.exists() and path.stat().st_size > 1:
            for row in pd.read_csv(path, dtype={"grid": str}).fillna({"grid": ""}).to_dict("records"):
                grid = report.about["grids"].get(row["grid"], {}).get("title", "")
                names = (report.entry("models", row["model"]), report.entry("datasets", row["dataset"]), grid)
                place = f"{', '.join(filter(None, names))}: {_metric(row['metric'])}"
                columns.setdefault(place, {})[report.entry("methods", row["method"])] = row["area"]
    if not columns:
        return ""
    table = pd.DataFrame(columns)
    table.insert(0, "Mean", table.mean(axis=1, skipna=False))
    found_in = table.notna().sum(axis=1)
    table = table.assign(count=found_in, whole=table.mean(axis=1)).sort_values(
        ["count", "whole"], ascending=False, kind="stable"
    )
    table = table.drop(columns=["count", "whole"])
    heads = "".join(f"<th>{escape(str(head))}</th>" for head in ("Method", *table))
    rows = "".join(
        f"<tr><td>{escape(str(method))}</td>"
        + "".join(f'<td class="right">{NONE if pd.isna(value) else f"{100 * value:.1f}"}</td>' for value in row)
        + "</tr>"
        for method, row in zip(table.index, table.to_numpy(), strict=True)
    )
    return (
        "<h2>One number per method</h2><p>The area under quality against the logarithm of bytes, in percent: 0 is the global mean, "
        "100 the best result of a panel at every size. A dash: it was not run there. Methods with all panels come first, and only "
        f'they have a mean.</p><div class="wide"><table><tr>{heads}</tr>{rows}</table></div>'
    )


def _metric(name: str) -> str:
    try:
        return label(name)
    except KeyError:  # of a task that is not installed here
        return name
