"""Tuning a method's settings: a grid lists values for some keys, all combinations run, and validation chooses one of them.

A key is the method's own, such as ``learning_rate``, or one of training's, such as ``training.l2``.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TypeVar

from pydantic import ValidationError

from nisbench.params.base import Problem, Settings
from nisbench.params.methods import Method
from nisbench.params.training import Training
from nisbench.params.tree import nearest, short

Value = int | float | str | bool | None
T = TypeVar("T", bound=Settings)
Tuned = tuple[tuple[str, Value], ...]
"""Keys, and the values that they have in one variant of a method."""

OF_TRAINING = "training."
FIXED = {"kind", "title", "quantise"}
"""What is not a method's to try: these make it another method, or another row."""


def variants(tune: Mapping[str, Sequence[Value]] | None) -> list[Tuned]:
    """All combinations of values; a single empty one if nothing is tuned."""
    keys = list(tune or {})
    return [tuple(zip(keys, values, strict=True)) for values in product(*(tune or {}).values())]


def with_values(method: Method, training: Training, tuned: Tuned) -> tuple[Method, Training]:
    """The settings with these values in them. Raises `pydantic.ValidationError` if one is not allowed."""
    ours = {key: value for key, value in tuned if not key.startswith(OF_TRAINING)}
    theirs = {key.removeprefix(OF_TRAINING): value for key, value in tuned if key.startswith(OF_TRAINING)}
    return _with(method, ours), _with(training, theirs)


def _with(settings: T, values: Mapping[str, Value]) -> T:
    return type(settings).model_validate(dict(settings) | dict(values)) if values else settings


def problems(
    tune: Mapping[str, Mapping[str, Sequence[Value]]], method: Method, training: Training, entry: str
) -> Iterator[Problem]:
    """What is wrong with the keys and values that a grid tunes for an entry of `methods`; paths begin at its ``tune``."""
    known = [key for key in dict(method) if key not in FIXED] + [f"{OF_TRAINING}{key}" for key in dict(training)]
    unknown = [key for key in tune[entry] if key not in known]
    for key in unknown:
        yield (entry, key), f"is neither a key of the method nor one of training{nearest(key, known)}"
    for key, values in tune[entry].items() if not unknown else ():
        for i, value in enumerate(values):
            try:
                tried, trained = with_values(method, training, ((key, value),))
            except ValidationError as error:
                said = error.errors(include_url=False)[0]["msg"]
                yield (entry, key, i), f"{short(value)}: {said[0].lower()}{said[1:]}"
                continue
            for path, text in tried.problems(trained.base_dimension):
                yield (entry, key, i), f"{short(value)}: {'.'.join(map(str, path))} {text}"
