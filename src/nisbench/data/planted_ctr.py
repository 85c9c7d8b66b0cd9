"""A click log of Criteo's shape, generated from a known truth.

The logit of a click is the sum of a constant and three terms of known strength: *first order*, a number per feature;
*second order*, the inner products of all pairs of true embeddings (see `planted`), which a factorisation machine can
express; and *wave*, the sine of a weighted sum over the features, which takes a hidden layer. Scalar fields enter with their
values; a missing number is 0, a missing token an unknown feature of its field that carries nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import brentq
from scipy.special import expit, logit

from nisbench.data import parquet, planted
from nisbench.data.parquet import Field, FieldKind, fields_in_a_row
from nisbench.files import atomic_write
from nisbench.params.datasets import PlantedCTR

CHUNK = 1 << 17
WAVE_FREQUENCY = 2.0
"""The sine's argument is this times a number of unit variance: steep enough that its first-order term is small."""


def prepare(settings: PlantedCTR, archive: Path | None, instances_file: Path, vocabulary_file: Path) -> None:
    """Generate the instances, a chunk at a time, and their vocabulary with its ``planted_dimension``."""
    assert archive is None
    truth = Truth.drawn(settings)
    arrow_schema = parquet.schema(truth.fields)
    with atomic_write(instances_file) as temporary:
        with pq.ParquetWriter(temporary, arrow_schema, compression=parquet.COMPRESSION) as writer:
            for clicks, ids, values in chunks(settings, truth):
                columns = [pa.array(clicks)]
                columns += [pa.array(values[:, i]) for i in range(settings.scalar_fields)]
                columns += [pa.array(ids[:, i]) for i in range(settings.scalar_fields, ids.shape[1])]
                writer.write_table(pa.table(columns, schema=arrow_schema))
        parquet.write_table(vocabulary_file, truth.vocabulary())


@dataclass(frozen=True)
class Truth:
    """What clicks depend on. Features are numbered through: scalars, then per categorical field its unknown and its tokens."""

    scalar_fields: int
    categorical: list[planted.PlantedField]
    start: np.ndarray
    """(categorical fields + 1,) the unknown feature of each, and the number of features."""
    first: np.ndarray
    """(N,) first-order weights."""
    embeddings: np.ndarray
    """(N, rank)."""
    phase: np.ndarray
    """(N,) weights of the sum inside the sine."""
    dimensions: np.ndarray
    """(N,) planted dimensions."""

    @classmethod
    def drawn(cls, settings: PlantedCTR) -> "Truth":
        generator = np.random.default_rng([settings.seed, 0])
        scalars = settings.scalar_fields
        fields = [planted.field(size, settings, generator) for size in settings.categorical_fields]
        start = scalars + np.cumsum([0, *(1 + size for size in settings.categorical_fields)])
        n = int(start[-1])
        first, phase = generator.standard_normal((2, n))
        embeddings = np.zeros((n, settings.rank))
        dimensions = np.zeros(n, dtype=np.int32)
        dimensions[:scalars] = settings.rank
        embeddings[:scalars] = generator.standard_normal((scalars, settings.rank))
        for field, unknown in zip(fields, start[:-1], strict=True):
            tokens = slice(unknown + 1, unknown + 1 + len(field.dimensions))
            embeddings[tokens], dimensions[tokens] = field.embeddings, field.dimensions
            first[unknown] = phase[unknown] = 0.0
        return cls(scalars, fields, start, first, embeddings, phase, dimensions)

    @property
    def fields(self) -> list[Field]:
        kinds: dict[str, FieldKind] = {f"I{i + 1}": "scalar" for i in range(self.scalar_fields)}
        kinds |= {f"C{i + 1}": "categorical" for i in range(len(self.categorical))}
        return fields_in_a_row(kinds, [*[1] * self.scalar_fields, *np.diff(self.start)])

    def vocabulary(self) -> pa.Table:
        sizes = np.diff(self.start)
        tokens = [f"I{i + 1}" for i in range(self.scalar_fields)]
        for size in sizes:
            tokens += ["<unknown>", *map(str, range(size - 1))]
        names = np.repeat([field.name for field in self.fields], [field.count for field in self.fields])
        return pa.table({"field": names, "token": tokens, "planted_dimension": self.dimensions.astype(np.int32)})

    def draw(self, count: int, missing: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Ids (count, M) int32 and values (count, M) float32 of `count` instances."""
        shape = (count, self.scalar_fields + len(self.categorical))
        ids, values = np.empty(shape, dtype=np.int32), np.ones(shape, dtype=np.float32)
        lost = generator.random(shape) < missing
        ids[:, : self.scalar_fields] = np.arange(self.scalar_fields)
        numbers = np.minimum(generator.lognormal(-2.0, 1.0, (count, self.scalar_fields)), 1.0)
        values[:, : self.scalar_fields] = np.where(lost[:, : self.scalar_fields], 0.0, numbers)
        for i, (field, unknown) in enumerate(zip(self.categorical, self.start[:-1], strict=True), self.scalar_fields):
            ids[:, i] = np.where(lost[:, i], unknown, unknown + 1 + field.draw(count, generator))
        return ids, values

    def terms(self, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The terms of the logit, (3, n), before they are scaled: first order, second order, and the sum inside the sine."""
        first = (self.first[ids] * values).sum(1)
        total, squares = np.zeros((2, len(ids), self.embeddings.shape[1]))
        for i in range(ids.shape[1]):  # a field at a time: gathering all embeddings at once would take gigabytes
            weighted = self.embeddings[ids[:, i]] * values[:, i, None]
            total += weighted
            squares += weighted**2
        return np.stack([first, 0.5 * (total**2 - squares).sum(1), (self.phase[ids] * values).sum(1)])


def chunks(settings: PlantedCTR, truth: Truth) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Clicks (n,) float32, ids and values of a chunk of instances at a time."""
    strengths = np.array([settings.first_order, settings.second_order, settings.wave])[:, None]
    pilot = truth.terms(*truth.draw(CHUNK // 2, settings.missing, np.random.default_rng([settings.seed, 1])))
    mean, std = pilot.mean(1, keepdims=True), np.maximum(pilot.std(1, keepdims=True), 1e-12)

    def logits(terms: np.ndarray) -> np.ndarray:
        scaled = (terms - mean) / std
        scaled[2] = np.sqrt(2.0) * np.sin(WAVE_FREQUENCY * scaled[2])
        total: np.ndarray = (strengths * scaled).sum(0)
        return total

    pilot_logits = logits(pilot)
    bounds = logit(settings.click_rate) - np.array([pilot_logits.max() + 1, pilot_logits.min() - 1])
    constant = brentq(lambda c: expit(pilot_logits + c).mean() - settings.click_rate, *bounds)
    for number, begin in enumerate(range(0, settings.instances, CHUNK)):
        generator = np.random.default_rng([settings.seed, 2, number])
        ids, values = truth.draw(min(CHUNK, settings.instances - begin), settings.missing, generator)
        probability = expit(constant + logits(truth.terms(ids, values)))
        yield (generator.random(len(ids)) < probability).astype(np.float32), ids, values
