"""What two runs of a study must have in common: every byte but those that say how long, how much memory, and when.

Left out, and nothing else:

* in JSON: `seconds`, `peak_memory_mib`, `other_load`, `alone`, the `time` of a machine, a record or a run, and the checksums of files
  that hold these: of run.json in a record, of a report's files in its manifest;
* in CSV: the columns `seconds`, `core_seconds` and `measured_alone`; the values in rows whose metric is `core_seconds` or
  `peak_memory_mib`;
* in tables for reading: the columns Cost, Memory, Time and Peak memory, and how columns are aligned;
* the sentences below a table about cost;
* on the page, the time of all training and the date in the sentence at its head; and its data, which are those of files beside it.

Locks are left out too: they are empty, and stay. All other files (Parquet, weights, schemes, pictures, metrics.json) are
compared byte by byte, and no file may be there in one run only: nothing that a killed process left.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

MEASURED_METRICS = ("core_seconds", "peak_memory_mib")
MEASURED_COLUMNS = ("Cost", "Memory", "Time", "Peak memory")
ABOUT_COST = re.compile(
    r"Cost is a multiple .*? core-seconds\.(?: (?:≈|\$\\approx\$) Not measured alone: .*? meanwhile\.)?"
)
SPENT = re.compile(
    r"took [\d.]+\s(?:s|min|h)(?:\s\d\d\s(?:s|min))? in all, added up over those that ran side by side, "
    r"on\s\d{4}-\d\d-\d\d(?: to \d{4}-\d\d-\d\d)?"
)
LOCK = re.compile(r"\..*\.(lock|holder)")
NOT_RESULTS = {".snakemake", "logs", "src"}


def fingerprint(root: Path) -> dict[str, str]:
    """A digest of each file of a project, by path; of what is measured anew in every run, none of."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not LOCK.fullmatch(path.name))
    named = {path.relative_to(root): path for path in files}
    return {str(name): _digest(path) for name, path in named.items() if name.parts[0] not in NOT_RESULTS}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The paths of files that differ, or that only one of both has."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _digest(path: Path) -> str:
    comparable = COMPARABLE.get(path.suffix)
    if path.name == "metrics.json":  # holds nothing of the kind
        comparable = None
    content = path.read_bytes() if comparable is None else comparable(path.read_text(encoding="utf-8")).encode()
    return hashlib.sha256(content).hexdigest()


def _of_json(text: str) -> str:
    return json.dumps(_without_measurements(json.loads(text)))


def _without_measurements(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_measurements(each) for each in value]
    if isinstance(value, dict):
        measured = {"seconds", "peak_memory_mib", "other_load", "alone", "run.json"}
        measured |= {"time"} if {"packages", "needs", "commit"} & value.keys() else set()
        measured |= {"files"} if "prunings" in value else set()
        return {key: _without_measurements(each) for key, each in value.items() if key not in measured}
    return value


def _of_csv(text: str) -> str:
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    table = table.drop(columns=["seconds", "core_seconds", "measured_alone"], errors="ignore")
    if "metric" in table:
        values = [name for name in ("value", "mean", "std") if name in table]
        table.loc[table["metric"].isin(MEASURED_METRICS), values] = ""
    return str(table.to_csv(index=False))


def _of_markdown(text: str) -> str:
    lines = text.splitlines()
    return _with_tables([_cells(line[1:-1].split("|")) if line.startswith("|") else line for line in lines])


def _of_latex(text: str) -> str:
    lines = [line for line in text.splitlines() if line not in (r"\toprule", r"\midrule")]
    return _with_tables([_cells(line.split(" & ")) if " & " in line else line for line in lines])


def _of_html(text: str) -> str:
    text = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    text = re.sub(r"</?t(?:head|body)>|\n", "", text)
    parts = [part for part in re.split(r"(<tr>.*?</tr>)", text) if part]
    return _with_tables(
        [_cells(re.findall(r"<t[hd].*?>(.*?)</t[hd]>", part)) if part.startswith("<tr>") else part for part in parts]
    )


def _cells(texts: list[str]) -> list[str]:
    return [text.strip().removesuffix(r"\\").strip() for text in texts]


def _with_tables(lines: list[str | list[str]]) -> str:
    """Of a text whose rows of tables are lists: the text, without what those say of measurements.

    The first row of a table names its columns.
    """
    kept, heads = [], None
    for line in lines:
        if isinstance(line, str):
            kept.append(ABOUT_COST.sub("", SPENT.sub("", line)))
            heads = None
        elif heads is None:
            heads = line
        elif not all(set(cell) <= set(":-") for cell in line):
            row = {head: cell for head, cell in zip(heads, line, strict=True) if cell and head not in MEASURED_COLUMNS}
            kept.append(json.dumps(row))
    return "\n".join(kept)


COMPARABLE: dict[str, Callable[[str], str]] = {
    ".json": _of_json,
    ".csv": _of_csv,
    ".md": _of_markdown,
    ".tex": _of_latex,
    ".html": _of_html,
}
