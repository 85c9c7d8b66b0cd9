"""At most five sentences that say what a study found, each with effect size, interval and n.

The rules are fixed here beforehand and know no result: what is said first, which comparisons a sentence counts, and which of
them it quotes: the first of the study on each side, never the most favourable.
"""

from collections.abc import Iterator
from fnmatch import fnmatch

import pandas as pd

from nisbench.report.comparisons import FAILS, HOLDS, ONE_SEED, Finding
from nisbench.report.formatting import FAILED, NONE, figure, label, literal, quantity

MOST = 5
QUOTED = 2
"""Panels that a sentence quotes."""
MOST_MOVED = 3
"""Methods whose change a sentence about a sweep quotes: the first."""
ORDER = (
    "Unpruned, DNIS beats the best of *",
    "Not in the paper: unpruned, DNIS beats one dimension *",
    "At every pruning rate, DNIS beats *",
    "Not in the paper: DNIS beats the best other method *",
    "At its size, DNIS beats one dimension *",
    "Within the same budget of weights, DNIS *",
    "The larger the base dimension K, *",
    "The more feature blocks L, *",
    "*",
)
"""Which claims are told first. Those of one pattern stand in the order of the claims."""
HALF = 0.5


def takeaways(
    found: list[Finding],
    board: pd.DataFrame,
    areas: pd.DataFrame | None = None,
    swept: pd.DataFrame | None = None,
) -> list[str]:
    """The sentences, in Markdown: which result is best, what half the bytes cost, one number per method, and then claims, in the order above.

    `areas` are the data of `area.sheet`, and `swept` those of `sweeps.sheet`, if the study has them. What a sweep shows is told first: a
    study that asks for that table is about it.
    """
    sentences = list(_sweeps(swept))[: MOST - 1] if swept is not None else []
    for more in (*_best(board), *_half(board), *(_areas(areas) if areas is not None else ())):
        if len(sentences) < MOST:
            sentences.append(more)
    for claim, findings in _ordered(found):
        if len(sentences) < MOST:
            sentences.append(_of_claim(claim, findings))
    return sentences


def _ordered(found: list[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    by_claim: dict[str, list[Finding]] = {}
    for finding in found:
        by_claim.setdefault(finding.claim, []).append(finding)
    told = set()
    for pattern in ORDER:
        for claim, findings in by_claim.items():
            if claim not in told and fnmatch(claim, pattern):
                told.add(claim)
                yield claim, findings


def _panels(board: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each panel, of its first metric, without controls."""
    if board.empty:
        return []
    kept = board[board["role"] != "control"]
    keys = ["grid", "dataset", "model"]
    first = kept.groupby(keys, sort=False)["metric"].transform("first")
    return [rows for _, rows in kept[kept["metric"] == first].groupby(keys, sort=False)]


def _best(board: pd.DataFrame) -> Iterator[str]:
    """The best result of the first panels."""
    texts: list[str] = []
    for rows in _panels(board)[:QUOTED]:
        best = _best_of(rows)
        texts.append(f"{literal(best['name'])} ({_where(best)}): {_value(best)}")
    more = len(_panels(board)) - len(texts)
    if texts:
        yield f"**Best quality, of any size:** {'; '.join(texts)}{f'; {more} more in the tables' if more else ''}."


def _half(board: pd.DataFrame) -> Iterator[str]:
    """What the best result in at most half of the full table's bytes lacks to the best of any size, in the first panels."""
    texts: list[str] = []
    for rows in _panels(board):
        small = rows[rows["share"] <= HALF]
        if len(texts) < QUOTED and not small.empty:
            row = _best_of(small)
            told = f"{literal(row['name'])} ({_where(row)}), {100 * row['share']:.0f} % of the bytes"
            texts.append(f"{told}: {_lost(row)}")
    if texts:
        yield f"**In at most half of the full table's bytes:** {'; '.join(texts)}."


def _sweeps(swept: pd.DataFrame) -> Iterator[str]:
    """How far the first metric is at a sweep's last value from where it is at the first: one sentence for each key that is swept."""
    if swept.empty:
        return
    first = swept["measured"].iloc[0]
    told: set[str] = set()
    for (_, key, where), rows in swept[swept["measured"] == first].groupby(["grid", "key", "where"], sort=False):
        if key not in told:
            told.add(key)
            start, end = rows["value"].iloc[0], rows["value"].iloc[-1]
            texts = [
                f"{literal(row['name'])}: {_moved(first, row)}"
                for _, row in rows[rows["value"] == end].head(MOST_MOVED).iterrows()
            ]
            yield f"**`{key}` from {literal(start)} to {literal(end)}** ({literal(where)}): {'; '.join(texts)}."


def _moved(metric: str, row: pd.Series) -> str:
    if pd.isna(row["change"]):
        return FAILED
    if row["low"] == row["high"]:
        return f"{way(metric, row['change'])} at each of {row['n']} seeds"
    return way(metric, row["change"]) + _ends_of_change(metric, row["change"], row["low"], row["high"], row["n"])


def _areas(areas: pd.DataFrame) -> Iterator[str]:
    """The largest area of the references, of all that is neither reference nor control, and of DNIS, in the first panels."""
    texts: list[str] = []
    for rows in _panels(areas)[:QUOTED]:
        groups = rows["role"] == "reference", rows["role"] != "reference", rows["dnis"]
        ordered = (rows[group].dropna(subset="area").nlargest(1, "area") for group in groups)
        told = dict.fromkeys(_area(row) for first in ordered for _, row in first.iterrows())
        if told:
            texts.append(f"{', '.join(told)} ({_where(rows.iloc[0])})")
    if texts:
        about = "area under quality against bytes, 100 = the best result at every size"
        yield f"**One number per method ({about}), of references, of all others, and of DNIS:** {'; '.join(texts)}."


def _area(row: pd.Series) -> str:
    width = f" ± {100 * row['width']:.1f}, n = {row['n']}" if row["n"] > 1 else " (one seed)"
    return f"{literal(row['name'])} {100 * row['area']:.1f}{width}"


def _lost(row: pd.Series) -> str:
    if row["from_best"] == 0:
        return "the best of any size"
    gap, ends = -row["from_best"], _ends(row["metric"], -row["from_best_high"], -row["from_best_low"], row["n"])
    return f"{label(row['metric'])} {figure(row['metric'], gap)} worse than the best of any size{ends}"


def _best_of(rows: pd.DataFrame) -> pd.Series:
    means = rows["mean"].to_numpy()
    higher = quantity(str(rows["metric"].iloc[0])).better == "higher"
    best: pd.Series = rows.iloc[int(means.argmax() if higher else means.argmin())]
    return best


def _where(row: pd.Series) -> str:
    return literal(str(row["where"]))


def _value(row: pd.Series) -> str:
    return f"{label(row['metric'])} {figure(row['metric'], row['mean'])}{_ends(row['metric'], row['low'], row['high'], row['n'])}"


def _ends(metric: str, low: float, high: float, n: int) -> str:
    if pd.isna(low):
        return ", one seed"
    return f", 95 % interval {figure(metric, low)} to {figure(metric, high)}, n = {n}"


def _of_claim(claim: str, findings: list[Finding]) -> str:
    """How many comparisons support a claim, contradict it or decide nothing, and the first on each side."""
    verdicts = [finding.verdict for finding in findings]
    counts = {
        "for it": verdicts.count(HOLDS),
        "against it": verdicts.count(FAILS),
        "for it with one seed": verdicts.count(ONE_SEED[HOLDS]),
        "against it with one seed": verdicts.count(ONE_SEED[FAILS]),
    }
    counts["undecided"] = len(findings) - sum(counts.values())
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    sides = [next((f for f in findings if f.verdict in {side, ONE_SEED[side]}), None) for side in (HOLDS, FAILS)]
    quoted = "; ".join(effect(finding) for finding in [one for one in sides if one] or findings[:1])
    return f"**{literal(claim)}:** of {len(findings)} comparison{'s' * (len(findings) > 1)}, {told}. {quoted}."


def effect(finding: Finding) -> str:
    """A comparison's effect size with its interval and n, for one line of Markdown."""
    where = f"{literal(finding.where)}, {literal(finding.of)}"
    if not finding.metric:
        return f"{where}: {literal(finding.measured)} against {literal(finding.against)}, n = {finding.n}"
    ends = _ends_of_change(finding.metric, finding.difference, finding.low, finding.high, finding.n)
    return f"{where}: {change(finding)}{ends}"


def change(finding: Finding) -> str:
    """By how much what is claimed to be better is better or worse: ``MSE 0.0047 lower (better)``."""
    return way(finding.metric, finding.difference)


def way(metric: str, difference: float) -> str:
    """A difference in words."""
    if pd.isna(difference):
        return NONE
    if difference == 0:
        return f"{label(metric)} the same"
    side = "higher" if difference > 0 else "lower"
    better = "better" if side == quantity(metric).better else "worse"
    return f"{label(metric)} {figure(metric, abs(difference))} {side} ({better})"


def _ends_of_change(metric: str, difference: float, low: float, high: float, n: int) -> str:
    """The interval, in the direction in which the change is told."""
    return _ends(metric, -high, -low, n) if difference < 0 else _ends(metric, low, high, n)
