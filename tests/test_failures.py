"""What goes wrong on the way: trials that diverge, disks that are full, files that were damaged. One clear word, nothing lost."""

import dataclasses
import errno
import os
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nisbench import files, machine, records
from nisbench.data import parquet, planted_topk, split
from nisbench.embedding.scheme import DimensionScheme
from nisbench.errors import NisbenchError
from nisbench.execution import run_with_inputs
from nisbench.files import atomic_write, read_json, write_json, write_text
from nisbench.params.datasets import RandomSplit
from nisbench.params.step_settings import SearchSettings
from nisbench.run_files import read_pruning, read_search
from nisbench.search.context import SearchContext
from nisbench.steps import block_step, search_step
from nisbench.tasks import task as tasks
from nisbench.tasks.rating import RatingPrediction
from nisbench.tensor_files import load_tensors, save_tensors
from tests.helpers.training import CPU, interrupted_after, prune_settings, run_pruning, run_search, tiny_data


@pytest.fixture(scope="module")
def data(planted, tmp_path_factory):
    return tiny_data("rating", tmp_path_factory.mktemp("data"), planted)


@pytest.fixture
def settings(small, mf):
    """A search's settings, of a method with what is to be different, and of training."""

    def make(method, training=(), **own):
        terms = {"base_dimension": 8, "batch_size": 256, "max_epochs": 3, **dict(training)}
        return SearchSettings(
            task=small.params.tasks["rating"], model=mf, method=small.params.methods[method].model_copy(update=own),
            training=small.params.training.model_copy(update=terms), seed=1,
        )  # fmt: skip

    return make


# --- training that goes wrong ---------------------------------------------------------------------------------


def test_a_trial_that_diverges_is_told_with_its_step_and_the_search_goes_on(settings, data, tmp_path):
    whole = run_search(settings("uniform_tuned", dimensions=[4], l2=[0.0, 1e-4]), data, tmp_path / "whole")
    found = run_search(settings("uniform_tuned", dimensions=[4], l2=[0.0, 1e39, 1e-4]), data, tmp_path / "found")
    failed = [trial for trial in found.trials if trial.failed]
    assert failed == [found.trials[1]]
    assert "is nan at step 2 of 10 of epoch 1" in failed[0].failed
    assert failed[0].validation_loss is None
    others = [trial.losses for trial in found.trials if not trial.failed]
    assert others == [trial.losses for trial in whole.trials]
    assert whole.best.name == found.best.name
    assert (tmp_path / "found" / "weights.safetensors").read_bytes() == (
        tmp_path / "whole" / "weights.safetensors"
    ).read_bytes()


def test_of_fused_trials_one_that_diverges_does_not_take_the_others_along(settings, data, tmp_path, monkeypatch):
    grid = settings("grid_search", dimensions=[2, 4, 8])
    whole = run_search(grid, data, tmp_path / "whole")
    assert whole.trials[0].fused == 3
    recommender = SearchContext.recommender

    def spoilt(self, spec):
        made = recommender(self, spec)
        if spec.name == whole.trials[1].name:
            made.embedding.weight.data.mul_(1e30)
        return made

    monkeypatch.setattr(SearchContext, "recommender", spoilt)
    found = run_search(grid, data, tmp_path / "found")
    assert [bool(trial.failed) for trial in found.trials] == [False, True, False]
    assert "at step 1 of 10 of epoch 1" in found.trials[1].failed
    for place in (0, 2):
        assert found.trials[place].losses == pytest.approx(whole.trials[place].losses, rel=1e-6)


def test_a_search_that_fails_altogether_says_so_and_so_does_its_pruning(settings, data, tmp_path):
    dnis = settings("dnis", training={"learning_rate": 1e30})
    found = run_search(dnis, data, tmp_path / "search")
    assert found.best_trial is None
    assert found.best is None
    assert "of epoch" in found.failed
    pruned = run_pruning(prune_settings(dnis, 2.0), tmp_path / "search", data, tmp_path / "prune")
    assert pruned.failed == found.failed
    assert pruned.metrics == {}
    assert len(DimensionScheme.load(tmp_path / "prune" / "scheme.safetensors").values) == 0
    assert sorted(path.name for path in (tmp_path / "search").iterdir()) == ["run.json", "weights.safetensors"]


def test_a_validation_loss_that_is_no_number_is_a_failure_too(settings, data, tmp_path, monkeypatch):
    monkeypatch.setattr(RatingPrediction, "validation_loss", lambda *_: float("inf"))
    found = run_search(settings("dnis"), data, tmp_path)
    assert "the validation loss is inf after epoch 1" in found.failed


# --- training that is cut off ---------------------------------------------------------------------------------


def given_losses(monkeypatch, *losses):
    """Have validation measure these, one after another, and the last one from then on."""
    left = list(losses)
    monkeypatch.setattr(RatingPrediction, "validation_loss", lambda *_: left.pop(0) if left[1:] else left[0])


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


def test_a_search_says_which_trials_were_cut_off_and_which_key_to_raise(settings, data, tmp_path, monkeypatch, caplog):
    given_losses(monkeypatch, *[5.0, 4.0, 3.0], *[2.0, 3.0, 3.0])
    terms = {"max_epochs": 3, "patience": 2, "learning_rate_drop": 0.1, "learning_rate": 0.01}
    found = run_search(settings("uniform_tuned", terms, dimensions=[4], l2=[0.0, 1e-4]), data, tmp_path)
    assert [(trial.best_epoch, trial.epochs, trial.stopped) for trial in found.trials] == [
        (3, 3, "max_epochs"),
        (1, 3, "patience"),
    ]
    assert [trial.learning_rate for trial in found.trials] == pytest.approx([0.01, 0.0001])
    assert found.cut_off == [found.trials[0]]
    (told,) = warnings(caplog)
    assert told == (
        "trials cut off by training.max_epochs = 3, which may not have ended their descent: 1 of 2; "
        "the learning rate was still 0.01; raise training.max_epochs"
    )


def test_a_chosen_trial_that_was_cut_off_is_told_with_its_best_epoch(settings, data, tmp_path, monkeypatch, caplog):
    given_losses(monkeypatch, 5.0, 4.0, 3.0, 2.0)
    released = settings("dnis_released", {"max_epochs": 2, "patience": 1}, warm_start_epochs=2)
    best = run_search(released, data, tmp_path).best
    assert (best.best_epoch, best.epochs, best.warm_start_epochs, best.stopped) == (4, 4, 2, "max_epochs")
    assert [text.partition(": ")[2] for text in warnings(caplog)] == [
        "1 of 1, with the chosen one (best epoch 4 of 4); raise training.max_epochs"
    ]


def test_training_further_counts_the_warm_start_alone_and_keeps_the_best_epoch_of_the_search(
    settings, data, tmp_path, monkeypatch
):
    given_losses(monkeypatch, *[5.0, 4.8], *[4.0, 4.5, 4.6], *[4.7, 4.8])
    terms = {"max_epochs": 9, "patience": 2}
    own = {"warm_start_epochs": 2, "train_further": True, "patience": 2}
    best = run_search(settings("dnis_released", terms, **own), data, tmp_path).best
    assert (best.warm_start_epochs, best.best_epoch, best.epochs, best.stopped) == (2, 3, 7, "patience")
    assert best.validation_loss == 4.0


def test_a_search_that_stopped_by_itself_warns_of_nothing(settings, data, tmp_path, monkeypatch, caplog):
    given_losses(monkeypatch, 5.0, 4.0)
    found = run_search(settings("grid_search", {"max_epochs": 9, "patience": 1}, dimensions=[2, 4]), data, tmp_path)
    assert {trial.stopped for trial in found.trials} == {"patience"}
    assert {trial.fused for trial in found.trials} == {2}
    assert warnings(caplog) == []


def test_a_method_that_learns_its_selection_has_a_patience_of_its_own(settings, data, tmp_path, monkeypatch):
    given_losses(monkeypatch, 1.0, 2.0)
    for patience in (1, 3):
        dnis = settings("dnis", {"max_epochs": 9, "patience": 2}, patience=patience)
        assert run_search(dnis, data, tmp_path / str(patience)).best.epochs == 1 + patience


def test_a_round_of_pruning_that_was_cut_off_is_told(settings, data, tmp_path, monkeypatch, caplog):
    retrained = settings("dnis_retrained", {"max_epochs": 2, "patience": 1}, patience=1)
    given_losses(monkeypatch, 1.0, 2.0)
    run_search(retrained, data, tmp_path / "search")
    given_losses(monkeypatch, 5.0, 4.0, 3.0)
    found = run_pruning(prune_settings(retrained, 2.0), tmp_path / "search", data, tmp_path / "prune")
    assert [(one.best_epoch, one.epochs, one.stopped) for one in found.rounds] == [(2, 2, "max_epochs")]
    assert found.cut_off == found.rounds
    assert warnings(caplog) == [
        "round 1 of 1 was cut off by training.max_epochs = 2, best epoch 2; raise training.max_epochs"
    ]


@pytest.mark.parametrize(
    ("after", "share"),
    [
        ((14.0, 16.0, 2.0), 0.3),  # of 10 core-seconds, 4 were busy and 1 was ours
        ((12.0, 18.0, 3.0), 0.0),
        ((10.0, 10.0, 3.0), None),  # a system that counts nothing
    ],
)
def test_what_other_processes_took_of_the_machine(after, share, monkeypatch):
    told = iter([(10.0, 10.0, 1.0), after])
    monkeypatch.setattr(machine, "_processor_seconds", lambda: next(told))
    assert machine.OtherLoad().share() == share


def test_a_wrong_device_lists_those_there_are():
    with (
        pytest.raises(NisbenchError, match=r"there is no cuda:99 on this machine. There is: cpu"),
        machine.device("cuda:99"),
    ):
        pass


# --- disks and permissions ------------------------------------------------------------------------------------


@contextmanager
def files_no_larger_than(limit):
    """A limit on the sizes of files, which is met like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "text": lambda path: write_text(path, "x" * 1_000_000),
    "weights": lambda path: save_tensors(path, {"a": torch.rand(250_000)}),
    "table": lambda path: parquet.write_table(path, pa.table({"a": np.random.default_rng(0).random(250_000)})),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_does_not_fit_is_told_and_leaves_nothing(kind, tmp_path):
    """Each library that writes has its own error."""
    target = tmp_path / "folder" / "file"
    with pytest.raises(NisbenchError) as raised, files_no_larger_than(100_000):
        WRITERS[kind](target)
    assert str(raised.value).startswith(f"{target}: cannot be written: file too large. No part of it was kept.")
    assert "MiB are free there" in str(raised.value)
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_keeps_what_was_there(tmp_path):
    target = tmp_path / "file"
    target.write_text("whole")
    with pytest.raises(NisbenchError, match="no space left on device"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_read_only_is_told(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)  # to the superuser, no folder is read-only
    with pytest.raises(NisbenchError, match=r"file: cannot be written: permission denied.*the right to write there"):
        write_json(tmp_path / "file", {})


def test_another_error_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(ValueError, match="something else"), atomic_write(tmp_path / "file"):
        raise ValueError("something else")
    assert list(tmp_path.iterdir()) == []


# --- damaged files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"metrics": NaN}', '{"metrics": 1e999}', "[" * 100_000])
def test_a_run_file_of_another_form_is_refused(content, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(content)
    for read in (read_search, read_pruning, records.read):
        with pytest.raises(NisbenchError, match=r"run\.json"):
            read(path)


@pytest.fixture
def interrupted(settings, data, tmp_path, monkeypatch):
    """A search's settings, and the checkpoint that it left when it was interrupted after two epochs."""
    dnis = settings("dnis", training={"checkpoint_seconds": 0})
    with interrupted_after(2, RatingPrediction, monkeypatch):
        run_search(dnis, data, tmp_path / "cut")
    (checkpoint,) = (tmp_path / "cut" / "trials").glob("*checkpoint*")
    return dnis, checkpoint


def test_a_checkpoint_that_is_cut_short_is_left_aside(interrupted, data, tmp_path):
    dnis, checkpoint = interrupted
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    again, whole = (run_search(dnis, data, tmp_path / name) for name in ("cut", "whole"))
    assert again.trials[0].losses == whole.trials[0].losses


def test_a_checkpoint_of_another_trial_is_refused(interrupted, data, tmp_path):
    dnis, checkpoint = interrupted
    save_tensors(checkpoint, {"now.other": torch.ones(1)}, {})
    with pytest.raises(NisbenchError, match=r"checkpoint\.safetensors: of another trial: .*Delete it"):
        run_search(dnis, data, tmp_path / "cut")


@pytest.mark.parametrize(
    ("name", "tensor"), [("offsets", [0, 5]), ("offsets", [1, 2]), ("dimensions", [0, 9]), ("dimensions", [0])]
)
def test_a_scheme_whose_arrays_do_not_fit_is_refused(name, tensor, tmp_path):
    scheme = DimensionScheme.from_dense(np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32))
    scheme.save(tmp_path / "scheme.safetensors")
    assert DimensionScheme.load(tmp_path / "scheme.safetensors").sizes().tolist() == [1, 1]
    dataclasses.replace(scheme, **{name: np.array(tensor, dtype=getattr(scheme, name).dtype)}).save(tmp_path / "other")
    with pytest.raises(NisbenchError, match="its arrays do not fit together"):
        DimensionScheme.load(tmp_path / "other")


# --- readable files of wrong content --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(data, small, mf, tmp_path_factory):
    """A search that is done: its settings and folder."""
    terms = {"base_dimension": 8, "batch_size": 256, "max_epochs": 1}
    settings = SearchSettings(
        task=small.params.tasks["rating"], model=mf, method=small.params.methods["dnis"],
        training=small.params.training.model_copy(update=terms), seed=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("searched")
    run_search(settings, data, folder)
    return settings, folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"best_trial": 5}, "there is no trial 5, of 1"),
        ({"best_trial": None}, "best_trial: there is none"),
        ({"weights": -1}, "weights: input should be greater than or equal to 0"),
        ({"weights": 10**30}, "weights: input should be less than 9007199254740992"),
        ({"weights": 7}, "weights: they are not the best trial's"),
        ({"seconds": -1.0}, "seconds: input should be greater"),
        ({"peak_memory_mib": 1e300}, "peak_memory_mib: input should be less"),
        ({"trials": []}, "trials: list should have at least 1 item"),
    ],
)
def test_a_search_s_run_file_of_absurd_numbers_is_refused(searched, tmp_path, change, says):
    write_json(tmp_path / "run.json", read_json(searched[1] / "run.json") | change)
    with pytest.raises(NisbenchError, match=rf"run\.json: .*{says}.* Delete it and run again"):
        read_search(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"best_epoch": 9}, "best_epoch is 9, of 1 epochs"),
        ({"failed": "nan"}, "a trial has either a validation loss or a reason"),
        ({"losses": [1e300]}, r"losses\.0: input should be less"),
        ({"fused": 0}, "fused: input should be greater"),
    ],
)
def test_a_trial_of_absurd_numbers_is_refused(searched, tmp_path, change, says):
    run = read_json(searched[1] / "run.json")
    write_json(tmp_path / "run.json", run | {"trials": [run["trials"][0] | change]})
    with pytest.raises(NisbenchError, match=rf"run\.json: trials\.0.*{says}"):
        read_search(tmp_path / "run.json")


def drop(name):
    return lambda tensors, _: tensors.pop(name)


def put(name, change):
    return lambda tensors, _: tensors.update({name: change(tensors[name].clone()).contiguous()})


def say(**about):
    return lambda _, said: said.update(about)


WEIGHT = "embedding.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop(WEIGHT), "embedding.weight is missing"),
        (drop("embedding.selection"), "embedding.selection is missing"),
        (drop("first_order"), "first_order is missing"),
        (lambda tensors, _: tensors.update({"other": torch.ones(1)}), "other is not a tensor of this model"),
        (put(WEIGHT, lambda weight: weight[:-1]), r"embedding.weight is \(99, 8\) of torch.float32, not \(100, 8\)"),
        (put(WEIGHT, torch.Tensor.double), "embedding.weight is .* of torch.float64, not .* of torch.float32"),
        (put(WEIGHT, lambda weight: weight.fill_(torch.nan)), "embedding.weight: some values are not finite"),
        (put("embedding.block", lambda block: block - 1), "embedding.block: numbers from -1"),
        (put("embedding.block", lambda block: block + 1), "embedding.block: numbers from 1 to"),
        (
            put("embedding.selection", lambda selection: 2 + selection),
            "embedding.selection: some values are not between",
        ),
        (put("embedding.selection", torch.Tensor.flatten), "embedding.selection is .* not .blocks, columns"),
        (put("first_order", lambda bias: bias[1:]), "first_order is"),
        (put("first_order", lambda bias: bias / 0), "first_order: some values are not finite"),
        (say(widths=[10**12]), "what it says of its model is"),
        (say(widths=[7]), r"its widths \[7\] are not those of a table of 8 columns"),
        (say(widths="8"), "what it says of its model is"),
        (say(projection=[[[1]], [8]]), "its projection is"),
    ],
)
def test_weights_of_another_model_are_refused_by_pruning(searched, data, tmp_path, change, says):
    settings, folder = searched
    shutil.copytree(folder, tmp_path / "search")
    path = tmp_path / "search" / "weights.safetensors"
    tensors, about = load_tensors(path)
    change(tensors, about)
    save_tensors(path, tensors, about)
    with pytest.raises(NisbenchError, match=rf"weights\.safetensors: {says}.* Delete it and run again"):
        run_pruning(prune_settings(settings, 2.0), tmp_path / "search", data, tmp_path / "prune")


@pytest.mark.parametrize("weights", [5, 10**6])
def test_a_run_file_that_does_not_fit_its_weights_is_refused_by_pruning(searched, data, tmp_path, weights):
    settings, folder = searched
    shutil.copytree(folder, tmp_path / "search")
    run = read_json(folder / "run.json")
    trial = run["trials"][0] | {"weights": weights}
    write_json(tmp_path / "search" / "run.json", run | {"weights": weights, "trials": [trial]})
    with pytest.raises(NisbenchError, match=rf"run\.json: weights: {weights}, but weights.safetensors holds 800"):
        run_pruning(prune_settings(settings, 1.0), tmp_path / "search", data, tmp_path / "prune")


def test_a_file_whose_column_names_are_no_text_is_refused(data, tmp_path):
    whole = data["train"].read_bytes()
    (tmp_path / "train").write_bytes(whole.replace(b"user", b"\xaeser"))
    with pytest.raises(NisbenchError, match=r"train: .* Delete it and run again"):
        parquet.open_instances(tmp_path / "train")


def changed(name, values, kind=None):
    """The table with another column of this name, made from its values."""

    def change(table):
        column = table[name].to_pylist()
        return table.set_column(
            table.column_names.index(name), name, pa.array(values(column), kind or table[name].type)
        )

    return change


def first(value):
    return lambda column: [value, *column[1:]]


INSTANCES = [
    (changed("label", lambda column: list(map(str, column)), pa.string()), "column label: string, not float"),
    (changed("label", first(None)), "column label: some values are missing"),
    (changed("label", first(float("nan"))), "column label: some values are not finite"),
    (changed("user", first(-1)), "column user: values from -1 to"),
    (changed("user", first(60)), "column user: values from 0 to 60; they must lie from 0 to 59"),
    (changed("item", lambda column: column, pa.int64()), "column item: int64, not int32"),
    (lambda table: table.drop_columns(["item"]), "its columns are label, user, not label, user, item"),
    (lambda table: table.slice(0, 0), "it holds no instances"),
    (lambda table: table.replace_schema_metadata({b"nisbench": b"[1]"}), "its schema describes no fields"),
]
FEATURES = [
    (lambda table: table.slice(1), "it has 99 rows, but the instances 100 features"),
    (lambda table: table.drop_columns(["block"]), "it has no column block"),
    (changed("block", lambda column: [2 * value for value in column]), "column block: not all numbers up to"),
    (changed("block", first(-1)), "column block: some values are below 0"),
    (changed("frequency", first(10**6)), "column frequency: a field's do not sum to the"),
    (changed("field", first("other")), "column field: the fields are not those of the instances"),
    (changed("token", first(None)), "column token: some values are missing"),
]


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [("train", *each) for each in INSTANCES] + [("validation", *each) for each in INSTANCES]
    + [("features", *each) for each in FEATURES],
)  # fmt: skip
def test_data_of_wrong_content_are_refused_by_a_search(searched, data, tmp_path, file, change, says):
    pq.write_table(change(pq.read_table(data[file])), tmp_path / file)
    with pytest.raises(NisbenchError, match=rf"{file}: {says}.* Delete it and run again"):
        run_search(searched[0], {**data, file: tmp_path / file}, tmp_path / "search")


@pytest.mark.parametrize(("change", "says"), INSTANCES)
def test_instances_of_wrong_content_are_refused_by_the_split(data, tmp_path, change, says):
    pq.write_table(change(pq.read_table(data["train"].with_name("instances"))), tmp_path / "instances")
    targets = {name: tmp_path / name for name in split.SPLITS}
    with pytest.raises(NisbenchError, match=rf"instances: {says}.* Delete it and run again"):
        split.run(RandomSplit(proportions=[8, 1, 1], seed=1), tmp_path / "instances", targets)
    assert [path.name for path in tmp_path.iterdir()] == ["instances"]


# --- splits on which a task is not defined --------------------------------------------------------------------


@pytest.fixture
def without_clicks(small, tmp_path):
    """The block step of clicks so rare that there is none, and their task."""
    rare = {"instances": 200, "click_rate": 1e-9, "categorical_fields": [6, 4], "rank": 2, "levels": 2}
    dataset, task = small.params.datasets["planted_ctr"].model_copy(update=rare), small.params.tasks["ctr"]
    return block_step(dataset, task, tmp_path), task


def test_a_split_without_clicks_is_told_with_data_set_and_parts(without_clicks):
    block, _ = without_clicks
    with pytest.raises(NisbenchError) as raised:
        run_with_inputs(block)
    assert str(raised.value) == (
        "Planted clicks: AUC is not defined on train (160 instances, none of them clicks) and validation (20 instances, none of "
        "them clicks) and test (20 instances, none of them clicks). Give the data set's `split` another seed or other proportions, "
        "or use more instances. If all labels are alike, `label` names the wrong column, or label.positive_above is wrong"
    )
    assert not records.done(block.needs["split"])
    assert records.why_not_done(block) == f"split planted_ctr failed: {raised.value}"


@pytest.mark.parametrize(
    ("labels", "says"), [([1, 0, 2], "neither 0 nor 1"), ([1, 1, 1], r"test \(3 instances, all of them")]
)
def test_labels_that_are_no_clicks_are_refused(small, tmp_path, labels, says):
    fields, paths = parquet.fields_in_a_row({"a": "categorical"}, [1]), {}
    for name in split.SPLITS:
        paths[name] = tmp_path / name
        values = np.array(labels if name == "test" else [0, 1, 1], np.float32)
        parquet.write(paths[name], values, {"a": np.zeros(3, np.int32)}, fields)
    with pytest.raises(NisbenchError, match=says):
        tasks.check_splits(small.params.tasks["ctr"], paths)


def refused(attempt):
    try:
        attempt()
    except NisbenchError:
        return True
    return False


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_too_few_candidates_are_told_by_the_split_as_by_the_measurement(small, tmp_path, sampling):
    """Whatever number is asked for: where the test metrics could be computed after the search, and only there, the split is accepted."""
    update = {"users": 12, "items": 10, "instances": 50, "rank": 2, "levels": 2}
    dataset = small.params.datasets["planted_topk"].model_copy(update=update)
    planted_topk.prepare(dataset, None, tmp_path / "i", tmp_path / "v")
    paths = {name: tmp_path / name for name in split.SPLITS}
    split.run(dataset.split, tmp_path / "i", paths)
    accepted = []
    for candidates in range(1, 11):
        task = small.params.tasks["topk"].model_copy(update={"candidates": candidates, "sampling": sampling})
        checked = refused(lambda task=task: tasks.check_splits(task, paths))
        assert checked == refused(lambda task=task: tasks.build(task, paths, CPU))
        accepted.append(not checked)
    assert accepted[0]
    assert not accepted[-1]


def test_a_search_of_another_task_than_the_split_was_made_for_is_refused_before_it_trains(small, tmp_path):
    update = {"users": 12, "items": 10, "instances": 50, "rank": 2, "levels": 2}
    dataset = small.params.datasets["planted_topk"].model_copy(update=update)
    few, many = (small.params.tasks["topk"].model_copy(update={"candidates": n}) for n in (1, 10))
    run_with_inputs(block_step(dataset, few, tmp_path))
    params = small.params
    search = search_step(
        block_step(dataset, many, tmp_path),
        many,
        params.models["neumf_topk"],
        params.methods["dnis"],
        params.training,
        1,
    )
    with pytest.raises(NisbenchError, match=r"Planted implicit feedback: .*validation\.parquet: a user of .* Lower it"):
        run_with_inputs(search)
    assert [path.name for path in search.folder.iterdir()] == ["failed.txt"]
