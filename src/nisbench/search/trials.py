"""A search: train a recommender under each selection that a method proposes, and let validation pick one.

Each trial is saved as it ends, and its weights are kept while they are the best so far, so that a killed search resumes
where it stopped. A trial that diverges is recorded as failed, and the others continue. A search is not handed the test
instances.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nisbench.logs import duration, log
from nisbench.machine import OtherLoad, peak_memory_mib, provenance
from nisbench.models.recommender import Recommender
from nisbench.params.step_settings import SearchSettings
from nisbench.run_files import SearchRun, Trial, write_run
from nisbench.search.context import SearchContext
from nisbench.search.trial_spec import TrialSpec
from nisbench.search.trial_store import TrialStore
from nisbench.tensor_files import is_readable, save_tensors
from nisbench.training import fused
from nisbench.training.trainer import Data, DivergenceError, Progress, train


def run(
    settings: SearchSettings, splits: Mapping[str, Path], features_file: Path, folder: Path, device: torch.device
) -> None:
    """Run a search's trials; leave ``run.json`` and the best trial's ``weights.safetensors`` in `folder`.

    Saved trials stay in ``trials/``, for a search that is killed before it is recorded; `nisbench.execution` deletes them.

    `splits` are the files of train and validation. If all trials fail, the weights are empty and ``run.json`` says why.
    """
    context = SearchContext.read(settings, splits, features_file, device, folder)
    store = TrialStore(folder / "trials", device)
    trials, best = _run_all(context, store)
    failed = None
    if best is None:
        failed = f"{trials[0].name}: {trials[0].failed}"
        failed = failed if len(trials) == 1 else f"all {len(trials)} trials; the first, {failed}"
        log.warning("the search has no result: %s", failed)
        save_tensors(folder / "weights.safetensors", {}, {"failed": failed})
    else:
        log.info("best: %s", trials[best].name)
        save_tensors(folder / "weights.safetensors", *store.load_weights(best))
    result = SearchRun(
        best_trial=best,
        weights=0 if best is None else trials[best].weights,
        seconds=sum(trial.seconds for trial in trials),
        peak_memory_mib=max(trial.peak_memory_mib for trial in trials),
        machine=provenance(device),
        trials=trials,
        failed=failed,
    )
    if result.cut_off:
        _warn_of(result, settings)
    write_run(folder / "run.json", result)


def _warn_of(result: SearchRun, settings: SearchSettings) -> None:
    """Say which key to raise: trials that did not stop by themselves may not have ended their descent."""
    cut_off, training = result.cut_off, settings.training
    chosen = [
        f", with the chosen one (best epoch {one.best_epoch} of {one.epochs})" for one in cut_off if one is result.best
    ]
    schedule = (
        [f"; the learning rate was still {cut_off[-1].learning_rate:g}"] if training.learning_rate_drop < 1 else []
    )
    log.warning(
        "trials cut off by training.max_epochs = %d, which may not have ended their descent: %d of %d%s; "
        "raise training.max_epochs",
        training.max_epochs, len(cut_off), len(result.trials), "".join([*chosen, *schedule]),
    )  # fmt: skip


def _run_all(context: SearchContext, store: TrialStore) -> tuple[list[Trial], int | None]:
    """All trials in order, and the index of the best; weights that are not needed any more are deleted on the way."""
    specs, best = context.specs(), None
    trials: list[Trial] = []
    while len(trials) < len(specs):  # a trial may append another
        index, spec = len(trials), specs[len(trials)]
        twin = duplicate_of(index, specs)
        if twin is not None:  # the same selection, seed and data make the same model
            trial = trials[twin].model_copy(update={"name": f"{spec.name} (as trial {twin + 1})", "seconds": 0.0})
        else:
            trial = store.result(index, specs) or _train_from(index, specs, context, store)
        number = f"trial {index + 1} of {len(specs)}"
        if trial.failed:
            log.warning("%s: %s: failed: %s", number, trial.name, trial.failed)
        else:
            log.info(
                "%s: %s: validation loss %.5f, best epoch %d of %d, %s",
                number, trial.name, trial.loss, trial.best_epoch, trial.epochs, duration(trial.seconds),
            )  # fmt: skip
        trials.append(trial)
        specs += spec.next(trial.loss) if spec.next else []
        if spec.then and not trial.failed:
            specs.append(spec.then(_final_selection(index, context, store)))
        elif not trial.failed and (best is None or trial.loss < trials[best].loss):
            if best is not None:
                store.delete_weights(best)
            best = index
        else:
            store.delete_weights(index)
    return trials, best


def duplicate_of(index: int, specs: Sequence[TrialSpec]) -> int | None:
    """The first earlier trial that trains the same model, if any."""
    return next((i for i in range(index) if specs[i].same_as(specs[index])), None)


def _final_selection(index: int, context: SearchContext, store: TrialStore) -> Tensor:
    """The selection (L, K) that a trial ended with, which all of the model's embeddings share."""
    tensors, about = store.load_weights(index)
    multiple = context.settings.model.embedding_multiples[0]
    return tensors["embedding.selection"][:, : about["widths"][0] : multiple]


def _train_from(index: int, specs: Sequence[TrialSpec], context: SearchContext, store: TrialStore) -> Trial:
    """Train a trial and, if that is faster, later ones together with it, which are then found in the store."""
    group = trials_to_fuse(index, specs, context, store)
    if len(group) > 1:
        _train_fused(group, specs, context, store)
    return store.result(index, specs) or _train_alone(index, specs[index], context, store)


def trials_to_fuse(
    index: int, specs: Sequence[TrialSpec], context: SearchContext, store: TrialStore | None = None
) -> list[int]:
    """The trials to train together, this one first: as many with the same training settings as there is room for."""
    settings, first = context.settings, specs[index]
    known = store.results() if store else {}
    if index in known or not first.is_fixed or not fused.can_fuse(settings.model, settings.training):
        return [index]
    batch_ids = settings.training.batch_size * len(context.field_sizes)
    room = fused.columns_with_room(context.device, len(context.features.block), batch_ids)
    chosen, columns = [index], fused.columns_of(first.selection)
    for i in range(index + 1, len(specs)):
        spec = specs[i]
        if not (spec.is_fixed and spec.has_terms_of(first)) or duplicate_of(i, specs) is not None or i in known:
            continue
        columns += fused.columns_of(spec.selection)
        if len(chosen) == settings.training.fused_trials or columns > room:
            break
        chosen.append(i)
    return chosen


def _train_alone(index: int, spec: TrialSpec, context: SearchContext, store: TrialStore) -> Trial:
    """Train under one selection, save its weights and then its result."""
    recommender, others = context.recommender(spec), OtherLoad()
    checkpoints = {phase: store.checkpoint(index, phase) for phase in ("warm-start", "checkpoint", "further")}
    data = context.data_for(spec)
    try:
        progress = _train_in_phases(recommender, spec, data, context, checkpoints)
    except DivergenceError as error:
        trial = _trial(spec, recommender, error.progress, context, others, failed=str(error))
    else:
        if spec.finish:
            started = time.perf_counter()
            spec.finish(recommender, data)
            progress.seconds += time.perf_counter() - started
        trial = _trial(spec, recommender, progress, context, others)
        store.save_weights(index, recommender)
    store.save_results({index: trial})
    for checkpoint in checkpoints.values():
        checkpoint.unlink(missing_ok=True)
    return trial


def _train_in_phases(
    recommender: Recommender, spec: TrialSpec, data: Data, context: SearchContext, checkpoints: Mapping[str, Path]
) -> Progress:
    """A warm start, the training, and a training under the selection that was found; the first and last only if asked for."""
    settings, seed, before = context.training_of(spec), context.settings.seed, None
    finishes = spec.finish is not None
    warm, main, further = checkpoints.values()
    resumed_further = spec.train_further and is_readable(further)
    if spec.warm_start_epochs and not is_readable(main) and not resumed_further:
        few = settings.model_copy(update={"max_epochs": spec.warm_start_epochs})
        before = train(recommender, data, few, seed, checkpoint=warm, goes_on=True, title=f"{spec.name}, warm start")
        before.warm_start_epochs = before.epoch
    optimizer = spec.selection_optimizer(recommender, data.task) if spec.selection_optimizer else None
    if not resumed_further:
        before = train(
            recommender, data, settings, seed,
            selection_optimizer=optimizer, before=before, keep_last=spec.epochs is not None, checkpoint=main,
            goes_on=spec.train_further or finishes, title=spec.name,
        )  # fmt: skip
    if not spec.train_further:
        assert before is not None
        return before
    recommender.model.requires_grad_()  # a search may have frozen it
    least = math.inf if before is None else before.best_loss
    return train(
        recommender, data, settings, seed,
        before=before, best_loss=least, checkpoint=further, goes_on=finishes,
        title=f"{spec.name}, trained further",
    )  # fmt: skip


def _train_fused(group: list[int], specs: Sequence[TrialSpec], context: SearchContext, store: TrialStore) -> None:
    """Train several trials together, save the best one's weights and then all results.

    A trial whose loss ceases to be a number is left to be trained alone: a fused trial may spoil its neighbour.
    """
    chosen = [specs[i] for i in group]
    recommenders, titles = [context.recommender(spec) for spec in chosen], [spec.name for spec in chosen]
    log.info("training %d trials together: %s", len(chosen), "; ".join(titles))
    checkpoint, settings, others = store.checkpoint(group[0], "fused"), context.training_of(chosen[0]), OtherLoad()
    progress = fused.train_fused(recommenders, titles, context.data, settings, context.settings.seed, checkpoint)
    results = {
        i: _trial(spec, recommender, one, context, others, count=len(chosen)) if one else None
        for i, spec, recommender, one in zip(group, chosen, recommenders, progress, strict=True)
    }
    losses = {i: trial.loss for i, trial in results.items() if trial}
    if losses:
        best = min(losses, key=lambda i: losses[i])
        store.save_weights(best, recommenders[group.index(best)])
    store.save_results(results)
    checkpoint.unlink(missing_ok=True)


def _trial(
    spec: TrialSpec,
    recommender: Recommender,
    progress: Progress,
    context: SearchContext,
    others: OtherLoad,
    count: int = 1,
    failed: str | None = None,
) -> Trial:
    stopped = "planned" if spec.epochs else progress.stopped(context.training_of(spec))
    return Trial(
        name=spec.name,
        validation_loss=None if failed else progress.best_loss,
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        warm_start_epochs=progress.warm_start_epochs,
        stopped="diverged" if failed or stopped is None else stopped,
        learning_rate=progress.learning_rate,
        weights=context.weights_of(spec, recommender),
        seconds=progress.seconds,
        peak_memory_mib=peak_memory_mib(context.device),
        other_load=others.share(),
        losses=progress.losses,
        fused=count,
        failed=failed,
    )
