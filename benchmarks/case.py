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
from nisbench.cost.steps import Training, per, search_in
from nisbench.machine import device as held_device
from nisbench.machine import peak_memory_mib, provenance
from nisbench.search.proposal import Proposal
from nisbench.search.trials import Search

STEPS = {"movielens_1m": 16, "movielens_20m": 16, "criteo": 2}
"""Per round: enough for the textbook's garbage to be collected as often as it is in a long run."""

Work = Callable[[], int]


def measured(case: dict[str, Any]) -> list[dict[str, Any]]:
    """A record per mode: instances per second (of all trials together), beside the textbook's and the limit's; peak memory."""
    shape, name, k, batch = SHAPES[case["shape"]], case["model"], case["k"], case["batch_size"]
    steps, modes = STEPS[case["shape"]], case["modes"]
    with held_device(case["device"], case["threads"]) as device:
        work: dict[str, Work] = {}
        for mode in modes:
            work |= of_mode(mode, search_in(shape, settings_of(name, mode, k, batch), device, steps))
            if "memory_of" in case and mode in work:
                work[mode]()
                return [{"peak_mib": peak_memory_mib(device)}]
        data = search_in(shape, settings_of(name, "plain", k, batch), device, steps).training
        loop = textbook.steps(name, shape, on_cpu(data), k, batch, device)
        work["textbook"] = lambda: sum(next(loop) for _ in range(steps))
        found: dict[str, list[float]] = {key: [] for key in work}
        for round_ in range(1 + case["rounds"]):
            for key, of_key in work.items():
                seconds = per(of_key)
                if round_:  # the first warms up
                    found[key].append(seconds)
        machine = limits.Machine(case["bandwidth"], case["peak"])
        alone = limits.products_alone(name, shape, k, batch, device)
        records = []
        for mode in (mode for mode in modes if mode in work):
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
                    "packed_of_alone": _ratio(found[mode], found["alone"]) if mode == "grid_search" and "alone" in found else None,
                    "of_limit": rate * least,
                    "of_products": per_step / alone if alone and mode == "plain" else None,
                    "peak_mib": memory(case, mode),
                    "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
                    "device": provenance(device)["device"],
                    "torch": torch.__version__,
                }
            )  # fmt: skip
        return records


def of_mode(mode: Mode, search: Search) -> dict[str, Work]:
    """What to time, by name: a round's work, which returns of how many instances (of each trial) it was.

    Nothing where the trials, which all lie in memory during all rounds, do not fit into half of what is free; "alone" likewise.
    """
    proposals = search.proposals()
    count = len(search.training)
    if mode != "grid_search":
        training = Training(search, proposals[:1])
        return {mode: lambda: training.steps() * search.settings.training.batch_size}
    if not fit(search, proposals):
        return {}
    groups = [Training(search, group) for group in groups_of(search, proposals)]
    work: dict[str, Work] = {mode: lambda: sum(group.steps() and group.count * count for group in groups)}
    if max(group.count for group in groups) > 1 and fit(search, proposals):
        alone = [Training(search, [proposal]) for proposal in proposals]
        work["alone"] = lambda: sum(each.steps() and count for each in alone)
    return work


def fit(search: Search, proposals: list[Proposal]) -> bool:
    """Whether so many tables, their gradients and Adam's moments fit into half of the memory that is free."""
    if search.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(search.device)
    else:
        free = psutil.virtual_memory().available
    return 4 * 4 * len(search.block) * sum(map(search.columns, proposals)) < free / 2


def on_cpu(data: Any) -> Any:
    return type(data)(data.ids.cpu(), data.labels.cpu(), None if data.values is None else data.values.cpu())


def memory(case: dict[str, Any], mode: Mode) -> float:
    """Peak memory of a process that trains in this mode only."""
    only = json.dumps(case | {"modes": [mode], "memory_of": mode})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.case", only], check=True, stdout=subprocess.PIPE, text=True
    )
    peak: float = json.loads(done.stdout)[0]["peak_mib"]
    return peak


def _ratio(slower: list[float], faster: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
