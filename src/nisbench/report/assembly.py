"""A study's report: tables, figures, the page that holds them all, and what they were made from."""

from pathlib import Path
from typing import get_args

from nisbench import records
from nisbench.console import log
from nisbench.files import write_json, write_text
from nisbench.params.settings import Figure, Table
from nisbench.report import claims, curves, figures, page, pictures, recovery, tables
from nisbench.report.layout import how_to_read
from nisbench.report.pictures import NothingToShowError
from nisbench.report.results import complete, metrics, provenance, summary
from nisbench.studies import StudyPlan, report_files

TABLES = {
    "table1": tables.table1,
    "table2": tables.table2,
    "table3": tables.table3,
    "table4": tables.table4,
    "recovery": recovery.sheet,
}


def run(plan: StudyPlan) -> None:
    """Write all of ``results/<study>/``; last, the manifest of the runs behind it, which says that the rest is whole."""
    folder = Path(plan.folder)
    for old in folder.glob("runs-*.json"):  # what it says of the files beside it is true no longer
        old.unlink()
    results = summary(plan)
    compared = complete(plan, results)
    sheets, reading = {}, how_to_read(len(plan.study.seeds))
    for name in plan.study.tables:
        log.info("%s", folder / f"{name}.md")
        sheet = sheets[name] = TABLES[name](*(compared if name == "recovery" else (plan, results)))
        write_text(folder / f"{name}.md", f"{sheet.markdown()}\n{reading}\n")
        write_text(folder / f"{name}.tex", sheet.latex(f"{plan.name}-{name}", reading))
        write_text(folder / f"{name}.csv", sheet.data.to_csv(index=False))
    captions = {}
    for figure in plan.study.figures:
        log.info("%s", folder / f"{figure}.svg")
        try:
            data, picture, captions[figure] = figures.MAKERS[figure](*compared)
        except NothingToShowError:
            data, picture, captions[figure] = pictures.nothing()
        write_text(folder / f"{figure}.csv", data.to_csv(index=False))
        pictures.save(picture, folder, figure)
    curves.draw(plan)
    findings = claims.findings(*compared)
    write_text(folder / "claims.csv", claims.table(findings).to_csv(index=False))
    write_text(folder / "summary.csv", results.to_csv(index=False))
    write_json(folder / "metrics.json", metrics(results))
    log.info("%s", folder / "README.md")
    text = page.text(plan, results, findings, sheets, captions)
    write_text(folder / "README.md", text)
    write_text(folder / "page.html", page.html(plan, text))
    _remove_old(plan, folder)
    files = {path: records.sums_of(Path(path)).sha256 for path in plan.outputs()[:-1]}
    write_json(Path(plan.manifest), {**provenance(plan), "files": files})


def _remove_old(plan: StudyPlan, folder: Path) -> None:
    """What earlier parameters asked for and today's do not."""
    outputs = plan.outputs()
    known = [name for part in (*get_args(Table), *get_args(Figure)) for name in report_files(part)]
    for old in [*folder.glob("curves/*.svg"), *(folder / name for name in known)]:
        if str(old) not in outputs:
            old.unlink(missing_ok=True)
