"""The order of an epoch's instances. It depends on nothing but the run's seed and the epoch's number."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from nisbench.seeds import Stream, derived

BLOCK = 1 << 12
"""Consecutive instances that are read together: of Criteo's, 640 KiB."""
BLOCKS_AT_ONCE = 64
"""Whose instances are shuffled together: 262,144 of them, from as many places of the file."""


class Order(Protocol):
    """Indices of instances, to be taken slice by slice from the first to the last."""

    def __getitem__(self, part: slice) -> Tensor: ...


def epoch_order(
    kind: Literal["shuffled", "blocks"],
    n: int,
    length: int,
    seeds: tuple[int, int],
    stream: Stream,
    device: torch.device,
) -> Order:
    """`length` indices below `n`: orders of all `n` in a row, fixed by `seeds` (run, epoch) and `stream`."""
    if kind == "shuffled":
        return shuffled(n, length, seeds, stream, device)
    run_seed, epoch = seeds
    order = BlockOrder(n, length, derived(run_seed, stream, epoch), device)
    return order if device.type == "cpu" else order[:]  # on a GPU, a captured step reads it


def shuffled(n: int, length: int, seeds: tuple[int, int], stream: Stream, device: torch.device) -> Tensor:
    """(length,) indices below `n`: random orders of all `n` in a row, each as likely as any other.

    A GPU is done with an epoch soon: for it, the next epoch's order is drawn meanwhile.
    """
    if device.type == "cpu":
        return drawn(n, length, seeds, stream)
    order = _DRAWN_AHEAD.pop((n, length, seeds, stream), None)
    now = order.result() if order else drawn(n, length, seeds, stream)
    following = seeds[0], seeds[1] + 1
    _DRAWN_AHEAD[n, length, following, stream] = _drawer().submit(drawn, n, length, following, stream)
    while len(_DRAWN_AHEAD) > 2:  # one of training's and one of validation's; those of an ended trial are not wanted
        del _DRAWN_AHEAD[next(iter(_DRAWN_AHEAD))]
    return now.to(device)


def drawn(n: int, length: int, seeds: tuple[int, int], stream: Stream) -> Tensor:
    """The same on the CPU: there, so that CPU and GPU runs see the same batches."""
    run_seed, epoch = seeds
    generator = torch.Generator().manual_seed(derived(run_seed, stream, epoch))
    order = torch.empty(length, dtype=torch.int32 if n <= torch.iinfo(torch.int32).max else torch.int64)
    for start in range(0, length, n):
        order[start : start + n] = torch.randperm(n, generator=generator)[: length - start]
    return order


_DRAWN_AHEAD: dict[tuple[int, int, tuple[int, int], Stream], Future[Tensor]] = {}


@cache
def _drawer() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="orders")


class BlockOrder:
    """Blocks of consecutive instances in random order and, of some blocks at a time, all instances in random order.

    Made as it is read: a batch's instances are from few places of the file, which the system keeps in memory until they were all
    read, and no list of all instances is needed.
    """

    def __init__(self, n: int, length: int, seed: int, device: torch.device) -> None:
        self.n, self.length, self.seed, self.device = n, length, seed, device
        self.group = lru_cache(maxsize=2)(self._group)
        self.blocks = lru_cache(maxsize=2)(self._blocks)

    def __getitem__(self, part: slice) -> Tensor:
        start, stop, _ = part.indices(self.length)
        found = []
        while start < stop:
            number, at = divmod(start, self.n)
            _, ends = self.blocks(number)
            group = int(np.searchsorted(ends, at, side="right"))
            first = int(ends[group - 1]) if group else 0
            taken = self.group(number, group)[at - first : at - first + stop - start]
            found.append(taken)
            start += len(taken)
        return (torch.cat(found) if found else torch.empty(0, dtype=torch.int64)).to(self.device)

    def _blocks(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Of an order of all: the blocks' numbers, and how many instances there are up to the end of each group."""
        blocks = np.random.default_rng([self.seed, number]).permutation(-(-self.n // BLOCK))
        sizes = np.minimum(BLOCK, self.n - blocks * BLOCK)
        ends = np.add.reduceat(sizes, np.arange(0, len(blocks), BLOCKS_AT_ONCE)).cumsum()
        return blocks, ends

    def _group(self, number: int, group: int) -> Tensor:
        blocks, _ = self.blocks(number)
        chosen = blocks[group * BLOCKS_AT_ONCE : (group + 1) * BLOCKS_AT_ONCE]
        rows = np.concatenate([np.arange(one * BLOCK, min((one + 1) * BLOCK, self.n)) for one in chosen])
        return torch.from_numpy(np.random.default_rng([self.seed, number, 1 + group]).permutation(rows))
