"""The mixed dimension scheme that a pruned embedding table yields."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nisbench.embedding.storage import row_slices
from nisbench.errors import shortened
from nisbench.files import atomic_write, bad_file, check_regular

DIMENSION_KINDS = (np.uint16, np.uint32)


@dataclass(frozen=True)
class DimensionScheme:
    """A mixed dimension scheme D with its values V (paper, section 2.2), feature by feature.

    Feature i has the dimensions ``dimensions[offsets[i]:offsets[i + 1]]``, ascending, with these ``values``.
    """

    k: int
    offsets: np.ndarray
    """(N + 1,) int64."""
    dimensions: np.ndarray
    """(nonzeros,) uint16, or uint32 where K asks for it."""
    values: np.ndarray
    """(nonzeros,) float32."""

    @classmethod
    def from_dense(cls, embeddings: np.ndarray) -> "DimensionScheme":
        """The non-zero weights of an (N, K) matrix."""
        counts = np.count_nonzero(embeddings, axis=1)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        kind = np.uint16 if embeddings.shape[1] <= 1 << 16 else np.uint32
        dimensions, values = np.empty(offsets[-1], dtype=kind), np.empty(offsets[-1], dtype=np.float32)
        for part in row_slices(*embeddings.shape):  # the places of all would take several times the table's memory
            rows, into = embeddings[part], slice(offsets[part.start], offsets[part.stop])
            filled = rows != 0
            dimensions[into], values[into] = np.nonzero(filled)[1], rows[filled]
        return cls(embeddings.shape[1], offsets, dimensions, values)

    def to_dense(self) -> np.ndarray:
        """(N, K) float32, with 0 where a dimension does not exist."""
        dense = np.zeros((len(self.offsets) - 1, self.k), dtype=np.float32)
        dense[np.repeat(np.arange(len(dense)), self.sizes()), self.dimensions] = self.values
        return dense

    def sizes(self) -> np.ndarray:
        """The number of dimensions of each feature: (N,) int64."""
        return np.diff(self.offsets)

    def save(self, path: Path) -> None:
        tensors = {"offsets": self.offsets, "dimensions": self.dimensions, "values": self.values}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"nisbench": json.dumps({"k": self.k})})

    @classmethod
    def load(cls, path: Path) -> "DimensionScheme":
        """What `save` wrote. Raises `NisbenchError` if it is something else."""
        try:
            with safe_open(check_regular(path), framework="numpy") as file:
                k = json.loads(file.metadata()["nisbench"])["k"]
                scheme = cls(k, *(file.get_tensor(name) for name in ("offsets", "dimensions", "values")))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise bad_file(path, f"not a readable dimension scheme: {shortened(str(error), 300)}") from error
        if not scheme._is_sound():
            raise bad_file(path, "not a dimension scheme: its arrays do not fit together")
        if not np.isfinite(scheme.values).all():
            raise bad_file(path, "some values are not finite numbers")
        return scheme

    def _is_sound(self) -> bool:
        offsets, dimensions, values = self.offsets, self.dimensions, self.values
        kinds = offsets.dtype == np.int64 and values.dtype == np.float32 and dimensions.dtype in DIMENSION_KINDS
        if type(self.k) is not int or not kinds or offsets.ndim != 1 or values.ndim != 1 or not len(offsets):
            return False
        if not 0 < self.k <= np.iinfo(dimensions.dtype).max + 1 or dimensions.shape != values.shape:
            return False
        if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
            return False
        within = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        ascending = (np.diff(dimensions.astype(np.int64)) > 0) | (np.diff(within) > 0)
        return bool(ascending.all() and dimensions.max(initial=0) < self.k)
