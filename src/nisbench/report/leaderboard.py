"""All results of a study side by side: quality, size, cost, and how far each is from the best and from one dimension for all.

It becomes ``leaderboard.csv``, which the page shows as a table that can be sorted and as a picture of quality against bytes.
"""

from dataclasses import astuple
from typing import Any

import numpy as np
import pandas as pd

from nisbench.report.comparisons import Results
from nisbench.report.formatting import quantity, row_names
from nisbench.report.later_claims import at_size, uniform_of
from nisbench.report.panels import Panel
from nisbench.report.runs import full_bytes
from nisbench.report.significance import interval, paired, rounded
from nisbench.studies import StudyPlan

COLUMNS = [
    "grid", "dataset", "model", "method", "cr", "metric", "where", "name", "role", "mean", "sd", "low", "high", "n", "bytes", "share",
    "weights_kept", "core_seconds", "from_best", "from_best_low", "from_best_high", "p", "from_uniform", "from_uniform_low",
    "from_uniform_high", "front", "paper", "runs",
]  # fmt: skip


def leaderboard(plan: StudyPlan, frame: pd.DataFrame) -> pd.DataFrame:
    """A row per panel, metric, method and compression rate; each at all seeds, which `frame` must have.

    `from_best` and `from_uniform` are mean differences over seeds, with their 95 % intervals, from the panel's best mean, controls aside,
    and from the uniform dimension at the same bytes. They are positive where the row is better. `share` is of the full table's bytes,
    `weights_kept` of the full table's weights, `front` marks what nothing beats in both quality and bytes.
    """
    results, rows = Results(plan, frame), []
    for panel, methods in results.panels.items():
        keys = [(method, rate) for method, rates in methods.items() for rate in rates]
        names, full = row_names(plan, panel.grid, keys), full_bytes(plan, panel)
        for metric in results.metrics(panel):
            rows += _of_metric(results, panel, keys, metric, names, full)
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_metric(
    results: Results,
    panel: Panel,
    keys: list[tuple[str, float]],
    metric: str,
    names: dict[tuple[str, float], str],
    full: float | None,
) -> list[dict[str, Any]]:
    sign = 1 if quantity(metric).better == "higher" else -1
    values = {key: results.of(panel, *key, metric) for key in keys}
    sizes = {key: results.of(panel, *key, "bytes") for key in keys}
    ranked = [key for key in keys if results.method(panel, key[0]).shown_role != "control"] or keys
    best = max(ranked, key=lambda key: sign * values[key].mean())
    uniform = next(iter(uniform_of(results, panel)), None)
    front = _front({key: (sizes[key].mean(), -sign * values[key].mean()) for key in keys})
    rows = []
    for key in keys:
        mean, low, high = interval(values[key], 0 * values[key])
        behind = interval(sign * values[key], sign * values[best])
        reference = at_size(results, panel, uniform, metric, sizes[key]) if uniform and key[0] != uniform else None
        against = interval(sign * values[key], sign * reference) if reference is not None else (np.nan,) * 3
        weights = results.of(panel, *key, "nonzeros").mean()
        rows.append(
            dict(zip(["grid", "dataset", "model"], astuple(panel), strict=True))
            | {"method": key[0], "cr": key[1], "metric": metric, "where": panel.title(results.plan), "name": names[key]}
            | {"role": results.method(panel, key[0]).shown_role, "mean": mean, "sd": values[key].std(ddof=1)}
            | {"low": low, "high": high, "n": len(values[key]), "bytes": sizes[key].mean()}
            | {
                "share": sizes[key].mean() / full if full else np.nan,
                "weights_kept": 4 * weights / full if full else np.nan,
            }
            | {"core_seconds": results.of(panel, *key, "core_seconds").mean()}
            | dict(zip(["from_best", "from_best_low", "from_best_high"], behind, strict=True))
            | {"p": rounded(paired(values[key], values[best])) if key != best else np.nan}
            | dict(zip(["from_uniform", "from_uniform_low", "from_uniform_high"], against, strict=True))
            | {
                "front": key in front,
                "paper": results.paper(panel, *key, metric),
                "runs": " ".join(results.runs(panel, *key)),
            }
        )
    return rows


def _front(points: dict[tuple[str, float], tuple[float, float]]) -> set[tuple[str, float]]:
    """The keys whose size and loss no other beats in both. A result without embeddings is none of them."""
    found, best = set(), np.inf
    for key, (size, loss) in sorted(points.items(), key=lambda item: item[1]):
        if size > 0 and loss < best:
            found.add(key)
            best = loss
    return found
