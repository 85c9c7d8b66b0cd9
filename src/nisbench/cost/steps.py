"""Timing the steps that a search would do, on instances of its data set's shape."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from nisbench.cost.shapes import Shape, generate
from nisbench.data.instances import Instances
from nisbench.models.side_by_side import pack
from nisbench.runs import SearchSettings
from nisbench.search.proposal import Proposal
from nisbench.search.trials import Search
from nisbench.training import optimizers
from nisbench.training.optimizers import Optimizer

STEPS, ROUNDS = 8, 3


@dataclass(frozen=True)
class Cost:
    """Of training so many trials at once."""

    step: float
    """Seconds of a step."""
    epoch: float
    """Seconds of an epoch beside its steps and its validation."""
    prediction: float
    """Seconds of predicting for an instance with each of them."""


def search_in(shape: Shape, settings: SearchSettings, device: torch.device, steps: int = STEPS) -> Search:
    """A search whose data set is generated, of as many batches as there are `steps`."""
    data = generate(shape, steps * settings.training.batch_size, device)
    block, blocks = shape.blocks()
    return Search(
        settings=settings,
        task=shape.task,
        training=data,
        validation=data,
        field_sizes=shape.field_sizes,
        block=torch.tensor(block),
        blocks=blocks,
        folder=Path("-"),
        device=device,
    )


class Training:
    """Trials of a search, at once if they are several, to be trained for a number of steps."""

    def __init__(self, search: Search, proposals: Sequence[Proposal]) -> None:
        self.search, self.count = search, len(proposals)
        members = [search.recommender(proposal) for proposal in proposals]
        settings = search.training_of(proposals[0])
        self.learner = proposals[0].learner(members[0], search.task) if proposals[0].learner else None
        self.recommender = members[0] if len(members) == 1 else pack(members)
        self.one = members[0]
        self.batch_size, self.learning_rate = settings.batch_size, settings.learning_rate
        self.optimizer: Optimizer = optimizers.build(self.recommender, search.task, settings, len(search.field_sizes))
        self.optimizer.load_state(in_the_middle(self.optimizer.state()))
        if self.learner:
            self.learner.begin_epoch(self.recommender, self.learning_rate)
        self.order = torch.randperm(len(search.training), device=search.device)

    def steps(self) -> int:
        """A step on each batch of the search's instances, as in `trainer.run_epoch`; returns their number."""
        starts = range(0, len(self.order), self.batch_size)
        for start in starts:
            batch = self._batch(start)
            self.optimizer.step(batch, self.learning_rate)
            if self.learner:
                held_out = self._batch((start + self.batch_size) % len(self.order))
                self.optimizer.settle(held_out)
                self.learner.step(self.recommender, held_out, batch)
        return len(starts)

    def predict(self) -> int:
        """Predict for all of the search's instances; returns their number."""
        self.one.predict(self.search.validation)
        return len(self.search.validation)

    def settle(self) -> int:
        self.optimizer.settle()
        return 1

    def _batch(self, start: int) -> Instances:
        return self.search.training[self.order[start : start + self.batch_size]]


def in_the_middle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An optimizer's state after a thousand steps, as most steps find it, though nothing was learned in them."""
    return {name: torch.full_like(tensor, 1000) if name.endswith(".step") else tensor for name, tensor in state.items()}


def cost(search: Search, proposals: Sequence[Proposal]) -> Cost:
    """What training these proposals at once takes: medians of a few rounds."""
    training = Training(search, proposals)
    rounds = [(per(training.steps), per(training.settle), per(training.predict)) for _ in range(ROUNDS + 1)]
    step, epoch, prediction = (median(times) for times in zip(*rounds[1:], strict=True))  # the first warms up
    return Cost(step, epoch, prediction * len(proposals))


def per(work: Callable[[], int]) -> float:
    """Seconds per item of work, of as many items as `work` says it did."""
    wait()
    started = time.perf_counter()
    count = work()
    wait()
    return (time.perf_counter() - started) / count


def wait() -> None:
    """For the device to be done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
