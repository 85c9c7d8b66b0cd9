"""An epoch as nisbench trains it: plainly, under DNIS, or 16 trials of Grid Search."""

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.shapes import Mode, Shape
from nisbench.data.instances import Instances
from nisbench.models import recommender as recommenders
from nisbench.params.loading import load
from nisbench.search.dnis import AlphaLearner
from nisbench.training import optimizers
from nisbench.training.trainer import Batches, run_epoch

BLOCKS = 10


def epochs(name: str, shape: Shape, data: Instances, k: int, batch_size: int, mode: Mode) -> Callable[[], int]:
    """A function that trains for one epoch of `data` and returns for how many instances (all trials together)."""
    params = load(Path.cwd(), overlays=[]).params
    training = params.training.model_copy(update={"base_dimension": k, "batch_size": batch_size})
    block = torch.arange(shape.features) * BLOCKS // shape.features
    dimensions = range(k // 16, k + 1, k // 16) if mode == "grid_search" else [k]
    trials = []
    for dimension in dimensions:
        recommender = recommenders.build(
            params.models[name],
            block=block,
            selection=torch.ones(BLOCKS, dimension),
            soft=mode.startswith("dnis"),
            embedding_std="xavier",
            field_sizes=shape.field_sizes,
            prior=0.0,
            seed=1,
        ).to(data.labels.device)
        learner = None
        if mode.startswith("dnis"):
            settings = params.methods[mode]
            assert settings.kind == "dnis"
            learner = AlphaLearner(recommender, shape.task, settings)
            learner.begin_epoch(recommender, training.learning_rate)
        optimizer = optimizers.build(recommender, shape.task, training, len(shape.field_sizes))
        trials.append((recommender, optimizer, learner))
    epoch = 0

    def run() -> int:
        nonlocal epoch
        epoch += 1
        batches = Batches(data, data, batch_size, (1, epoch))
        for recommender, optimizer, learner in trials:
            run_epoch(recommender, batches, shape.task, optimizer, training.learning_rate, learner)
        return len(trials) * len(data)

    return run
