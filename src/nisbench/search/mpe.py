"""Mixed precision: a bit width for each group of features of similar frequency (MPE, arXiv 2409.20305), within a budget in bytes.

An embedding is a mixture of itself in all widths, by a softmax per group. Weights, the quantiser and the softmax's logits are
trained together, on train, and a penalty on expected bits, greater for rarer features, makes widths fall. Then each group gets the
largest width that is likely. The weights begin again and are trained in these widths, while the network, steps and offsets go on.

In the paper, the penalty's factor lambda decides the size. Here it learns, by gradient ascent, to make the expected size that of the
budget; and widths are lowered, those of rare features first, until the budget holds. Validation always sees widths within it.
"""

import numpy as np
import torch

from nisbench.embedding.quantised import MixedPrecisionTable
from nisbench.embedding.table import SelectedTable
from nisbench.logs import log
from nisbench.models.recommender import Recommender
from nisbench.params.methods import MPE
from nisbench.search.budget import allowed
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.training.selection_optimizer import SelectionOptimizer
from nisbench.training.trainer import Data


def propose(settings: MPE, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """A single trial. Its warm start is the search."""
    group = groups(features.frequency, settings.groups)

    def table(drawn: SelectedTable) -> MixedPrecisionTable:
        return MixedPrecisionTable(
            drawn,
            torch.from_numpy(group),
            sorted(settings.widths),
            settings.step_learning_rate,
            relative_frequency=torch.from_numpy(relative_frequency(features.frequency, group)),
            temperature=settings.temperature,
            rate=settings.learning_rate,
            penalty=settings.penalty,
            penalty_rate=settings.penalty_learning_rate,
            limit=allowed(settings.budget, drawn.weight.numel()),
        )

    return [
        TrialSpec(
            f"mixed precision within {100 * settings.budget:.3g} %",
            torch.ones(len(features), k),
            lambda recommender, _task: Settled(recommender),  # type: ignore[abstract] # it does nothing
            table=table,
            warm_start_epochs=settings.search_epochs,
            finish=report,
        )
    ]


def groups(frequency: np.ndarray, count: int) -> np.ndarray:
    """(N,) the group of each feature: `count` groups by falling frequency, whose sizes differ by 1 at most."""
    n = len(frequency)
    found = np.empty(n, dtype=np.int64)
    found[np.argsort(-frequency, kind="stable")] = np.arange(n) * min(count, n) // n
    return found


def relative_frequency(frequency: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(G,) the occurrences of each group's features, as a multiple of the rarest group's. None counts as one."""
    occurrences = np.maximum(np.bincount(group, weights=frequency), 1)
    return np.asarray(occurrences / occurrences.min())


def table_of(recommender: Recommender) -> MixedPrecisionTable:
    table = recommender.embedding
    assert isinstance(table, MixedPrecisionTable)
    return table


class Settled(SelectionOptimizer):
    """Settles the widths, as the search is over. There is nothing to change after that."""

    def __init__(self, recommender: Recommender) -> None:
        table_of(recommender).settle()


def report(recommender: Recommender, _data: Data) -> None:
    """Log how many features have which width."""
    table = table_of(recommender)
    bits, sizes = table.bits.cpu(), table.sizes.cpu()  # no GPU sums these in one order only
    counts = torch.bincount(bits, weights=sizes.double()).long().tolist()
    log.info("features by bits: %s", ", ".join(f"{bits}: {count}" for bits, count in enumerate(counts) if count))
