"""What claims are made of: a study's values by cell, and the comparison of two of them."""

from dataclasses import dataclass, replace

import pandas as pd

from nisbench.params.methods import Method
from nisbench.params.tasks import Task
from nisbench.report.formatting import figure, label, quantity
from nisbench.report.panels import Panel, panel_of
from nisbench.report.significance import LEVEL, interval, paired
from nisbench.steps import rate_name
from nisbench.studies import StudyPlan

HOLDS, FAILS, UNDECIDED = "holds", "contradicted", "undecided"
ONE_SEED = {HOLDS: "for it (one seed)", FAILS: "against it (one seed)", UNDECIDED: UNDECIDED}


Entry = tuple[Panel, str, float]
"""A method at a compression rate."""


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    claim: str
    where: str
    of: str
    measured: str
    against: str
    p: float
    verdict: str
    model: str
    """The model's title."""
    metric: str = ""
    """Empty for claims about ranks."""
    difference: float = float("nan")
    """The mean over seeds of what is claimed to be better, less the other; in the metric's own unit."""
    low: float = float("nan")
    """Where the difference's 95 % confidence interval begins; NaN with one seed."""
    high: float = float("nan")
    n: int = 1
    """Seeds."""
    run_id: str = ""
    """The run, at the first seed, of what is claimed to be better."""


class Results:
    """A study's values by panel, method, compression rate and metric, each a series over seeds."""

    def __init__(self, plan: StudyPlan, results: pd.DataFrame) -> None:
        self.plan = plan
        self._values: dict[tuple[Entry, str], dict[int, float]] = {}
        """By seed. Looked up thousands of times, which takes long in a data frame."""
        self._paper: dict[tuple[Entry, str], float] = {}
        self._runs: dict[Entry, dict[str, None]] = {}
        columns = ["grid", "dataset", "model", "method", "cr", "metric", "seed", "value", "paper_value", "run_id"]
        for grid, dataset, model, method, rate, metric, *of_run in results[columns].itertuples(index=False):
            seed, value, paper, run = of_run
            entry = (Panel(grid, dataset, model), method, rate)
            self._values.setdefault((entry, metric), {})[seed] = value
            self._paper.setdefault((entry, metric), float("nan") if paper is None else paper)
            self._runs.setdefault(entry, {})[run] = None
        self._means: dict[tuple[Entry, str], float] = {}
        self.panels: dict[Panel, dict[str, list[float]]] = {}
        """Per panel, its methods with their compression rates."""
        for cell in plan.compared:
            rates = self.panels.setdefault(panel_of(cell), {}).setdefault(cell.method, [])
            if cell.compression_rate not in rates:
                rates.append(cell.compression_rate)

    def of(self, panel: Panel, method: str, rate: float, metric: str) -> pd.Series:
        return pd.Series(self._values.get(((panel, method, rate), metric), {}), dtype=float)

    def mean(self, panel: Panel, method: str, rate: float, metric: str) -> float:
        key = ((panel, method, rate), metric)
        if key not in self._means:
            self._means[key] = self.of(*key[0], metric).mean()
        return self._means[key]

    def runs(self, panel: Panel, method: str, rate: float) -> list[str]:
        """The ids of the prunings, by seed."""
        return list(self._runs.get((panel, method, rate), {}))

    def paper(self, panel: Panel, method: str, rate: float, metric: str) -> float:
        """What the paper prints; NaN if nothing."""
        return float(self._paper[(panel, method, rate), metric])

    def task(self, panel: Panel) -> Task:
        return panel.task(self.plan)

    def metrics(self, panel: Panel) -> list[str]:
        return list(self.task(panel).headlines)

    def method(self, panel: Panel, name: str) -> Method:
        """The settings of a method, as the panel's grid has them."""
        found: Method = self.plan.grids[panel.grid].params.methods[name]
        return found

    def methods(self, panel: Panel, *in_paper: str) -> list[str]:
        """The methods that the paper calls so."""
        return [name for name in self.panels[panel] if self.method(panel, name).in_paper in in_paper]

    def unpruned(self, panel: Panel, *in_paper: str) -> list[Entry]:
        return [(panel, method, 1.0) for method in self.methods(panel, *in_paper) if 1 in self.panels[panel][method]]

    def dnis(self, panel: Panel) -> str | None:
        """The DNIS method that claims are about where there are several: the first."""
        return next(iter(self.methods(panel, "DNIS")), None)

    def best(self, among: list[Entry], metric: str) -> Entry:
        """The one with the best mean on test."""
        means = {entry: self.mean(*entry, metric) for entry in among}
        return (max if quantity(metric).better == "higher" else min)(means, key=lambda entry: means[entry])

    def other_tables(self, panel: Panel) -> list[Entry]:
        """The results of this data set and model in grids that sweep K and are otherwise trained on the same terms."""
        terms = self.plan.grids[panel.grid].params.training
        found: dict[Entry, None] = {}
        for cell in self.plan.cells:
            grid = self.plan.grids[cell.grid]
            same_k = grid.params.training.model_copy(update={"base_dimension": terms.base_dimension})
            if grid.sweeps("K") and same_k == terms and same_terms(self, panel, panel_of(cell)):
                found[panel_of(cell), cell.method, cell.compression_rate] = None
        return list(found)

    def pools(self) -> list[list[Entry]]:
        """Groups of results that compete for the best: controls aside, all of one data set, split, model and swept value.

        A group has the grids of every training and, where a study sweeps K, the tables of every width.
        """
        groups: list[list[Panel]] = []
        for panel in self.panels:
            value = self.plan.grids[panel.grid].swept_value
            for group in groups:
                if same_terms(self, group[0], panel) and self.plan.grids[group[0].grid].swept_value == value:
                    group.append(panel)
                    break
            else:
                groups.append([panel])
        pools = []
        for group in groups:
            shown = [
                (panel, method, rate)
                for panel in group
                for method in self.panels[panel]
                for rate in self.panels[panel][method]
            ]
            widths = [entry for panel in group for entry in self.other_tables(panel)]
            kept = [entry for entry in dict.fromkeys(shown + widths) if self.method(*entry[:2]).shown_role != "control"]
            pools += [kept] if kept else []
        return pools

    def name(self, panel: Panel, method: str, rate: float) -> str:
        title = self.plan.title(panel.grid, method=method)
        grid = self.plan.grids[panel.grid]
        title += f", {grid.title}" if grid.swept and not grid.tabled else ""
        return title if rate == 1 else f"{title} (CR = {rate_name(rate)})"

    def compare(
        self, claim: str, a: Entry, b: Entry, metric: str, of: str = "", against: str = "", sizes: bool = False
    ) -> Finding:
        """The finding that `a` is better than `b` in a metric, by a paired test over the seeds."""
        weights = f", {self.mean(*b, 'nonzeros'):,.0f} weights" if sizes else ""
        return self.judged(claim, a, self.of(*b, metric), metric, against or self.name(*b), of, sizes, weights)

    def compare_with_best(
        self,
        claim: str,
        a: Entry,
        rivals: list[Entry],
        metric: str,
        of: str = "",
        against: str = "",
        sizes: bool = False,
    ) -> Finding:
        """The finding that `a` is better than each of its rivals: a comparison with the one of the best mean on test.

        To hold against that one is hardest. To lose to it is easiest, because test has chosen it. So to contradict the claim, p
        must be below the level when multiplied by the number of rivals (Bonferroni).
        """
        best = self.best(rivals, metric)
        against = against or self.name(*best)
        if len(rivals) > 1:
            against += f", best of {len(rivals)}"
        found = self.compare(claim, a, best, metric, of, against, sizes)
        chance = found.verdict == FAILS and found.p * len(rivals) >= LEVEL
        return replace(found, verdict=UNDECIDED) if chance else found

    def judged(
        self,
        claim: str,
        a: Entry,
        others: pd.Series,
        metric: str,
        against: str,
        of: str = "",
        sizes: bool = False,
        about: str = "",
    ) -> Finding:
        """The same against values by seed, which `against` and, after the mean, `about` describe."""
        ours = self.of(*a, metric)
        assert len(ours) == len(others) == len(self.plan.study.seeds), (
            f"{a} and {against} are not in the study at all seeds"
        )
        means, p = (ours.mean(), others.mean()), paired(ours, others)
        better = means[0] > means[1] if quantity(metric).better == "higher" else means[0] < means[1]
        if pd.isna(p):  # two methods may have chosen the same model
            verdict = ONE_SEED[UNDECIDED if means[0] == means[1] else HOLDS if better else FAILS]
        else:
            verdict = UNDECIDED if p >= LEVEL else HOLDS if better else FAILS
        weights = f", {self.mean(*a, 'nonzeros'):,.0f} weights" if sizes else ""
        difference, low, high = interval(ours, others)
        return Finding(
            claim,
            a[0].title(self.plan),
            of or self.name(*a),
            f"{label(metric)} {figure(metric, means[0])}{weights}",
            f"{figure(metric, means[1])}{about}: {against}",
            p,
            verdict,
            self.plan.title(a[0].grid, model=a[0].model),
            metric,
            difference,
            low,
            high,
            len(ours),
            self.runs(*a)[0],
        )


def same_terms(results: Results, a: Panel, b: Panel, training: bool = False) -> bool:
    """Whether two panels have the same data and split, the same model and, if asked for, the same training settings.

    Of two grids that both sweep something that tables show, only panels of equal values of equal settings are compared. So it is no
    equivalence: a grid that sweeps nothing has the same terms as every value of one that does.
    """
    grids = [results.plan.grids[panel.grid] for panel in (a, b)]
    one, other = (grid.params for grid in grids)
    values = {grid.swept_value for grid in grids} - {None}
    return (
        len(values) <= 1
        and (a.dataset, a.model) == (b.dataset, b.model)
        and one.datasets[a.dataset] == other.datasets[a.dataset]
        and one.models[a.model] == other.models[a.model]
        and (not training or one.training == other.training)
    )
