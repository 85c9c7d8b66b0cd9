"""What is timed: models in the shapes of the data sets, and ways to train them."""

from pathlib import Path
from typing import Literal, get_args

from nisbench.cost import shapes
from nisbench.cost.shapes import Shape
from nisbench.params.loading import load
from nisbench.params.methods import GridSearch
from nisbench.params.step_settings import SearchSettings
from nisbench.params.studies import Params

SHAPES = {
    "movielens_1m": shapes.of_ratings(6_040, 3_706, 800_167),
    "movielens_20m": shapes.of_ratings(138_493, 27_278, 16_000_210),
    "criteo": shapes.of_clicks(13, 26, 2_086_923, 36_672_493),
}

RATING_MODELS, CLICK_MODELS = ("mf", "mlp", "neumf"), ("fm", "wide_deep", "deepfm")

Mode = Literal["plain", "dnis", "dnis_second_order", "grid_search"]
"""A full table; the search for one by DNIS; 16 trials of Grid Search."""

MODES: tuple[Mode, ...] = get_args(Mode)

METHODS = {"plain": "network_pruning"}
"""Whose first trial is a full table, which is trained plainly."""

HIDDEN: dict[str, tuple[int | str, ...]] = {
    "mlp": ("2d", "d"), "neumf": (128, 64), "wide_deep": (400,) * 3, "deepfm": (400,) * 3
}  # fmt: skip
"""Widths of the hidden layers, as in params/models.yaml; "2d" is twice the embedding's dimension."""


def models_of(shape: Shape) -> tuple[str, ...]:
    return CLICK_MODELS if shape.scalar_fields else RATING_MODELS


def layer_widths(model: str, shape: Shape, k: int) -> list[int]:
    """Inputs of the first hidden layer, and the layers' widths; empty for models without."""
    if model not in HIDDEN:
        return []
    hidden = [width if isinstance(width, int) else int(width[:-1] or 1) * k for width in HIDDEN[model]]
    return [len(shape.field_sizes) * k, *hidden]


def settings_of(model: str, mode: Mode, k: int, batch_size: int) -> SearchSettings:
    """A search as params/ has it, but of this size; Grid Search's 16 dimensions end at `k`."""
    params: Params = load(Path.cwd(), overlays=[]).params
    method = params.methods[METHODS.get(mode, mode)]
    if isinstance(method, GridSearch):
        method = method.model_copy(update={"dimensions": list(range(k // 16, k + 1, k // 16))})
    return SearchSettings(
        task=params.tasks["rating"],
        model=params.models[model],
        method=method,
        training=params.training.model_copy(update={"base_dimension": k, "batch_size": batch_size}),
        seed=1,
    )
