"""What the paper claims, held against a study's own results: every comparison that speaks for a claim or against it.

Which comparisons those are, and when they hold, is fixed here beforehand; a study brings the figures.
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from math import isclose

import pandas as pd
from scipy import stats

from nisbench.params.settings import TaskKind
from nisbench.report.layout import figure, label, markdown, quantity
from nisbench.report.learned import dnis_pruned, frequency_and_size, selection_of
from nisbench.report.places import HEADLINES, Place, at, dnis_cells, kind_of, place_of
from nisbench.report.significance import LEVEL, paired
from nisbench.runs import rate_name
from nisbench.studies import StudyPlan, symbol

HOLDS, FAILS, UNDECIDED = "holds", "contradicted", "inconclusive"
ONE_SEED = {HOLDS: "for it (one seed)", FAILS: "against it (one seed)", UNDECIDED: UNDECIDED}
VERDICTS = [HOLDS, ONE_SEED[HOLDS], UNDECIDED, ONE_SEED[FAILS], FAILS]

BASELINES = ("grid", "random", "mde")
PRUNED: dict[TaskKind, tuple[float, ...]] = {"rating": (2,), "ctr": (20, 30)}
"""The tasks on which the paper compares DNIS with these, and the compression rates at which it still wins on all models there."""
CONTROLS = ("no_embeddings", "oracle")
SAME_SIZE = 1.02
"""A method with at most so many times as many weights is of the same size or smaller."""
RANK = 0.3
"""A weaker rank correlation than this decides nothing."""


Entry = tuple[Place, str, float]
"""A method at a compression rate."""


@dataclass(frozen=True)
class Finding:
    """One comparison: of what, where, and what it says."""

    claim: str
    where: str
    of: str
    measured: str
    against: str
    p: float
    verdict: str


class Results:
    """A study's values by place, method, compression rate and metric, each a series over seeds."""

    def __init__(self, plan: StudyPlan, results: pd.DataFrame) -> None:
        self.plan = plan
        self._values = results
        self.places: dict[Place, dict[str, list[float]]] = {}
        """Per place, its methods with their compression rates."""
        self.kinds = {(cell.grid, cell.method): kind_of(plan, cell) for cell in plan.cells}
        for cell in plan.compared:
            rates = self.places.setdefault(place_of(cell), {}).setdefault(cell.method, [])
            if cell.compression_rate not in rates:
                rates.append(cell.compression_rate)

    def of(self, place: Place, method: str, rate: float, metric: str) -> pd.Series:
        found = at(self._values, place)
        found = found[(found["method"] == method) & (found["cr"] == rate) & (found["metric"] == metric)]
        return found.set_index("seed")["value"]

    def task(self, place: Place) -> TaskKind:
        return self.plan.grids[place.grid].params.task_of(place.dataset).kind

    def metrics(self, place: Place) -> list[str]:
        return HEADLINES[self.task(place)]

    def methods(self, place: Place, *kinds: str) -> list[str]:
        return [method for method in self.places[place] if self.kinds[place.grid, method] in kinds]

    def unpruned(self, place: Place, *kinds: str) -> list[Entry]:
        return [(place, method, 1.0) for method in self.methods(place, *kinds) if 1 in self.places[place][method]]

    def dnis(self, place: Place) -> str | None:
        """The DNIS method that claims are about where there are several: the first."""
        return next(iter(self.methods(place, "dnis")), None)

    def best(self, among: list[Entry], metric: str) -> Entry:
        """The one with the best mean."""
        means = {entry: self.of(*entry, metric).mean() for entry in among}
        return (max if quantity(metric).better == "higher" else min)(means, key=lambda entry: means[entry])

    def other_tables(self, place: Place) -> list[Entry]:
        """What grids that vary K have of this data set and model, on the same terms of training otherwise."""
        terms = self.plan.grids[place.grid].params.training
        found: dict[Entry, None] = {}
        for cell in self.plan.cells:
            apart = self.plan.grids[cell.grid]
            same_k = apart.params.training.model_copy(update={"base_dimension": terms.base_dimension})
            varies_k = apart.varied and symbol(apart.varied[0]) == "K"
            if varies_k and same_k == terms and _alike(self, place, place_of(cell)):
                found[place_of(cell), cell.method, cell.compression_rate] = None
        return list(found)

    def name(self, place: Place, method: str, rate: float) -> str:
        title = self.plan.titles[place.grid, f"method {method}"]
        grid = self.plan.grids[place.grid]
        title += f", {grid.title}" if grid.varied else ""
        return title if rate == 1 else f"{title} (CR = {rate_name(rate)})"

    def compare(
        self, claim: str, a: Entry, b: Entry, metric: str, of: str = "", against: str = "", sizes: bool = False
    ) -> Finding:
        """That `a` is better than `b`, by a paired test over the seeds; of times, shorter is better."""
        ours, others = self.of(*a, metric), self.of(*b, metric)
        assert len(ours) == len(others) == len(self.plan.study.seeds), f"{a} and {b} are not in the study at all seeds"
        means, p = (ours.mean(), others.mean()), paired(ours, others)
        better = means[0] > means[1] if quantity(metric).better == "higher" else means[0] < means[1]
        if pd.isna(p):
            verdict = ONE_SEED[HOLDS if better else FAILS]
        else:
            verdict = UNDECIDED if p >= LEVEL else HOLDS if better else FAILS
        weights = [f", {self.of(*each, 'nonzeros').mean():,.0f} weights" if sizes else "" for each in (a, b)]
        return Finding(
            claim,
            a[0].title(self.plan),
            of or self.name(*a),
            f"{label(metric)} {figure(metric, means[0])}{weights[0]}",
            f"{figure(metric, means[1])}{weights[1]}: {against or self.name(*b)}",
            p,
            verdict,
        )


def findings(plan: StudyPlan, frame: pd.DataFrame) -> list[Finding]:
    """All comparisons that the study's grids allow."""
    results = Results(plan, frame)
    claims: list[Callable[[Results], Iterator[Finding]]] = [
        unpruned_beats_baselines,
        pruned_beats_baselines,
        search_is_faster,
        multi_size_beats_single_size,
        dnis_beats_multi_size,
        base_dimension,
        blocks,
        rarer_blocks_get_less,
        frequent_features_keep_more,
        network_pruning,
        tuned_uniform,
        same_size,
    ]
    return [finding for claim in claims for finding in claim(results)]


def table(found: list[Finding]) -> pd.DataFrame:
    return pd.DataFrame([astuple(each) for each in found], columns=[field.name for field in fields(Finding)])


def scorecard(found: list[Finding]) -> str:
    """How many comparisons speak for each claim, and how many against it."""
    verdicts = [verdict for verdict in VERDICTS if any(each.verdict == verdict for each in found)]
    counts: dict[str, list[int]] = {}
    for each in found:
        counts.setdefault(each.claim, [0] * len(verdicts))[verdicts.index(each.verdict)] += 1
    rows = [[claim, *(str(count) if count else "" for count in of_claim)] for claim, of_claim in counts.items()]
    return markdown(rows, ["Claim", *verdicts])


def details(found: list[Finding]) -> str:
    rows = [
        [
            each.claim,
            each.where,
            each.of,
            each.measured,
            each.against,
            "" if pd.isna(each.p) else f"{each.p:.2g}",
            each.verdict,
        ]
        for each in found
    ]
    return markdown(rows, ["Claim", "Where", "Of", "Measured", "Against", "p", "Verdict"], align="left")


# --- the paper's Tables 2 to 4 --------------------------------------------------------------------------------


def unpruned_beats_baselines(results: Results) -> Iterator[Finding]:
    claim = "Unpruned, DNIS beats the best of Grid Search, Random Search and MDE"
    for place, dnis, baselines in _against_baselines(results):
        for metric in results.metrics(place) if 1 in results.places[place][dnis] else []:
            yield results.compare(claim, (place, dnis, 1), results.best(baselines, metric), metric)


def pruned_beats_baselines(results: Results) -> Iterator[Finding]:
    for place, dnis, baselines in _against_baselines(results):
        for rate in [rate for rate in PRUNED[results.task(place)] if rate in results.places[place][dnis]]:
            for metric in results.metrics(place):
                claim = f"Pruned at CR = {rate_name(rate)}, DNIS still beats the best of them"
                yield results.compare(claim, (place, dnis, rate), results.best(baselines, metric), metric)


def search_is_faster(results: Results) -> Iterator[Finding]:
    for place, dnis, baselines in _against_baselines(results):
        claim = "DNIS's whole search takes less time than the fastest of theirs"
        first = results.places[place][dnis][0]
        yield results.compare(claim, (place, dnis, first), results.best(baselines, "hours"), "hours", of="DNIS")


def _against_baselines(results: Results) -> Iterator[tuple[Place, str, list[Entry]]]:
    """The places with DNIS and unpruned baselines, on the tasks on which the paper compares them."""
    for place in results.places:
        dnis, baselines = results.dnis(place), results.unpruned(place, *BASELINES)
        if dnis and baselines and results.task(place) in PRUNED:
            yield place, dnis, baselines


def multi_size_beats_single_size(results: Results) -> Iterator[Finding]:
    for place, budgets in _nis(results):
        for single, multi in budgets.values():
            for metric in results.metrics(place) if single and multi else []:
                claim = "Within the same budget of weights, NIS-ME beats NIS-SE"
                yield results.compare(claim, (place, str(multi), 1), (place, str(single), 1), metric, sizes=True)


def dnis_beats_multi_size(results: Results) -> Iterator[Finding]:
    for place, budgets in _nis(results):
        dnis = results.dnis(place)
        for budget, (_, multi) in budgets.items():
            rates = results.places[place][dnis] if dnis and multi else []
            for rate in [rate for rate in rates if isclose(rate * budget, 1, rel_tol=1e-3)]:
                for metric in results.metrics(place):
                    claim = "Within the same budget of weights, DNIS beats NIS-ME"
                    yield results.compare(claim, (place, str(dnis), rate), (place, str(multi), 1), metric, sizes=True)


def _nis(results: Results) -> Iterator[tuple[Place, dict[float, tuple[str | None, str | None]]]]:
    """Per place and budget, the methods NIS-SE and NIS-ME."""
    for place in results.places:
        entries = results.plan.grids[place.grid].params.methods
        budgets: dict[float, tuple[str | None, str | None]] = {}
        for _, method, _ in results.unpruned(place, "nis"):
            settings = entries[method]
            assert settings.kind == "nis"
            single, multi = budgets.get(settings.budget, (None, None))
            budgets[settings.budget] = (method, multi) if settings.choice == "single" else (single, method)
        yield place, budgets


# --- Figures 2 and 3 ------------------------------------------------------------------------------------------


def base_dimension(results: Results) -> Iterator[Finding]:
    yield from _more_is_better(results, "K", "The larger the base dimension K, the better DNIS predicts")


def blocks(results: Results) -> Iterator[Finding]:
    yield from _more_is_better(results, "L", "The more feature blocks L, the better DNIS predicts")


def _more_is_better(results: Results, letter: str, claim: str) -> Iterator[Finding]:
    """The largest value against the smallest, and against the best of the others."""
    plan = results.plan
    lines: dict[tuple[str, str, str, str, float], dict[float, str]] = {}  # -> a grid for each value
    for cell in plan.cells:
        apart = plan.grids[cell.grid]
        value = apart.varied[1] if apart.varied and symbol(apart.varied[0]) == letter else None
        if isinstance(value, int | float) and kind_of(plan, cell) == "dnis":
            line = (apart.name, cell.dataset, cell.model, cell.method, cell.compression_rate)
            lines.setdefault(line, {})[float(value)] = cell.grid
    for (_, dataset, model, method, rate), grids in lines.items():
        *others, last = sorted(grids)
        at_value = {value: (Place(grid, dataset, model), method, rate) for value, grid in grids.items()}
        for metric in results.metrics(at_value[last][0]) if others else []:
            best = results.best([at_value[value] for value in others], metric)
            for other in dict.fromkeys([others[0], next(value for value in others if at_value[value] == best)]):
                name = f"{letter} = {other:g}" + (", the best of the others" if at_value[other] == best else "")
                yield results.compare(
                    claim, at_value[last], at_value[other], metric, of=f"{letter} = {last:g}", against=name
                )


def rarer_blocks_get_less(results: Results) -> Iterator[Finding]:
    searches: dict[Place, dict[str, pd.Series]] = {}
    for cell in dnis_cells(results.plan):
        searches.setdefault(place_of(cell), {})[cell.search.id] = pd.Series(selection_of(cell).mean(axis=1))
    for place, of_seeds in searches.items():
        means = pd.concat(list(of_seeds.values()), axis=1)
        ranks = [-_rank(means.index.to_series(), column) for _, column in means.items()]
        ends = means.mean(axis=1)
        claim = "Blocks of rarer features end with a smaller α"
        measured = f"mean α {ends.iloc[-1]:.2f} in the last of {len(ends)} blocks"
        yield _ranked(results, claim, place, measured, f"{ends.iloc[0]:.2f} in the first", ranks)


def frequent_features_keep_more(results: Results) -> Iterator[Finding]:
    seen: dict[Place, list[tuple[float, float, float]]] = {}
    rates: dict[Place, float] = {}
    for cell in dnis_pruned(results.plan):
        if cell.compression_rate > 1:
            frequency, size = (pd.Series(each) for each in frequency_and_size(cell))
            tenths = (
                size[frequency >= frequency.quantile(0.9)].mean(),
                size[frequency <= frequency.quantile(0.1)].mean(),
            )
            seen.setdefault(place_of(cell), []).append((*tenths, _rank(frequency, size)))
            rates[place_of(cell)] = cell.compression_rate
    for place, of_seeds in seen.items():
        upper, lower, _ = (sum(each) / len(of_seeds) for each in zip(*of_seeds, strict=True))
        claim = f"Frequent features keep more dimensions (CR = {rate_name(rates[place])})"
        measured, against = f"{upper:.1f} dimensions for the most frequent tenth", f"{lower:.1f} for the rarest"
        yield _ranked(results, claim, place, measured, against, [rank for *_, rank in of_seeds])


def _rank(x: pd.Series, y: pd.Series) -> float:
    """Spearman's rank correlation; 0 where all are alike."""
    alike = (x == x.iloc[0]).all() or (y == y.iloc[0]).all()
    return 0.0 if alike else float(stats.spearmanr(x, y).statistic)


def _ranked(results: Results, claim: str, place: Place, measured: str, against: str, ranks: list[float]) -> Finding:
    """It holds if the rank correlation is strong enough at every seed."""
    verdict = HOLDS if min(ranks) >= RANK else FAILS if max(ranks) <= -RANK else UNDECIDED
    if len(ranks) == 1:
        verdict = ONE_SEED[verdict]
    listed = ", ".join(f"{rank:.2f}" for rank in ranks)
    of = f"rank correlation with frequency {listed}"
    return Finding(claim, place.title(results.plan), of, measured, against, float("nan"), verdict)


def network_pruning(results: Results) -> Iterator[Finding]:
    for place, methods in results.places.items():
        dnis, full = results.dnis(place), next(iter(results.methods(place, "full")), None)
        for rate in methods[dnis] if dnis and full else []:
            for metric in results.metrics(place) if rate > 1 and rate in methods[str(full)] else []:
                claim = "At every pruning rate, DNIS beats network pruning"
                yield results.compare(claim, (place, str(dnis), rate), (place, str(full), rate), metric)


# --- what the paper leaves out --------------------------------------------------------------------------------


def tuned_uniform(results: Results) -> Iterator[Finding]:
    """DNIS on its own grid's and other terms of training against a uniform dimension that is tuned together with its L2 penalty."""
    for place in results.places:
        for uniform in results.unpruned(place, "uniform_tuned"):
            seen: set[str] = set()
            for there in [there for there in results.places if _alike(results, place, there)]:
                dnis = results.dnis(there)
                searches = {c.search.id for c in results.plan.compared if place_of(c) == there and c.method == dnis}
                if dnis and 1 in results.places[there][dnis] and not searches & seen:
                    seen |= searches
                    for metric in results.metrics(place):
                        claim = "Not in the paper: unpruned, DNIS beats one dimension for all with a tuned L2 penalty"
                        yield results.compare(claim, (there, dnis, 1), uniform, metric)


def _alike(results: Results, a: Place, b: Place, training: bool = False) -> bool:
    """Whether two places have the same data, split alike, the same model and, if asked for, the same terms of training."""
    one, other = (results.plan.grids[place.grid].params for place in (a, b))
    return (
        (a.dataset, a.model) == (b.dataset, b.model)
        and one.datasets[a.dataset] == other.datasets[a.dataset]
        and one.models[a.model] == other.models[a.model]
        and (not training or one.training == other.training)
    )


def same_size(results: Results) -> Iterator[Finding]:
    """DNIS at every compression rate against the best other method with no more weights that was trained on the same terms."""
    seen: set[Place] = set()
    for place in results.places:
        alike = [
            there for there in results.places if there not in seen and _alike(results, place, there, training=True)
        ]
        seen.update(alike)
        entries = {
            (f"{there.grid} {method}", rate): (there, method, rate)
            for there, method, rate in results.other_tables(place)
        }
        for there in alike:
            for method, rates in results.places[there].items():
                for rate in rates:  # of places that have the same, the first one's
                    entries.setdefault((method, rate), (there, method, rate))
        kinds = {entry: results.kinds[entry[0].grid, entry[1]] for entry in entries.values()}
        weights = {entry: results.of(*entry, "nonzeros").mean() for entry in kinds}
        for dnis in [entry for entry, kind in kinds.items() if kind == "dnis" and entry[0] in alike]:
            others = [
                entry
                for entry, kind in kinds.items()
                if "dnis" not in kind and kind not in CONTROLS and weights[entry] <= SAME_SIZE * weights[dnis]
            ]
            for metric in results.metrics(place) if others else []:
                claim = "Not in the paper: DNIS beats the best other method of its size or smaller"
                yield results.compare(claim, dnis, results.best(others, metric), metric, sizes=True)
