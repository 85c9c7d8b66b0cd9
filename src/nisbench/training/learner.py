"""What a method that learns its selection offers the training loop."""

from typing import Protocol

from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender


class SelectionLearner(Protocol):
    """A method that changes the selection while the weights train, on validation batches."""

    def begin_epoch(self, recommender: Recommender, learning_rate: float) -> None:
        """Called before an epoch's first step, with the learning rate that the weights have in it."""

    def step(self, recommender: Recommender, validation: Instances, training: Instances) -> None:
        """One update of ``recommender.embedding.selection`` on a batch of each, after an update of the weights on the latter."""

    def settle(self, recommender: Recommender) -> None:
        """Put the selection to what the search would end with now: for the epoch's validation, and to be kept."""

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, beside the selection itself."""

    def load_state(self, state: dict[str, Tensor]) -> None: ...
