"""Row thresholds and dimensions by evolution: OptEmbed (Lyu et al. 2022, arXiv 2208.04482), within a budget.

First a supernet is trained on train: each field of each instance has a random number of dimensions at each step, and rows
whose L1 norm falls below their field's learned threshold are left out. Then evolution looks for the fields' dimensions, with the
supernet's validation loss as the fitness. What it finds is trained anew from the initial weights.

The published evolution has no budget, overwrites parents when it mutates them, and may cut crossovers behind the last field. Here
every candidate keeps within the budget (random dimensions are capped to suit it, after LERS), and candidates are never changed.
The unit of choice is the field or, which the paper lacks, the data set's block.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from nisbench.embedding.supernet import SupernetTable
from nisbench.embedding.table import Rate, SelectedTable
from nisbench.logs import log
from nisbench.models.recommender import Recommender
from nisbench.params.methods import OptEmbed
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.seeds import derived
from nisbench.training.trainer import Data, Heartbeat

Candidate = tuple[int, ...]
"""The dimension of each unit."""

ROUNDING = 1e-6
"""A compression rate's inverse is rarely exact: 60 weights at 3 / 60 are to be 3."""


def propose(settings: OptEmbed, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A trial of the supernet, at whose end evolution chooses, and after it one of what it chose."""
    unit = torch.tensor(features.field if settings.per == "field" else features.block, dtype=torch.int64)
    n, of_dimensions = len(unit), law(settings, k)

    def table(drawn: SelectedTable) -> SupernetTable:
        generator = torch.Generator().manual_seed(derived(seed, "controller"))
        rate = Rate(settings.threshold_learning_rate, optimizer="sgd")
        start, penalty = settings.threshold_start, settings.threshold_penalty
        return SupernetTable(drawn, unit, of_dimensions, generator, start=start, rate=rate, penalty=penalty)

    def finish(recommender: Recommender, data: Data) -> None:
        choose(recommender, data, settings, of_dimensions, settings.budget * n * k + ROUNDING, seed)

    def chosen(selection: Tensor) -> TrialSpec:
        rows, share = int(selection.any(1).sum()), float(selection.sum()) / (n * k)
        name = f"evolution's choice, {rows} of {n} rows, {100 * share:.3g} % of the weights"
        return TrialSpec(name, selection, block=torch.arange(n))

    return [
        TrialSpec(
            "supernet",
            torch.ones(n, k),
            lambda recommender, _task: Draws(table_of(recommender)),
            block=torch.arange(n),
            table=table,
            finish=finish,
            then=chosen,
            l2=settings.l2,
        )
    ]


def law(settings: OptEmbed, k: int) -> Tensor:
    """(K,) the probabilities of the dimensions 1 to K, for the supernet and for new genes."""
    dimensions = torch.arange(1, k + 1, dtype=torch.float64)
    if settings.law == "uniform":
        return torch.full((k,), 1 / k, dtype=torch.float64)
    if settings.law == "capped":
        cap = max(1, min(k, int(2 * k * settings.budget + 1e-9)))
        return (dimensions <= cap).double() / cap
    wanted, low, high = max(1.0, settings.budget * k), 0.0, 1.0

    def powers(ratio: float) -> Tensor:
        found = ratio ** (dimensions - 1)
        return found / found.sum()

    for _ in range(60):  # the mean rises with the ratio; with 1, all dimensions are equally likely
        ratio = (low + high) / 2
        if float(powers(ratio) @ dimensions) < wanted:
            low = ratio
        else:
            high = ratio
    return powers(high)


class Draws:
    """Learns nothing: its state is that of the generator by which the table draws dimensions."""

    def __init__(self, table: SupernetTable) -> None:
        self.generator = table.generator

    def begin_epoch(self, *_: object) -> None:
        """The table draws by itself."""

    def step(self, *_: object) -> None:
        """Here, too."""

    def finalize(self, *_: object) -> None:
        """In evaluation mode, it does not draw."""

    def state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())


def table_of(recommender: Recommender) -> SupernetTable:
    table = recommender.embedding
    assert isinstance(table, SupernetTable)
    return table


# --- evolution ------------------------------------------------------------------------------------------------


def choose(
    recommender: Recommender, data: Data, settings: OptEmbed, of_dimensions: Tensor, budget: float, seed: int
) -> None:
    """Set the table's dimensions to the best candidate that evolution finds: at most `budget` weights of the rows that are left."""
    table, generator = table_of(recommender), np.random.default_rng(derived(seed, "controller", 1))
    unit, units, task = table.unit.cpu().numpy(), len(table.dimensions), data.task
    sizes = np.bincount(unit[table.kept().cpu().numpy()], minlength=units)
    chances = of_dimensions.numpy()

    def draw() -> Candidate:
        return tuple((1 + generator.choice(len(chances), size=units, p=chances)).tolist())

    def fit(candidate: Candidate) -> Candidate:
        return within(candidate, sizes, budget, generator)

    def fitness(candidate: Candidate) -> float:
        table.dimensions.copy_(torch.tensor(candidate))
        loss = task.validation_loss(recommender, data.validation)
        return loss if math.isfinite(loss) else math.inf

    heartbeat, ranked = Heartbeat(), list[tuple[float, Candidate]]()
    for number, ranked in enumerate(evolve(settings, draw, fit, fitness, generator)):
        heartbeat.log(
            "evolution, generation %d of %d: validation loss %.5f to %.5f", number, settings.generations,
            ranked[0][0], ranked[-1][0],
        )  # fmt: skip
    loss, best = ranked[0]
    log.info(
        "evolution: %d of %d rows, dimensions %s, validation loss of the supernet %.5f",
        sizes.sum(), len(unit), "-".join(map(str, best)), loss,
    )  # fmt: skip
    table.dimensions.copy_(torch.tensor(best))


def evolve(
    settings: OptEmbed,
    draw: Callable[[], Candidate],
    fit: Callable[[Candidate], Candidate],
    fitness: Callable[[Candidate], float],
    generator: np.random.Generator,
) -> Iterator[list[tuple[float, Candidate]]]:
    """Each generation, the first drawn by `draw`: its distinct candidates with their fitness, the best (least) first.

    `fit` makes a candidate admissible. The fitness of a candidate is computed once.
    """
    known: dict[Candidate, float] = {}
    population = [fit(draw()) for _ in range(settings.population)]
    for number in range(settings.generations + 1):
        for candidate in population:
            if candidate not in known:
                known[candidate] = fitness(candidate)
        ranked = sorted({(known[candidate], candidate) for candidate in population})
        yield ranked
        if number == settings.generations:
            return
        parents = [candidate for _, candidate in ranked[: settings.parents]]
        children = []
        for child in range(settings.population - settings.keep):
            first, second = (parents[i] for i in generator.integers(len(parents), size=2))
            mutate = child % 2 == 0
            new = mutated(first, draw(), settings.mutation, generator) if mutate else crossed(first, second, generator)
            children.append(fit(new))
        population = [candidate for _, candidate in ranked[: settings.keep]] + children


def mutated(parent: Candidate, fresh: Candidate, probability: float, generator: np.random.Generator) -> Candidate:
    """The parent with some of its genes, at least one, replaced by fresh ones."""
    replaced = generator.random(len(parent)) < probability
    replaced[generator.integers(len(parent))] = True
    return tuple(np.where(replaced, fresh, parent).tolist())


def crossed(first: Candidate, second: Candidate, generator: np.random.Generator) -> Candidate:
    """The first genes of one parent and the last of the other, cut between two units."""
    cut = int(generator.integers(1, len(first))) if len(first) > 1 else 1
    return first[:cut] + second[cut:]


def within(candidate: Candidate, sizes: np.ndarray, budget: float, generator: np.random.Generator) -> Candidate:
    """The candidate, scaled down to the budget in weights if it exceeds it. `sizes` (U,) are the rows of each unit.

    Where even one dimension for each unit is too much, units chosen at random get one as long as there is room.
    """
    dimensions = np.array(candidate)
    if dimensions @ sizes <= budget:
        return candidate
    low, high = 0.0, 1.0

    def scaled(factor: float) -> np.ndarray:
        found: np.ndarray = np.maximum(np.minimum(dimensions, 1), np.floor(factor * dimensions)).astype(np.int64)
        return found

    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle) @ sizes <= budget else (low, middle)
    found, left = scaled(low), budget
    for number in generator.permutation(len(found)):
        cost = found[number] * sizes[number]
        if cost > left:
            found[number] = 0
        else:
            left -= cost
    return tuple(found.tolist())
