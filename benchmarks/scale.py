"""How a step's time goes with the number of features, the batch and the dimension: `python -m benchmarks.scale JSON`."""

import json
import statistics
import sys
from typing import Any

import torch

from benchmarks.cases import settings_of
from nisbench.cost import shapes
from nisbench.cost.steps import TimedTraining, per, search_in
from nisbench.machine import device as held_device
from nisbench.machine import peak_memory_mib

CASES = [
    *({"features": n, "batch_size": 4096, "k": 64} for n in (10**4, 10**5, 10**6, 10**7)),
    *({"features": 10**6, "batch_size": b, "k": 64} for b in (1024, 16384)),
    *({"features": 10**6, "batch_size": 4096, "k": k} for k in (16, 32)),
]
STEPS, ROUNDS = 16, 15


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Median step time, what an epoch costs beside its steps, and peak memory beside the table's own size."""
    n, k = case["features"], case["k"]
    shape = shapes.of_ratings(n * 4 // 5, n - n * 4 // 5, n) if case["model"] == "mf" else shapes.of_clicks(0, 26, n, n)
    with held_device(case["device"], case["threads"]) as device:
        search = search_in(shape, settings_of(case["model"], "plain", k, case["batch_size"]), device, STEPS)
        training = TimedTraining(search, search.specs()[:1])
        training.steps()  # warms up
        step = statistics.median(per(training.steps) for _ in range(ROUNDS))
        rows = len(torch.unique(search.data.training.ids[: case["batch_size"]]))
        sync = per(training.sync)
        return case | {
            "rows": rows,
            "step_ms": 1e3 * step,
            "epoch_end_ms": 1e3 * sync,
            "table_mib": 4 * n * k / 2**20,
            "peak_mib": peak_memory_mib(device),
        }


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
