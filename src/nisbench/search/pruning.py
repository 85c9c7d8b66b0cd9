"""Fine-grained pruning (paper, section 2.5): drop the smallest weights, derive the scheme, measure on test.

A compression rate of 1 prunes nothing: this step is where every method's chosen model meets the test instances, once.
"""

import io
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from nisbench.console import log
from nisbench.data import instances, parquet
from nisbench.embedding import DimensionScheme, SelectedEmbedding, merged
from nisbench.errors import NisbenchError
from nisbench.evaluation import tasks
from nisbench.evaluation.tasks import Task
from nisbench.files import write_json
from nisbench.machine import provenance
from nisbench.models.projection import Projection
from nisbench.models.recommender import Recommender, Shape, build_model
from nisbench.params.settings import AnyModel, FirstOrderModel
from nisbench.records import read_search
from nisbench.runs import PruneSettings
from nisbench.seeds import derived
from nisbench.training.checkpoints import load_tensors, save_tensors
from nisbench.training.trainer import DivergenceError, snapshot, train


def run(
    settings: PruneSettings,
    weights_file: Path,
    search_file: Path,
    parts: dict[str, Path],
    folder: Path,
    device: torch.device,
) -> None:
    """Prune a search's result; leave ``scheme.safetensors`` and ``run.json`` in `folder`.

    `parts` are the files of train, validation and test. Train and validation are read to train what is left, and by tasks that
    must know all. Where there is nothing to measure, because the search failed or what is left diverged, the scheme is empty and
    ``run.json`` says why.
    """
    search, started = read_search(search_file), time.perf_counter()
    failed = search["failed"]
    if not failed:
        try:
            failed = _prune_and_measure(settings, weights_file, search["weights"], parts, folder, device)
        except DivergenceError as error:
            failed = str(error)
    if failed:
        log.warning("there is nothing to measure: %s", failed)
        DimensionScheme.from_dense(np.zeros((0, 1), dtype=np.float32)).save(folder / "scheme.safetensors")
        nothing = {
            "metrics": {}, "weights": 0, "nonzeros": 0, "projection_weights": 0, "threshold": 0.0, "coo_bytes": 0, "csr_bytes": 0,
            "size_mib": 0.0, "features": {}, "test_instances": 0, "rounds": [], "seconds": time.perf_counter() - started,
        }  # fmt: skip
        write_json(folder / "run.json", {**nothing, "machine": provenance(device), "failed": failed})
    shutil.rmtree(folder / "rounds", ignore_errors=True)


def _prune_and_measure(
    settings: PruneSettings,
    weights_file: Path,
    weights: int,
    parts: dict[str, Path],
    folder: Path,
    device: torch.device,
) -> str | None:
    """`run` of a search that did not fail; its selection let so many `weights` exist. Returns why there is no result, if so."""
    tensors, about_weights = load_tensors(weights_file)
    started = time.perf_counter()
    task = tasks.build(settings.task, parts, device)
    result = Result(
        embeddings=merged(*(tensors[f"embedding.{name}"] for name in ("weight", "selection", "block"))).numpy(),
        model=_all_else(tensors),
        settings=settings.model,
        widths=tuple(about_weights["widths"]),
        field_sizes=parquet.field_sizes(parts["test"]),
        projection=about_weights["projection"],
    )
    rounds: list[dict[str, Any]] = []
    if settings.rounds:
        known = {part: parts[part] for part in ("train", "validation")}
        unscaled = tensors["embedding.weight"].numpy()
        result, threshold, rounds = in_rounds(settings, result, unscaled, weights, known, folder / "rounds", device)
    else:
        magnitude = importance(settings, result.embeddings, tensors["embedding.weight"].numpy())
        pruned, threshold = prune(result.embeddings, magnitude, weights, settings.compression_rate)
        result = result.with_embeddings(pruned)
    scheme = DimensionScheme.from_dense(result.embeddings)
    test = instances.read(parts["test"], device)
    metrics = task.evaluate(result.served(scheme).to(device), test)
    if not all(map(math.isfinite, metrics.values())):
        return f"predictions are no numbers: {metrics}"
    scheme.save(folder / "scheme.safetensors")
    write_json(
        folder / "run.json",
        {
            "metrics": metrics,
            "weights": weights,
            "nonzeros": len(scheme.values),
            "projection_weights": sum(
                t.numel() for name, t in result.model.items() if name.startswith("projection.weights")
            ),
            "threshold": threshold,
            **sizes(result.embeddings),
            "features": {"count": len(scheme.sizes()), "without_dimensions": int((scheme.sizes() == 0).sum())},
            "test_instances": len(test),
            "rounds": rounds,
            "seconds": sum(each["seconds"] for each in rounds) or time.perf_counter() - started,
            "machine": provenance(device),
            "failed": None,
        },
    )
    return None


@dataclass(frozen=True)
class Result:
    """A trained model in the state that pruning leaves it in."""

    embeddings: np.ndarray
    """E~, (N, width)."""
    model: dict[str, Tensor]
    """The weights of all else."""
    settings: AnyModel | FirstOrderModel
    widths: tuple[int, ...]
    field_sizes: tuple[int, ...]
    projection: tuple[list[list[int]], list[int]] | None = None
    """The dimensions of each part's blocks, and the common ones they are projected to."""

    def with_embeddings(self, embeddings: np.ndarray) -> "Result":
        return replace(self, embeddings=embeddings)

    def served(self, scheme: DimensionScheme) -> Recommender:
        """The recommender whose embeddings are a scheme's."""
        n = len(self.embeddings)
        return self._recommender(
            SelectedEmbedding(torch.zeros(n), torch.ones(1, scheme.k), torch.from_numpy(scheme.to_dense()))
        )

    def trainable(self) -> Recommender:
        """A recommender in which weights that are 0 stay 0: each feature is a block, its dimensions those that it has left."""
        weight = torch.from_numpy(self.embeddings).clone()
        return self._recommender(SelectedEmbedding(torch.arange(len(weight)), weight.ne(0).float(), weight))

    def _recommender(self, embedding: SelectedEmbedding) -> Recommender:
        shape = Shape(self.field_sizes, self.widths, 0.0)
        projection = Projection(self.model["projection.block"], *self.projection) if self.projection else None
        recommender = Recommender(embedding, build_model(self.settings, shape), self.widths, projection)
        own = {f"embedding.{name}": tensor for name, tensor in embedding.state_dict().items()}
        recommender.load_state_dict(own | self.model)
        return recommender


# --- which weights go -----------------------------------------------------------------------------------------


def importance(settings: PruneSettings, embeddings: np.ndarray, unscaled: np.ndarray) -> np.ndarray:
    """By how much each weight matters, (N, width): the least goes first, and what is 0 in E~ does not exist."""
    if settings.prune_by == "random":
        generator = np.random.default_rng(derived(settings.seed, "pruning"))
        values = 1 - generator.random(embeddings.shape, dtype=np.float32)  # above 0
    else:
        values = np.abs(embeddings if settings.prune_by == "scaled" else unscaled)
    return np.where(embeddings == 0, np.float32(0), values)


def prune(
    embeddings: np.ndarray, magnitude: np.ndarray, weights: int, compression_rate: float
) -> tuple[np.ndarray, float]:
    """Eq. 9 on the merged embeddings E~ (N, width): keep ``weights / compression_rate`` of them, those of largest `magnitude`.

    `weights` is the number of weights that exist before pruning. Returns the pruned matrix and the threshold epsilon:
    weights of smaller magnitude became 0, and of equal ones those too many. (The paper's Eq. 9 prints E in place of E~.)
    """
    if compression_rate < 1:
        raise NisbenchError(f"a compression rate must be at least 1, not {compression_rate}")
    keep = int(weights / compression_rate)
    if compression_rate == 1 or np.count_nonzero(embeddings) <= keep:
        return embeddings, 0.0
    if keep == 0:
        return np.zeros_like(embeddings), float(np.nextafter(magnitude.max(), np.float32(np.inf)))
    threshold = np.partition(magnitude, magnitude.size - keep, axis=None)[magnitude.size - keep]
    kept = magnitude > threshold
    equal = np.flatnonzero(magnitude == threshold)  # of which as many stay, the first, as there is room for
    kept.flat[equal[: keep - np.count_nonzero(kept)]] = True
    return np.where(kept, embeddings, np.float32(0)), float(threshold)


def in_rounds(
    settings: PruneSettings,
    result: Result,
    unscaled: np.ndarray,
    weights: int,
    known: dict[str, Path],
    folder: Path,
    device: torch.device,
) -> tuple[Result, float, list[dict[str, Any]]]:
    """Prune a part, train what is left, and again (Han et al. 2015, arXiv 1506.02626), down to the compression rate.

    Rates rise geometrically. Validation stops each training and chooses its epoch, the one before the first included. A round that
    was finished is not done again. `unscaled` are the weights without the selection, for the first round. Returns the result, the last threshold, and what is to know of each round.
    """
    assert settings.training is not None
    task: Task = tasks.build(settings.task, known, device)
    training, validation = (instances.read(path, device) for path in known.values())
    done: list[dict[str, Any]] = []
    finished = max((n for n in range(1, settings.rounds + 1) if (folder / f"{n}.safetensors").exists()), default=1)
    for number in range(finished, settings.rounds + 1):
        file, rate = folder / f"{number}.safetensors", settings.compression_rate ** (number / settings.rounds)
        if file.exists():
            tensors, about = load_tensors(file)
            done = about["done"]
        else:
            magnitude = importance(settings, result.embeddings, unscaled if number == 1 else result.embeddings)
            pruned, threshold = prune(result.embeddings, magnitude, weights, rate)
            recommender = result.with_embeddings(pruned).trainable().to(device)
            loss = task.validation_loss(recommender, validation)
            progress = train(
                recommender, training, validation, task, settings.training, settings.seed, best_loss=loss,
                checkpoint=folder / f"{number}.{device.type}-checkpoint.safetensors",
                title=f"round {number} of {settings.rounds}, compression rate {rate:.4g}",
            )  # fmt: skip
            tensors = snapshot(recommender)
            about = {
                "compression_rate": rate,
                "threshold": threshold,
                "validation_loss": progress.best_loss,
                "epochs": progress.epoch,
                "seconds": progress.seconds,
            }
            done = [*done, about]
            save_tensors(file, tensors, {"done": done})
            (folder / f"{number - 1}.safetensors").unlink(missing_ok=True)
        embeddings = tensors["embedding.weight"].cpu().numpy()
        if embeddings[tensors["embedding.selection"].cpu().numpy() == 0].any():
            raise NisbenchError(f"round {number}: weights that were pruned came back; this is an error in nisbench")
        result = replace(result, embeddings=embeddings, model=_all_else(tensors))
        log.info("round %d of %d: validation loss %.5f", number, settings.rounds, done[-1]["validation_loss"])
    return result, done[-1]["threshold"], done


def _all_else(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All of a recommender's tensors that are not its embeddings'."""
    return {name: tensor.cpu() for name, tensor in tensors.items() if not name.startswith("embedding.")}


# --- what is left ---------------------------------------------------------------------------------------------


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
