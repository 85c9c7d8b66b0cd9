"""One model in one shape, in a process of its own: `python -m benchmarks.case JSON`.

A round times every mode and then the textbook's loop; what is shown are medians over rounds, of rates and of their ratios.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psutil
import torch

from benchmarks import limits, textbook
from benchmarks.cases import SHAPES, Mode, settings_of
from nisbench.cost.estimate import groups_of
from nisbench.cost.steps import TimedTraining, per, search_in
from nisbench.machine import device as held_device
from nisbench.machine import peak_memory_mib, provenance
from nisbench.search.context import SearchContext
from nisbench.training.fused import columns_of

STEPS = {"movielens_1m": 16, "movielens_20m": 16, "criteo": 2}
"""Per round: enough for the textbook's garbage to be collected as often as it is in a long run."""

Work = Callable[[], int]


def measured(case: dict[str, Any]) -> list[dict[str, Any]]:
    """A record per mode: instances per second (of all trials together), beside the textbook's and the limit's; peak memory.

    All that is timed lies in memory during all rounds. Trials of Grid Search that do not fit are left out; so is what they take alone.
    """
    shape, name, k, batch = SHAPES[case["shape"]], case["model"], case["k"], case["batch_size"]
    steps = STEPS[case["shape"]]
    with held_device(case["device"], case["threads"]) as device:
        work: dict[str, Work] = {}
        for mode in case["modes"]:
            search = search_in(shape, settings_of(name, mode, k, batch), device, steps)
            if mode != "grid_search":
                work[mode] = of_mode(mode, search)
            elif fits(search):
                work[mode] = of_mode(mode, search)
                if fits(search) and any(len(group) > 1 for group in groups_of(search, search.specs())):
                    work["alone"] = alone(search)
        modes = [mode for mode in case["modes"] if mode in work]
        data = search_in(shape, settings_of(name, "plain", k, batch), device, steps).data.training
        loop = textbook.steps(name, shape, on_cpu(data), k, batch, device)
        work["textbook"] = lambda: sum(next(loop) for _ in range(steps))
        found: dict[str, list[float]] = {key: [] for key in work}
        for round_ in range(1 + case["rounds"]):
            for key, of_key in work.items():
                seconds = per(of_key)
                if round_:  # the first warms up
                    found[key].append(seconds)
        machine = limits.Machine(case["bandwidth"], case["peak"])
        products = limits.products_alone(name, shape, k, batch, device)
        records = []
        for mode in modes:
            least = (
                limits.seconds(machine, name, shape, data, k, batch, mode)
                / batch
                / (16 if mode == "grid_search" else 1)
            )
            rate = 1 / statistics.median(found[mode])
            per_step = batch * statistics.median(found[mode])
            records.append(
                {
                    **{key: case[key] for key in ("shape", "model", "k", "batch_size", "threads")},
                    "mode": mode,
                    "instances_per_second": rate,
                    "textbook": 1 / statistics.median(found["textbook"]),
                    "ratio": _ratio(found["textbook"], found[mode]),
                    "of_plain": _ratio(found[mode], found["plain"]) if "plain" in found else None,
                    "fused_of_alone": _ratio(found[mode], found["alone"]) if mode == "grid_search" and "alone" in found else None,
                    "of_limit": rate * least,
                    "of_products": per_step / products if products and mode == "plain" else None,
                    "peak_mib": memory(case, mode),
                    "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
                    "device": provenance(device).device,
                    "torch": torch.__version__,
                }
            )  # fmt: skip
        return records


def of_mode(mode: Mode, search: SearchContext) -> Work:
    """What to time: a round's work, which returns of how many instances (of each trial) it was."""
    specs = search.specs()
    groups = groups_of(search, specs) if mode == "grid_search" else [specs[:1]]
    return rounds_of([TimedTraining(search, group) for group in groups])


def alone(search: SearchContext) -> Work:
    """The same trials, one after another."""
    return rounds_of([TimedTraining(search, [spec]) for spec in search.specs()])


def rounds_of(trainings: list[TimedTraining]) -> Work:
    return lambda: sum(each.steps() and each.count * len(each.search.data.training) for each in trainings)


def fits(search: SearchContext) -> bool:
    """Whether the tables of all trials, their gradients and Adam's moments fit into half of the memory that is free."""
    if search.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(search.device)
    else:
        free = psutil.virtual_memory().available
    return 4 * 4 * len(search.features.block) * sum(columns_of(spec.selection) for spec in search.specs()) < free / 2


def on_cpu(data: Any) -> Any:
    return type(data)(data.ids.cpu(), data.labels.cpu(), None if data.values is None else data.values.cpu())


def memory(case: dict[str, Any], mode: Mode) -> float:
    """Peak memory of a process that trains in this mode only."""
    only = json.dumps(case | {"memory_of": mode})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.case", only], check=True, stdout=subprocess.PIPE, text=True
    )
    peak: float = json.loads(done.stdout)
    return peak


def own_peak(case: dict[str, Any]) -> float:
    """Peak memory of this process after a round in the mode `memory_of`."""
    settings = settings_of(case["model"], case["memory_of"], case["k"], case["batch_size"])
    with held_device(case["device"], case["threads"]) as device:
        of_mode(case["memory_of"], search_in(SHAPES[case["shape"]], settings, device, STEPS[case["shape"]]))()
        return peak_memory_mib(device)


def _ratio(slower: list[float], faster: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(own_peak(given) if "memory_of" in given else measured(given)))
