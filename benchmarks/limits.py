"""What the machine allows: memory and arithmetic that a step cannot do without, over what was measured of the machine."""

from dataclasses import dataclass
from itertools import pairwise

import torch

from benchmarks.cases import Mode, layer_widths
from nisbench.cost.shapes import Shape
from nisbench.cost.steps import per
from nisbench.data.instances import Instances


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
    side = 8192 if device.type == "cuda" else 2048
    square = torch.randn(side, side, device=device)
    product = torch.empty_like(square)

    def add() -> int:
        torch.add(large, other, out=out)
        return 3 * 4 * len(large)

    def multiply() -> int:
        torch.mm(square, square, out=product)
        return 2 * side**3

    return Machine(1 / min(per(add) for _ in range(8)), 1 / min(per(multiply) for _ in range(8)))


def seconds(machine: Machine, name: str, shape: Shape, data: Instances, k: int, batch_size: int, mode: Mode) -> float:
    """The least time that a step over one batch can take: of its memory or of its arithmetic, whichever is more.

    Memory: weights and both moments of the rows that the batch has, read and written once; for DNIS, also the weights of the
    validation batch's rows. Arithmetic: the products with the hidden layers' weights. Each is done once forwards and twice
    backwards; DNIS goes forwards and, by the embeddings only, backwards again; second order goes once more forwards and
    twice backwards through both batches, and through the first of these twice more.
    """
    if mode == "grid_search":
        dimensions = range(k // 16, k + 1, k // 16)
        return sum(seconds(machine, name, shape, data, d, batch_size, "plain") for d in dimensions)
    tables = 2 if name == "neumf" else 1
    starts = range(0, min(4 * batch_size, len(data)), batch_size)
    rows = sum(len(torch.unique(data.ids[start : start + batch_size])) for start in starts) / len(starts)
    moved = rows * k * tables * 4 * (6 if mode == "plain" else 7)
    products = 2 * batch_size * sum(a * b for a, b in pairwise(layer_widths(name, shape, k)))
    passes = {"plain": 3, "dnis": 3 + 2, "dnis_second_order": 3 + 3 + 3 + 4}[mode]
    return max(moved / machine.bandwidth, products * passes / machine.peak)


def products_alone(name: str, shape: Shape, k: int, batch_size: int, device: torch.device) -> float:
    """Seconds of a step's products with the hidden layers' weights, forwards and twice backwards, and of nothing else."""
    layers = []
    for inputs, outputs in pairwise(layer_widths(name, shape, k)):
        x, w, y = (
            torch.randn(*size, device=device)
            for size in ((batch_size, inputs), (inputs, outputs), (batch_size, outputs))
        )
        layers.append((x, w, y, torch.empty_like(x), torch.empty_like(w), torch.empty_like(y)))

    def multiply() -> int:
        for x, w, y, x_out, w_out, y_out in layers:
            torch.mm(x, w, out=y_out)
            torch.mm(y, w.T, out=x_out)
            torch.mm(x.T, y, out=w_out)
        return 1

    return sorted(per(multiply) for _ in range(5))[2] if layers else 0.0
