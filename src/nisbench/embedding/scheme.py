"""The mixed dimension scheme that a pruned embedding table yields."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nisbench.errors import NisbenchError
from nisbench.files import atomic_write


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
        features, dimensions = np.nonzero(embeddings)
        counts = np.bincount(features, minlength=len(embeddings))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        values = embeddings[features, dimensions].astype(np.float32)
        kind = np.uint16 if embeddings.shape[1] <= 1 << 16 else np.uint32
        return cls(embeddings.shape[1], offsets, dimensions.astype(kind), values)

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
        try:
            with safe_open(path, framework="numpy") as file:
                k = json.loads(file.metadata()["nisbench"])["k"]
                scheme = cls(k, *(file.get_tensor(name) for name in ("offsets", "dimensions", "values")))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise NisbenchError(f"{path}: not a readable dimension scheme: {error}") from error
        offsets, count = scheme.offsets, len(scheme.values)
        sound = (
            offsets.ndim == 1
            and len(offsets)
            and offsets[0] == 0
            and offsets[-1] == count
            and (np.diff(offsets) >= 0).all()
        )
        if not sound or scheme.dimensions.shape != (count,) or (count and scheme.dimensions.max() >= k):
            raise NisbenchError(f"{path}: not a dimension scheme: its arrays do not fit together")
        return scheme
