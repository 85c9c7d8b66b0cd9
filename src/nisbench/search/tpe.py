"""Black-box search over the blocks' dimensions: a tree-structured Parzen estimator (Bergstra et al. 2011), as Optuna has it.

It is what a user would reach for who knows nothing of neural input search. What it proposes are proportions. They are scaled to the
budget, so that no trial is wasted on a selection that exceeds it.
"""

from functools import partial
from importlib import import_module
from typing import Any

from nisbench.errors import NisbenchError
from nisbench.params.methods import TPE
from nisbench.search.budget import allowed, fitted
from nisbench.search.trial_spec import FeatureStats, TrialSpec, prefix_selection

History = tuple[tuple[dict[str, float], float], ...]
"""Proportions that were proposed so far, and the validation losses that they had."""


def propose(settings: TPE, features: FeatureStats, k: int, seed: int) -> list[TrialSpec]:
    """The first trial; each proposes the one after it."""
    return [_trial(settings, features, k, seed, ())]


def _trial(settings: TPE, features: FeatureStats, k: int, seed: int, history: History) -> TrialSpec:
    """The trial after `history`. It depends on nothing else, so that a search that goes on proposes the same again."""
    asked = suggested(settings, len(features), seed, history)
    budget = allowed(settings.budget, k * int(features.sizes.sum()))
    found = fitted(list(asked.values()), features.sizes, settings.min_dimension, k, budget)

    def after(loss: float) -> list[TrialSpec]:
        longer = (*history, (asked, loss))
        return [_trial(settings, features, k, seed, longer)] if len(longer) < settings.trials else []

    return TrialSpec(f"dimensions {'-'.join(map(str, found))}", prefix_selection(found, k), next=after)


def suggested(settings: TPE, blocks: int, seed: int, history: History) -> dict[str, float]:
    """What Optuna suggests after those trials: a proportion for each block, in [0, 1]."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {f"block {number}": optuna.distributions.FloatDistribution(0.0, 1.0) for number in range(blocks)}
    sampler = optuna.samplers.TPESampler(seed=(seed + len(history)) % 2**32, n_startup_trials=settings.startup_trials)
    study = optuna.create_study(sampler=sampler)
    finished = partial(optuna.trial.create_trial, distributions=space)
    study.add_trials([finished(params=asked, value=loss) for asked, loss in history])
    found: dict[str, float] = study.ask(space).params
    return found


def _optuna() -> Any:
    try:
        return import_module("optuna")
    except ImportError as error:
        raise NisbenchError("the method tpe needs Optuna. Run: pip install 'nisbench[tpe]'") from error
