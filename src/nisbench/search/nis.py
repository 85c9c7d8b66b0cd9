"""Neural input search by policy gradient (Joglekar et al. 2020, arXiv 1907.04471): NIS-SE and NIS-ME.

The table is cut into row blocks (the features' blocks, by frequency) and column blocks. *Single size* chooses how many
of the first row blocks get how many of the first column blocks, and the rest get nothing. *Multi size* chooses for each
column block how many of the first row blocks have it. A controller of bare logits samples a choice for every step of
the weights and learns, from the loss of a validation batch under that choice, by REINFORCE with a baseline. A choice
that exceeds the budget is penalised; in the end the likeliest choice within the budget is trained anew.

Columns keep their places, so embeddings of different size need no projection to a common width (as in the comparison of
MDE here).
"""

from copy import copy

import torch
from torch import Tensor
from torch.nn import functional

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender
from nisbench.params.methods import NIS
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.seeds import derived
from nisbench.tasks.task import Task
from nisbench.training.adam import Adam


def propose(settings: NIS, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A trial under the controller and, after it, one of what it chose."""
    space = Space(settings, features, k)

    def optimizer(recommender: Recommender, task: Task) -> Controller:
        return Controller(recommender, task, settings, space, seed)

    def chosen(selection: Tensor) -> TrialSpec:
        share = space.cost(selection[None]).item() / space.full
        return TrialSpec(f"the controller's choice, {100 * share:.0f} % of the weights", selection)

    everything = torch.ones(len(features), k)
    warm_start, patience = settings.warm_start_epochs, settings.patience
    return [
        TrialSpec("controller", everything, optimizer, warm_start_epochs=warm_start, then=chosen, patience=patience)
    ]


class Space:
    """All choices and their costs. A choice is a row of ints: one for single size, one per column block for multi."""

    def __init__(self, settings: NIS, features: FeatureStats, k: int) -> None:
        self.rows, self.columns = len(features), min(settings.column_blocks, k)
        self.single = settings.choice == "single"
        self.sizes = torch.as_tensor(features.sizes, dtype=torch.float32)
        self.column_block = torch.arange(k) * self.columns // k
        self.row = torch.arange(self.rows)[:, None]
        self.full = float(self.sizes.sum() * k)
        self.budget = settings.budget * self.full

    def to(self, device: torch.device) -> "Space":
        """The same space, its tensors on `device`."""
        moved = copy(self)
        moved.sizes, moved.column_block, moved.row = (t.to(device) for t in (self.sizes, self.column_block, self.row))
        return moved

    @property
    def logits(self) -> tuple[int, int]:
        """How many decisions a choice has, and how many options each."""
        return (1, 1 + self.rows * self.columns) if self.single else (self.columns, 1 + self.rows)

    def selections(self, choices: Tensor) -> Tensor:
        """The selections (n, L, K) of choices (n, decisions)."""
        row, column = self.row, self.column_block
        if self.single:  # 0 = nothing; else 1 + (row blocks - 1) * column blocks + (column blocks - 1)
            number = choices[:, :1, None]
            rows, columns = (number + self.columns - 1) // self.columns, (number - 1) % self.columns + 1
            return ((row < rows) & (column < columns)).float()
        return (row < choices[:, column][:, None, :]).float()

    def cost(self, selections: Tensor) -> Tensor:
        """The weights that selections (n, L, K) let exist in one embedding per feature: (n,)."""
        return selections.sum(2) @ self.sizes

    def likeliest(self, logits: Tensor) -> Tensor:
        """The likeliest choice (decisions,) within the budget, by logits (decisions, options) on the CPU."""
        scores = functional.log_softmax(logits.double(), 1)
        if self.single:
            options = torch.arange(scores.shape[1])[:, None]
            affordable = self.cost(self.selections(options)) <= self.budget
            return scores[0].masked_fill(~affordable, -torch.inf).argmax()[None]
        per_row = torch.cat([torch.zeros(1), self.sizes.cumsum(0)])
        # Choices so far that no other beats in both cost and probability: (cost, score, options taken).
        front: list[tuple[float, float, tuple[int, ...]]] = [(0.0, 0.0, ())]
        for decision, width in enumerate(torch.bincount(self.column_block).tolist()):
            longer = [
                (cost + width * per_row[option].item(), score + scores[decision, option].item(), (*taken, option))
                for cost, score, taken in front
                for option in range(scores.shape[1])
            ]
            front, best = [], -torch.inf
            for candidate in sorted(longer, key=lambda item: (item[0], -item[1])):
                if candidate[0] <= self.budget and candidate[1] > best:
                    front.append(candidate)
                    best = candidate[1]
        return torch.tensor(front[-1][2])


class Controller:
    """Samples choices and learns which are worth it."""

    def __init__(self, recommender: Recommender, task: Task, settings: NIS, space: Space, seed: int) -> None:
        device = recommender.selected.selection.device
        self.task, self.settings, self.space, self.space_on_cpu = task, settings, space.to(device), space
        self.logits = torch.zeros(space.logits, device=device)
        self.adam = Adam({"logits": self.logits})
        self.choice = torch.zeros(space.logits[0], dtype=torch.long, device=device)
        self.baseline = torch.tensor(torch.nan, device=device)
        self.generator = torch.Generator().manual_seed(derived(seed, "controller"))

    def begin_epoch(self, recommender: Recommender, _learning_rate: float) -> None:
        self._sample(recommender)

    def step(self, recommender: Recommender, validation: Instances, training: Instances) -> None:  # noqa: ARG002
        selection = self.space.selections(self.choice[None])
        with torch.no_grad():
            loss = self.task.loss(recommender(validation), validation.labels)
            excess = (self.space.cost(selection)[0] / self.space.budget - 1).clamp(min=0)
            reward = -loss - self.settings.penalty * excess
            self.baseline = torch.where(self.baseline.isnan(), reward, self.baseline)
            # d log p(choice) / d logits, of a softmax
            score = functional.one_hot(self.choice, self.logits.shape[1]) - self.logits.softmax(1)
            self.logits.grad = -(reward - self.baseline) * score
            decay = self.settings.baseline_decay
            self.baseline = decay * self.baseline + (1 - decay) * reward
        self.adam.step(self.settings.learning_rate)
        self._sample(recommender)

    def finalize(self, recommender: Recommender) -> None:
        self.choice = self.space_on_cpu.likeliest(self.logits.cpu()).to(self.logits.device)
        self._show(recommender, self.choice)

    def state(self) -> dict[str, Tensor]:
        kept = {"logits": self.logits, "choice": self.choice, "baseline": self.baseline}
        return kept | self.adam.state() | {"generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.logits.copy_(state["logits"])
        self.choice.copy_(state["choice"])
        self.baseline.copy_(state["baseline"])
        self.generator.set_state(state["generator"].cpu())
        self.adam.load_state(state)

    def _sample(self, recommender: Recommender) -> None:
        # The largest of logits with Gumbel noise is a sample of their softmax, for which no host need wait.
        # Drawn on the CPU, so that a GPU sees the same.
        uniform = torch.rand(self.logits.shape, generator=self.generator).to(self.logits.device, non_blocking=True)
        self.choice = (self.logits - (-uniform.clamp(min=1e-20).log()).log()).argmax(1)
        self._show(recommender, self.choice)

    def _show(self, recommender: Recommender, choice: Tensor) -> None:
        recommender.set_selection(self.space.selections(choice[None])[0])
