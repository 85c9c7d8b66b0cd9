"""The paper's claims, checked against a study's own results: every comparison that speaks for a claim or against it.

Which comparisons are made, and when they hold, is fixed here beforehand. A study brings the figures.
"""

from collections.abc import Callable, Iterator
from math import isclose
from typing import Any

import pandas as pd
from scipy import stats

from nisbench.report import later_claims
from nisbench.report.comparisons import FAILS, HOLDS, ONE_SEED, UNDECIDED, Entry, Finding, Results, same_terms
from nisbench.report.dnis_figures import dnis_pruned, frequency_and_size, selection_of
from nisbench.report.panels import Panel, dnis_cells, panel_of
from nisbench.steps import rate_name
from nisbench.studies import StudyPlan

BASELINES = ("Grid Search", "Random Search", "MDE")
SAME_SIZE = 1.02
"""A method with at most this many times the weights counts as of the same size or smaller."""
RANK = 0.3
"""A rank correlation weaker than this decides nothing."""


def findings(plan: StudyPlan, frame: pd.DataFrame) -> list[Finding]:
    """All comparisons that the study's grids allow. Of those with the same numbers, because a setting changed nothing, the first."""
    results = Results(plan, frame)
    claims: list[Callable[[Results], Iterator[Finding]]] = [
        unpruned_beats_baselines,
        pruned_beats_baselines,
        mixed_dimensions_beat_uniform,
        best_model,
        multi_size_beats_single_size,
        dnis_beats_multi_size,
        base_dimension,
        blocks,
        rarer_blocks_get_less,
        frequent_features_keep_more,
        network_pruning,
        tuned_uniform,
        same_size,
        *later_claims.claims(),
    ]
    distinct: dict[tuple[str, ...], Finding] = {}
    for finding in (finding for claim in claims for finding in claim(results)):
        distinct.setdefault(_numbers(finding), finding)
    return list(distinct.values())


def _numbers(finding: Finding) -> tuple[str, ...]:
    """What two findings share if the same trainings, or trainings that ended the same, are behind both."""
    of = "" if finding.metric else finding.of
    measured = finding.measured, finding.against.partition(":")[0]
    return (finding.claim, finding.model, finding.metric, of, *measured, repr(finding.difference), repr(finding.low))


# --- the paper's Tables 2 to 4 --------------------------------------------------------------------------------


def unpruned_beats_baselines(results: Results) -> Iterator[Finding]:
    claim = "Unpruned, DNIS beats the best of Grid Search, Random Search and MDE"
    for panel, dnis, baselines in _against_baselines(results):
        for metric in results.metrics(panel) if 1 in results.panels[panel][dnis] else []:
            yield results.compare_with_best(claim, (panel, dnis, 1), baselines, metric)


def pruned_beats_baselines(results: Results) -> Iterator[Finding]:
    for panel, dnis, baselines in _against_baselines(results):
        for rate in [rate for rate in results.task(panel).pruned_rates or () if rate in results.panels[panel][dnis]]:
            for metric in results.metrics(panel):
                claim = f"Pruned at CR = {rate_name(rate)}, DNIS still beats the best of them"
                yield results.compare_with_best(claim, (panel, dnis, rate), baselines, metric)


def _against_baselines(results: Results) -> Iterator[tuple[Panel, str, list[Entry]]]:
    """The panels with DNIS and unpruned baselines, on the tasks on which the paper compares them."""
    for panel in results.panels:
        dnis, baselines = results.dnis(panel), results.unpruned(panel, *BASELINES)
        if dnis and baselines and results.task(panel).pruned_rates:
            yield panel, dnis, baselines


def mixed_dimensions_beat_uniform(results: Results) -> Iterator[Finding]:
    claim = "Random Search and MDE, with mixed dimensions, beat Grid Search"
    for panel in results.panels:
        uniform = results.unpruned(panel, "Grid Search")
        for mixed in results.unpruned(panel, "Random Search", "MDE") if uniform else []:
            for metric in results.metrics(panel):
                yield results.compare(claim, mixed, uniform[0], metric)


def best_model(results: Results) -> Iterator[Finding]:
    """MF for ratings and DeepFM for clicks, with DNIS as searched."""
    searched: dict[tuple[str, str], list[Entry]] = {}
    for panel in results.panels:
        dnis = results.dnis(panel)
        if dnis and 1 in results.panels[panel][dnis]:
            searched.setdefault((panel.grid, panel.dataset), []).append((panel, dnis, 1))
    for (grid, _), entries in searched.items():
        params = results.plan.grids[grid].params
        titles = {entry: params.models[entry[0].model].title for entry in entries}
        best = [entry for entry in entries if params.models[entry[0].model].best_in_paper]
        others = [entry for entry in entries if entry not in best]
        for metric in results.metrics(best[0][0]) if best and others else []:
            claim = f"Of the models, {titles[best[0]]} predicts best"
            of, against = titles[best[0]], titles[results.best(others, metric)]
            yield results.compare_with_best(claim, best[0], others, metric, of, against)


def multi_size_beats_single_size(results: Results) -> Iterator[Finding]:
    for panel, budgets in _nis(results):
        for single, multi in budgets.values():
            for metric in results.metrics(panel) if single and multi else []:
                claim = "Within the same budget of weights, NIS-ME beats NIS-SE"
                yield results.compare(claim, (panel, str(multi), 1), (panel, str(single), 1), metric, sizes=True)


def dnis_beats_multi_size(results: Results) -> Iterator[Finding]:
    for panel, budgets in _nis(results):
        dnis = results.dnis(panel)
        for budget, (_, multi) in budgets.items():
            rates = results.panels[panel][dnis] if dnis and multi else []
            for rate in [rate for rate in rates if isclose(rate * budget, 1, rel_tol=1e-3)]:
                for metric in results.metrics(panel):
                    claim = "Within the same budget of weights, DNIS beats NIS-ME"
                    yield results.compare(claim, (panel, str(dnis), rate), (panel, str(multi), 1), metric, sizes=True)


def _nis(results: Results) -> Iterator[tuple[Panel, dict[float, tuple[str | None, str | None]]]]:
    """Per panel and budget, the methods NIS-SE and NIS-ME."""
    for panel in results.panels:
        budgets: dict[float, tuple[str | None, str | None]] = {}
        for _, method, _ in results.unpruned(panel, "NIS-SE", "NIS-ME"):
            settings: Any = results.method(panel, method)
            single, multi = budgets.get(settings.budget, (None, None))
            budgets[settings.budget] = (method, multi) if settings.in_paper == "NIS-SE" else (single, method)
        yield panel, budgets


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
        of_cell = plan.grids[cell.grid]
        value = of_cell.swept[1] if of_cell.swept and of_cell.sweeps(letter) else None
        if isinstance(value, int | float) and plan.method_of(cell).in_paper == "DNIS":
            line = (of_cell.name, cell.dataset, cell.model, cell.method, cell.compression_rate)
            lines.setdefault(line, {})[float(value)] = cell.grid
    for (_, dataset, model, method, rate), grids in lines.items():
        *others, last = sorted(grids)
        at_value = {value: (Panel(grid, dataset, model), method, rate) for value, grid in grids.items()}
        for metric in results.metrics(at_value[last][0]) if others else []:
            rivals = {at_value[value]: f"{letter} = {value:g}" for value in others}
            best, of = results.best(list(rivals), metric), f"{letter} = {last:g}"
            if best != at_value[others[0]]:
                least = at_value[others[0]]
                yield results.compare(claim, at_value[last], least, metric, of, rivals[least])
            yield results.compare_with_best(claim, at_value[last], list(rivals), metric, of, rivals[best])


def rarer_blocks_get_less(results: Results) -> Iterator[Finding]:
    searches: dict[Panel, dict[int, pd.Series]] = {}  # by seed; where rates have searches of their own, the first
    for cell in dnis_cells(results.plan):
        of_seeds = searches.setdefault(panel_of(cell), {})
        if cell.seed not in of_seeds:
            of_seeds[cell.seed] = pd.Series(selection_of(cell).mean(axis=1))
    for panel, of_seeds in searches.items():
        means = pd.concat(list(of_seeds.values()), axis=1)
        ranks = [-_rank(column.index.to_series(), column) for column in (each.dropna() for _, each in means.items())]
        ends = means.mean(axis=1)
        claim = "Blocks of rarer features end with a smaller α"
        measured = f"mean α {ends.iloc[-1]:.2f} in the last of {len(ends)} blocks"
        yield _ranked(results, claim, panel, measured, f"{ends.iloc[0]:.2f} in the first", ranks)


def frequent_features_keep_more(results: Results) -> Iterator[Finding]:
    seen: dict[Panel, list[tuple[float, float, float]]] = {}
    rates: dict[Panel, float] = {}
    for cell in dnis_pruned(results.plan):
        if cell.compression_rate > 1:
            frequency, size = (pd.Series(values) for values in frequency_and_size(cell))
            tenths = (
                size[frequency >= frequency.quantile(0.9)].mean(),
                size[frequency <= frequency.quantile(0.1)].mean(),
            )
            seen.setdefault(panel_of(cell), []).append((*tenths, _rank(frequency, size)))
            rates[panel_of(cell)] = cell.compression_rate
    for panel, of_seeds in seen.items():
        upper, lower, _ = (sum(values) / len(of_seeds) for values in zip(*of_seeds, strict=True))
        claim = f"Frequent features keep more dimensions (CR = {rate_name(rates[panel])})"
        measured, against = f"{upper:.1f} dimensions for the most frequent tenth", f"{lower:.1f} for the rarest"
        yield _ranked(results, claim, panel, measured, against, [rank for *_, rank in of_seeds])


def _rank(x: pd.Series, y: pd.Series) -> float:
    """Spearman's rank correlation; 0 where all values of one side are equal."""
    alike = (x == x.iloc[0]).all() or (y == y.iloc[0]).all()
    return 0.0 if alike else float(stats.spearmanr(x, y).statistic)


def _ranked(results: Results, claim: str, panel: Panel, measured: str, against: str, ranks: list[float]) -> Finding:
    """A finding that holds if the rank correlation is strong enough at every seed."""
    verdict = HOLDS if min(ranks) >= RANK else FAILS if max(ranks) <= -RANK else UNDECIDED
    if len(ranks) == 1:
        verdict = ONE_SEED[verdict]
    listed = ", ".join(f"{rank:.2f}" for rank in ranks)
    of = f"rank correlation with frequency {listed}"
    model, n = results.plan.title(panel.grid, model=panel.model), len(ranks)
    return Finding(claim, panel.title(results.plan), of, measured, against, float("nan"), verdict, model, n=n)


def network_pruning(results: Results) -> Iterator[Finding]:
    for panel, methods in results.panels.items():
        dnis, full = results.dnis(panel), next(iter(results.methods(panel, "Network pruning")), None)
        for rate in methods[dnis] if dnis and full else []:
            for metric in results.metrics(panel) if rate > 1 and rate in methods[str(full)] else []:
                claim = "At every pruning rate, DNIS beats network pruning"
                yield results.compare(claim, (panel, str(dnis), rate), (panel, str(full), rate), metric)


# --- what the paper leaves out --------------------------------------------------------------------------------


def tuned_uniform(results: Results) -> Iterator[Finding]:
    """DNIS, in all grids of the same data and model, against a uniform dimension that is tuned with its L2 penalty."""
    for panel in results.panels:
        settings = {name: results.method(panel, name) for name in results.panels[panel]}
        references = [name for name, of in settings.items() if of.shown_role == "reference" and not of.quantise]
        for reference in [name for name in references if 1 in results.panels[panel][name]]:
            seen: set[str] = set()
            for other in [other for other in results.panels if same_terms(results, panel, other)]:
                dnis = results.dnis(other)
                searches = {c.search.id for c in results.plan.compared if panel_of(c) == other and c.method == dnis}
                if dnis and 1 in results.panels[other][dnis] and not searches & seen:
                    seen |= searches
                    for metric in results.metrics(panel):
                        claim = "Not in the paper: unpruned, DNIS beats one dimension for all with a tuned L2 penalty"
                        yield results.compare(claim, (other, dnis, 1), (panel, reference, 1), metric)


def same_size(results: Results) -> Iterator[Finding]:
    """DNIS at every compression rate against the best other method of no more weights, trained on the same terms."""
    told: set[Entry] = set()
    for alike in _on_equal_terms(results):
        entries = {
            (f"{other.grid} {method}", rate): (other, method, rate)
            for other, method, rate in results.other_tables(alike[0])
        }
        for other in alike:
            for method, rates in results.panels[other].items():
                for rate in rates:  # the first panel's, where several have the same
                    entries.setdefault((method, rate), (other, method, rate))
        methods = {entry: results.method(entry[0], entry[1]) for entry in entries.values()}
        weights = {entry: results.mean(*entry, "nonzeros") for entry in methods}
        for dnis in [entry for entry, method in methods.items() if method.in_paper == "DNIS" and entry[0] in alike]:
            if dnis in told:
                continue
            told.add(dnis)
            others = [
                entry
                for entry, method in methods.items()
                if type(method) is not type(methods[dnis])
                and method.shown_role != "control"
                and weights[entry] <= SAME_SIZE * weights[dnis]
            ]
            for metric in results.metrics(dnis[0]) if others else []:
                claim = "Not in the paper: DNIS beats the best other method of its size or smaller"
                yield results.compare_with_best(claim, dnis, others, metric, sizes=True)


def _on_equal_terms(results: Results) -> Iterator[list[Panel]]:
    """Groups of panels on the same terms. One of a grid that sweeps nothing is in the group of every swept value."""
    done: set[Panel] = set()
    for panel in results.panels:
        if panel not in done:
            alike = [other for other in results.panels if same_terms(results, panel, other, training=True)]
            done.update(alike)
            swept = {other: results.plan.grids[other.grid].swept_value for other in alike}
            for value in dict.fromkeys(value for value in swept.values() if value) or [None]:
                yield [other for other in alike if swept[other] in (None, value)]
