"""The parts of a run's composed embeddings, and the codes of quantised ones.

A search and a pruning keep only the embeddings that come of them: by these, all methods are measured alike. How they are
composed follows from the method's settings, and how codes become weights is kept beside them; so both can be found again.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from nisbench import execution, records
from nisbench.data.parquet import open_instances, read_features
from nisbench.embedding.composed import HashedTable, LowRankTable, QuotientRemainderTable
from nisbench.embedding.quantised import QuantisedTable
from nisbench.embedding.table import SelectedTable, Table
from nisbench.errors import NisbenchError
from nisbench.models.pruned import PrunedModel
from nisbench.params.step_settings import SearchSettings
from nisbench.search.trial_spec import FeatureStats, TrialSpec
from nisbench.seeds import derived
from nisbench.serving.composed import ComposedEmbedding, Composition
from nisbench.serving.quantised import QuantisedEmbedding
from nisbench.steps import Step

TOLERANCE = 1e-6
"""How far composed embeddings may be from those that were measured, beside the largest weight."""


def of_run(step: Step, pruned: PrunedModel) -> tuple[ComposedEmbedding | QuantisedEmbedding, np.ndarray]:
    """The table of a pruning whose embeddings are composed or quantised, and which feature each of its rows is: (N,).

    Raises `NisbenchError` if it came about in a way that is not known here.
    """
    found: tuple[ComposedEmbedding | QuantisedEmbedding, np.ndarray] | None
    if pruned.quantiser:
        room = _room(pruned.embeddings)
        found = QuantisedEmbedding.from_dense(pruned.embeddings, pruned.field_sizes, **pruned.quantiser, room=room)
    else:
        execution.run_with_inputs(step.needs["search"].needs["block"])
        kind = _table_of(step, pruned)
        if isinstance(kind, QuantisedTable):
            raise NisbenchError(
                "this model was searched by an earlier version, which did not keep how codes become weights; run the search again, or "
                "choose --layout dense"
            )
        found = taken_apart(kind, pruned.embeddings, pruned.field_sizes) if kind is not None else None
    if found is None:
        raise NisbenchError(
            "this table is made of fewer weights in a way that cannot be stored; choose another layout, such as --layout "
            f"dense, for all {pruned.embeddings.size:,} weights"
        )
    return found


def _table_of(step: Step, pruned: PrunedModel) -> Table | None:
    """A table of the same structure as the one that was trained, made as its trial made it."""
    search = step.needs["search"]
    settings = cast(SearchSettings, search.settings)
    train = open_instances(search.needs["split"].path("train"))
    features = read_features(search.needs["block"].path("features"), train)
    block, frequency = (features[name].to_numpy() for name in ("block", "frequency"))
    stats = FeatureStats.of(block, frequency, pruned.field_sizes)
    k, seed = settings.training.base_dimension, derived(settings.seed, "method")
    specs: list[TrialSpec] = settings.method.module().propose(settings.method, stats, k, seed)
    best = records.search_result(search).best
    make = next((spec.table for spec in specs if best and spec.name == best.name), None)
    weights = torch.from_numpy(pruned.embeddings)
    return make(SelectedTable(torch.zeros(len(weights)), torch.ones(1, weights.shape[1]), weights)) if make else None


def taken_apart(
    table: Table, embeddings: np.ndarray, sizes: Sequence[int]
) -> tuple[ComposedEmbedding, np.ndarray] | None:
    """The parts of embeddings (N, K) of a table of that structure, and which feature each row is: (N,). None if unknown."""
    field, split = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes)[:-1]
    composition: Composition
    if isinstance(table, HashedTable):
        row, composition = table.row.numpy(), "shared"
        order = np.lexsort((row, _turns(row), field))
        terms = [len(np.unique(of_field)) for of_field in np.split(row, split)]
    elif isinstance(table, QuotientRemainderTable):
        quotient, remainder, composition = table.quotient_row.numpy(), table.remainder_row.numpy(), table.combine
        order = np.lexsort((remainder, quotient))
        terms = [len(np.unique(of_field)) for of_field in np.split(remainder, split)]
    elif isinstance(table, LowRankTable):
        order, composition = np.arange(len(field)), "matrices"
        terms = [left.shape[1] for left in table.left]
    else:
        return None
    found = ComposedEmbedding(embeddings.shape[1], composition, sizes, terms)
    wanted = embeddings[order]
    by_field = [
        _parts(composition, rows.astype(np.float64), t) for rows, t in zip(np.split(wanted, split), terms, strict=True)
    ]
    if composition == "matrices":
        parts = [left for left, _ in by_field] + [right for _, right in by_field if len(right)]
    else:
        parts = [np.concatenate(part) for part in zip(*by_field, strict=True)]
    for module, part in zip(found.parts, parts, strict=True):
        cast(Tensor, module.weights).copy_(torch.from_numpy(part))
    if not _alike(found, wanted):
        return None
    return found.on_large_pages(), order


def _turns(row: np.ndarray) -> np.ndarray:
    """How many features before each one (n,) have the same row."""
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    turns = np.empty(len(row), dtype=np.int64)
    turns[order] = np.arange(len(row)) - np.repeat(starts, np.diff([*starts, len(row)]))
    return turns


def _parts(composition: Composition, rows: np.ndarray, t: int) -> tuple[np.ndarray, ...]:
    """The parts of one field's embeddings (n, K) in the order of their numbers."""
    n, width = rows.shape
    if composition == "shared":
        return (rows[:t],)
    if composition == "matrices":
        if t == width:
            return rows, np.zeros((0, width))
        right = np.linalg.eigh(rows.T @ rows)[1][:, -t:].T  # the rows' own space: there are no others in it
        return rows @ right.T, right
    if t == 1:
        return rows, np.zeros((0, width))
    grid, last = rows[: n // t * t].reshape(-1, t, width), rows[n // t * t :]
    if composition == "sum":
        return np.concatenate([grid[:, 0], last[:1]]), grid[0] - grid[0, :1]
    return _factors(grid, last)


def _factors(grid: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose products are those of `grid` (q, t, K) and of one more quotient's first remainders `last` (m, K).

    In each column, that of the largest embedding is divided by. Ratios of products lose no precision.
    """
    shared = grid[:, : len(last) or None]  # remainders that all quotients have
    largest = np.abs(shared).reshape(-1, shared.shape[2]).argmax(0)
    q, r = np.divmod(largest, shared.shape[1])
    column = np.arange(shared.shape[2])
    pivot = grid[q, r, column]
    remainders = grid[q, :, column].T / np.where(pivot == 0, 1, pivot)
    quotients = grid[:, r, column]
    return np.concatenate([quotients, last[r, column][None]] if len(last) else [quotients]), remainders


def _room(embeddings: np.ndarray) -> float:
    return TOLERANCE * max(1.0, float(np.abs(embeddings).max()))


def _alike(table: ComposedEmbedding, embeddings: np.ndarray) -> bool:
    """Whether the table gives these embeddings (N, K)."""
    room = _room(embeddings)
    for start in range(0, len(embeddings), 1 << 16):
        part = embeddings[start : start + (1 << 16)]
        if np.abs(table(torch.arange(start, start + len(part))).numpy() - part).max() > room:
            return False
    return True
