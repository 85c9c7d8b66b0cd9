"""A study's report: tables, figures, the page that holds them all, and what they were made from."""

from pathlib import Path
from typing import get_args

import pandas as pd

from nisbench import records
from nisbench.files import write_json, write_text
from nisbench.logs import log
from nisbench.params.studies import TABLES, Figure, task_tables
from nisbench.report import (
    area,
    claims,
    curves,
    figures,
    index,
    leaderboard,
    page,
    recovery,
    runs,
    storage,
    style,
    sweeps,
    tables,
    verdicts,
    web,
)
from nisbench.report.comparisons import Results
from nisbench.report.formatting import Sheet, how_to_read
from nisbench.report.outputs import item_files, manifest, outputs
from nisbench.report.results import chosen, complete, made, metrics, provenance, summary
from nisbench.report.style import NothingToShowError
from nisbench.studies import StudyPlan


def run(plan: StudyPlan, partial: bool = False) -> None:
    """Write all of ``results/<study>/``. The manifest comes last: it says that all else is complete.

    A `partial` report shows runs that are not done as failed, with the reason, and has no manifest: it will be made again.
    """
    if partial and not made(plan).cells:
        log.warning("there are no tables yet: nothing of %s is done", plan.name)
        return
    folder, last = plan.folder, manifest(plan)
    for old in folder.glob("runs-*.json"):  # what it says of the files beside it is no longer true
        old.unlink()
    every, plan = plan, chosen(plan)
    results = summary(plan, partial)
    shown = made(plan) if partial else plan
    compared = complete(plan, results)
    sheets, reading = {}, how_to_read(len(plan.study.seeds), plan.study.split_per_seed)
    runs.write(shown)
    links = runs.links(shown)
    for name in plan.study.tables:
        log.info("%s", folder / f"{name}.md")
        sheet = sheets[name] = _sheet(name, plan, results, every)
        write_text(folder / f"{name}.md", sheet.markdown(links=links, how_to_read=reading))
        write_text(folder / f"{name}.tex", sheet.latex(f"{plan.name}-{name}", reading))
        write_text(folder / f"{name}.csv", sheet.data.to_csv(index=False))
    captions = {}
    for figure in plan.study.figures:
        log.info("%s", folder / f"{figure}.svg")
        try:
            data, picture, captions[figure] = figures.MAKERS[figure](*compared)
        except NothingToShowError:
            data, picture, captions[figure] = style.nothing()
        write_text(folder / f"{figure}.csv", data.to_csv(index=False))
        style.save(picture, folder, figure)
    curves.draw(shown)
    findings = claims.findings(*compared)
    write_text(folder / "claims.csv", verdicts.table(findings).to_csv(index=False))
    write_text(folder / "summary.csv", results.to_csv(index=False))
    write_json(folder / "metrics.json", metrics(results))
    write_text(folder / "leaderboard.csv", leaderboard.leaderboard(*compared).to_csv(index=False))
    log.info("%s", folder / "README.md")
    write_text(
        folder / "README.md",
        page.text(shown, results, findings, sheets, captions, Results(*compared), made(every) if partial else every),
    )
    log.info("%s", folder / "page.html")
    web.write_page(folder)
    _remove_old(every, folder)
    index.write_index(folder.parent)
    if partial:
        return
    files = {path: records.sums_of(Path(path)).sha256 for path in outputs(every)[:-1]}
    write_json(last, {**provenance(every), "files": files})


def _sheet(name: str, plan: StudyPlan, results: pd.DataFrame, every: StudyPlan) -> Sheet:
    """A table of a plan's chosen cells; `every` plan has those, too, that validation did not choose."""
    if name == "table1":
        return tables.table1(plan, results)
    if name == "storage":
        return storage.sheet(complete(plan, results)[0])
    if name == "area":
        return area.sheet(*complete(plan, results), every)
    if name == "sweep":
        return sweeps.sheet(plan, results)
    if name == "recovery":
        return recovery.sheet(*complete(plan, results))
    return tables.comparison(plan, results, task_tables()[name])


def _remove_old(plan: StudyPlan, folder: Path) -> None:
    """Delete what earlier parameters asked for and today's do not."""
    current = outputs(plan)
    known = [name for item in (*TABLES, *task_tables(), *get_args(Figure)) for name in item_files(item)]
    for old in [*folder.glob("curves/*.svg"), *(folder / name for name in known)]:
        if str(old) not in current:
            old.unlink(missing_ok=True)
