"""Fine-grained pruning (paper, section 2.5): drop the smallest merged weights, derive the scheme, measure on test.

A compression rate of 1 prunes nothing: this step is where every method's chosen model meets the test instances, once.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from nisbench.data import instances, parquet
from nisbench.embedding import DimensionScheme, SelectedEmbedding, merged
from nisbench.errors import NisbenchError
from nisbench.evaluation import tasks
from nisbench.files import read_json, write_json
from nisbench.machine import provenance
from nisbench.models.recommender import Recommender, Shape, build_model
from nisbench.params.settings import AnyModel
from nisbench.runs import PruneSettings
from nisbench.training.checkpoints import load_tensors


def run(
    settings: PruneSettings,
    weights_file: Path,
    search_file: Path,
    parts: dict[str, Path],
    folder: Path,
    device: torch.device,
    about: dict[str, Any],
) -> None:
    """Prune a search's result; leave ``scheme.safetensors`` and ``run.json``, headed by `about`, in `folder`.

    `parts` are the files of train, validation and test, of which some tasks must know all.
    """
    tensors, about_weights = load_tensors(weights_file)
    search = read_json(search_file)
    embeddings = merged(*(tensors[f"embedding.{name}"] for name in ("weight", "selection", "block"))).numpy()
    pruned, threshold = prune(embeddings, search["weights"], settings.compression_rate)
    scheme = DimensionScheme.from_dense(pruned)
    test = instances.read(parts["test"], device)
    widths, fields = tuple(about_weights["widths"]), parquet.field_sizes(parts["test"])
    recommender = with_scheme(settings.model, tensors, widths, scheme, fields).to(device)
    metrics = tasks.build(settings.task, parts, device).evaluate(recommender, test)
    if not all(map(math.isfinite, metrics.values())):
        raise NisbenchError(f"{weights_file}: this model's predictions are no numbers: {metrics}")
    scheme.save(folder / "scheme.safetensors")
    write_json(
        folder / "run.json",
        {
            **about,
            "metrics": metrics,
            "weights": search["weights"],
            "nonzeros": len(scheme.values),
            "threshold": threshold,
            **sizes(pruned),
            "features": {"count": len(scheme.sizes()), "without_dimensions": int((scheme.sizes() == 0).sum())},
            "test_instances": len(test),
            "machine": provenance(device),
        },
    )


def prune(embeddings: np.ndarray, weights: int, compression_rate: float) -> tuple[np.ndarray, float]:
    """Eq. 9 on the merged embeddings E~ (N, K): keep the largest ``weights / compression_rate`` by magnitude.

    `weights` is the number of weights that exist before pruning. Returns the pruned matrix and the threshold epsilon:
    weights of smaller magnitude became 0. (The paper's Eq. 9 prints E in place of E~.)
    """
    if compression_rate < 1:
        raise NisbenchError(f"a compression rate must be at least 1, not {compression_rate}")
    keep = int(weights / compression_rate)
    magnitude = np.abs(embeddings)
    if compression_rate == 1 or np.count_nonzero(embeddings) <= keep:
        return embeddings, 0.0
    if keep == 0:
        return np.zeros_like(embeddings), float(np.nextafter(magnitude.max(), np.float32(np.inf)))
    threshold = np.partition(magnitude, magnitude.size - keep, axis=None)[magnitude.size - keep]
    return np.where(magnitude < threshold, np.float32(0), embeddings), float(threshold)


def sizes(embeddings: np.ndarray) -> dict[str, float]:
    """What the non-zero weights take: as COO and CSR arrays in bytes, and as the paper's "Params (M)".

    The latter is the size in MiB of the file that ``scipy.sparse.save_npz`` deflates a COO matrix to.
    """
    coo = scipy.sparse.coo_matrix(embeddings)
    csr = coo.tocsr()
    file = io.BytesIO()
    scipy.sparse.save_npz(file, coo, compressed=True)
    return {
        "coo_bytes": coo.row.nbytes + coo.col.nbytes + coo.data.nbytes,
        "csr_bytes": csr.indptr.nbytes + csr.indices.nbytes + csr.data.nbytes,
        "size_mib": file.getbuffer().nbytes / 2**20,
    }


def with_scheme(
    model: AnyModel,
    tensors: dict[str, torch.Tensor],
    widths: tuple[int, ...],
    scheme: DimensionScheme,
    field_sizes: tuple[int, ...],
) -> Recommender:
    """The recommender of a search's weight file, its embeddings replaced by a scheme's; `widths` are its parts'."""
    n = len(scheme.sizes())
    embedding = SelectedEmbedding(torch.zeros(n), torch.ones(1, scheme.k), torch.from_numpy(scheme.to_dense()))
    recommender = Recommender(embedding, build_model(model, Shape(field_sizes, widths, 0.0)), widths)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    recommender.load_state_dict({f"embedding.{name}": tensor for name, tensor in embedding.state_dict().items()} | own)
    return recommender
