"""The face for Python: settings by keyword, search, prune, export, load; the pipeline's own runs; what is shipped."""

import ast
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

import nisbench as nb
from nisbench import api, cli, execution, logs, records
from nisbench.data import instances
from nisbench.params import methods
from nisbench.params.kinds import VARIABLE, kinds
from nisbench.params.loading import load
from nisbench.steps import hashed_form
from nisbench.studies import plan
from tests.helpers.paths import ROOT

SMALL = {"users": 60, "items": 40, "instances": 3000, "rank": 4, "levels": 3}
SMALL_CTR = {"instances": 3000, "scalar_fields": 2, "categorical_fields": [20, 10, 5], "rank": 4, "levels": 3}
SHORT = {"base_dimension": 8, "max_epochs": 3, "device": "cpu"}
PROJECTED = {"base_dimension": 4, "temperature": 0.3, "budget": None}
ELSEWHERE = {"snakemake", "dvc", "matplotlib", "seaborn", "tabulate"}
"""What the package does without, unless a study runs or is reported."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _outside_a_checkout(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(api.HOME_VARIABLE, str(home))


@pytest.fixture
def data():
    return nb.load_dataset("planted_ratings", **SMALL)


@pytest.fixture
def found(data):
    """Trained by whichever test is the first to ask: a run that is done is found."""
    return nb.search(nb.DNIS(), nb.MF(), data, nb.Training(**SHORT), seed=1)


@pytest.fixture
def clicks():
    data = nb.load_dataset("planted_ctr", **SMALL_CTR)
    return nb.search(nb.GridSearch(dimensions=[2, 4]), nb.FM(), data, nb.Training(**SHORT)).prune(2)


# --- settings -------------------------------------------------------------------------------------------------


def test_keywords_change_the_first_entry_of_their_kind():
    default = load(ROOT, []).params.methods["dnis"]
    assert nb.DNIS() == default
    assert nb.DNIS(learning_rate=0.02) == default.model_copy(update={"learning_rate": 0.02})
    assert nb.DNIS("dnis_released").warm_start_epochs == 20
    assert nb.NIS().choice == "single"


def test_every_kind_of_method_and_model_is_there():
    own = [*kinds("methods").values(), *kinds("models").values(), *kinds("tasks").values(), *kinds("datasets").values()]
    names = {kind.__name__ for kind in own if kind.__module__.startswith("nisbench.")} - {"FirstOrder"}
    assert names <= set(nb.__all__)
    for name in nb.__all__:
        assert getattr(nb, name) is not None
        assert name in dir(nb)
    with pytest.raises(AttributeError, match="no attribute 'Dnis'"):
        _ = nb.Dnis


def test_help_shows_every_setting():
    signature = inspect.signature(nb.DNIS)
    assert next(iter(signature.parameters)) == "entry"
    assert "learning_rate" in signature.parameters
    assert "kind" not in signature.parameters
    assert "dividing by zero" in nb.DNIS.__doc__


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: nb.DNIS(learning_rat=0.1), r"nb.DNIS: there is no 'learning_rat'; did you mean 'learning_rate'\?"),
        (lambda: nb.DNIS(kind="nis"), "there is no 'kind'"),
        (lambda: nb.DNIS(optimizer="adm"), r"nb.DNIS: optimizer: .* did you mean 'adam'\?"),
        (lambda: nb.DNIS("dnsi"), r"no dnis called 'dnsi' among methods; did you mean 'dnis'\?"),
        (lambda: nb.Training(base_dimensio=8), r"nb.Training: .* did you mean 'base_dimension'\?"),
        (lambda: nb.Training(base_dimension=0), "nb.Training: base_dimension: .* greater than 0, not 0"),
        (lambda: nb.load_dataset("movielens_1"), r"no data set 'movielens_1'; did you mean 'movielens_1m'\?"),
        (lambda: nb.load_dataset("planted_ratings", user=3), r"did you mean 'users'\?"),
        (lambda: nb.load_dataset("planted_ratings", blocks={"cont": 3}), r"blocks.cont: .* did you mean 'count'\?"),
        (lambda: nb.load_dataset("planted_ratings", task="ctr"), "task: ctr is of the kind ctr"),
        (lambda: nb.load_dataset("planted_ratings", task="rate"), r"no task 'rate'; did you mean 'rating'\?"),
        (lambda: nb.load_dataset(3), "expected the name of a data set"),
        (lambda: nb.results("dmo"), r"no study 'dmo'; did you mean 'demo'\?"),
        (lambda: nb.results("demo"), "no run of the study demo is done"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_clear_error(wrong, message):
    with pytest.raises(nb.NisbenchError, match=message) as error:
        wrong()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": nb.DNIS}, r"call it: nb.DNIS\(\)"),
        ({"method": "dnis"}, "expected settings of a method"),
        ({"model": "mf"}, "expected settings of a model"),
        ({"training": 8}, "expected settings of training"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"seed": -1}, "a seed must be a whole number from 0"),
        ({"data": "planted_rating"}, "did you mean 'planted_ratings'"),
    ],
)
def test_wrong_arguments_of_search_are_one_clear_error(change, message, data):
    arguments = {"method": nb.DNIS(), "model": nb.MF(), "data": data, "training": nb.Training(**SHORT)} | change
    with pytest.raises(nb.NisbenchError, match=message):
        nb.search(**arguments)


def test_settings_that_do_not_fit_together_are_found_before_any_work(data):
    with pytest.raises(nb.NisbenchError, match="for the task topk, but the model fm is only for: rating, ctr"):
        nb.search(nb.DNIS(), nb.FM(), "planted_topk", nb.Training(**SHORT))
    with pytest.raises(nb.NisbenchError, match=r"^methods.grid.dimensions: 64 exceeds training.base_dimension = 8$"):
        nb.search(nb.GridSearch(), nb.MF(), data, nb.Training(**SHORT))


def test_values_may_be_tuples_and_numpy_s():
    assert nb.GridSearch(dimensions=(2, np.int64(4))).dimensions == [2, 4]


def test_a_nested_setting_is_merged_into_what_it_changes():
    data = nb.load_dataset("planted_ratings", blocks={"count": 3}, split={"seed": 7})
    assert (data.settings.blocks.by, data.settings.blocks.count) == ("count", 3)
    assert (data.settings.split.seed, data.settings.split.proportions) == (7, [8, 1, 1])
    assert nb.load_dataset(data.settings).step.id == data.step.id


def test_a_task_may_be_given_as_settings():
    data = nb.load_dataset("planted_topk", task=nb.TopK(candidates=19))
    assert data.task_settings.candidates == 19
    assert data.step.id == nb.load_dataset("planted_topk").step.id  # how it is measured does not change the data


def test_a_local_archive_is_named_from_the_current_folder(tmp_path):
    (tmp_path / "my.zip").write_bytes(b"not looked at yet")
    data = nb.load_dataset("movielens_1m", url="my.zip", md5=None)
    assert data.settings.url == str(tmp_path.resolve() / "my.zip")


# --- a search and what comes of it ----------------------------------------------------------------------------


def test_the_snippet_of_the_readme(found, tmp_path, capfd):
    small = found.prune(compression_rate=2.5)
    small.export("small/")
    model = nb.load_model("small/")
    assert found.validation_loss == found.run.best.validation_loss == found.trials["validation_loss"].min()
    assert found.selection.shape == (10, 8)
    assert small.metrics == small.run.metrics == model.metrics
    assert small.scheme.sizes().sum() == small.run.nonzeros <= found.run.weights / 2.5
    assert small.bytes == small.run.stored_bytes() == model.bytes == model.table.nbytes < 100 * 8 * 4
    assert f"{small.metrics['mse']:.5f}" in (tmp_path / "small" / "README.md").read_text()
    assert model.predict({"user": [3], "item": [7]}).shape == (1,)
    assert capfd.readouterr() == ("", "")


def test_reprs_say_what_was_found(found, data):
    assert repr(data) == f"<data set Planted ratings: planted_ratings, task rating, id {data.step.id}>"
    assert f"{found.validation_loss:.5f} (1 trial)" in repr(found)
    small = found.prune(2)
    assert f"mse {small.metrics['mse']:.5f}" in repr(small)
    assert f"{small.bytes:,} bytes" in repr(small)


def test_the_dense_form_counts_where_it_is_smaller(found):
    whole = found.prune()
    assert whole.bytes == 100 * 8 * 4 < whole.run.bytes["csr"]["float32"]


def test_the_recommender_gives_the_recorded_metrics(found, data):
    small = found.prune(2)
    test = instances.read(data.step.needs["split"].path("test"), torch.device("cpu"))
    error = small.recommender().predict(test) - test.labels
    assert error.double().square().mean().item() == small.metrics["mse"]


def test_data_as_frames(data):
    assert [len(data.train), len(data.validation), len(data.test)] == [2400, 300, 300]
    assert list(data.train) == ["label", "user", "item"]
    assert data.features["frequency"].sum() == 2 * len(data.train)


def test_a_run_that_is_done_is_found_again(found, data, monkeypatch):
    monkeypatch.setattr(execution, "run_step", None)
    again = nb.search(nb.DNIS(title="Another title"), nb.MF(), data, nb.Training(**SHORT, fused_trials=1), seed=1)
    assert again.step.id == found.step.id
    assert again.validation_loss == found.validation_loss


def test_pruning_may_differ_from_the_method_s_own(found):
    retrained = found.prune(2, rounds=1, rewind="pruned")
    assert len(retrained.run.rounds) == 1
    assert found.prune(2, importance="raw").step.id != found.prune(2).step.id
    with pytest.raises(nb.NisbenchError, match=r"importance: .* did you mean 'random'"):
        found.prune(2, importance="randm")
    with pytest.raises(nb.NisbenchError, match=r"must be a number from 1 on, not 0\.5"):
        found.prune(0.5)


def test_a_failed_search_says_so(data):
    failed = nb.search(nb.DNIS(), nb.MF(), data, nb.Training(**SHORT, learning_rate=1e30))
    small = failed.prune(2)
    assert failed.validation_loss == float("inf")
    assert failed.failed in repr(failed)
    assert small.metrics == {}
    for use in (small.recommender, lambda: small.export("x"), lambda: failed.selection):
        with pytest.raises(nb.NisbenchError, match=r"not a number|no result|no model"):
            use()


def test_damage_is_found(data):
    small = nb.search(nb.FullTable(), nb.MF(), data, nb.Training(**SHORT), seed=3).prune(2)
    path = small.step.path("run")
    path.write_text(path.read_text().replace("metrics", "metricz"))
    with pytest.raises(nb.NisbenchError, match="damaged or was changed"):
        _ = small.metrics


# --- the same runs as the pipeline's --------------------------------------------------------------------------

STUDY = """
studies:
  small:
    title: Small
    grids:
      all: {datasets: [tiny], models: [mf], methods: {dnis: [1, 2]}}
    seeds: [1]
    tables: [table2]
    overrides: {training: {base_dimension: 8, max_epochs: 3, device: cpu}}
datasets:
  tiny: {extends: planted_ratings, title: Tiny, users: 60, items: 40, instances: 3000, rank: 4, levels: 3}
training: {patience: 2}
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose parameters have one small study, and its overlay."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "params", folder / "params")
    (folder / "Snakefile").touch()
    (folder / "small.yaml").write_text(STUDY)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NISBENCH_PARAMS", "small.yaml")
    return folder


def test_a_run_of_the_pipeline_is_found(checkout, monkeypatch):
    study = plan(Path()).study("small")
    for cell in study.cells:
        execution.run_with_inputs(cell.prune)
    monkeypatch.setattr(execution, "run_step", None)  # nothing is done again
    found = nb.search(nb.DNIS(), nb.MF(), nb.load_dataset("tiny"), nb.Training(**SHORT))
    for cell in study.cells:
        small = found.prune(cell.compression_rate)
        assert small.step.id == cell.prune.id
        assert small.step.folder == checkout / cell.prune.folder
        assert found.step.folder == checkout / cell.search.folder
        assert hashed_form(found.step) == hashed_form(cell.search)
    frame = nb.results("small")
    assert frame.attrs == {"source": "runs", "missing": 0}
    mse = frame[(frame["metric"] == "mse") & (frame["cr"] == 2)]["value"]
    assert mse.tolist() == [found.prune(2).metrics["mse"]]


def test_the_split_that_a_seed_draws_in_a_study_is_at_hand(checkout):
    (checkout / "small.yaml").write_text(STUDY.replace("seeds: [1]", "seeds: [1, 2]\n    split_per_seed: true"))
    data = nb.load_dataset("tiny")
    for cell in plan(Path()).study("small").cells:
        assert data.redrawn(cell.seed).step.id == cell.search.needs["block"].id != data.step.id
    topk = nb.load_dataset("planted_topk")
    assert topk.redrawn(1).step.id == topk.step.id
    assert topk.redrawn(1).task_settings.seed != topk.task_settings.seed
    with pytest.raises(nb.NisbenchError, match="its split is published, so no seed can draw another"):
        nb.load_dataset("criteo_x1").redrawn(1)


@pytest.mark.usefixtures("checkout")
def test_a_cell_is_exported_by_the_command_line(monkeypatch):
    monkeypatch.setattr(logs.log, "handlers", [])
    run = CliRunner().invoke
    (cell,) = [cell for cell in plan(Path()).study("small").cells if cell.compression_rate == 2]
    unfinished = run(cli.app, ["export", cell.prune.id, "out"])
    assert isinstance(unfinished.exception, nb.NisbenchError)
    execution.run_with_inputs(cell.prune)
    for what in (["small", "mf/dnis@2"], ["small", "dnis@2", "--seed", "1"], [cell.prune.id[:8]]):
        options = [name for name in what if name.startswith("--") or name == "1"]
        named = [name for name in what if name not in options]
        done = run(cli.app, ["export", *named, "out", "--values", "int8", "--layout", "csr", *options])
        assert done.exit_code == 0, done.exception
        model = nb.load_model("out")
        assert (model.table.layout, model.table.values, model.description.run) == ("csr", "int8", cell.prune.id)
        assert f"mse {model.metrics['mse']:.5f}" in done.stdout
        assert f"embeddings {model.bytes:,} bytes (csr, int8)" in done.stdout
        shutil.rmtree("out")
    for wrong, message in (
        (["small", "mf/dnis@3", "out"], "has no cell with --cr 3"),
        (["small", "mf/dnis@2", "out", "--seed", "7"], "has one model per seed: add --seed with one of 1"),
        (["out"], "Give the id of a pruning, or a study and a cell, and then a folder"),
        ([cell.prune.id, "out", "--seed", "1"], "choose among a study's cells"),
        (["small", "mf/dnis@2"], "the folder to write is missing. Example: nisbench export small mf/dnis@2 small/"),
        (
            ["small", "dnis", "--seed", "1"],
            "the folder to write is missing. Example: nisbench export small dnis small/",
        ),
        (["small", "out/"], "a cell of the study small is missing. Example: nisbench export small mf/dnis@1 out"),
        (
            [cell.search.id[:8], "out"],
            f"{cell.search.id[:8]} is the id of a search step, but only a pruning is a model",
        ),
        ([cell.search.id, "out"], "`nisbench results small --by-seed` lists the ids"),
        (["nothing", "out"], "'nothing' is neither a study nor"),
    ):
        assert message in str(run(cli.app, ["export", *wrong]).exception)


def test_a_run_from_python_is_one_of_the_pipeline(checkout, monkeypatch):
    (checkout / "docs").mkdir()
    monkeypatch.setenv("NISBENCH_PARAMS", str(checkout / "small.yaml"))
    monkeypatch.chdir(checkout / "docs")  # a notebook's folder
    small = nb.search(nb.DNIS(), nb.MF(), nb.load_dataset("tiny"), nb.Training(**SHORT)).prune(2)
    monkeypatch.chdir(checkout)
    one, two = plan(Path()).study("small").cells
    assert records.done(two.prune)
    assert records.check(two.prune).id == small.step.id
    frame = nb.results("small")  # of what is done
    assert frame.attrs["missing"] == 1
    assert set(frame["cr"]) == {2}
    assert not records.done(one.prune)


def test_without_runs_the_published_table_is_read(checkout):
    table = checkout / "results" / "small" / "summary.csv"
    table.parent.mkdir(parents=True)
    table.write_text("study,metric,value\nsmall,mse,0.5\n")
    frame = nb.results("small")
    assert frame["value"].tolist() == [0.5]
    assert frame.attrs == {"source": str(table), "missing": 2}


def test_an_edit_of_params_is_seen(checkout):
    assert nb.Training().patience == 2
    overlay = checkout / "small.yaml"
    overlay.write_text(STUDY.replace("patience: 2", "patience: 4"))
    os.utime(overlay, ns=(1, 1))
    assert nb.Training().patience == 4


def test_where_files_are(checkout, tmp_path, monkeypatch):
    assert api.home() == checkout
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(api.HOME_VARIABLE, "~/somewhere")
    assert api.home() == Path.home() / "somewhere"
    monkeypatch.delenv(api.HOME_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert api.home() == tmp_path / "cache" / "nisbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert api.home() == Path.home() / ".cache" / "nisbench"


# --- kinds of one's own ---------------------------------------------------------------------------------------

PLUGIN = '''
"""Every feature has half of the dimensions."""
import torch
from typing import Literal
from nisbench.params.methods import Method
from nisbench.search.trial_spec import TrialSpec, prefix_selection

class Half(Method):
    """Half of the dimensions."""

    kind: Literal["half_for_test"]
    part: float

def propose(settings, features, k, seed):
    return [TrialSpec("half", prefix_selection([int(k * settings.part)] * len(features), k))]
'''


def test_a_method_of_one_s_own_file(data, tmp_path, monkeypatch):
    path = tmp_path / "half_for_test.py"
    path.write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    from half_for_test import Half  # noqa: PLC0415

    half = nb.settings(Half, part=0.5)
    found = nb.search(half, nb.MF(), data, nb.Training(**SHORT))
    assert found.run.weights == 100 * 4
    with pytest.raises(nb.NisbenchError, match="did you mean 'part'"):
        nb.settings(Half, prt=0.5)
    path.write_text(PLUGIN + "\nX = 1\n")
    with pytest.raises(nb.NisbenchError, match=r"was changed since it was first used. Restart Python"):
        nb.search(half, nb.MF(), data, nb.Training(**SHORT))


def test_a_named_plugin_is_there_by_its_name(data, tmp_path, monkeypatch):
    path = tmp_path / "half_named.py"
    path.write_text(PLUGIN)
    monkeypatch.setenv(VARIABLE, str(path))
    assert nb.search(nb.Half(part=0.25), nb.MF(), data, nb.Training(**SHORT)).run.weights == 100 * 2


def test_a_class_without_a_file_is_one_clear_error(data, monkeypatch):
    class Cell(methods.FullTable):
        pass

    Cell.__module__ = "__main__"
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(nb.NisbenchError, match=r"Cell is defined in a notebook or at a prompt.*into a file"):
        nb.search(Cell(**dict(nb.FullTable())), nb.MF(), data, nb.Training(**SHORT))


# --- serving --------------------------------------------------------------------------------------------------


def test_predictions_of_raw_columns_are_those_of_the_test_set(found, data):
    small = found.prune(2)
    model = nb.load_model(small.export("model"))
    test = data.test
    tokens = data.features["token"].to_numpy()
    raw = {"item": tokens[test["item"]], "user": tokens[test["user"]], "other": test["label"]}
    predicted = model.predict(raw)
    assert predicted.dtype == np.float32
    assert np.square(predicted.astype(float) - test["label"]).mean() == pytest.approx(small.metrics["mse"], rel=1e-6)
    numbers = {name: column.astype(int) for name, column in raw.items() if name != "other"}
    forms = [
        pd.DataFrame(raw),
        pa.table(raw),
        pd.DataFrame(numbers),
        pd.DataFrame(numbers).astype(float),
        pd.DataFrame(raw).astype("category"),
        {name: list(column) for name, column in raw.items()},
    ]
    for form in forms:
        np.testing.assert_array_equal(model.predict(form), predicted)
    assert len(model.predict({"user": [], "item": []})) == 0


def test_clicks_are_predicted_as_probabilities(clicks):
    model = nb.load_model(clicks.export("model"))
    data, tokens = clicks.search.data, clicks.search.data.features["token"].to_numpy()
    raw = data.test.copy()
    for name in ("C1", "C2", "C3"):
        raw[name] = tokens[raw[name]]
    logits, probabilities = model.predict(raw, logits=True), model.predict(raw)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    test = instances.read(data.step.needs["split"].path("test"), torch.device("cpu"))
    np.testing.assert_allclose(logits, clicks.recommender().predict(test).numpy(), atol=1e-6)


def test_what_is_unknown_or_missing_counts_as_in_preparation(clicks):
    model = nb.load_model(clicks.export("model"))
    known = {"I1": [0.5, 0.0], "I2": [0.25, 0.25], "C1": ["3", "<unknown>"], "C2": ["1", "1"], "C3": ["0", "<unknown>"]}
    raw = known | {"I1": [0.5, None], "C1": [3, 99], "C3": ["0", None]}
    np.testing.assert_array_equal(model.predict(raw), model.predict(known))
    assert "must be scaled already" in Path("model/README.md").read_text()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"user": ["1", "nobody"], "item": ["1", "1"]}, "column 'user', row 1: there is no 'nobody' in the vocabulary"),
        ({"user": [1.5], "item": [1]}, "column 'user', row 0: there is no 1.5"),
        ({"user": [None], "item": [1]}, "column 'user', row 0: there is no None"),
        ({"usr": [1], "item": [1]}, r"the column 'user' is missing; did you mean 'usr'\?"),
        ({"user": [1], "item": [1, 2]}, "different lengths"),
        ({"user": 1, "item": [1]}, "column 'user': expected an array or a list, not 1"),
        ({"user": [1, "a"], "item": [1, 2]}, "column 'user': not a column of one type"),
        ([[1, 2]], "expected a data frame, an Arrow table or a mapping"),
    ],
)
def test_wrong_columns_are_one_clear_error(frame, message, found):
    model = nb.load_model(found.prune(2).export("model"))
    with pytest.raises(nb.NisbenchError, match=message):
        model.predict(frame)


def test_wrong_numbers_are_one_clear_error(clicks, found):
    model = nb.load_model(clicks.export("model"))
    row = {"I1": [0.5], "I2": [0.5], "C1": [1], "C2": [1], "C3": [1]}
    with pytest.raises(nb.NisbenchError, match="column 'I1', row 0: expected a number, found 'much'"):
        model.predict(row | {"I1": ["much"]})
    with pytest.raises(nb.NisbenchError, match="column 'I2', row 0: inf is not a finite number"):
        model.predict(row | {"I2": [float("inf")]})
    with pytest.raises(nb.NisbenchError, match="task rating are not probabilities"):
        nb.load_model(found.prune(2).export("ratings")).predict({"user": [1], "item": [1]}, logits=True)


@pytest.mark.parametrize(
    "kinds_of",
    [
        lambda: (nb.MDEProjected(settings=[PROJECTED]), nb.NeuMF(hidden=[8])),
        lambda: (nb.NoEmbeddings(), nb.MF()),
        lambda: (nb.UniformTuned(dimensions=[2], l2=[0]), nb.MLP()),
    ],
)
def test_models_of_other_shapes_are_served_too(kinds_of, data):
    method, model = kinds_of()
    whole = nb.search(method, model, data, nb.Training(**SHORT)).prune()
    test = data.test
    tokens = data.features["token"].to_numpy()
    served = nb.load_model(whole.export("model"))
    predicted = served.predict({"user": tokens[test["user"]], "item": tokens[test["item"]]}).astype(float)
    assert np.square(predicted - test["label"]).mean() == pytest.approx(whole.metrics["mse"], rel=1e-6)


def test_a_folder_that_is_no_export_is_one_clear_error(found, tmp_path):
    with pytest.raises(nb.NisbenchError, match=r"nowhere: not an exported model: model.json"):
        nb.load_model("nowhere")
    folder = found.prune(2).export("model")
    whole = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(whole | {"model": whole["model"] | {"kind": "mine"}}))
    with pytest.raises(nb.NisbenchError, match=f"there is no model 'mine' here.*{VARIABLE}"):
        nb.load_model(folder)
    (folder / "model.json").write_text(json.dumps(whole | {"format": 3}))
    with pytest.raises(nb.NisbenchError, match=r"model.json: format"):
        nb.load_model(folder)
    (tmp_path / "file").touch()
    with pytest.raises(nb.NisbenchError, match="is a file"):
        found.prune(2).export("file")


def test_a_folder_of_other_files_is_not_exported_into(found):
    small = found.prune(2)
    Path("proj").mkdir()
    small.export("proj")
    assert small.export("proj") == Path("proj"), "over an earlier export"
    (Path("other") / "src").mkdir(parents=True)
    (Path("other") / "README.md").write_text("mine")
    with pytest.raises(
        nb.NisbenchError, match=r"^other: holds files but no model\.json.* such as other/model, or empty"
    ):
        small.export("other")
    assert sorted(path.name for path in Path("other").iterdir()) == ["README.md", "src"]
    assert (Path("other") / "README.md").read_text() == "mine"


# --- what is shipped ------------------------------------------------------------------------------------------


def _modules():
    return sorted((ROOT / "src" / "nisbench").rglob("*.py"))


def test_the_package_imports_no_more_than_its_layer():
    """Only reports need [report]; nothing imports [workflow] or [dev]."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {
        "pyyaml": "yaml", "markdown-it-py": "markdown_it", "typing-extensions": "typing_extensions",
        "vl-convert-python": "vl_convert",
    }  # fmt: skip

    def imports_of(requirements):
        found = (requirement.split(">")[0].split("[")[0] for requirement in requirements)
        return {names.get(name, name) for name in found}

    bare = imports_of(project["dependencies"]) | {"pydantic_core", "nisbench"} | sys.stdlib_module_names
    report = imports_of(project["optional-dependencies"]["report"])
    wrong = []
    for path in _modules():
        allowed = bare | (report if path.parent.name == "report" else set())
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            modules = [name for name in modules if (path.name, name) != ("programs.py", "onnx")]  # the extra [onnx]
            if path.stem.endswith("_triton"):  # imported where torch has CUDA, which brings Triton
                modules = [name for name in modules if name.split(".")[0] != "triton"]
            wrong += [f"{path.name}: {name}" for name in modules if name.split(".")[0] not in allowed]
    assert wrong == []


def test_a_command_without_its_layer_says_what_to_install(monkeypatch, capsys):
    def tables():
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(cli, "app", tables)
    monkeypatch.setattr(logs.log, "handlers", [])
    with pytest.raises(SystemExit):
        cli.main()
    assert "matplotlib is not installed. Run: pip install 'nisbench[workflow,report]'" in capsys.readouterr().err


BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ELSEWHERE!r}:
            raise ModuleNotFoundError(f"{{name}} is not in this layer", name=name)

sys.meta_path.insert(0, Blocked())
"""


def _run(script, cwd, source):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NISBENCH", "XDG"))}
    environment |= {"PYTHONPATH": str(source), "HOME": str(cwd)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + textwrap.dedent(script)],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_takes_no_time(tmp_path):
    imported = _run("import nisbench, sys; print(*sys.modules)", tmp_path, ROOT / "src").split()
    assert not {"torch", "numpy", "pandas", "pydantic", "nisbench.api"} & set(imported)


def test_search_is_the_function_although_a_subpackage_has_its_name():
    trials = importlib.import_module("nisbench.search.trials")
    assert trials.__name__ == "nisbench.search.trials"
    assert nb.search is api.search


SNIPPET = f"""
    import nisbench as nb
    data = nb.load_dataset("planted_ratings", **{SMALL!r})
    found = nb.search(nb.DNIS(), nb.MF(), data, nb.Training(**{SHORT!r}), seed=1)
    small = found.prune(compression_rate=2.5)
    small.export("small/")
    model = nb.load_model("small/")
    model.predict({{"user": [3], "item": [7]}})
    print(nb.__file__, data.root, small.step.id)
"""


@pytest.mark.slow
def test_the_built_package_stands_alone(tmp_path, found):
    """A wheel, unpacked elsewhere and run outside a checkout, has all that a search needs, and gives the same ids."""
    source, out = tmp_path / "source", tmp_path / "out"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", symlinks=True, ignore=ignored)
    shutil.copytree(ROOT / "params", source / "params")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-c", "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"]
    subprocess.run([*build, str(out)], cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("nisbench-*.whl")
    assert f"-{nb.__version__}-" in wheel.name
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
        names = packed.namelist()
    assert {"nisbench/py.typed", "nisbench/core.json", "nisbench/defaults/params/studies/demo.yaml"} <= set(names)
    (tmp_path / "work").mkdir()
    file, root, run = _run(SNIPPET, tmp_path / "work", tmp_path / "installed").split()
    assert root == str(tmp_path / "work" / ".cache" / "nisbench")
    assert file == str(tmp_path / "installed" / "nisbench" / "__init__.py")
    assert run == found.prune(2.5).step.id


@pytest.mark.slow
def test_the_tour_runs(tmp_path):
    """The notebook, cell by cell, in a kernel of its own; it is committed without outputs."""
    import nbformat  # noqa: PLC0415
    from nbclient import NotebookClient  # noqa: PLC0415

    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    images = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(images) == 1
