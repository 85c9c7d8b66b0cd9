"""What comparisons amount to: a matrix of claims and models, the comparisons below each claim, and their file."""

from collections.abc import Mapping
from dataclasses import astuple, fields, replace
from typing import Any

import pandas as pd

from nisbench.report import runs as run_list
from nisbench.report.comparisons import FAILS, HOLDS, ONE_SEED, Finding
from nisbench.report.formatting import NONE, Link, figure, folded, literal, markdown
from nisbench.report.significance import rounded, shown
from nisbench.report.takeaways import change

SYMBOLS = {HOLDS: "✓ holds", "undecided": "○ undecided", FAILS: "✗ contradicted"}
MIXED = "± mixed"


def table(found: list[Finding]) -> pd.DataFrame:
    rows = [astuple(replace(finding, p=rounded(finding.p))) for finding in found]
    return pd.DataFrame(rows, columns=[field.name for field in fields(Finding)])


def matrix(found: list[Finding]) -> str:
    """A row per claim, a column per model: whether it holds there, and in how many of its comparisons."""
    models = list(dict.fromkeys(finding.model for finding in found))
    cells: dict[str, dict[str, list[str]]] = {}
    for finding in found:
        cells.setdefault(finding.claim, {}).setdefault(finding.model, []).append(finding.verdict)
    rows = [
        [claim, *(cell(of_claim[model]) if model in of_claim else "" for model in models)]
        for claim, of_claim in cells.items()
    ]
    return markdown(rows, ["Claim", *models], align="left")


def cell(verdicts: list[str]) -> str:
    """A claim holds where more than half of its comparisons support it and none contradicts it; likewise it is contradicted.

    Where some support and others contradict it, it is mixed. One seed decides nothing, and is said to point one way.
    """
    holds, fails, n = verdicts.count(HOLDS), verdicts.count(FAILS), len(verdicts)
    if holds and fails:
        return f"{MIXED}: {holds} for, {fails} against, of {n}"
    if 2 * (holds or fails) > n:
        return f"{SYMBOLS[HOLDS if holds else FAILS]}: {holds or fails} of {n}"
    if holds or fails:
        return f"{SYMBOLS['undecided']}: {holds or fails} {'for' if holds else 'against'}, of {n}"
    one_way, other = verdicts.count(ONE_SEED[HOLDS]), verdicts.count(ONE_SEED[FAILS])
    return f"{SYMBOLS['undecided']}" + (f", one seed: {one_way} for, {other} against" if one_way or other else "")


def details(found: list[Finding], lines: Mapping[str, int]) -> str:
    """The comparisons, folded by claim. `lines` says where the file of runs has each."""
    by_claim: dict[str, list[Finding]] = {}
    for finding in found:
        by_claim.setdefault(finding.claim, []).append(finding)
    heads = ["Where", "Of", "Measured", "Against", "Difference", "95 % interval", "n", "p", "Verdict"]
    return "\n\n".join(
        folded(
            f"{literal(claim)} ({len(of_claim)})", markdown([_row(one, lines) for one in of_claim], heads, align="left")
        )
        for claim, of_claim in by_claim.items()
    )


def _row(finding: Finding, lines: Mapping[str, int]) -> list[Any]:
    ends = [finding.low, finding.high]
    between = NONE if pd.isna(finding.low) else " to ".join(_signed(finding.metric, end) for end in ends)
    verdict = {HOLDS: SYMBOLS[HOLDS], FAILS: SYMBOLS[FAILS]}.get(finding.verdict, finding.verdict)
    return [
        finding.where,
        Link(finding.of, f"{run_list.NAME}#L{lines[finding.run_id]}") if finding.run_id in lines else finding.of,
        finding.measured,
        finding.against,
        change(finding) if finding.metric else NONE,
        between,
        str(finding.n),
        shown(finding.p),
        verdict,
    ]


def _signed(metric: str, value: float) -> str:
    text = figure(metric, value)
    return f"+{text}" if value > 0 else text
