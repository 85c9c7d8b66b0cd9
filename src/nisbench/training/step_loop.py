"""An epoch's steps, one after another: of the weights and, where a method learns one, of the selection.

On a GPU, a step is hundreds of kernels that each take less time than the host needs to launch them. So the steps of an epoch are
captured as a CUDA graph once, from the second epoch's first to the last as well, and replayed. What changes from step to step is
on the device: which batch comes next, the number of the step, what is learned. What the host computes in Python is done once, when
the graph is captured; steps of which that is not true are not captured (`capturable`). Losses are kept on the device.

The first steps, and the last where its batch is smaller, are done as on a CPU. All of them give the same numbers either way.
"""

from collections.abc import Callable
from functools import cache
from itertools import chain

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.logs import log
from nisbench.models.recommender import ReadRows, Recommender
from nisbench.training.order import Order
from nisbench.training.selection_optimizer import SelectionOptimizer
from nisbench.training.train_step import MOST_RESERVED, TrainStep

WARM_UP = 3
"""Steps before one is captured: libraries load kernels and allocate at the first."""

Replay = Callable[[], None]


class StepLoop:
    """Does steps on batches of one epoch after another."""

    def __init__(
        self,
        recommender: Recommender,
        stepper: TrainStep,
        selection_optimizer: SelectionOptimizer | None,
        batch_size: int,
    ) -> None:
        self.recommender, self.stepper, self.selection_optimizer = recommender, stepper, selection_optimizer
        self.batch_size = batch_size
        device = next(chain(recommender.parameters(), recommender.buffers())).device
        self.captures = can_capture(device) and stepper.capturable
        self.whole = selection_optimizer is None or getattr(selection_optimizer, "capturable", False)
        """Whether a selection's step is captured with the one of the weights."""
        self.buffers: Buffers | None = None
        self.replay: Replay | None = None
        self.warm = 0

    def begin(
        self,
        training: Instances,
        order: Order,
        validation: Instances | None,
        validation_order: Order | None,
        learning_rate: float,
        start: int = 0,
    ) -> None:
        """Begin an epoch at step `start`: the batches are `training` in this order and, with each, as many of `validation`."""
        self.training, self.order, self.learning_rate = training, order, learning_rate
        self.validation, self.validation_order = validation, validation_order
        self.done, self.losses = start, list[Tensor]()
        self.steps = -(-len(training) // self.batch_size)
        full = len(training) // self.batch_size
        if not self.captures or full - start < WARM_UP + 2:
            self.buffers = self.replay = None
            return
        assert isinstance(order, Tensor)
        assert validation_order is None or isinstance(validation_order, Tensor)
        if self.buffers is None or not self.buffers.fit(training, validation, order, validation_order, learning_rate):
            self.buffers = Buffers(training, order, validation, validation_order, learning_rate, full, self.batch_size)
            self.replay = None
            self.warm = 0  # the first steps make the tensors that the others write to: a capture must not
        else:
            self.buffers.refill(training, order, validation, validation_order)
        self.buffers.begin(start)

    def run(self, count: int | None = None) -> None:
        """Do the next `count` steps of the epoch, or all that are left."""
        end = self.steps if count is None else min(self.steps, self.done + count)
        if self.buffers is None:
            self._on_host(end)
            return
        full = min(end, len(self.training) // self.batch_size)
        with on_side_stream(self.buffers.order.device):
            while self.done < full and self.warm < WARM_UP:
                self.stepper.reserve(1, self.learning_rate)
                self._on_device(self.buffers)
                self._rest_of_step(self.buffers)
                self.warm += 1
                self.done += 1
            self._replayed(self.buffers, full)
            if (
                self.done == len(self.training) // self.batch_size
                and not self.losses
                and self.buffers.losses is not None
            ):
                self.losses.append(self.buffers.losses[self.buffers.begun :].clone())
            self._on_host(end)

    def step_losses(self) -> Tensor:
        """The training loss at each step since the epoch was begun: (steps,), of T fused recommenders (steps, T)."""
        if self.buffers is not None and self.buffers.losses is not None and not self.losses:
            return self.buffers.losses[self.buffers.begun : self.done].clone()
        return torch.cat(self.losses)

    def _replayed(self, buffers: "Buffers", end: int) -> None:
        while self.done < end:
            count = min(end - self.done, MOST_RESERVED)
            self.stepper.reserve(count, self.learning_rate)
            if self.replay is None:
                try:
                    self.replay = capture(lambda: self._on_device(buffers))
                except RuntimeError as error:
                    log.warning("steps are not captured, so they are slower: %s", " ".join(str(error).split())[:200])
                    self.captures, self.replay = False, lambda: self._on_device(buffers)
            for _ in range(count):
                self.replay()
                self._rest_of_step(buffers)
            self.done += count

    def _on_host(self, end: int) -> None:
        """Steps whose batches the host chooses."""
        size = self.batch_size
        while self.done < end:
            start = self.done * size
            batch = self.training[self.order[start : start + size]]
            self.stepper.reserve(1, self.learning_rate)
            self.losses.append(self.stepper.step(batch, self.learning_rate)[None])
            if self.selection_optimizer:
                assert self.validation is not None
                assert self.validation_order is not None
                held_out = self.validation[self.validation_order[start : start + size]]
                self.stepper.sync(held_out)
                self.selection_optimizer.step(self.recommender, held_out, batch)
            self.done += 1

    def _on_device(self, buffers: "Buffers") -> None:
        """A step, all of whose operations are on the device: what is captured."""
        index = buffers.first + buffers.offsets
        batch = buffers.training[buffers.order.index_select(0, index)]
        loss = self.stepper.step(batch, self.learning_rate)
        buffers.keep(loss)
        if self.selection_optimizer:
            assert buffers.validation is not None
            assert buffers.validation_order is not None
            held_out = buffers.validation[buffers.validation_order.index_select(0, index)]
            self.stepper.sync(held_out)
            if self.whole:
                self.selection_optimizer.step(self.recommender, held_out, batch)
            buffers.held_out, buffers.batch, buffers.read = held_out, batch, self.recommender.read
        buffers.first += self.batch_size
        buffers.number += 1

    def _rest_of_step(self, buffers: "Buffers") -> None:
        """A selection's step that the host must do, on the batches of the last captured one."""
        if self.selection_optimizer and not self.whole:
            assert buffers.held_out is not None
            assert buffers.batch is not None
            self.recommender.read = buffers.read  # a replayed step does not say which rows it found
            self.selection_optimizer.step(self.recommender, buffers.held_out, buffers.batch)


class Buffers:
    """Tensors that captured steps read and write, at the same places in every epoch."""

    def __init__(
        self,
        training: Instances,
        order: Tensor,
        validation: Instances | None,
        validation_order: Tensor | None,
        learning_rate: float,
        steps: int,
        batch_size: int,
    ) -> None:
        self.training, self.validation, self.learning_rate, self.steps = training, validation, learning_rate, steps
        self.order = order.clone()
        self.validation_order = None if validation_order is None else validation_order.clone()
        self.offsets = torch.arange(batch_size, device=order.device)
        self.first = torch.zeros((), dtype=torch.int64, device=order.device)
        """The batch's first place in the order."""
        self.number = torch.zeros(1, dtype=torch.int64, device=order.device)
        """Of the step in the epoch, (1,)."""
        self.losses: Tensor | None = None
        """(steps,), of T fused recommenders (steps, T)."""
        self.held_out: Instances | None = None
        self.batch: Instances | None = None
        self.read: ReadRows | None = None

    def begin(self, start: int) -> None:
        self.begun = start
        self.first.fill_(start * len(self.offsets))
        self.number.fill_(start)

    def keep(self, loss: Tensor) -> None:
        """Write down a step's loss."""
        if self.losses is None:
            self.losses = loss.new_zeros(self.steps, *loss.shape)
        self.losses.index_copy_(0, self.number, loss[None])

    def fit(
        self,
        training: Instances,
        validation: Instances | None,
        order: Tensor,
        validation_order: Tensor | None,
        learning_rate: float,
    ) -> bool:
        """Whether steps captured with these buffers are right for another epoch's data, once `refill` has put it there."""
        orders = [None if each is None else each.shape for each in (validation_order, self.validation_order)]
        return (
            learning_rate == self.learning_rate
            and order.shape == self.order.shape
            and orders[0] == orders[1]
            and _same_shapes(training, self.training)
            and _same_shapes(validation, self.validation)
        )

    def refill(
        self, training: Instances, order: Tensor, validation: Instances | None, validation_order: Tensor | None
    ) -> None:
        self.order.copy_(order)
        if self.validation_order is not None and validation_order is not None:
            self.validation_order.copy_(validation_order)
        for own, given in ((self.training, training), (self.validation, validation)):
            if own is not None and given is not None and own is not given:  # sampled anew in each epoch
                for name, tensor in vars(own).items():
                    if isinstance(tensor, Tensor):
                        tensor.copy_(getattr(given, name))


def _same_shapes(given: Instances | None, own: Instances | None) -> bool:
    if given is own:
        return True
    if given is None or own is None:
        return False
    pairs = [(tensor, getattr(given, name)) for name, tensor in vars(own).items() if isinstance(tensor, Tensor)]
    return all(isinstance(other, Tensor) and tensor.shape == other.shape for tensor, other in pairs)


def can_capture(device: torch.device) -> bool:
    """Whether steps on this device are captured."""
    return device.type == "cuda"


def capture(work: Callable[[], None]) -> Replay:
    """Capture what `work` does on the current stream, without doing it; what does it again. Raises `RuntimeError` if that cannot be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    return graph.replay


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captured work on a GPU: the default one cannot be captured."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class on_side_stream:  # noqa: N801 - used like a function
    """Work within it is done on the side stream of a GPU, after all that was asked for before and before all that comes after."""

    def __init__(self, device: torch.device) -> None:
        self.stream = side_stream(device) if device.type == "cuda" else None

    def __enter__(self) -> None:
        if self.stream is not None:
            self.before = torch.cuda.current_stream(self.stream.device)
            self.stream.wait_stream(self.before)
            torch.cuda.set_stream(self.stream)

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            torch.cuda.set_stream(self.before)
            self.before.wait_stream(self.stream)
