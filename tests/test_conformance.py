"""Every model under every method of params/, on a small data set: search, killed and resumed, then pruned."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nisbench.data import blocks, instances, parquet, planted_ctr, planted_ratings, planted_topk, split
from nisbench.embedding import DimensionScheme
from nisbench.evaluation import tasks, topk
from nisbench.evaluation.ctr import ClickThroughRate
from nisbench.evaluation.rating import RatingPrediction
from nisbench.evaluation.topk import TopKRecommendation
from nisbench.params.loading import load
from nisbench.params.settings import MODEL_TASKS, BlockSettings, FirstOrderModel
from nisbench.runs import PruneSettings, SearchSettings
from nisbench.search import pruning, trials
from nisbench.training import optimizers
from nisbench.training.checkpoints import load_tensors
from tests.conftest import ROOT

CPU = torch.device("cpu")
PARAMS = load(ROOT, overlays=[]).params
FIRST_OF_KIND = {method.kind: name for name, method in reversed(PARAMS.methods.items())}
VARIANTS = PARAMS.methods.keys() - FIRST_OF_KIND.values()
"""Methods that are another of the same kind with other settings: a model of each task is enough."""
CASES = [
    pytest.param(task, model, method, id=f"{model}-{method}-{task}")
    for model, settings in PARAMS.models.items()
    for method, settings_of_method in PARAMS.methods.items()
    if settings_of_method.kind != "no_embeddings"
    and (method not in VARIANTS or model in ("mf", "deepfm", "neumf_topk"))
    for task in MODEL_TASKS[settings.kind]
]
TASKS = PARAMS.tasks | {"topk": PARAMS.tasks["topk"].model_copy(update={"candidates": 19})}

METRICS = {
    "rating": ["mse"],
    "ctr": ["auc", "logloss"],
    "topk": [*topk.NAMES, *(topk.FULL + name for name in topk.NAMES)],
}


@pytest.fixture(scope="module")
def data_of(planted, tmp_path_factory):
    """For each task, the paths of train, validation, test and features."""
    clicks = PARAMS.datasets["planted_ctr"].model_copy(
        update={"instances": 3000, "scalar_fields": 2, "categorical_fields": [40, 20, 5], "rank": 4, "levels": 3}
    )
    feedback = PARAMS.datasets["planted_topk"].model_copy(
        update={"users": 80, "items": 50, "instances": 1600, "rank": 4, "levels": 3}
    )
    sets = (("rating", planted_ratings, planted), ("ctr", planted_ctr, clicks), ("topk", planted_topk, feedback))
    found = {}
    for task, module, settings in sets:
        folder = tmp_path_factory.mktemp(task)
        module.run(settings, None, folder / "instances", folder / "vocabulary")
        paths = {part: folder / part for part in split.PARTS}
        split.run(settings.split, folder / "instances", paths)
        paths["features"] = folder / "features"
        blocks.run(BlockSettings(by="count", count=4), folder / "vocabulary", paths["train"], paths["features"])
        found[task] = paths
    return found


def trivial_loss(task, labels):
    """The loss of predicting the same for all instances."""
    if task == "topk":
        return 1 - sum(1 / np.log2(1 + rank) for rank in range(1, 11)) / 20
    mean = labels.mean()
    return labels.var() if task == "rating" else -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))


def few_trials(method):
    """The method with at most three trials."""
    if method.kind == "uniform_tuned":
        return method.model_copy(update={"dimensions": [4, 8], "l2": [0.0, 1e-4]})
    if method.kind == "mde_projected":
        return method.model_copy(update={"settings": method.settings[::11], "blocks_per_field": 2})
    if method.kind == "nis":
        return method.model_copy(update={"warm_start_epochs": 1})
    if method.kind == "dnis" and method.warm_start_epochs:
        return method.model_copy(update={"warm_start_epochs": 2})
    shortened = {"grid": "dimensions", "mde": "settings"}
    if method.kind in shortened:
        name = shortened[method.kind]
        return method.model_copy(update={name: getattr(method, name)[::6]})
    return method.model_copy(update={"trials": 3}) if method.kind == "random" else method


def settings_for(task, model, method):
    training = PARAMS.training.model_copy(
        update={"batch_size": 256, "max_epochs": 3, "learning_rate": 0.01, "checkpoint_seconds": 0}
    )
    return SearchSettings(
        task=TASKS[task],
        model=PARAMS.models[model],
        method=few_trials(PARAMS.methods[method]),
        training=training,
        seed=1,
    )


def prune_settings(settings, rate):
    rounds = settings.method.rounds if rate > 1 else 0
    return PruneSettings(
        task=settings.task, model=settings.model, prune_by=settings.method.prune_by, rounds=rounds, compression_rate=rate,
        seed=settings.seed, training=settings.training if rounds else None, deterministic=False, device="cpu",
    )  # fmt: skip


def search(settings, data, folder):
    files = {f"{name}_file": data[name] for name in ("train", "validation", "features")}
    trials.run(settings, **files, folder=folder, device=CPU)
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_conformance(task, model, method, data_of, tmp_path, monkeypatch):
    data, settings = data_of[task], settings_for(task, model, method)
    run = search(settings, data, tmp_path / "a")

    # validation chose, ties go to the first, and the chosen weights are the ones that were measured
    losses = [trial["validation_loss"] for trial in run["trials"]]
    if settings.method.kind == "nis":  # what the controller was trained with is no result
        assert len(losses) == 2
        losses[0] = np.inf
    assert run["best_trial"] == losses.index(min(losses))
    assert run["seconds"] == pytest.approx(sum(trial["seconds"] for trial in run["trials"]))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["run.json", "weights.safetensors"]
    tensors, about = load_tensors(tmp_path / "a" / "weights.safetensors")
    selection = tensors["embedding.selection"]
    assert selection.min() >= 0
    assert selection.max() <= 1
    whole = DimensionScheme.from_dense(
        (tensors["embedding.weight"] * selection[tensors["embedding.block"].long()]).numpy()
    )
    validation = instances.read(data["validation"], CPU)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("embedding.")}
    fields = parquet.field_sizes(data["validation"])
    served = pruning.Result(
        whole.to_dense(), own, settings.model, tuple(about["widths"]), fields, about["projection"]
    ).served(whole)
    known = {part: data[part] for part in ("train", "validation")}
    loss = tasks.build(TASKS[task], known, CPU).validation_loss(served, validation)
    assert loss == pytest.approx(min(losses), rel=1e-5)

    # what training starts from is the train set's and the seed's
    train = pq.read_table(data["train"], columns=["label"])["label"].to_numpy()
    if getattr(settings.model, "global_mean", False):
        prior = train.mean() if task == "rating" else -np.log(TASKS["topk"].negatives)
        assert tensors["model.mean"].item() == pytest.approx(prior, abs=1e-6)
    other = search(settings.model_copy(update={"seed": 2}), data, tmp_path / "s2")
    assert [trial["losses"] for trial in other["trials"]] != [trial["losses"] for trial in run["trials"]]

    # a method must beat the mean label
    labels = pq.read_table(data["validation"], columns=["label"])["label"].to_numpy()
    if task != "rating" or settings.model.global_mean:  # without it, a few epochs are too few
        assert min(losses) < trivial_loss(task, labels)

    # killed in its first trial, and, where there are several, between two, or in a pack's last epoch: the same result
    count, at_once = len(losses), max(trial["at_once"] for trial in run["trials"])
    for kill_at in {at_once, min(5 if at_once == 1 else 3 * at_once, 3 * count - 1)}:
        killed_search(settings, data, tmp_path / f"k{kill_at}", kill_at, monkeypatch)
        if kill_at > at_once:  # the best trial's weights got lost, and another's result is damaged
            for file in (tmp_path / f"k{kill_at}" / "trials").glob("?.safetensors"):
                file.unlink()
            (tmp_path / f"k{kill_at}" / "trials" / "0.json").write_text("{")
        again = search(settings, data, tmp_path / f"k{kill_at}")
        assert [trial["losses"] for trial in again["trials"]] == [trial["losses"] for trial in run["trials"]]
        resumed, _ = load_tensors(tmp_path / f"k{kill_at}" / "weights.safetensors")
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in tensors.items())

    # pruned at two rates: fewer weights of the same model, and a scheme that says which
    for rate in (1.0, 4.0):
        folder = tmp_path / f"cr{rate}"
        pruning.run(
            prune_settings(settings, rate),
            weights_file=tmp_path / "a" / "weights.safetensors",
            search_file=tmp_path / "a" / "run.json",
            parts={part: data[part] for part in split.PARTS},
            folder=folder,
            device=CPU,
        )
        pruned = json.loads((folder / "run.json").read_text())
        scheme = DimensionScheme.load(folder / "scheme.safetensors")
        assert pruned["nonzeros"] == np.count_nonzero(scheme.to_dense())
        assert pruned["nonzeros"] == min(int(run["weights"] / rate), len(whole.values))
        metrics = pruned["metrics"]
        assert list(metrics) == METRICS[task]
        loss = {"rating": "mse", "ctr": "logloss"}.get(task)
        if settings.method.prune_by != "random":
            assert 0 < (metrics[loss] if loss else 1 - metrics["ndcg@10"]) < 3 * trivial_loss(task, labels)


def killed_search(settings, data, folder, kill_at, monkeypatch):
    """Run a search that is interrupted at its `kill_at`-th evaluation after the first."""
    task = {"rating": RatingPrediction, "ctr": ClickThroughRate, "topk": TopKRecommendation}[settings.task.kind]
    evaluate, calls = task.validation_loss, iter(range(kill_at))

    def interrupted(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return evaluate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(task, "validation_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(settings, data, folder)
    assert (folder / "trials").exists()
    assert not (folder / "run.json").exists()


@pytest.mark.parametrize("task", ["rating", "ctr", "topk"])
def test_controls_without_embeddings(task, data_of, tmp_path):
    data = data_of[task]
    labels = {part: pq.read_table(data[part], columns=["label"])["label"].to_numpy() for part in ("train", "test")}
    found = {}
    for biases in (False, True):
        settings = settings_for(task, "mf", "bias_only")
        settings = settings.model_copy(update={"model": FirstOrderModel(kind="first_order", title="", biases=biases)})
        folder = tmp_path / str(biases)
        assert search(settings, data, folder)["weights"] == 0
        pruning.run(
            prune_settings(settings, 1.0), weights_file=folder / "weights.safetensors", search_file=folder / "run.json",
            parts={part: data[part] for part in split.PARTS}, folder=folder / "p", device=CPU,
        )  # fmt: skip
        run = json.loads((folder / "p" / "run.json").read_text())
        assert run["nonzeros"] == 0
        found[biases] = run["metrics"]
    mean = labels["train"].mean()
    if task == "rating":
        assert found[False]["mse"] == pytest.approx(((labels["test"] - mean) ** 2).mean(), rel=1e-5)
        assert found[True]["mse"] < found[False]["mse"]
    elif task == "ctr":
        click = labels["test"].mean()
        assert found[False]["logloss"] == pytest.approx(
            -click * np.log(mean) - (1 - click) * np.log(1 - mean), rel=1e-4
        )
        assert found[False]["auc"] == 0.5
        assert found[True]["auc"] > 0.55
    else:
        assert found[False]["recall@10"] == pytest.approx(10 / 20)
        assert found[True]["ndcg@10"] > found[False]["ndcg@10"]


def test_a_selection_proposed_twice_is_trained_once(data_of, tmp_path):
    data, settings = data_of["rating"], settings_for("rating", "mf", "grid_search")
    twice = settings.model_copy(update={"method": settings.method.model_copy(update={"dimensions": [4, 8, 4, 8]})})
    trials = search(twice, data, tmp_path)["trials"]
    assert [trial["name"] for trial in trials[2:]] == ["dimension 4 (as trial 1)", "dimension 8 (as trial 2)"]
    assert [trial["seconds"] > 0 for trial in trials] == [True, True, False, False]
    assert [trial["losses"] for trial in trials[:2]] == [trial["losses"] for trial in trials[2:]]


def test_mde_is_told_the_train_frequencies(data_of, tmp_path):
    data, settings = data_of["rating"], settings_for("rating", "mf", "mde")
    run = search(settings, data, tmp_path)
    features = pq.read_table(data["features"]).to_pandas()
    mass = features.groupby("block")["frequency"].sum() / features["frequency"].sum()
    sizes = features.groupby("block").size()
    for pair, trial in zip(settings.method.settings, run["trials"], strict=True):
        power = mass**pair.temperature
        dimensions = np.floor(pair.base_dimension * len(features) * power / power.sum() / sizes).clip(1, 64).astype(int)
        assert trial["name"].endswith(": " + "-".join(map(str, dimensions)))


@pytest.mark.parametrize(
    ("task", "model", "method"),
    [
        ("rating", "mf", "random_search"),
        ("rating", "mf", "dnis_second_order"),
        ("ctr", "deepfm", "dnis"),
        ("ctr", "fm", "nis_se"),
        ("topk", "neumf_topk", "dnis_released"),
    ],
)
def test_training_rows_is_training_tables(task, model, method, data_of, tmp_path, monkeypatch):
    settings = settings_for(task, model, method)
    monkeypatch.setattr(optimizers, "worth_reading_rows", lambda *_: False)
    tables = search(settings, data_of[task], tmp_path / "tables")
    monkeypatch.setattr(optimizers, "worth_reading_rows", lambda *_: True)
    rows = search(settings, data_of[task], tmp_path / "rows")
    losses = [[loss for trial in run["trials"] for loss in trial["losses"]] for run in (tables, rows)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    killed_search(settings, data_of[task], tmp_path / "killed", 4 if method == "random_search" else 2, monkeypatch)
    again = search(settings, data_of[task], tmp_path / "killed")
    assert [trial["losses"] for trial in again["trials"]] == [trial["losses"] for trial in rows["trials"]]
