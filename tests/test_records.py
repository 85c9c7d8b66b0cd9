"""What steps leave beside their results: each says what computed it from what, and damage is found on use and made again."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nisbench import cli, execution, files, logs, records
from nisbench.errors import NisbenchError
from nisbench.execution import run_step, run_with_inputs
from nisbench.files import md5_sum
from nisbench.search import trials
from nisbench.steps import download_step
from nisbench.studies import plan
from tests.helpers.code import PackageCopy, forget
from tests.helpers.paths import SMALL

STUDY = """
studies:
  demo:
    title: Tiny
    grids: {rating: {datasets: [planted_ratings], models: [mf], methods: {dnis: [2], grid_search: [1]}}}
    seeds: [1]
    tables: [table2]
    overrides:
      training: {base_dimension: 8, batch_size: 512, max_epochs: 2}
      methods: {grid_search: {dimensions: [4, 8]}}
"""


def demo():
    return plan(Path()).study("demo")


def step_of(title):
    (found,) = (step for step in demo().steps.values() if step.title().startswith(title))
    return found


@pytest.fixture(scope="module")
def _done_once(tmp_path_factory):
    """A project of a tiny study, of which every step was run."""
    root = tmp_path_factory.mktemp("done")
    shutil.copytree(SMALL / "params", root / "params", ignore=lambda *_: ["studies"])
    (root / "params" / "studies").mkdir()
    (root / "params" / "studies" / "demo.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for step in demo().steps.values():
            run_with_inputs(step)
    return root


@pytest.fixture
def project(_done_once, tmp_path, monkeypatch):
    """A copy of that project, in which commands run; what a command prints."""
    root = tmp_path / "project"
    shutil.copytree(_done_once, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, code=0):
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == code, f"{done.output}\n{done.exception}"
        return done.output

    yield call
    logs.set_up()


def test_a_record_says_from_what_and_by_which_code(project):
    search = step_of("search planted_ratings mf-dnis")
    record = records.check(search)
    assert record.needs == {name: needed.id for name, needed in search.needs.items()}
    assert record.code == search.code
    assert len(record.code["kinds"]) == 3  # task, model, method
    assert record.code["core"]["version"] >= 1
    assert record.settings["method"]["kind"] == "dnis"
    assert set(record.files) == {"run.json", "weights.safetensors"}
    assert json.loads(project("show", search.id, "--json"))["record"]["code"] == search.code


@pytest.mark.parametrize(
    ("damaged", "file", "asks"),
    [
        ("search planted_ratings mf-dnis", "weights", "prune planted_ratings mf-dnis"),
        ("search planted_ratings mf-dnis", "run", "prune planted_ratings mf-dnis"),
        ("split", "train", "search planted_ratings mf-dnis"),
        ("prepare", "vocabulary", "block"),
    ],
)
def test_a_file_that_was_damaged_is_found_on_use_named_and_made_again(project, damaged, file, asks):
    step, user = step_of(damaged), step_of(asks)
    path = step.path(file)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])  # one bit
    records.remove(user)
    refused = CliRunner().invoke(cli.app, [user.name, user.id])
    assert refused.exit_code == 1
    assert f"{path} is damaged or was changed" in str(refused.exception)
    assert f"nisbench verify --remove {step.id}" in str(refused.exception)
    assert not records.done(user)

    assert str(path) in project("verify", "demo", code=1)
    project("verify", "--remove", step.id)
    assert not records.done(step)
    for each in (step, user):
        project(each.name, each.id, *(["--threads", "1"] if each.name in ("search", "prune") else []))
    assert "7 of 7 finished steps are as they were written" in project("verify")
    if file != "run":  # which holds times
        assert path.read_bytes() == whole


def lose_a_file(step):
    step.path("weights").unlink()
    return "weights.safetensors is missing, but it was written"


def shorten_a_file(step):
    path = step.path("weights")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    return f"it has {size - 1} bytes, not {size}"


def lose_the_record(step):
    step.record.unlink()
    return f"step.json is missing. Make it with: nisbench search {step.id}"


def take_another_s_record(step):
    other = step_of("search planted_ratings mf-grid")
    shutil.copy(other.record, step.record)
    return f"step.json is of another step ({other.id})"


def garble_the_record(step):
    step.record.write_text("{")
    return "step.json: not readable as JSON"


@pytest.mark.parametrize(
    "harm", [lose_a_file, shorten_a_file, lose_the_record, take_another_s_record, garble_the_record]
)
@pytest.mark.usefixtures("project")
def test_a_step_whose_input_is_not_what_was_written_does_not_run(harm):
    step, user = step_of("search planted_ratings mf-dnis"), step_of("prune planted_ratings mf-dnis")
    says = harm(step)
    records.remove(user)
    with pytest.raises(NisbenchError) as raised:
        run_step(user)
    assert says in str(raised.value)
    assert not any(Path(path).exists() for path in user.paths())


class Killed(BaseException):
    """No handler of errors holds it up."""


def killed(monkeypatch, module, name):
    """Run the DNIS search anew, and kill it when it calls a function. What it left in its folder."""
    step = step_of("search planted_ratings mf-dnis")
    records.remove(step)

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, name, kill)
        run_step(step)
    return step, {path.name for path in step.folder.iterdir()}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("module", "name"), [(trials, "write_run"), (records, "write"), (records, "write_json")])
def test_a_search_that_is_killed_before_its_record_ends_from_its_saved_trials(module, name, monkeypatch):
    """And what was placed before the kill is not trusted: it may be damaged since."""
    whole = step_of("search planted_ratings mf-dnis").path("weights").read_bytes()
    step, left = killed(monkeypatch, module, name)
    assert {"trials", "weights.safetensors"} <= left
    assert not records.done(step)
    step.path("weights").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with monkeypatch.context() as patch:
        patch.setattr(trials, "train", None)  # nothing is trained again
        run_step(step)
    records.check(step)
    assert step.path("weights").read_bytes() == whole
    assert {path.name for path in step.folder.iterdir()} == {*step.files.values(), "step.json"}


@pytest.mark.usefixtures("project")
def test_a_search_that_is_killed_after_its_record_is_done(monkeypatch):
    step, left = killed(monkeypatch, execution, "_delete_others")
    assert left >= {*step.files.values(), "step.json"}
    records.check(step)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_record_is_no_way_to_a_new_checksum_for_damaged_files(project, content):
    step, user = step_of("search planted_ratings mf-dnis"), step_of("prune planted_ratings mf-dnis")
    whole = step.path("weights").read_bytes()
    step.path("weights").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    step.record.write_text(content)
    records.remove(user)
    with pytest.raises(
        NisbenchError, match=rf"step\.json: .*nisbench verify --remove {step.id}, and run the same command"
    ):
        run_step(user)
    project("verify", "--remove", step.id)
    run_with_inputs(user)
    assert step.path("weights").read_bytes() == whole


@pytest.mark.parametrize("key", ["step", "dataset", "label", "settings", "needs", "code"])
@pytest.mark.usefixtures("project")
def test_a_record_that_says_another_thing_than_the_step_s_is_damaged(key):
    step = step_of("search planted_ratings mf-dnis")
    record = json.loads(step.record.read_text())
    record[key] = {**record[key], "seed": "2"} if isinstance(record[key], dict) else "other"
    step.record.write_text(json.dumps(record))
    with pytest.raises(
        NisbenchError, match=rf"step\.json is damaged or was changed: its {key} .*verify --remove {step.id}"
    ):
        records.check(step)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("file", ["weights.safetensors", "step.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_folder_in_place_of_a_file_is_told(file, make):
    step = step_of("search planted_ratings mf-dnis")
    (step.folder / file).unlink()
    make(step.folder / file)
    with pytest.raises(NisbenchError, match=rf"{file}:? is not a file.*verify --remove {step.id}"):
        records.check(step)
    records.remove(step)
    assert not step.folder.exists()


@pytest.mark.usefixtures("project")
def test_a_step_that_lost_a_file_is_made_again_whole():
    step = step_of("search planted_ratings mf-dnis")
    weights = step.path("weights").read_bytes()
    step.path("weights").unlink()
    step.path("run").write_text("{}")  # whatever is left is not trusted
    run_step(step)
    records.check(step)
    assert step.path("weights").read_bytes() == weights


@pytest.mark.usefixtures("project")
def test_a_step_that_cannot_be_made_again_keeps_what_it_made():
    step = step_of("prune planted_ratings mf-dnis")
    before = {file: step.path(file).read_bytes() for file in step.files}
    step.needs["search"].path("weights").unlink()
    with pytest.raises(NisbenchError, match=r"weights\.safetensors is missing, but it was written"):
        run_step(step)
    records.check(step)
    assert {file: step.path(file).read_bytes() for file in step.files} == before


@pytest.mark.usefixtures("project")
def test_with_its_inputs_a_step_that_is_done_is_left_alone():
    step = step_of("prune planted_ratings mf-dnis")
    shutil.rmtree(step.needs["split"].folder)  # what is done needs no inputs any more
    before = step.record.read_bytes()
    run_with_inputs(step)
    assert step.record.read_bytes() == before
    assert not step.needs["split"].folder.exists()


@pytest.fixture
def done_search(project):  # noqa: ARG001 - it is the project's
    """A search that was run, with the code as it is."""
    return step_of("search planted_ratings mf-dnis")


@pytest.fixture
def package(tmp_path, monkeypatch):
    yield PackageCopy(tmp_path, monkeypatch)
    monkeypatch.undo()
    forget()


def test_results_of_older_code_are_not_taken_for_today_s(done_search, package):
    """A kind's file is edited: what depends on it is to be made again, beside what there was."""
    recorded = {step.title(): step for step in demo().steps.values()}
    with package.edited(package.replaced("search/dnis.py", "clamp_(0, 1)", "clamp_(0, 2)")):
        after = {step.title(): step for step in demo().steps.values()}
        assert {title for title, step in after.items() if step.id != recorded[title].id} == {
            "search planted_ratings mf-dnis-seed1",
            "prune planted_ratings mf-dnis-seed1-cr2",
        }
        search = after["search planted_ratings mf-dnis-seed1"]
        assert not records.done(search)
        assert search.folder != recorded[search.title()].folder
        with pytest.raises(NisbenchError, match=r"step\.json is missing"):
            records.check(search)
        shutil.copytree(done_search.folder, search.folder)  # by hand
        with pytest.raises(NisbenchError, match="is of another step"):
            records.check(search)


# --- dates in the future ------------------------------------------------------------------------------------------


def test_what_a_step_reads_is_not_dated_in_the_future_when_it_ends(project):
    """Snakemake would take the step for failed. A link, as DVC makes them, has a date of its own."""
    block = step_of("block planted_ratings")
    train, vocabulary = block.needs["split"].path("train"), block.needs["prepare"].path("vocabulary")
    target = vocabulary.rename(vocabulary.absolute().parents[1] / "cached")
    vocabulary.symlink_to(target)
    later = time.time() + 7200
    for path in (train, target, vocabulary):
        os.utime(path, (later, later), follow_symlinks=False)
    project("block", block.id)
    assert all(path.lstat().st_mtime <= block.record.stat().st_mtime for path in (train, target, vocabulary))


@pytest.mark.usefixtures("project")
def test_a_date_in_the_future_that_may_not_be_changed_is_told_before_any_work(monkeypatch):
    block = step_of("block planted_ratings")
    train = block.needs["split"].path("train")
    os.utime(train, (time.time() + 7200,) * 2)
    before = block.record.read_bytes()

    def refuse(path, **_more):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(NisbenchError, match=rf"{train} is dated in the future.*touch {train}"):
        run_step(block)
    assert block.record.read_bytes() == before


def test_an_archive_that_lost_its_record_is_told_by_its_md5_sum_and_not_fetched_again(small, tmp_path):
    source = tmp_path / "source.zip"
    source.write_bytes(b"archive")
    about = {"url": str(source), "md5": md5_sum(source)}
    step = download_step(small.params.datasets["movielens_1m"].model_copy(update=about), tmp_path)
    run_step(step)
    step.record.unlink()
    source.unlink()
    run_step(step)
    records.check(step)
    step.record.unlink()
    step.path("archive").write_bytes(b"damaged")
    with pytest.raises(NisbenchError):
        run_step(step)
    assert not records.done(step)


def test_a_download_reads_its_source_once_and_its_copy_not_at_all(small, tmp_path, monkeypatch):
    source = tmp_path / "source.zip"
    source.write_bytes(b"archive")
    about = {"url": str(source), "md5": md5_sum(source)}
    step = download_step(small.params.datasets["movielens_1m"].model_copy(update=about), tmp_path)
    monkeypatch.setattr(files.hashlib, "file_digest", None)  # by which files are read for their sums
    run_step(step)
    records.check(step)
    monkeypatch.undo()
    step.path("archive").write_bytes(b"damaged")
    with pytest.raises(NisbenchError, match="another SHA-256 sum"):
        records.check(step)


def test_the_md5_sum_of_a_large_local_file_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "LARGE", 5)
    source, read = Path("source.zip"), []
    sum_of = files.md5_sum
    monkeypatch.setattr(files, "md5_sum", lambda path: (read.append(path), sum_of(path))[1])
    source.write_bytes(b"tiny")
    assert files.kept_md5_sum(source) == files.kept_md5_sum(source) == sum_of(source)
    assert (len(read), Path("logs").exists()) == (2, False)
    for content in (b"large", b"other"):
        source.unlink()
        source.write_bytes(content)
        assert files.kept_md5_sum(source) == files.kept_md5_sum(source) == sum_of(source)
    assert len(read) == 4
    Path("logs", "md5.json").write_text("{")
    assert files.kept_md5_sum(source) == sum_of(source)
