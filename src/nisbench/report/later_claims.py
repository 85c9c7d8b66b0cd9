"""Claims that the paper does not make: of methods against one dimension for all, and the orders that later publications print.

As in `claims`, what is compared is fixed here beforehand.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pandas as pd

from nisbench.params.methods import MDE, PEP, FullTable, LowRank, Method, RandomSearch, Uniform
from nisbench.report.comparisons import Entry, Finding, Results
from nisbench.report.panels import Panel


def claims() -> list[Callable[[Results], Iterator[Finding]]]:
    return [beats_uniform, rewinding_beats_pep, pep_beats_low_rank, uniform_beats_pep, random_beats_mde]


def beats_uniform(results: Results) -> Iterator[Finding]:
    """Each method at each rate against the tuned uniform dimension of its size: between two measured sizes, read off the line."""
    for panel in results.panels:
        for uniform in uniform_of(results, panel)[:1]:
            for method, rates in results.panels[panel].items():
                role = results.method(panel, method).shown_role
                for rate, metric in product(rates if role in {"method", "baseline"} else [], results.metrics(panel)):
                    size = results.of(panel, method, rate, "bytes")
                    reference = at_size(results, panel, uniform, metric, size)
                    if reference is not None:
                        yield results.judged(
                            f"At its size, {results.name(panel, method, 1)} beats one dimension for all, tuned",
                            (panel, method, rate),
                            reference,
                            metric,
                            f"{results.plan.title(panel.grid, method=uniform)} at {size.mean():,.0f} bytes",
                        )


def uniform_of(results: Results, panel: Panel) -> list[str]:
    """The panel's methods that give all features one dimension, in float32."""
    return _of(results, panel, lambda method: isinstance(method, Uniform))


def at_size(results: Results, panel: Panel, method: str, metric: str, size: pd.Series) -> pd.Series | None:
    """A method's values, by seed, at a size in bytes, linear in its logarithm; None where one is outside what was measured."""
    rates = results.panels[panel][method]
    sizes = pd.DataFrame({rate: results.of(panel, method, rate, "bytes") for rate in rates}).loc[size.index]
    values = pd.DataFrame({rate: results.of(panel, method, rate, metric) for rate in rates}).loc[size.index]
    found = []
    for asked, x, y in zip(size, sizes.to_numpy(), values.to_numpy(), strict=True):
        order = np.argsort(x, kind="stable")
        found.append(
            np.interp(np.log(asked), np.log(x[order]), y[order], left=np.nan, right=np.nan) if asked > 0 else np.nan
        )
    read = pd.Series(found, index=size.index)
    return None if read.isna().any() else read


def rewinding_beats_pep(results: Results) -> Iterator[Finding]:
    claim = "Wang et al. 2022: of the same size, pruning in rounds with rewinding beats PEP"
    yield from _same_rate(results, claim, _rewound, lambda method: isinstance(method, PEP))


def pep_beats_low_rank(results: Results) -> Iterator[Finding]:
    claim = "Wang et al. 2022: of the same size, PEP beats low rank"
    yield from _same_rate(
        results, claim, lambda method: isinstance(method, PEP), lambda method: isinstance(method, LowRank)
    )


def uniform_beats_pep(results: Results) -> Iterator[Finding]:
    """Tables of BET (Qu et al. 2024) and CIESS (Qu et al. 2023): at 80 and 90 % pruned."""
    claim = "Qu et al. 2024: with 80 and 90 % pruned, one dimension for all beats PEP"
    uniform, pep = (lambda method: isinstance(method, Uniform)), (lambda method: isinstance(method, PEP))
    yield from _same_rate(results, claim, uniform, pep, rates=(5.0, 10.0))


def random_beats_mde(results: Results) -> Iterator[Finding]:
    claim = "Zhao et al. 2021: random search beats MDE"
    yield from _same_rate(
        results, claim, lambda method: isinstance(method, RandomSearch), lambda method: isinstance(method, MDE)
    )


def _rewound(method: Method) -> bool:
    return isinstance(method, FullTable) and bool(method.rounds) and method.rewind == "initial"


def _of(results: Results, panel: Panel, which: Callable[[Method], bool]) -> list[str]:
    return [
        name
        for name in results.panels[panel]
        if which(results.method(panel, name)) and not results.method(panel, name).quantise
    ]


def _same_rate(
    results: Results,
    claim: str,
    better: Callable[[Method], bool],
    worse: Callable[[Method], bool],
    rates: tuple[float, ...] | None = None,
) -> Iterator[Finding]:
    """The first method of the one kind against the first of the other, at every compression rate that both have."""
    for panel, methods in results.panels.items():
        for a, b in zip(_of(results, panel, better)[:1], _of(results, panel, worse)[:1], strict=False):
            for rate, metric in product(sorted({*methods[a]} & {*methods[b]}), results.metrics(panel)):
                if rates is None or rate in rates:
                    ours: Entry = (panel, a, rate)
                    yield results.compare(claim, ours, (panel, b, rate), metric, sizes=True)
