"""How every trial is trained."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from nisbench.params.base import UNHASHED, Count, Settings, Width, matching

Precision = Literal["float32", "tf32"]
PRECISION = Field(exclude_if=lambda precision: precision == "float32")
"""Of no id unless another is chosen: runs from before there was a choice keep theirs."""


class Training(Settings):
    base_dimension: Width
    """K, the columns of the embedding table before selection."""
    embedding_std: Literal["xavier"] | PositiveFloat
    """Standard deviation of the initial embedding weights; xavier = sqrt(2 / (features + K))."""
    learning_rate: PositiveFloat
    """Of Adam, for embeddings and model."""
    learning_rate_drop: Annotated[float, Field(gt=0, le=1)]
    """Factor applied to the learning rate after each epoch without improvement; 1 = constant."""
    l2: Annotated[float, Field(ge=0)]
    """L2 penalty: this times a weight is added to its gradient, for embeddings and model."""
    batch_size: Annotated[int, Field(gt=0, le=1 << 24)]
    order: Annotated[Literal["shuffled", "blocks"], Field(exclude_if=lambda order: order == "shuffled")]
    """Of an epoch's instances. shuffled: any order is as likely as any other. blocks: blocks of consecutive instances are shuffled, and
    then the instances of 64 blocks at a time, which needs no more of the data in memory than those. Part of the run id if it is blocks."""
    max_epochs: PositiveInt
    """Of a trial. A warm start before it has its own."""
    patience: PositiveInt
    """A trial stops after this many epochs without a lower validation loss."""
    device: Annotated[str, matching(r"^(auto|cpu|cuda(:\d+)?)$", "auto, cpu, cuda or cuda:INDEX"), UNHASHED]
    """auto, cpu, cuda or cuda:INDEX."""
    deterministic: bool
    """On a GPU: sum in one fixed order, more slowly, so that the same run gives the same bytes. A CPU always does."""
    precision: Annotated[Precision, PRECISION] = "float32"
    """Of a GPU's matrix products. tf32 rounds what is multiplied to 10 bits behind the point, and is several times as fast."""
    fused_trials: Annotated[Count, UNHASHED]
    """Trials of a search that train together, at most, where that is faster. Their results are the same up to rounding."""
    recalibrate: Annotated[bool, UNHASHED]
    """A pruning adds one number to all predictions, such that their mean over the validation instances is that of the labels.
    Part of a pruning's id, not of a search's. Tasks without a base rate (top-k) have nothing to add."""
    checkpoint_seconds: Annotated[float, Field(ge=0), UNHASHED]
    """A running trial is saved this often, but no more than a twentieth of its time is spent on that."""
    memory_limit: Annotated[PositiveFloat | None, UNHASHED]
    """GiB that a search or pruning may hold. Instances for which there is no room stay in files that are mapped into memory: the
    result is the same. None = what the machine has, less a reserve."""
