"""One case of the benchmark in a process of its own, so that its peak memory is its own: `python -m benchmarks.case JSON`."""

import json
import resource
import statistics
import sys
import time
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks import limits, ours, textbook
from benchmarks.shapes import SHAPES, generate
from nisbench.data.instances import Instances
from nisbench.machine import device as held_device
from nisbench.machine import provenance

STEPS, ROUNDS = 16, 5


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Instances per second, against the textbook's and the limit's, and peak memory."""
    shape, k, batch = SHAPES[case["shape"]], case["k"], case["batch_size"]
    data = generate(shape, STEPS * batch)
    with held_device(case["device"], case["threads"]) as device:
        values = None if data.values is None else data.values.to(device)
        on_device = Instances(data.ids.to(device), data.labels.to(device), values)
        epoch = ours.epochs(case["model"], shape, on_device, k, batch, case["mode"])
        epoch()  # warm up
        mine, theirs = [_rate(epoch, device)], []
        peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else _peak_mib()
        loop = textbook.steps(case["model"], shape, data, k, batch, device)
        next(loop)
        theirs.append(_rate(lambda: sum(next(loop) for _ in range(STEPS // 4)), device))
        for _ in range(ROUNDS - 1):
            mine.append(_rate(epoch, device))
            theirs.append(_rate(lambda: sum(next(loop) for _ in range(STEPS // 4)), device))
        machine = limits.Machine(case["bandwidth"], case["peak"])
        trials = 16 if case["mode"] == "grid_search" else 1
        least = limits.seconds(machine, case["model"], shape, data, k, batch, case["mode"])
        rate = statistics.median(mine)
        return {
            "instances_per_second": rate,
            "textbook": statistics.median(theirs),
            "ratio": statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
            "of_limit": rate * least / (trials * batch),
            "peak_mib": peak,
            "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            "machine": json.dumps(provenance(device)),
        }


def _rate(work: Any, device: torch.device) -> float:
    started = time.perf_counter()
    count = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - started)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
