"""Every model under every method of params/, on a small data set, put to the claims of `nisbench.conformance`."""

from importlib.util import find_spec
from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest

from nisbench.conformance import (
    CLAIMS,
    DATA_CLAIMS,
    MODEL_CLAIMS,
    TASK_CLAIMS,
    Case,
    Killed,
    evaluations,
    is_made_small,
    settings_claims,
    short_training,
)
from nisbench.execution import run_with_inputs
from nisbench.params.kinds import OWN, kinds
from nisbench.params.loading import load
from nisbench.run_files import read_pruning, read_search
from nisbench.steps import prune_step
from nisbench.training import train_step
from tests.conftest import ROOT

PARAMS = load(ROOT, overlays=[]).params
TRAINING = short_training(PARAMS.training)
TASKS = {task.kind_name(): task.small() for task in PARAMS.tasks.values()}
FIRST_OF_KIND = {entry.kind_name(): name for name, entry in reversed((PARAMS.methods | PARAMS.models).items())}
OPTUNA = find_spec("optuna") is not None
VARIANTS = PARAMS.methods.keys() - FIRST_OF_KIND.values()
"""Methods that are another of the same kind with other settings."""
MODEL_OF = {"rating": "mf", "ctr": "deepfm", "topk": "neumf_topk"}
"""The model on which all kinds of method are tried."""
METHODS_OF_ALL = {"dnis", "grid_search", "network_pruning"}
"""The methods that are tried with all models: trials of soft and hard selections, and pruning."""


def cases():
    """Each kind of method on a model of each task, each variant on MF, and each model under a few methods.

    Every kind of method on MF, and every kind of model under DNIS, are not slow.
    """
    for model, settings in PARAMS.models.items():
        for method, task in product(PARAMS.methods, settings.tasks):
            usual = model == MODEL_OF[task] and (method not in VARIANTS or task == "rating")
            if PARAMS.methods[method].own_model or not (usual or method in METHODS_OF_ALL):
                continue
            chosen = (model, task) == ("mf", "rating") and method not in VARIANTS
            chosen |= method == "dnis" and model in FIRST_OF_KIND.values() and task == settings.tasks[-1]
            marks = [] if chosen else [pytest.mark.slow]
            marks += [pytest.mark.skipif(not OPTUNA, reason="nisbench[tpe] is not installed")] * (method == "tpe")
            yield pytest.param((task, model, method), id=f"{model}-{method}-{task}", marks=marks)


def data_for(task):
    """A small generated data set of those that serve a kind of task."""
    return next(one for one in PARAMS.datasets.values() if one.planted and task in one.tasks).small()


def case_of(root, task, model, method):
    """`task` is a kind; `model` and `method` are entries of params/."""
    dataset = data_for(task)
    return Case(root, dataset, TASKS[task], PARAMS.models[model], PARAMS.methods[method].small(), TRAINING)


@pytest.fixture(scope="module", params=cases())
def case(request, tmp_path_factory):
    return case_of(tmp_path_factory.mktemp("case"), *request.param)


@pytest.mark.parametrize(
    "claim", [pytest.param(claim, id=claim.__name__) for claim in (*CLAIMS, *MODEL_CLAIMS, *TASK_CLAIMS)]
)
def test_search(case, claim):
    claim(case)


@pytest.mark.parametrize("claim", [pytest.param(claim, id=claim.__name__) for claim in DATA_CLAIMS])
@pytest.mark.parametrize(("task", "model"), [("rating", "mf"), ("ctr", "deepfm"), ("topk", "mf")])
def test_data_set(task, model, claim, tmp_path):
    claim(case_of(tmp_path, task, model, "full_table"))


@pytest.mark.parametrize(
    ("claim", "kind"),
    [
        pytest.param(claim, kind, id=f"{section}-{name}-{claim.__name__}")
        for section in OWN
        for name, kind in kinds(section).items()
        for claim in settings_claims(kind)
    ],
)
def test_settings_class(kind, claim):
    claim(kind)


@pytest.mark.parametrize("section", OWN)
def test_every_entry_is_made_small(section):
    for entry in getattr(PARAMS, section).values():
        is_made_small(entry)


@pytest.mark.parametrize("model", ["mf", "mlp", "neumf"])
@pytest.mark.parametrize("task", ["rating", "topk"])
def test_models_start_from_the_mean(task, model, tmp_path):
    """In train alone; the log-odds of a positive where negatives are sampled."""
    settings = PARAMS.models[model].model_copy(update={"global_mean": True})
    case = Case(tmp_path, data_for(task), TASKS[task], settings, full_table(), TRAINING)
    labels = pq.read_table(case.splits["train"], columns=["label"])["label"].to_numpy()
    mean = labels.mean() if task == "rating" else -np.log(TASKS["topk"].negatives)
    assert case.stored[0]["model.mean"].item() == pytest.approx(mean, abs=1e-6)


def full_table():
    return PARAMS.methods["full_table"]


@pytest.mark.parametrize("task", ["rating", "ctr", "topk"])
def test_controls_without_embeddings(task, tmp_path):
    found = {}
    for method in ("global_mean", "bias_only"):
        case = case_of(tmp_path, task, "mf", method)
        assert case.run.weights == 0
        step = prune_step(case.search(), case.method, 1.0)
        run_with_inputs(step)
        run = read_pruning(step.path("run"))
        assert run.nonzeros == 0
        found[method] = run.metrics
    labels = {name: pq.read_table(case.splits[name], columns=["label"])["label"].to_numpy() for name in case.splits}
    mean = labels["train"].mean()
    if task == "rating":
        assert found["global_mean"]["mse"] == pytest.approx(((labels["test"] - mean) ** 2).mean(), rel=1e-5)
        assert found["bias_only"]["mse"] < found["global_mean"]["mse"]
    elif task == "ctr":
        click = labels["test"].mean()
        assert found["global_mean"]["logloss"] == pytest.approx(
            -click * np.log(mean) - (1 - click) * np.log(1 - mean), rel=1e-4
        )
        assert found["global_mean"]["auc"] == 0.5
        assert found["bias_only"]["auc"] > 0.55
    else:
        assert found["global_mean"]["recall@10"] == pytest.approx(10 / 20)
        assert found["bias_only"]["ndcg@10"] > found["global_mean"]["ndcg@10"]


def test_a_selection_proposed_twice_is_trained_once(tmp_path):
    twice = PARAMS.methods["grid_search"].model_copy(update={"dimensions": [4, 8, 4, 8]})
    once = case_of(tmp_path, "rating", "mf", "grid_search")
    trials = Case(tmp_path, once.dataset, once.task, once.model, twice, TRAINING).run.trials
    assert [trial.name for trial in trials[2:]] == ["dimension 4 (as trial 1)", "dimension 8 (as trial 2)"]
    assert [trial.seconds > 0 for trial in trials] == [True, True, False, False]
    assert [trial.losses for trial in trials[:2]] == [trial.losses for trial in trials[2:]]


def test_mde_is_told_the_train_frequencies(tmp_path):
    case = case_of(tmp_path, "rating", "mf", "mde")
    trials = case.run.trials
    features = pq.read_table(case.search().needs["block"].path("features")).to_pandas()
    mass = features.groupby("block")["frequency"].sum() / features["frequency"].sum()
    sizes = features.groupby("block").size()
    for pair, trial in zip(case.method.settings, trials, strict=True):
        power = mass**pair.temperature
        dimensions = np.floor(pair.base_dimension * len(features) * power / power.sum() / sizes).clip(1, 64).astype(int)
        assert trial.name.endswith(": " + "-".join(map(str, dimensions)))


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
def test_training_rows_is_training_tables(task, model, method, tmp_path, monkeypatch):
    """A row-wise step has the same losses up to rounding, and is resumed to the same ones."""
    found = []
    for rows in (False, True):
        monkeypatch.setattr(train_step, "worth_reading_rows", lambda *_, rows=rows: rows)
        case = case_of(tmp_path / str(rows), task, model, method)
        found.append([loss for trial in case.run.trials for loss in trial.losses])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    killed = case_of(tmp_path / "killed", task, model, method)
    with pytest.raises(Killed), evaluations(killed.context, 4 if method == "random_search" else 2):
        run_with_inputs(killed.search())
    run_with_inputs(killed.search())
    again = read_search(killed.search().path("run"))
    assert [trial.losses for trial in again.trials] == [trial.losses for trial in case.run.trials]
