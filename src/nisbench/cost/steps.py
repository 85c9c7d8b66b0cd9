"""Timing the steps that a search would do, on instances of its data set's shape."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from nisbench.cost.shapes import Shape, features_stats, generate
from nisbench.params.step_settings import SearchSettings
from nisbench.search.context import SearchContext
from nisbench.search.trial_spec import TrialSpec
from nisbench.training import train_step
from nisbench.training.fused import LossPerTrial, fuse
from nisbench.training.step_loop import StepLoop
from nisbench.training.trainer import Data

STEPS, ROUNDS = 8, 3

ENOUGH = 0.3
"""Seconds. Steps that would take longer than this in a round are timed one by one, and once."""


@dataclass(frozen=True)
class Cost:
    """Of training so many trials at once."""

    step: float
    """Seconds of a step."""
    epoch: float
    """Seconds of an epoch beside its steps and its validation."""
    prediction: float
    """Seconds of predicting for an instance with each of them."""


def search_in(shape: Shape, settings: SearchSettings, device: torch.device, steps: int = STEPS) -> SearchContext:
    """A search whose data set is generated, of as many batches as there are `steps`. With 0, it can propose trials only."""
    data = generate(shape, steps * settings.training.batch_size, device)
    return SearchContext(settings, Data(data, data, shape.task), shape.field_sizes, features_stats(shape), device)


class TimedTraining:
    """Trials of a search, at once if they are several, to be trained for a number of steps."""

    def __init__(self, search: SearchContext, specs: Sequence[TrialSpec]) -> None:
        self.search, self.count = search, len(specs)
        members = [search.recommender(spec) for spec in specs]
        settings = search.training_of(specs[0])
        optimizer = specs[0].selection_optimizer
        self.selection_optimizer = optimizer(members[0], search.data.task) if optimizer else None
        several = len(members) > 1
        self.recommender = fuse(members) if several else members[0]
        task = LossPerTrial(search.data.task) if several else search.data.task
        self.one = members[0]
        self.batch_size, self.learning_rate = settings.batch_size, settings.learning_rate
        self.stepper = train_step.build(self.recommender, task, settings, len(search.field_sizes))
        self.stepper.load_state(in_the_middle(self.stepper.state()))
        if self.selection_optimizer:
            self.selection_optimizer.begin_epoch(self.recommender, self.learning_rate)
        self.loop = StepLoop(self.recommender, self.stepper, self.selection_optimizer, self.batch_size)
        self.order = torch.randperm(len(search.data.training), device=search.device)

    @property
    def reads_rows(self) -> bool:
        """Whether a step goes through the rows of its batch only, and not through the whole table."""
        return not isinstance(self.stepper, train_step.DenseStep)

    def steps(self, count: int | None = None) -> int:
        """A step on each batch of the search's instances, or on the first ones, as in `trainer.run_epoch`; returns their number."""
        data, learns = self.search.data.training, self.selection_optimizer is not None
        held_out, their_order = (data, self.order.roll(-self.batch_size)) if learns else (None, None)
        self.loop.begin(data, self.order, held_out, their_order, self.learning_rate)
        self.loop.run(count)
        return self.loop.done

    def predict(self, count: int | None = None) -> int:
        """Predict for so many batches of the search's instances, or all; returns the number of instances."""
        data = self.search.data.validation
        data = data[: count * self.batch_size] if count else data
        self.one.predict(data)
        return len(data)

    def sync(self) -> int:
        self.stepper.sync()
        return 1


def in_the_middle(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An optimizer's state after a thousand steps, as most steps find it, though nothing was learned in them."""
    return {name: torch.full_like(tensor, 1000) if name.endswith(".step") else tensor for name, tensor in state.items()}


def cost(training: TimedTraining) -> Cost:
    """What training takes: medians of a few rounds, or of less where steps are long."""
    training.steps(1)  # warms up
    once = per(lambda: training.steps(1))
    count, rounds = (STEPS, ROUNDS) if once * STEPS < ENOUGH else (1, 1)
    found = [
        (per(lambda: training.steps(count)), per(training.sync), per(lambda: training.predict(count)))
        for _ in range(rounds)
    ]
    step, epoch, prediction = (median(times) for times in zip(*found, strict=True))
    return Cost(min(step, once) if rounds == 1 else step, epoch, prediction * training.count)


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
