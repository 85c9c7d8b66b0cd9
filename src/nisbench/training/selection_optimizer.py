"""What a method that changes its selection during training offers the training loop."""

from typing import Protocol

from torch import Tensor

from nisbench.data.instances import Instances
from nisbench.models.recommender import Recommender


class SelectionOptimizer(Protocol):
    """Changes the selection while the weights train, on validation batches or otherwise.

    A class that derives from this one needs only those methods that do something, and state that outlasts a kill. On a GPU, steps
    of the weights are captured and replayed: the selection and the weights are to be changed in place.

    A class may have an attribute `capturable`. True says that `step`, too, may be captured: it does the same operations of torch
    each time, on the device. None depends on a value that the host knows, such as the step's number or a random number; none makes
    the host wait.
    """

    def begin_epoch(self, recommender: Recommender, learning_rate: float) -> None:
        """Called before an epoch's first step, with the learning rate that the weights have in it.

        It is also called when a trial resumes within an epoch, before all is restored: the recommender, and what `state` gave.
        """

    def step(self, recommender: Recommender, validation: Instances, training: Instances) -> None:
        """One update of the table's selection on a batch of each, after an update of the weights on `training`.

        Of a large table, only the rows that the two batches read are up to date here.
        """

    def finalize(self, recommender: Recommender) -> None:
        """Set the selection that the search would end with now: validation measures it, and the best one is kept."""

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, beside the selection itself."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class PacedOptimizer(SelectionOptimizer, Protocol):
    """One that has a say in when validation chooses, and in when a trial ends."""

    def settled(self) -> bool:
        """Whether validation may choose an epoch by now. Until then, the last epoch is the best, and patience does not count."""
        return True

    def finished(self) -> bool:
        """Whether the trial has what it was trained for and ends, whatever its epochs."""
        return False
