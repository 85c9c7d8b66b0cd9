"""What the paper claims, held against a study's own results: each claim with the figures that speak for it or against."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from nisbench.report.layout import figure, markdown, quantity
from nisbench.report.learned import dnis_pruned, frequency_and_size, selection_of
from nisbench.report.places import HEADLINES, Place, at, dnis_cells, kind_of, place_of
from nisbench.report.significance import LEVEL, paired
from nisbench.runs import rate_name
from nisbench.studies import StudyPlan, symbol

HOLDS, FAILS, NOISE = "holds", "does not hold", "not told apart from noise"
ONE_SEED = {True: "points that way (one seed)", False: "points the other way (one seed)"}
BASELINES = {"grid", "random", "mde"}


@dataclass(frozen=True)
class Finding:
    """A claim in one place, what was measured, and what that says."""

    claim: str
    place: str
    measured: str
    verdict: str


class Results:
    """A study's values by place, method, compression rate and metric, each a series over seeds."""

    def __init__(self, plan: StudyPlan, results: pd.DataFrame) -> None:
        self.plan = plan
        self._values = results
        self.places: dict[Place, dict[str, list[float]]] = {}
        """Per place, its methods with their compression rates."""
        self.kinds: dict[tuple[str, str], str] = {}
        for cell in plan.cells:
            self.kinds[cell.grid, cell.method] = kind_of(plan, cell)
        for cell in plan.compared:
            rates = self.places.setdefault(place_of(cell), {}).setdefault(cell.method, [])
            if cell.compression_rate not in rates:
                rates.append(cell.compression_rate)

    def of(self, place: Place, method: str, rate: float, metric: str) -> pd.Series:
        found = at(self._values, place)
        for column, value in {"method": method, "cr": rate, "metric": metric}.items():
            found = found[found[column] == value]
        return found.set_index("seed")["value"]

    def metrics(self, place: Place) -> list[str]:
        task = self.plan.grids[place.grid].params.task_of(place.dataset)
        return HEADLINES[task.kind]

    def methods(self, place: Place, *kinds: str) -> list[str]:
        return [method for method in self.places[place] if self.kinds[place.grid, method] in kinds]

    def best(self, place: Place, methods: list[str], metric: str) -> str:
        """Of unpruned methods the one with the best mean."""
        means = {
            method: self.of(place, method, 1, metric).mean() for method in methods if 1 in self.places[place][method]
        }
        return (min if quantity(metric).better == "lower" else max)(means, key=lambda method: means[method])

    def name(self, place: Place, method: str, rate: float = 1) -> str:
        title = self.plan.titles[place.grid, f"method {method}"]
        return title if rate == 1 else f"{title} at CR = {rate_name(rate)}"


def findings(plan: StudyPlan, frame: pd.DataFrame) -> list[Finding]:
    """All claims that the study's grids can speak to."""
    results = Results(plan, frame)
    claims: list[Callable[[Results], Iterator[Finding]]] = [
        unpruned_beats_baselines,
        pruned_beats_baselines,
        search_is_faster,
        reinforcement_learning,
        base_dimension,
        blocks,
        rarer_blocks_get_less,
        frequent_features_keep_more,
        network_pruning,
        tuned_uniform,
    ]
    return [finding for claim in claims for finding in claim(results)]


def section(plan: StudyPlan, frame: pd.DataFrame) -> str:
    """The findings as a table, or nothing if there are none."""
    found = findings(plan, frame)
    if not found:
        return ""
    rows = []
    for i, each in enumerate(found):
        claim = "" if i and found[i - 1].claim == each.claim else each.claim
        rows.append(
            [claim, each.place, each.measured, f"**{each.verdict}**" if each.verdict == HOLDS else each.verdict]
        )
    return markdown(rows, ["Claim", "Where", "Measured", "Verdict"], align="left")


@dataclass(frozen=True)
class Comparison:
    """That `a` is better than `b`: mean values, the p-value of a paired test over seeds, and the verdict at 5 %."""

    a: pd.Series
    b: pd.Series
    metric: str

    @property
    def p(self) -> float:
        return paired(self.a, self.b)

    @property
    def verdict(self) -> str:
        a, b = self.a.mean(), self.b.mean()
        better = a > b if quantity(self.metric).better == "higher" else a < b  # of times, less is better
        if pd.isna(self.p):
            return ONE_SEED[bool(better)]
        return NOISE if self.p >= LEVEL else HOLDS if better else FAILS

    def value(self) -> str:
        """What `a` is, and how surely it differs from `b`."""
        return figure(self.metric, self.a.mean()) + ("" if pd.isna(self.p) else f" (p = {self.p:.2g})")

    def text(self) -> str:
        return f"{quantity(self.metric).title} {self.value()} against {figure(self.metric, self.b.mean())}"


def joint(verdicts: dict[float, str]) -> str:
    """The verdicts at several compression rates in one: alike, or each with where it is so."""
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    rates: dict[str, list[str]] = {}
    for rate, verdict in verdicts.items():
        rates.setdefault(verdict, []).append(rate_name(rate))
    return "; ".join(f"{verdict} at CR = {', '.join(where)}" for verdict, where in rates.items())


# --- the claims -----------------------------------------------------------------------------------------------


def unpruned_beats_baselines(results: Results) -> Iterator[Finding]:
    yield from _against_baselines(
        results, "DNIS, unpruned, predicts better than Grid Search, Random Search and MDE", pruned=False
    )


def pruned_beats_baselines(results: Results) -> Iterator[Finding]:
    yield from _against_baselines(results, "Pruned, DNIS still does", pruned=True)


def _against_baselines(results: Results, claim: str, pruned: bool) -> Iterator[Finding]:
    for place, methods in results.places.items():
        baselines = [method for method in results.methods(place, *BASELINES) if 1 in methods[method]]
        for dnis in results.methods(place, "dnis")[:1] if baselines else []:
            rates = [rate for rate in methods[dnis] if (rate > 1) == pruned]
            for metric in results.metrics(place) if rates else []:
                best = results.best(place, baselines, metric)
                other = results.of(place, best, 1, metric)
                found = {rate: Comparison(results.of(place, dnis, rate, metric), other, metric) for rate in rates}
                values = [
                    each.value() + (f" at CR = {rate_name(rate)}" if pruned else "") for rate, each in found.items()
                ]
                text = f"{quantity(metric).title} {', '.join(values)} against {figure(metric, other.mean())} of {results.name(place, best)}, the best of them"
                verdict = joint({rate: each.verdict for rate, each in found.items()})
                yield Finding(claim, place.title(results.plan), text, verdict)


def search_is_faster(results: Results) -> Iterator[Finding]:
    claim = "DNIS's whole search takes less time than any of theirs"
    for place, methods in results.places.items():
        baselines = [method for method in results.methods(place, *BASELINES) if 1 in methods[method]]
        for dnis in results.methods(place, "dnis")[:1] if baselines else []:
            hours = {method: results.of(place, method, 1, "hours") for method in baselines}
            fastest = min(hours, key=lambda method: hours[method].mean())
            own = Comparison(results.of(place, dnis, methods[dnis][0], "hours"), hours[fastest], "hours")
            text = f"{own.text()} of {results.name(place, fastest)}, the fastest"
            yield Finding(claim, place.title(results.plan), text, own.verdict)


def reinforcement_learning(results: Results) -> Iterator[Finding]:
    """The paper's Table 4: NIS-ME against NIS-SE, and DNIS against NIS-ME, at the same share of the weights."""
    for place, methods in results.places.items():
        entries = results.plan.grids[place.grid].params.methods
        single, multi = (
            {entries[m].budget: m for m in results.methods(place, "nis") if entries[m].choice == choice}  # type: ignore[union-attr]
            for choice in ("single", "multi")
        )
        pairs = {
            "NIS-ME does better than NIS-SE": [
                (budget, (method, 1.0), (single[budget], 1.0)) for budget, method in multi.items() if budget in single
            ],
            "DNIS does better than NIS-ME at the same size": [
                (budget, (dnis, 1 / budget), (method, 1.0))
                for dnis in results.methods(place, "dnis")[:1]
                for budget, method in multi.items()
                if 1 / budget in methods[dnis]
            ],
        }
        for claim, cases in pairs.items():
            for budget, a, b in cases:
                for metric in results.metrics(place):
                    found = Comparison(results.of(place, *a, metric), results.of(place, *b, metric), metric)
                    text = f"{budget:.0%} of the weights: {found.text()}"
                    yield Finding(claim, place.title(results.plan), text, found.verdict)


def base_dimension(results: Results) -> Iterator[Finding]:
    yield from _more_is_better(results, "K", "A larger base dimension K predicts better")


def blocks(results: Results) -> Iterator[Finding]:
    yield from _more_is_better(results, "L", "More feature blocks L predict better")


def _more_is_better(results: Results, letter: str, claim: str) -> Iterator[Finding]:
    plan = results.plan
    values = {g: p.varied[1] for g, p in plan.grids.items() if p.varied and symbol(p.varied[0]) == letter}
    places = {
        (c.dataset, c.model, c.method, c.compression_rate)
        for c in plan.cells
        if c.grid in values and kind_of(plan, c) == "dnis"
    }
    for dataset, model, method, rate in sorted(places):
        ordered = sorted(values, key=lambda grid: float(values[grid]))  # type: ignore[arg-type]
        place = {grid: Place(grid, dataset, model) for grid in ordered}
        for metric in results.metrics(place[ordered[0]]):
            of = {grid: results.of(place[grid], method, rate, metric) for grid in ordered}
            found = Comparison(of[ordered[-1]], of[ordered[0]], metric)
            ends = f"{letter} = {values[ordered[-1]]} and {values[ordered[0]]}"
            best = (
                min(of, key=lambda g: of[g].mean())
                if quantity(metric).better == "lower"
                else max(of, key=lambda g: of[g].mean())
            )
            where = f"{plan.titles[ordered[0], f'model {model}']}, {plan.titles[ordered[0], f'dataset {dataset}']}"
            yield Finding(claim, where, f"{ends}: {found.text()}; the best is {letter} = {values[best]}", found.verdict)


def rarer_blocks_get_less(results: Results) -> Iterator[Finding]:
    claim = "Blocks of rarer features end with a smaller α"
    searches: dict[Place, dict[str, pd.Series]] = {}
    for cell in dnis_cells(results.plan):
        searches.setdefault(place_of(cell), {})[cell.search.id] = pd.Series(selection_of(cell).mean(axis=1))
    for place, of_seeds in searches.items():
        means = pd.concat(of_seeds.values(), axis=1).mean(axis=1)
        if len(means) < 3:
            continue
        text = f"mean α {means.iloc[0]:.2f} in the first block, {means.iloc[-1]:.2f} in the last"
        yield Finding(claim, place.title(results.plan), *_ranked(means.index.to_series(), means, text, falling=True))


def frequent_features_keep_more(results: Results) -> Iterator[Finding]:
    claim = "Frequent features keep more dimensions"
    cells = {place_of(cell): cell for cell in reversed(dnis_pruned(results.plan))}
    for place, cell in reversed(cells.items()):
        if cell.compression_rate == 1:
            continue
        frequency, size = (pd.Series(each) for each in frequency_and_size(cell))
        upper = frequency >= frequency.quantile(0.9)
        lower = frequency <= frequency.quantile(0.1)
        text = (
            f"{size[upper].mean():.1f} dimensions for the most frequent tenth, {size[lower].mean():.1f} for the rarest (seed {cell.seed}, "
            f"CR = {rate_name(cell.compression_rate)})"
        )
        yield Finding(claim, place.title(results.plan), *_ranked(frequency, size, text, falling=False))


def _ranked(x: pd.Series, y: pd.Series, text: str, falling: bool) -> tuple[str, str]:
    """Whether y falls (or rises) with x by Spearman's rank correlation, beyond chance and by more than a little."""
    if y.nunique() < 2:
        return f"{text}: all alike", FAILS
    found = stats.spearmanr(x, y)
    rank = float(found.statistic)
    text += f"; rank correlation {rank:.2f}"
    if found.pvalue >= LEVEL:
        return text, NOISE
    return text, HOLDS if abs(rank) >= 0.3 and (rank < 0) == falling else FAILS


def network_pruning(results: Results) -> Iterator[Finding]:
    claim = "DNIS does better than network pruning at every pruning rate"
    for place, methods in results.places.items():
        full = results.methods(place, "full")[:1]
        for dnis in results.methods(place, "dnis")[:1] if full else []:
            rates = [rate for rate in methods[dnis] if rate > 1 and rate in methods[full[0]]]
            for metric in results.metrics(place) if rates else []:
                found = {
                    rate: Comparison(
                        results.of(place, dnis, rate, metric), results.of(place, full[0], rate, metric), metric
                    )
                    for rate in rates
                }
                values = [
                    f"{each.value()} against {figure(metric, each.b.mean())} at CR = {rate_name(rate)}"
                    for rate, each in found.items()
                ]
                text = f"{quantity(metric).title} {', '.join(values)}"
                verdict = joint({rate: each.verdict for rate, each in found.items()})
                yield Finding(claim, place.title(results.plan), text, verdict)


def tuned_uniform(results: Results) -> Iterator[Finding]:
    claim = "Not in the paper: DNIS, unpruned, does better than one dimension for all with a tuned L2 penalty"
    for place in results.places:
        for uniform in results.methods(place, "uniform_tuned")[:1]:
            for other, there in _dnis_of(results, place):
                for metric in results.metrics(place):
                    found = Comparison(
                        results.of(there, other, 1, metric), results.of(place, uniform, 1, metric), metric
                    )
                    terms = f", {results.plan.grids[there.grid].title}" if there.grid != place.grid else ""
                    text = f"{results.name(there, other)}{terms}: {found.text()}"
                    yield Finding(claim, place.title(results.plan), text, found.verdict)


def _dnis_of(results: Results, place: Place) -> Iterator[tuple[str, Place]]:
    """The first DNIS method, unpruned, in each grid that has this data set and model, each search once."""
    seen = set()
    for cell in results.plan.compared:
        same = (cell.dataset, cell.model) == (place.dataset, place.model) and kind_of(results.plan, cell) == "dnis"
        if (
            same
            and cell.compression_rate == 1
            and cell.seed == results.plan.study.seeds[0]
            and cell.search.id not in seen
        ):
            seen.add(cell.search.id)
            yield cell.method, place_of(cell)
