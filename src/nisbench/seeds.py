"""Seeds of independent random streams, derived from a run's one seed."""

from typing import Literal, get_args

import numpy as np

Stream = Literal[
    "embedding",
    "model",
    "training_batches",
    "validation_batches",
    "method",
    "training_examples",
    "validation_examples",
    "pruning",
    "controller",
    "split",
    "candidates",
    "retraining",
    "held_out",
]
_NUMBERS = {name: number for number, name in enumerate(get_args(Stream))}  # a new one goes last


def derived(seed: int, stream: Stream, step: int = 0) -> int:
    """A 32-bit seed (torch's CPU generator reads no more) for one stream of a run, and for one step of it."""
    return int(np.random.SeedSequence([seed, _NUMBERS[stream], step]).generate_state(1)[0])
