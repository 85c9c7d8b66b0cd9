"""A dimension for each field among candidates: AutoDim (Zhao et al. 2021, arXiv 2006.14827), after its description.

A shared vector per feature serves all candidates by its prefixes. Each is projected to the largest candidate and normalised over
the batch, and the model sees a mixture of them, by a Gumbel softmax whose temperature falls. The weights are trained on train;
alpha, the candidates' weights, by first-order steps on validation batches. Then each field's likeliest candidate is trained from
scratch, with a projection and without the normalisation.

The unit of choice is the field or, which the paper lacks, the data set's block.
"""

import math

import torch
from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.embedding.candidates import CandidateTable
from nisbench.embedding.table import SelectedTable
from nisbench.models.recommender import Recommender
from nisbench.params.methods import AutoDim
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection
from nisbench.seeds import derived
from nisbench.tasks.task import Task
from nisbench.training.adam import Adam
from nisbench.training.selection_optimizer import SelectionOptimizer

HARD = 1e-6
"""A temperature at which the mixture is its largest candidate."""


def propose(settings: AutoDim, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A trial of the mixture, for a fixed number of epochs, and after it one of the likeliest candidates."""
    candidates = sorted(settings.candidates)
    largest = candidates[-1]
    unit = torch.tensor(features.field if settings.per == "field" else features.block, dtype=torch.int64)

    def table(drawn: SelectedTable) -> CandidateTable:
        generator = torch.Generator().manual_seed(derived(seed, "candidates"))
        return CandidateTable(
            drawn, unit, candidates, generator, batch_norm=settings.batch_norm, scaled=settings.learned_scale
        )

    def chosen(selection: Tensor) -> TrialSpec:
        dimensions = selection.ne(0).sum(1)
        name = f"dimensions {'-'.join(map(str, dimensions.tolist()))}"
        return TrialSpec(name, prefix_selection(dimensions.numpy(), k), block=unit, projected=largest)

    units = int(unit.max()) + 1
    return [
        TrialSpec(
            f"mixture of {', '.join(map(str, candidates))}",
            prefix_selection(torch.full((units,), largest).numpy(), k),
            lambda recommender, task: ChoiceOptimizer(recommender, task, settings, seed),
            block=unit,
            table=table,
            warm_start_epochs=settings.warm_start_epochs,
            epochs=settings.epochs,
            then=chosen,
        )
    ]


class ChoiceOptimizer(SelectionOptimizer):
    """Steps of alpha's logits, and the noise of each step of the weights."""

    def __init__(self, recommender: Recommender, task: Task, settings: AutoDim, seed: int) -> None:
        self.task, self.settings = task, settings
        self.logits = table_of(recommender).logits
        self.adam = Adam({"logits": self.logits})
        self.steps = torch.zeros((), dtype=torch.int64)
        self.generator = torch.Generator().manual_seed(derived(seed, "controller"))

    def begin_epoch(self, recommender: Recommender, _learning_rate: float) -> None:
        self._draw(recommender)

    def step(self, recommender: Recommender, validation: Instances, training: Instances) -> None:  # noqa: ARG002
        self.steps += 1
        self._draw(recommender)
        if int(self.steps) % self.settings.every == 0:
            self.logits.requires_grad_()
            try:
                loss = self.task.loss(recommender(validation), validation.labels)
                (gradient,) = torch.autograd.grad(loss, self.logits)
            finally:
                self.logits.requires_grad_(False)
            self.logits.grad = gradient
            self.adam.step(self.settings.learning_rate)
            self._draw(recommender)

    def finalize(self, recommender: Recommender) -> None:
        table = table_of(recommender)
        table.noise.zero_()
        table.temperature.fill_(HARD)

    def _draw(self, recommender: Recommender) -> None:
        """Gumbel noise, from the CPU, so that a GPU sees the same."""
        table = table_of(recommender)
        table.noise.copy_(gumbel(tuple(table.noise.shape), self.generator))
        table.temperature.fill_(temperature(self.settings, int(self.steps)))

    def state(self) -> dict[str, Tensor]:
        return self.adam.state() | {"steps": self.steps, "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.steps.copy_(state["steps"])
        self.generator.set_state(state["generator"].cpu())
        self.adam.load_state(state)


def table_of(recommender: Recommender) -> CandidateTable:
    table = recommender.embedding
    assert isinstance(table, CandidateTable)
    return table


def temperature(settings: AutoDim, step: int) -> float:
    """That of the Gumbel softmax after so many steps of the weights."""
    return max(settings.temperature_floor, 1 - settings.temperature_step * step)


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=math.ulp(0.0), max=1 - 2**-53)
    return (-(-uniform.log()).log()).float()
