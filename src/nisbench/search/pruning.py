"""Fine-grained pruning (paper, section 2.5): drop the least important weights, derive the scheme, measure on test.

A compression rate of 1 prunes nothing: this step is where every method's chosen model meets the test instances, once.
"""

import math
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from scipy.optimize import brentq
from scipy.special import expit, logit

from nisbench import memory
from nisbench.data import instances, parquet
from nisbench.data.instances import Instances, Room
from nisbench.embedding.scheme import DimensionScheme
from nisbench.embedding.storage import PRECISIONS, Extent, rounded, row_slices
from nisbench.errors import NisbenchError
from nisbench.files import bad_file
from nisbench.logs import log
from nisbench.machine import OtherLoad, provenance
from nisbench.models import recommender as recommenders
from nisbench.models.pruned import Found, PrunedModel, non_embedding_state
from nisbench.models.recommender import Recommender
from nisbench.params.methods import Importance
from nisbench.params.step_settings import PruneSettings
from nisbench.run_files import FeatureCounts, PruneRun, Round, SearchRun, checked, read_search, write_run
from nisbench.search.context import divided
from nisbench.seeds import derived
from nisbench.tasks import task as tasks
from nisbench.tensor_files import check_tensors, load_tensors, save_tensors
from nisbench.training.trainer import Data, DivergenceError, snapshot, train


def run(
    settings: PruneSettings,
    search_file: Path,
    weights_file: Path,
    splits: Mapping[str, Path],
    folder: Path,
    device: torch.device,
) -> None:
    """Prune a search's result; leave ``scheme.safetensors``, ``model.safetensors`` and ``run.json`` in `folder`.

    `splits` are the files of train, validation and test. Train and validation are read to train what is left, and by
    tasks that must know all. If there is nothing to measure, because the search failed or training diverged, the first
    two files are empty and ``run.json`` says why. Rounds that were trained stay in ``rounds/``, as a search's trials do.
    """
    started = time.perf_counter()
    searched = read_search(search_file)
    try:
        result = _prune_and_measure(settings, searched, search_file, weights_file, splits, folder, device)
    except DivergenceError as error:
        log.warning("there is nothing to measure: %s", error)
        DimensionScheme.from_dense(np.zeros((0, 1), dtype=np.float32)).save(folder / "scheme.safetensors")
        save_tensors(folder / "model.safetensors", {}, {"failed": str(error)})
        seconds = time.perf_counter() - started
        result = PruneRun(seconds=seconds, machine=provenance(device), failed=str(error))
    write_run(folder / "run.json", result)


def _prune_and_measure(
    settings: PruneSettings,
    searched: SearchRun,
    search_file: Path,
    weights_file: Path,
    splits: Mapping[str, Path],
    folder: Path,
    device: torch.device,
) -> PruneRun:
    """`run`, up to ``run.json``. Raises `DivergenceError` if there is nothing to measure."""
    if searched.failed:
        raise DivergenceError(searched.failed)
    model, found = PrunedModel.load_search(weights_file, settings.model, parquet.same_fields(splits))
    held, room = model.nonzeros, found.raw.size
    if not held <= searched.weights <= room:
        raise bad_file(
            search_file, f"weights: {searched.weights}, but {weights_file.name} holds {held}, with room for {room}"
        )
    if settings.importance == "search" and found.ranks is None:
        raise bad_file(weights_file, "the search did not rank its weights for pruning")
    started = time.perf_counter()
    known = {name: splits[name] for name in ("train", "validation")}
    room_left = Room(settings.memory_limit, memory.of_pruning(*found.raw.shape), folder)
    rounds: list[Round] = []
    if settings.rounds:
        model, rounds = in_rounds(settings, model, found, searched.weights, known, folder / "rounds", device)
        threshold = rounds[-1].threshold
    else:
        model, threshold = pruned_at_once(settings, model, found, searched.weights)
    del found
    (validation,) = instances.read_all([splits["validation"]], device, room_left)
    if settings.recalibrate:
        model = replace(model, offset=offset_of(settings, model, validation))
    recommender = model.to_recommender().to(device)
    if settings.chosen_on:
        validation = validation.subset(divided(len(validation), settings.chosen_on, settings.seed)[0].to(device))
    validation_loss = tasks.build(settings.task, known, device).validation_loss(recommender, validation)
    del validation
    task = tasks.build(settings.task, splits, device)
    (test,) = instances.read_all([splits["test"]], device, room_left)
    metrics = task.evaluate(recommender, test)
    if not all(map(math.isfinite, metrics.values())):
        raise DivergenceError(f"predictions are not numbers: {metrics}")
    if not math.isfinite(validation_loss):
        raise DivergenceError(f"the validation loss is {validation_loss}")
    mean_prediction, mean_label = means_of(settings, recommender, test)
    del recommender
    model.save(folder / "scheme.safetensors", folder / "model.safetensors")
    dimensions = np.count_nonzero(model.embeddings, axis=1)
    return PruneRun(
        metrics=metrics,
        validation_loss=validation_loss,
        weights=searched.weights,
        nonzeros=model.nonzeros,
        projection_weights=model.projection_weights,
        threshold=threshold,
        bytes=bytes_of(model),
        rounded_metrics={} if model.stored_weights else rounded_metrics(task, model, test),
        offset=model.offset,
        mean_prediction=mean_prediction,
        mean_label=mean_label,
        size_mib=4 * model.stored_weights / 2**20 if model.stored_weights else deflated_mib(model.embeddings),
        features=FeatureCounts(count=len(dimensions), without_dimensions=int((dimensions == 0).sum())),
        test_instances=len(test),
        rounds=rounds,
        seconds=sum(one.seconds for one in rounds) or time.perf_counter() - started,
        machine=provenance(device),
    )


def bytes_of(model: PrunedModel) -> dict[str, dict[str, int]]:
    """What the embeddings take in each layout and precision; composed ones only what their parts take in float32."""
    if model.stored_weights is not None:
        return {"dense": {"float32": 4 * model.stored_weights}}
    return Extent.of(model.embeddings).all_bytes()


# --- which weights go -----------------------------------------------------------------------------------------


def pruned_at_once(
    settings: PruneSettings, model: PrunedModel, found: Found, weights: int
) -> tuple[PrunedModel, float]:
    """The model without what the compression rate does not leave, and the threshold."""
    values = importance(settings, model.embeddings, found)
    kept, threshold = most_important(values, weights, settings.compression_rate, settings.importance)
    return model.with_embeddings(np.where(kept, model.embeddings, np.float32(0))), threshold


def importance(settings: PruneSettings, embeddings: np.ndarray, found: Found) -> np.ndarray:
    """How much each weight matters, (N, width): the least goes first; a weight that is 0 in E~ does not exist.

    Where the search ranks weights, one that is 0 now may exist again: training starts elsewhere.
    """
    if settings.importance == "search":
        assert found.ranks is not None
        return found.ranks
    if settings.importance == "random":
        generator = np.random.default_rng(derived(settings.seed, "pruning"))
        values = 1 - generator.random(embeddings.shape, dtype=np.float32)  # above 0
    else:
        values = np.abs(embeddings if settings.importance == "effective" else found.raw)
    return np.where(embeddings == 0, np.float32(0), values)


def most_important(
    importances: np.ndarray, weights: int, compression_rate: float, by: Importance = "effective"
) -> tuple[np.ndarray, float]:
    """Which weights to keep (Eq. 9): the most important ``weights / compression_rate``, given importances (N, width).

    `weights` is the number of weights that exist before pruning. Returns a mask (N, width) and the threshold epsilon: weights of
    less importance go, and of equally important ones all but those that fit; but those that a search ranks equal go together.
    (The paper's Eq. 9 prints E in place of E~.)
    """
    if compression_rate < 1:
        raise NisbenchError(f"a compression rate must be at least 1, not {compression_rate}")
    keep = int(weights / compression_rate)
    if compression_rate == 1 or np.count_nonzero(importances) <= keep:
        return importances > 0, 0.0
    if keep == 0:
        return np.zeros(importances.shape, dtype=bool), float(np.nextafter(importances.max(), np.float32(np.inf)))
    threshold = np.partition(importances, importances.size - keep, axis=None)[importances.size - keep]
    kept = importances > threshold
    equal, room = np.flatnonzero(importances == threshold), keep - np.count_nonzero(kept)
    if by != "search" or len(equal) <= room:
        kept.flat[equal[:room]] = True
    return kept, float(threshold)


def in_rounds(
    settings: PruneSettings,
    model: PrunedModel,
    found: Found,
    weights: int,
    splits: Mapping[str, Path],
    folder: Path,
    device: torch.device,
) -> tuple[PrunedModel, list[Round]]:
    """Prune some weights, train the rest, and again (Han et al. 2015, arXiv 1506.02626), down to the compression rate.

    Rates rise geometrically. Each training starts at the pruned weights, or where ``rewind`` says. Validation stops it and
    chooses its epoch; pruned weights take part in the choice. A round that was finished is not done again.
    """
    assert settings.training is not None
    table = memory.of_pruning(*found.raw.shape) + memory.of_training(*found.raw.shape)
    room = Room(settings.memory_limit, table, folder, settings.training.order)
    training, validation = instances.read_all([splits["train"], splits["validation"]], device, room)
    data = Data(training, validation, tasks.build(settings.task, splits, device))
    done: list[Round] = []
    finished = max((n for n in range(1, settings.rounds + 1) if (folder / f"{n}.safetensors").exists()), default=1)
    for number in range(finished, settings.rounds + 1):
        file, rate = folder / f"{number}.safetensors", settings.compression_rate ** (number / settings.rounds)
        if file.exists():
            tensors, about = load_tensors(file)
            check_tensors(tensors, model.with_mask(model.embeddings != 0).state_dict(), file)
            done = _rounds_in(about, number, file)
        else:
            of_model = found if number == 1 else replace(found, raw=model.embeddings)
            values = importance(settings, model.embeddings, of_model)
            kept, threshold = most_important(values, weights, rate, settings.importance)
            start = model if settings.rewind == "pruned" else rewound(model, found, settings, data)
            recommender = start.with_mask(kept).to(device)
            others, loss = OtherLoad(), math.inf
            if settings.rewind == "pruned":
                loss = data.task.validation_loss(recommender, validation)
            progress = train(
                recommender, data, settings.training, settings.seed, best_loss=loss,
                checkpoint=folder / f"{number}.{device.type}-checkpoint.safetensors",
                title=f"round {number} of {settings.rounds}, compression rate {rate:.4g}",
            )  # fmt: skip
            tensors = snapshot(recommender)
            stopped = progress.stopped(settings.training)
            assert stopped is not None
            if stopped == "max_epochs":
                log.warning(
                    "round %d of %d was cut off by training.max_epochs = %d, best epoch %d; raise training.max_epochs",
                    number, settings.rounds, settings.training.max_epochs, progress.best_epoch,
                )  # fmt: skip
            this = Round(
                compression_rate=rate,
                threshold=threshold,
                validation_loss=progress.best_loss,
                best_epoch=progress.best_epoch,
                epochs=progress.epoch,
                stopped=stopped,
                seconds=progress.seconds,
                other_load=others.share(),
            )
            done = [*done, this]
            save_tensors(file, tensors, {"done": [one.model_dump() for one in done]})
            (folder / f"{number - 1}.safetensors").unlink(missing_ok=True)
        embeddings = tensors["embedding.weight"].cpu().numpy()
        if embeddings[tensors["embedding.selection"].cpu().numpy() == 0].any():
            raise NisbenchError(f"round {number}: weights that were pruned came back; this is an error in nisbench")
        model = model.with_embeddings(embeddings, non_embedding_state(tensors))
        log.info("round %d of %d: validation loss %.5f", number, settings.rounds, done[-1].validation_loss)
    return model, done


def rewound(model: PrunedModel, found: Found, settings: PruneSettings, data: Data) -> PrunedModel:
    """The model with the weights that the search began with, or with others drawn in the same way."""
    assert settings.training is not None
    multiple = settings.model.embedding_multiples[0]
    selection = torch.zeros(1, settings.training.base_dimension)
    selection[0, [column // multiple for column in found.columns[0]]] = 1
    prior = data.task.prior(data.training)
    drawn = recommenders.build(
        settings.model,
        block=torch.zeros(len(model.embeddings), dtype=torch.long),
        selection=selection,
        embedding_std=settings.training.embedding_std,
        field_sizes=model.field_sizes,
        prior=prior,
        seed=settings.seed if settings.rewind == "initial" else derived(settings.seed, "retraining"),
        start=recommenders.start_of(settings.model, settings.task, prior),
    )
    others = non_embedding_state(drawn.state_dict())
    return model.with_embeddings(drawn.selected.weight.detach().numpy(), others)


def _rounds_in(about: Mapping[str, object], number: int, file: Path) -> list[Round]:
    """What was recorded of the rounds up to this one."""
    found: list[Round] = checked(TypeAdapter(list[Round]), about.get("done"), file)
    if len(found) != number:
        raise bad_file(file, f"it says of {len(found)} rounds that they are done, not of {number}")
    return found


# --- what is left ---------------------------------------------------------------------------------------------


def rounded_metrics(task: tasks.Task, model: PrunedModel, test: Instances) -> dict[str, dict[str, float]]:
    """The metrics with embeddings rounded to each precision below float32. It takes one copy of them for all."""
    copy, found = np.empty_like(model.embeddings), dict[str, dict[str, float]]()
    for precision in PRECISIONS[1:]:
        of_copy = model.with_embeddings(rounded(model.embeddings, precision, copy))
        found[precision] = task.evaluate(of_copy.to_recommender().to(test.labels.device), test)
    return found


def deflated_mib(embeddings: np.ndarray) -> float:
    """The paper's "Params (M)": the file that ``scipy.sparse.save_npz`` deflates a COO matrix to, in MiB.

    It is written to a temporary file some rows at a time: all at once, it would take several times the table's memory.
    """
    count = int(np.count_nonzero(embeddings))
    index = np.dtype(np.int32 if max(embeddings.shape) <= np.iinfo(np.int32).max else np.int64)
    parts: dict[str, tuple[tuple[int, ...], np.dtype, Callable[[slice], np.ndarray]]] = {
        "row": ((count,), index, lambda part: part.start + np.nonzero(embeddings[part])[0]),
        "col": ((count,), index, lambda part: np.nonzero(embeddings[part])[1]),
        "format": ((), np.dtype("S3"), lambda _: np.array(b"coo")),
        "shape": ((2,), np.dtype(np.int64), lambda _: np.array(embeddings.shape)),
        "data": ((count,), embeddings.dtype, lambda part: embeddings[part][embeddings[part] != 0]),
    }
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (shape, kind, values) in parts.items():
                header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
                slices = row_slices(*embeddings.shape) if name in {"row", "col", "data"} else [slice(0, 0)]
                with archive.open(f"{name}.npy", "w", force_zip64=True) as array:
                    np.lib.format.write_array_header_1_0(array, header)
                    for part in slices:
                        array.write(values(part).astype(kind).tobytes())
        return file.tell() / 2**20


# --- the base rate --------------------------------------------------------------------------------------------

LARGEST_ERROR = 0.05
"""A mean prediction that is further off than this share of the labels' mean and deviation, the lesser of the two, is told."""


def offset_of(settings: PruneSettings, model: PrunedModel, validation: Instances) -> float:
    """The number that, added to all predictions, gives them the mean of the labels over the validation instances.

    For squared error and for logloss, this is also the number of the least loss. 0 if all labels are the same.
    """
    predictions = model.to_recommender().to(validation.labels.device).predict(validation).double().cpu().numpy()
    labels = validation.labels.double().cpu().numpy()
    if not np.isfinite(predictions).all() or labels.min() == labels.max():
        return 0.0
    if not settings.task.predicts_logits:
        return float((labels - predictions).mean())
    ends = logit(labels.mean()) - predictions.max(), logit(labels.mean()) - predictions.min()
    if ends[0] == ends[1]:
        return float(ends[0])
    return float(brentq(lambda offset: (expit(predictions + offset) - labels).mean(), *ends))


def means_of(
    settings: PruneSettings, recommender: Recommender, test: Instances
) -> tuple[float, float] | tuple[None, None]:
    """The mean prediction and the mean label, for tasks that have a base rate. It warns if they are far apart."""
    if not settings.task.has_base_rate:
        return None, None
    predictions, labels = recommender.predict(test).double(), test.labels.double()
    mean = float((predictions.sigmoid() if settings.task.predicts_logits else predictions).mean())
    base = float(labels.mean())
    if abs(mean - base) > LARGEST_ERROR * min(abs(base), float(labels.std(correction=0))):
        log.warning(
            "the mean prediction on test is %.4f, but the mean label is %.4f%s",
            mean, base, "" if settings.recalibrate else "; training.recalibrate: true refits it on validation",
        )  # fmt: skip
    return mean, base
