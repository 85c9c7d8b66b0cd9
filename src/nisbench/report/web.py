"""``page.html``: a study on one page that needs no network, made from the files beside it and nothing else.

It is ``README.md`` with what only a browser can do in its middle: a leaderboard, pictures that answer, and a card for each run. It is
made of texts from parameters and run files, which may come from anyone. So no HTML of theirs is taken over, data reach the script as
JSON and the page as text, and the browser runs only the scripts whose hashes the page's policy names.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import vl_convert
from markdown_it import MarkdownIt

from nisbench.files import read_json, write_text
from nisbench.report import charts
from nisbench.report import runs as run_list
from nisbench.report.formatting import COSTS, label, quantity

DOCS = "https://nisbench.github.io/nisbench/"
ASSETS = files("nisbench.report") / "assets"
BEFORE = "<h2>How to read the tables</h2>"
"""What the part for browsers stands in front of; where the page has no tables, it is its end."""


def write_page(folder: Path) -> None:
    """Make the page of the report in `folder` from its committed files."""
    write_text(folder / "page.html", page(folder))


def page(folder: Path) -> str:
    about = read_json(folder / run_list.NAME)
    body = _rendered(folder)
    explorer = (ASSETS / "explorer.html").read_text(encoding="utf-8")
    place = body.find(BEFORE)
    body = body[:place] + explorer + body[place:] if place >= 0 else body + explorer
    body, contents = _with_contents(body)
    title, note = (
        about["study"]["title"],
        "<noscript><p>The leaderboard and the runs' cards need JavaScript.</p></noscript>",
    )
    body = body.replace("</h1>", f"</h1>{note}{contents}", 1)
    return document(title, body, data(folder, about), ["page.js"])


# --- a document -----------------------------------------------------------------------------------------------


def document(title: str, body: str, content: Any = None, ours: Iterable[str] = ()) -> str:
    """An HTML document with our style; with the bundled libraries, `content` and scripts of ours, if there are any."""
    styles = [asset("page.css")]
    scripts = [asset(name) for name in ours]
    if scripts:
        styles = [tables_style(), *styles]
        scripts = [vega(), tables_script(), *scripts]
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"script-src {' '.join(map(_hash, scripts)) or chr(39) + 'none' + chr(39)}",
            "style-src 'unsafe-inline'",  # Vega and DataTables set styles of elements
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        *(f"<style>{style}</style>" for style in styles),
        f"</head><body>\n{body}\n",
        f'<script type="application/json" id="data">{_json(content)}</script>\n' if content is not None else "",
        *(f'<script type="module">{script}</script>\n' for script in scripts),
        "</body></html>\n",
    ]
    return "".join(parts)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON that ends no script element, whatever texts are in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, as vl-convert bundles them. They set `window.vegaEmbed`."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg] # its stub lacks the default
    return str(bundle).replace("</script", "<\\/script")


@cache
def tables_script() -> str:
    """DataTables and jQuery, as itables bundles them; what the module exports becomes `window.dataTables`."""
    bundle = (files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    (exports,) = re.findall(r"\bexport\{([^}]*)\}", bundle)
    members = ",".join(f"{name.split()[-1]}:{name.split()[0]}" for name in exports.split(","))
    return re.sub(r"\bexport\{[^}]*\}", f"window.dataTables={{{members}}}", bundle).replace("</script", "<\\/script")


@cache
def tables_style() -> str:
    return (files("itables") / "html" / "dt_bundle.css").read_text(encoding="utf-8").replace("</style", "")


# --- the text -------------------------------------------------------------------------------------------------


def _rendered(folder: Path) -> str:
    """``README.md`` as HTML, with its figures in it, and links to runs that open their cards."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r"<p>&lt;details&gt;&lt;summary&gt;(.*)&lt;/summary&gt;</p>", r"<details><summary>\1</summary>", body)
    body = body.replace("<p>&lt;/details&gt;</p>", "</details>")
    body = re.sub(r' style="text-align:(left|right)"', r' class="\1"', body)
    body = re.sub(r'<td class="left">([✓○✗±])', lambda found: f'<td class="left {MARKS[found[1]]}">{found[1]}', body)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    lines = {number: run for run, number in run_list.lines_of(folder).items()}
    body = re.sub(
        rf'href="{re.escape(run_list.NAME)}#L(\d+)(?:-L\d+)?"',
        lambda found: f'href="#run-{lines[int(found[1])]}"',
        body,
    )
    body = re.sub(r'href="(?:\.\./)+docs/([\w/-]+)\.md', rf'href="{DOCS}\1/', body)
    return re.sub(
        r'<img src="(\w+)\.png" alt="[^"]*"', lambda found: _embedded(folder / f"{found[1]}.svg", found), body
    )


MARKS = {"✓": "holds", "○": "undecided", "✗": "contradicted", "±": "mixed"}


def _embedded(picture: Path, found: re.Match[str]) -> str:
    if not picture.exists():
        return found[0]
    encoded = base64.b64encode(picture.read_bytes()).decode()
    return f'<img src="data:image/svg+xml;base64,{encoded}" alt="{escape(picture.stem)}"'


def _with_contents(body: str) -> tuple[str, str]:
    """The body with an id on each heading of the second level, and a list of links to them."""
    seen: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        title = re.sub(r"<[^>]*>", "", found[1])
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        seen[name] = title.partition(":")[0]
        return f'<h2 id="{name}">{found[1]}</h2>'

    body = re.sub(r"<h2>(.*?)</h2>", named, body)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in seen.items())
    return body, f"<nav>{links}</nav>"


# --- the data -------------------------------------------------------------------------------------------------


def data(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What the script shows: the leaderboard, what each run measured, the runs, and the specifications of the pictures."""
    board, summary = (pd.read_csv(folder / name, dtype={"grid": str}) for name in ("leaderboard.csv", "summary.csv"))
    metrics = {name: _metric(name) for name in dict.fromkeys([*board["metric"], *summary["metric"]])}
    return {
        **about,
        "board": _columns(board),
        "cells": _cells(summary),
        "metrics": metrics,
        "charts": {
            "front": charts.quality_against_bytes(),
            "paper": charts.paper_against_ours(),
            "curve": charts.learning_curve(),
        },
    }


def _metric(name: str) -> dict[str, Any]:
    try:
        shown = quantity(name)
    except KeyError:  # of a task that is not installed here
        return {"title": name, "better": None, "percent": False, "cost": False}
    title = shown.title if name in COSTS else label(name)
    return {"title": title, "better": shown.better, "percent": shown.percent, "cost": name in COSTS}


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Column by column: names once, and numbers to six significant figures."""
    return {str(name): [_plain(value) for value in frame[name]] for name in frame}


def _cells(summary: pd.DataFrame) -> list[Any]:
    """For each run in each place: grid, data set, model, method, rate, seed, run, what it measured, and why it failed."""
    keys = ["grid", "dataset", "model", "method", "cr", "seed", "run_id"]
    summary = summary.assign(grid=summary["grid"].fillna(""))
    found = []
    for key, rows in summary.groupby(keys, sort=False, dropna=False):
        values = {metric: _plain(value) for metric, value in zip(rows["metric"], rows["value"], strict=True)}
        found.append([*map(_plain, key), values, _plain(rows["failed"].iloc[0])])
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return None
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else float(f"{number:.6g}")
