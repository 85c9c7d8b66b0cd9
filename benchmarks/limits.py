"""What the machine allows: memory and arithmetic that a step cannot do without, over what was measured of the machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.shapes import Mode, Shape
from nisbench.data.instances import Instances

HIDDEN = {"mlp": ("2d", "d"), "neumf": (128, 64), "wide_deep": (400,) * 3, "deepfm": (400,) * 3}


@dataclass(frozen=True)
class Machine:
    bandwidth: float
    """Bytes per second that adding two large arrays moves."""
    peak: float
    """Floating-point operations per second of a large matrix product."""


def measure(device: torch.device) -> Machine:
    """The best of several tries."""
    large = torch.ones(1 << 26, device=device)
    other, out = torch.ones_like(large), torch.empty_like(large)
    square = torch.ones(2048, 2048, device=device)
    product = torch.empty_like(square)
    added = _best(lambda: torch.add(large, other, out=out), device)
    multiplied = _best(lambda: torch.mm(square, square, out=product), device)
    return Machine(3 * 4 * len(large) / added, 2 * 2048**3 / multiplied)


def _best(work: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def seconds(machine: Machine, name: str, shape: Shape, data: Instances, k: int, batch_size: int, mode: Mode) -> float:
    """The least time that a step over one batch can take: of its memory or of its arithmetic, whichever is more.

    Memory: weights and both moments of the rows that the batch has, read and written once; for DNIS, also the weights of the
    validation batch's rows. Arithmetic: the products with the hidden layers' weights. Each is done once forwards and twice
    backwards; DNIS goes forwards and, by the embeddings only, backwards again; second order goes once more forwards and
    twice backwards through both batches, and through the first of these twice more.
    """
    if mode == "grid_search":
        steps = range(k // 16, k + 1, k // 16)
        return sum(seconds(machine, name, shape, data, each, batch_size, "train") for each in steps)
    tables = 2 if name == "neumf" else 1
    rows = sum(len(data.ids[i : i + batch_size].unique()) for i in range(0, 4 * batch_size, batch_size)) / 4
    moved = rows * k * tables * 4 * (6 if mode == "train" else 7)
    products = 2 * batch_size * _hidden_weights(name, shape, k)
    passes = {"train": 3, "dnis": 3 + 2, "dnis_second_order": 3 + 3 + 3 + 4}[mode]
    return max(moved / machine.bandwidth, products * passes / machine.peak)


def _hidden_weights(name: str, shape: Shape, k: int) -> int:
    if name not in HIDDEN:
        return 0
    widths = [len(shape.field_sizes) * k]
    widths += [width if isinstance(width, int) else int(width[:-1] or 1) * k for width in HIDDEN[name]]
    return sum(a * b for a, b in zip(widths, widths[1:], strict=False))
