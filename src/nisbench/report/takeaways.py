"""At most five sentences that say what a study found, each with effect size, interval and n.

The rules are fixed here beforehand and know no result: what is said first, which comparisons a sentence counts, and which of
them it quotes: the first of the study on each side, never the most favourable.
"""

from collections.abc import Iterator
from fnmatch import fnmatch

import pandas as pd

from nisbench.embedding.storage import LAYOUTS
from nisbench.report.comparisons import FAILS, HOLDS, ONE_SEED, Entry, Finding, Results
from nisbench.report.formatting import FAILED, NONE, figure, label, literal, quantity
from nisbench.report.panels import Panel
from nisbench.report.runs import full_bytes
from nisbench.report.significance import interval
from nisbench.steps import rate_name

MOST = 5
QUOTED = 2
"""Panels, or pools of them, that a sentence quotes."""
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
    results: Results | None = None,
    areas: pd.DataFrame | None = None,
    swept: pd.DataFrame | None = None,
    stored: pd.DataFrame | None = None,
) -> list[str]:
    """The sentences, in Markdown: which result is best, what half the bytes cost, one number per method, and then claims, in the order above.

    `areas` are the data of `area.sheet`, `swept` those of `sweeps.sheet`, and `stored` those of `storage.sheet`, if the study has them. What a
    sweep or another precision changes is told first: a study that asks for that table is about it. Where `stored` says what rounding
    costs, no other way to half the bytes is named.
    """
    sentences = list(_sweeps(swept))[: MOST - 1] if swept is not None else []
    sentences += _rounding(results, stored) if results and stored is not None else []
    pools = _distinct([_Pool(results, entries) for entries in results.pools()]) if results else []
    half = _half(pools) if stored is None else ()
    for more in (*_best(pools), *half, *(_areas(areas) if areas is not None else ())):
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


class _Pool:
    """Results that compete for the best of a panel's first metric."""

    def __init__(self, results: Results, entries: list[Entry]) -> None:
        self.results, self.entries = results, entries
        panels = list(dict.fromkeys(entry[0] for entry in entries))
        self.metric = results.metrics(panels[0])[0]
        self.sign = 1 if quantity(self.metric).better == "higher" else -1
        shown = [panel for panel in panels if panel in results.panels]
        self.full = max((full_bytes(results.plan, panel) or 0.0 for panel in shown), default=0.0)

    def best(self, share: float | None = None) -> Entry | None:
        """The best mean, or the best in at most that share of the full table's bytes."""
        within = [entry for entry in self.entries if share is None or self.share(entry) <= share]
        return self.results.best(within, self.metric) if within else None

    def share(self, entry: Entry) -> float:
        """Of the full table's bytes; of the largest where there are several."""
        return self.results.mean(*entry, "bytes") / self.full if self.full else 0.0

    def values(self, entry: Entry) -> pd.Series:
        return self.results.of(*entry, self.metric)

    def name(self, entry: Entry) -> str:
        panel, method, rate = entry
        title = self.results.plan.title(panel.grid, method=method) + (f" (CR = {rate_name(rate)})" if rate != 1 else "")
        return f"{literal(title)} ({literal(panel.title(self.results.plan))})"


def _distinct(pools: list[_Pool]) -> list[_Pool]:
    """Without those whose best is that of an earlier one, because a swept setting left it unchanged."""
    of_best: dict[tuple[float, ...], _Pool] = {}
    for pool in pools:
        best = pool.best()
        of_best.setdefault(tuple(pool.values(best)) if best else (), pool)
    return list(of_best.values())


def _best(pools: list[_Pool]) -> Iterator[str]:
    """The best result of the first pools."""
    texts = []
    for pool in pools[:QUOTED]:
        if best := pool.best():
            mean, low, high = interval(pool.values(best), 0 * pool.values(best))
            ends = _ends(pool.metric, low, high, len(pool.values(best)))
            texts.append(f"{pool.name(best)}: {label(pool.metric)} {figure(pool.metric, mean)}{ends}")
    more = len(pools) - len(texts)
    if texts:
        yield f"**Best quality, of any size:** {'; '.join(texts)}{f'; {more} more in the tables' if more else ''}."


def _half(pools: list[_Pool]) -> Iterator[str]:
    """What the best result in at most half of the full table's bytes lacks to the best of any size, in the first pools."""
    texts: list[str] = []
    for pool in pools:
        best, small = pool.best(), pool.best(HALF)
        if best and small and len(texts) < QUOTED:
            told = f"{pool.name(small)}, {100 * pool.share(small):.0f} % of the bytes"
            texts.append(f"{told}: {_lost(pool, small, best)}")
    if texts:
        yield f"**In at most half of the full table's bytes:** {'; '.join(texts)}."


def _lost(pool: _Pool, small: Entry, best: Entry) -> str:
    if small == best:
        return "the best of any size"
    gap, low, high = interval(pool.sign * pool.values(best), pool.sign * pool.values(small))
    worse = f"{label(pool.metric)} {figure(pool.metric, gap)} worse than the best of any size"
    return worse + _ends(pool.metric, low, high, len(pool.values(best)))


def _rounding(results: Results, stored: pd.DataFrame) -> Iterator[str]:
    """What rounding the first result of the first panels costs in quality, and what it then takes."""
    texts: list[str] = []
    for place, of_panel in stored.groupby(["grid", "dataset", "model"], sort=False):
        if len(texts) < QUOTED:
            of_panel = of_panel.groupby(["method", "cr"], sort=False).filter(_in_every_precision)  # noqa: PLW2901
            if of_panel.empty:
                continue
            entry: Entry = (Panel(*map(str, place)), of_panel["method"].iloc[0], of_panel["cr"].iloc[0])
            rows = of_panel[(of_panel["method"] == entry[1]) & (of_panel["cr"] == entry[2])]
            metric = results.metrics(entry[0])[0]
            sizes = rows[rows["measure"].isin(LAYOUTS)].groupby("precision", sort=False)["value"].min()
            quality_at = rows[rows["measure"] == metric].set_index("precision")["value"].to_dict()
            (exact, full), *rounded = sizes.to_dict().items()
            told = [
                f"{precision} {way(metric, quality_at[precision] - quality_at[exact])} in {100 * size / full:.0f} % of the bytes"
                for precision, size in rounded
            ]
            texts.append(f"{_Pool(results, [entry]).name(entry)}: {', '.join(told)}")
    n = len(results.plan.study.seeds)
    if texts:
        yield f"**Rounded after training** ({'one seed' if n == 1 else f'means of {n} seeds'}): {'; '.join(texts)}."


def _in_every_precision(rows: pd.DataFrame) -> bool:
    """Whether a result was rounded to all of them: not one that is stored in a form of its own."""
    return not rows[rows["measure"].isin(LAYOUTS)].groupby("precision")["value"].min().isna().any()


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
    kept = areas[areas["role"] != "control"] if len(areas) else areas
    keys = ["grid", "dataset", "model"]
    for _, rows in list(kept.groupby(keys, sort=False) if len(kept) else ())[:QUOTED]:
        rows = rows[rows["metric"] == rows["metric"].iloc[0]].dropna(subset="area")  # noqa: PLW2901
        groups = {
            "best reference": rows["role"] == "reference",
            "best of the others": rows["role"] != "reference",
            "DNIS": rows["dnis"],
        }
        first = {of: rows[group].nlargest(1, "area") for of, group in groups.items()}
        shown: dict[str, str] = {}  # DNIS may be the best of the others
        for of, largest in first.items():
            for _, row in largest.iterrows():
                shown.setdefault(_area(row), of)
        told = [f"{of}: {text}" for text, of in shown.items()]
        if told:
            texts.append(f"{literal(rows['where'].iloc[0])}: {', '.join(told)}")
    if texts:
        about = "area under quality against bytes, 100 = the best result at every size"
        yield f"**One number per method ({about}).** {'; '.join(texts)}."


def _area(row: pd.Series) -> str:
    width = f" ± {100 * row['width']:.1f}, n = {row['n']}" if row["n"] > 1 else " (one seed)"
    return f"*{literal(row['name'])}* {100 * row['area']:.1f}{width}"


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
    size = figure(metric, abs(difference))
    if not float(size):
        size = f"less than {size[:-1]}1"
    return f"{label(metric)} {size} {side} ({better})"


def _ends_of_change(metric: str, difference: float, low: float, high: float, n: int) -> str:
    """The interval, in the direction in which the change is told."""
    return _ends(metric, -high, -low, n) if difference < 0 else _ends(metric, low, high, n)
