"""Ids of steps: they change with what a result depends on, and with nothing else."""

import ast
import hashlib

import pytest
import yaml

from nisbench import files, identity, steps
from nisbench.errors import NisbenchError
from nisbench.identity import CORE, is_development, kind_file, normalised
from nisbench.params.kinds import OWN, kinds
from nisbench.params.loading import load
from nisbench.params.models import NeuMF
from nisbench.params.tasks import Metric, Rating
from nisbench.steps import block_step, download_step, hashed_form
from nisbench.studies import plan, plan_study
from nisbench.wiring import WORK, is_whole
from tests.helpers.code import PackageCopy, forget, recomputed, reworded
from tests.helpers.paths import ROOT, SMALL


@pytest.fixture
def planned(tmp_path):
    """The plan of the small parameters with this YAML text merged over them."""

    def planned_with(text):
        path = tmp_path / "over.yaml"
        path.write_text(text)
        return plan(SMALL, load(SMALL, [path]))

    return planned_with


@pytest.fixture
def changed(planned, small):
    """Titles of the steps that a study asks for, and did not before, once this YAML text is merged over the parameters."""

    def compare(text, study="movielens_1m"):
        before, after = (whole.study(study).steps for whole in (plan(SMALL, small), planned(text)))
        return sorted(after[step].title() for step in after.keys() - before.keys())

    return compare


# --- parameters -----------------------------------------------------------------------------------------------


def test_a_method_s_parameter_changes_its_searches_and_prunings_only(changed):
    models, seeds = ("mf", "mlp"), (1, 2)
    expected = {f"search ml-1m {model}-dnis-seed{seed}" for model in models for seed in seeds}
    expected |= {f"prune ml-1m {m}-dnis-seed{s}-cr{rate}" for m in models for s in seeds for rate in ("1", "2.5")}
    expected |= {f"search ml-1m neumf-dnis-seed{seed}" for seed in seeds}
    expected |= {f"prune ml-1m neumf-dnis-seed{s}-cr{rate}" for s in seeds for rate in ("1", "2")}
    assert set(changed("methods: {dnis: {learning_rate: 0.02}}")) == expected


def test_a_method_s_parameter_changes_those_that_extend_it(small, planned):
    before, after = (
        {cell.key: cell.search.id for cell in whole.study("recovery").cells}
        for whole in (plan(SMALL, small), planned("methods: {dnis: {learning_rate: 0.02}}"))
    )
    assert {key[3] for key in before if before[key] != after[key]} == {"dnis", "dnis_released", "dnis_retrained"}


def test_a_model_s_parameter_changes_that_model_only(changed):
    titles = changed("models: {mlp: {hidden: [8]}}")
    assert titles
    assert all(" mlp-" in title for title in titles)


def test_a_compression_rate_more_is_one_pruning_more(changed):
    more = changed("studies: {movielens_1m: {grids: {rating: {methods: {mde: [1, 4]}}}}}")
    assert more == [f"prune ml-1m {model}-mde-seed{s}-cr4" for model in ("mf", "mlp") for s in (1, 2)]


def test_a_seed_more_is_its_searches_and_prunings_only(changed):
    more = changed("studies: {movielens_1m: {seeds: [1, 2, 3]}}")
    assert more
    assert all("-seed3" in title for title in more)


def test_a_value_more_that_a_grid_sweeps_is_its_searches_and_prunings_only(changed):
    text = "studies: {movielens_1m: {grids: {base_dimension: {sweep: {training.base_dimension: [8, 16, 99]}}}}}"
    expected = {f"prune ml-1m mf-{method}-seed{seed}-cr1" for method in ("dnis", "full") for seed in (1, 2)}
    expected |= {f"search ml-1m mf-{method}-seed{seed}" for method in ("dnis", "full") for seed in (1, 2)}
    assert set(changed(text)) == expected


def test_the_split_s_seed_changes_all_but_download_and_preparation(changed):
    titles = changed("datasets: {movielens_1m: {split: {seed: 2}}}")
    assert {title.split()[0] for title in titles} == {"split", "block", "search", "prune"}
    assert {title.split("-")[2] for title in titles if title.startswith("search")} == {"mde", "dnis", "full"}
    assert not [title for title in titles if "neumf" in title]  # on another split


def test_a_task_s_parameter_changes_its_searches_only(changed):
    titles = changed("tasks: {topk: {negatives: 5}}")
    assert {title.split()[0] for title in titles} == {"search", "prune"}
    assert all("neumf" in title for title in titles)


def test_a_grid_s_overrides_hold_for_that_grid_alone(changed):
    titles = changed("studies: {movielens_1m: {grids: {topk: {overrides: {training: {batch_size: 99}}}}}}")
    assert titles
    assert all("neumf" in title for title in titles)


def test_a_cell_in_two_grids_that_differ_is_two_cells(small):
    cells = [cell for cell in plan(SMALL, small).study("recovery").cells if cell.method == "dnis"]
    assert {(cell.grid, cell.settings.training.l2) for cell in cells} == {("", 0.0), ("with_l2", 4e-5)}
    assert len({cell.prune.id for cell in cells}) == len(cells) == 2 * 2 * 2


def test_the_order_of_instances_is_part_of_a_run_where_it_is_not_the_usual_one(changed):
    names = {title.split()[0] for title in changed("training: {order: blocks}")}
    assert names == {"search", "prune"}


def test_blocks_change_nothing_before_them(changed):
    names = {title.split()[0] for title in changed("datasets: {movielens_1m: {blocks: {count: 6}}}")}
    assert names == {"block", "search", "prune"}


@pytest.mark.parametrize(
    "text",
    [
        "methods: {dnis: {title: Other}}",
        "models: {mf: {title: Other}}",
        "datasets: {movielens_1m: {title: Other}}",
        "studies: {movielens_1m: {title: Other, note: Other}}",
        "studies: {movielens_1m: {grids: {rating: {title: Other}}}}",
        "studies: {movielens_1m: {tables: [table2]}}",
        "training: {device: cpu, checkpoint_seconds: 1, fused_trials: 1, memory_limit: 4.0, order: shuffled}",
        "datasets: {movielens_1m: {url: mirror/ml-1m.zip}}",  # the same MD5 sum, so the same file
        "training: {learning_rate: 1.0e-3}",
        "reference: {results: {movielens_1m: {64: {mf: {dnis: {1: {mse: 0.5}}}}}}}",
    ],
)
def test_what_cannot_change_a_result_changes_no_step(changed, text):
    assert changed(text) == []


def turned_round(entries):
    return {f"other_{name}": entry for name, entry in reversed(entries.items())}


def test_names_of_entries_and_their_order_change_no_step(tmp_path, small):
    """A project in which every entry, grid and study has another name, and all of them stand in the opposite order."""
    tree = {"reference": {"datasets": {}, "results": {}}, "studies": {}}
    for path in SMALL.rglob("*.yaml"):
        for section, entries in yaml.safe_load(path.read_text()).items():
            if section == "studies":
                tree["studies"] |= entries
            elif section != "reference":
                tree[section] = entries
    for entry in (entry for section in OWN for entry in tree[section].values()):
        entry.update({key: f"other_{entry[key]}" for key in ("extends", "task") if key in entry})
    for study in tree["studies"].values():
        for grid in study["grids"].values():
            for section in ("datasets", "models"):
                grid[section] = [f"other_{name}" for name in reversed(grid[section])]
            grid["methods"] = turned_round(grid["methods"])
        study["grids"] = turned_round(study["grids"])
    for section in (*OWN, "studies"):
        tree[section] = turned_round(tree[section])
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "all.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    before, after = plan(SMALL, small), plan(tmp_path, load(tmp_path, []))
    assert {step.folder for step in before.steps.values()} == {step.folder for step in after.steps.values()}
    assert before.steps.keys() == after.steps.keys()


def test_without_an_md5_the_address_names_the_archive(small):
    dataset = small.params.datasets["movielens_latest_small"]
    assert dataset.md5 is None
    other = dataset.model_copy(update={"url": "https://example.org/other.zip"})
    assert download_step(dataset).id != download_step(other).id


def test_a_local_file_without_an_md5_is_what_is_in_it(small, tmp_path):
    found = []
    for folder, content in [("a", "x"), ("b", "x"), ("b", "longer")]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "ml.zip").write_text(content)
        update = {"url": str(tmp_path / folder / "ml.zip")}
        found.append(download_step(small.params.datasets["movielens_latest_small"].model_copy(update=update)))
    assert found[0].id == found[1].id != found[2].id


def test_a_local_file_that_changes_after_planning_is_refused(small, tmp_path):
    archive = tmp_path / "ml.zip"
    archive.write_text("as planned")
    update = {"url": str(archive)}
    step = download_step(small.params.datasets["movielens_latest_small"].model_copy(update=update), tmp_path)
    archive.write_text("another")
    with pytest.raises(NisbenchError, match="MD5 sum"):
        WORK["download"](step, 1)
    assert not step.path("archive").exists()


def test_a_repacked_archive_has_the_publisher_s_ids_and_its_own_sum(small, tmp_path):
    archive = tmp_path / "ml.zip"
    archive.write_bytes(b"PK\x03\x04 packed again")
    dataset = small.params.datasets["movielens_1m"]
    mirrored = dataset.model_copy(update={"url": str(archive), "repacked_md5": files.md5_sum(archive)})
    assert dataset.md5 is not None
    step = download_step(mirrored, tmp_path)
    assert step.id == download_step(dataset).id
    WORK["download"](step, 1)
    assert step.path("archive").read_bytes() == archive.read_bytes()
    assert is_whole(step)
    archive.write_bytes(b"PK\x03\x04 damaged")
    step.path("archive").unlink()
    with pytest.raises(NisbenchError, match="MD5 sum"):
        WORK["download"](step, 1)


def test_a_repacked_archive_needs_the_publisher_s_sum(planned):
    with pytest.raises(NisbenchError, match=r"datasets\.movielens_1m\.repacked_md5: needs `md5`"):
        planned(f"datasets: {{movielens_1m: {{md5: null, repacked_md5: {'a' * 32}}}}}")


def test_a_password_in_an_address_is_in_no_record_and_no_id(small):
    found = []
    for login in ("", "me:secret@", "me:another@"):
        update = {"url": f"https://{login}host/ml.zip", "md5": None}
        found.append(download_step(small.params.datasets["movielens_latest_small"].model_copy(update=update)))
    assert len({step.id for step in found}) == 1
    assert hashed_form(found[1]) == {"identity": "https://host/ml.zip"}
    assert found[1].settings.urls == ["https://me:secret@host/ml.zip"]  # to fetch it by


def test_archives_of_one_md5_for_data_of_two_kinds_are_two_downloads(small):
    """An id has one folder."""
    dataset = small.params.datasets["movielens_1m"]
    other = dataset.model_copy(update={"ratings": "ml-2m/ratings.dat"})
    one, two = download_step(dataset), download_step(other)
    assert (one.id == two.id) == (one.folder == two.folder)
    assert one.id != two.id


def test_seeds_may_draw_splits_of_their_own(small, planned):
    before = plan(SMALL, small).study("demo")
    whole = planned("studies: {demo: {seeds: [1, 2], split_per_seed: true}}")
    after = whole.study("demo")
    of_seed = {}
    for cell in after.cells:
        needs = cell.search.needs
        assert needs["block"].needs["split"] is needs["split"] is cell.prune.needs["split"]
        of_seed.setdefault((cell.dataset, cell.seed), set()).add(needs["split"].id)
    assert all(len(ids) == 1 for ids in of_seed.values())  # one for all methods: they are compared on the same data
    same_data = {(name, of_seed[name, 1] == of_seed[name, 2]) for name, _ in of_seed}
    assert same_data == {("planted_ratings", False), ("planted_ctr", False), ("planted_topk", True)}
    old, new = ({step.id for step in each.steps.values()} for each in (before, after))
    assert {after.steps[step].name for step in old & new} == {
        "prepare",
        "split",
        "block",
    }  # leave_one_out draws nothing
    assert {after.steps[step].dataset for step in old & new if after.steps[step].name == "split"} == {"planted_topk"}
    labels = {cell.search.dataset for cell in after.cells}
    for name in ("split", "block", "search", "prune"):
        found = {step.id for label in labels for step in whole.of_dataset(label, name)}
        assert {step.id for step in after.steps.values() if step.name == name} <= found


def test_a_split_of_a_seed_s_own_comes_from_both_seeds(planned):
    def seeds(text):
        found = planned(f"studies: {{demo: {{seeds: [1, 2], split_per_seed: true}}}}\n{text}").study("demo").cells
        return {
            cell.seed: (cell.search.needs["split"].settings.split.seed, cell.settings.task.kind_name())
            for cell in found
            if cell.dataset == "planted_ratings"
        }

    one, other = seeds(""), seeds("datasets: {planted_ratings: {split: {seed: 5}}}")
    assert len({*one.values(), *other.values()}) == 4


def test_top_k_draws_its_candidates_by_seed_where_seeds_draw_splits(small, planned):
    def candidates(study):
        return {cell.seed: cell.settings.task.seed for cell in study.cells if cell.settings.task.kind_name() == "topk"}

    text = "studies: {demo: {seeds: [1, 2], split_per_seed: %s}}"
    shared, drawn = (candidates(planned(text % flag).study("demo")) for flag in ("false", "true"))
    assert set(shared.values()) == {small.params.tasks["topk"].seed}
    assert len({*shared.values(), *drawn.values()}) == 3


def test_without_splits_per_seed_all_ids_are_as_before(small, planned):
    before, after = plan(SMALL, small), planned("studies: {demo: {split_per_seed: false}}")
    assert before.steps.keys() == after.steps.keys()
    assert before.study("demo").id == after.study("demo").id
    assert before.study("demo").first_blocks == list(before.study("demo").blocks.values())


def test_a_published_split_cannot_be_drawn_by_a_seed(planned):
    text = "studies: {criteo: {split_per_seed: true, grids: {ctr: {datasets: [criteo_x1]}}}}"
    with pytest.raises(NisbenchError, match=r"over.yaml:1: studies.criteo.split_per_seed: criteo_x1 does not allow it"):
        planned(text)


def test_methods_that_differ_in_name_or_pruning_share_their_search(small):
    study = plan(SMALL, small).study("recovery")
    searches = {cell.method: cell.search for cell in study.cells if cell.seed == 1 and not cell.grid}
    assert searches["dnis_retrained"] is not searches["dnis"]  # of different cells
    assert searches["dnis_retrained"].id == searches["dnis"].id
    assert searches["network_pruning"].id == searches["iterative_pruning"].id == searches["random_mask"].id
    assert searches["dnis"].id != searches["dnis_released"].id
    prunes = {(cell.method, cell.compression_rate): cell.prune for cell in study.cells if cell.seed == 1}
    assert prunes["dnis_retrained", 2].id != prunes["dnis", 2].id
    assert prunes["dnis_retrained", 2].settings.training == searches["dnis"].settings.training
    assert prunes["dnis", 2].settings.training is None
    assert len({cell.prune.id for cell in study.cells}) == len(study.cells)


def test_what_a_settings_class_adds_to_params_is_in_the_id(small, monkeypatch):
    """Embeddings per feature and the names of metrics are code in params/, which is no part of any core."""

    def ids():
        return {step.title(): step.id for step in plan_study("demo", small).steps.values()}

    before = ids()
    with monkeypatch.context() as patch:
        patch.setattr(NeuMF, "embedding_multiples", property(lambda _: (1, 2)))
        assert dict(ids().items() - before.items()).keys() == {title for title in before if " neumf-" in title}
    monkeypatch.setattr(Rating, "metrics", (Metric("mae", "MAE", "lower"),))
    assert dict(ids().items() - before.items()).keys() == {title for title in before if " mf-" in title}


def test_what_a_step_s_files_are_called_is_in_the_id(small, monkeypatch):
    dataset = small.params.datasets["planted_ratings"]
    task = small.params.task_of("planted_ratings")
    before = block_step(dataset, task)
    swapped = {"train": "test.parquet", "validation": "validation.parquet", "test": "train.parquet"}
    monkeypatch.setitem(steps.FILES, "split", swapped)
    after = block_step(dataset, task)
    assert before.needs["prepare"].id == after.needs["prepare"].id
    assert before.needs["split"].id != after.needs["split"].id
    assert before.id != after.id


def test_a_data_set_twice_with_other_blocks(planned):
    whole = planned("datasets: {again: {extends: movielens_1m, title: Again, blocks: {count: 7}}}")
    blocks = {step.settings.count for step in whole.of_dataset("ml-1m", "block")}
    assert blocks == {7, 10, 20}
    assert len(whole.of_dataset("ml-1m", "download")) == len(whole.of_dataset("ml-1m", "prepare")) == 1


def test_titles_and_reference_change_the_report_only(small, planned):
    before = plan(SMALL, small).study("demo")
    for text in (
        "methods: {dnis: {title: Other}}",
        "reference: {datasets: {criteo: {instances: 1, fields: 1, features: 1}}}",
    ):
        after = planned(text).study("demo")
        assert before.id != after.id
        assert before.steps.keys() == after.steps.keys()


def test_a_grid_cannot_sweep_what_its_runs_do_not_depend_on(planned):
    text = "studies: {demo: {grids: {topk: {sweep: {methods.dnis.learning_rate: [0.01, 0.02]}}}, tables: [table2]}}"
    with pytest.raises(
        NisbenchError, match=r"topk.sweep: methods.dnis.learning_rate changes nothing for neumf_topk on"
    ):
        planned(text)


def test_an_id_s_beginning_is_enough_and_a_strange_one_is_explained(small):
    whole = plan(SMALL, small)
    step = whole.studies["demo"].cells[0].prune
    assert whole.step(step.id[:8], "prune") is step
    with pytest.raises(NisbenchError, match="nisbench plan"):
        whole.step("ffffffffffff")
    with pytest.raises(NisbenchError, match="several ids"):
        whole.step("")
    with pytest.raises(NisbenchError, match=f"{step.id} is the id of a prune step. Run: nisbench prune {step.id}"):
        whole.step(step.id, "search")
    with pytest.raises(NisbenchError, match="neither a study nor the beginning"):
        whole.step("dem")


def test_a_study_planned_alone_is_as_among_all(small):
    whole = plan(SMALL, small)
    for name, study in whole.studies.items():
        alone = plan(SMALL, only=name)
        assert list(alone.studies) == [name]
        assert alone.studies[name].id == study.id
        assert list(alone.studies[name].steps) == list(study.steps)
    search = whole.studies["demo"].cells[0].search
    with pytest.raises(
        NisbenchError, match=r"The study recovery asks for no search with the id .* must be started again"
    ):
        plan(SMALL, only="recovery").step(search.id, "search")
    with pytest.raises(NisbenchError, match="There is no study 'dema' in params/studies; did you mean 'demo'"):
        plan(SMALL, only="dema")


def test_two_steps_of_one_id_are_refused(small, monkeypatch):
    monkeypatch.setattr(steps, "ID_LENGTH", 1)
    with pytest.raises(NisbenchError, match="share the id"):
        plan(SMALL, small)


def test_folders_hold_the_id_and_no_two_steps_share_one(small):
    planned_steps = plan(SMALL, small).steps
    for step in planned_steps.values():
        assert step.folder.name.endswith(step.id)
    assert len({step.folder for step in planned_steps.values()}) == len(planned_steps)


def test_the_project_s_own_studies_are_planned(config):
    whole = plan(ROOT, config)
    assert {"paper", "demo", "movielens_1m", "criteo"} <= whole.studies.keys()
    paper = [cell for cell in whole.study("paper").cells if cell.model == "neumf_topk"]
    assert {cell.settings.training.base_dimension for cell in paper} == {16, 32}
    assert len({cell.prune.id for cell in paper}) == len(paper) == 2 * 6


# --- code -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package in which each core's source is recorded, so that ids hold its version only."""
    with pytest.MonkeyPatch.context() as patch:
        yield PackageCopy(tmp_path_factory.mktemp("code"), patch)
    forget()


def all_steps(config):
    """What `plan` would find, without its checks."""
    blocks = [block_step(dataset, config.params.task_of(name)) for name, dataset in config.params.datasets.items()]
    steps_of_blocks = [step for block in blocks for step in block.upstream()]
    return steps_of_blocks + [step for name in config.by_study for step in plan_study(name, config).steps.values()]


@pytest.fixture
def planned_steps(package, small):  # noqa: ARG001 - the ids are the copy's
    return lambda: all_steps(small)


@pytest.fixture(scope="module")
def before(package, small):  # noqa: ARG001 - the ids are the copy's
    """The steps as the code is."""
    return all_steps(small)


def changed_steps(before, after):
    return {step for step, other in zip(before, after, strict=True) if step.id != other.id}


def depending(every, directly):
    """The steps for which that holds, and all that need one of them."""
    return {step for step in every if any(map(directly, step.upstream()))}


OF_KINDS = {
    kind_file(kind).relative_to(identity.PACKAGE).as_posix(): kind
    for section in OWN
    for kind in kinds(section).values()
}
OF_CORE = {
    file: {step for step in CORE if file in {name for name, _ in identity._files(CORE[step])}}
    for step in CORE
    for file, _ in identity._files(CORE[step])
}
WITHOUT_FUNCTIONS = {f"{package}/__init__.py" for package in ("embedding", "models", "search", "tasks", "training")}
FILES = sorted({*OF_KINDS, *OF_CORE} - WITHOUT_FUNCTIONS)
ELSEWHERE = [
    "api.py", "cli.py", "errors.py", "execution.py", "files.py", "records.py", "run_files.py", "steps.py", "studies.py",
    "data/download.py", "params/checks.py", "params/methods.py", "params/tree.py", "cost/estimate.py", "commands/plan.py",
]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_other_words_are_the_same_code(package, planned_steps, before, file):
    """Comments, docstrings, annotations, and what errors and log lines say."""
    text = package.text(file)
    other = "# A comment.\n" + reworded(text)
    assert other != text
    with package.edited({file: other}):
        assert not changed_steps(before, planned_steps())


@pytest.mark.parametrize("file", FILES)
def test_other_arithmetic_changes_what_depends_on_it_and_nothing_else(package, planned_steps, before, file):
    kind, core = OF_KINDS.get(file), OF_CORE.get(file, set())
    expected = depending(before, lambda step: kind in step.kinds or step.name in core)
    with package.edited({file: recomputed(package.text(file))}):
        after = planned_steps()
        assert changed_steps(before, after) == expected
        assert {step for step in CORE if is_development(step)} == core
    assert expected or kind  # the small parameters use every part of the core
    assert not changed_steps(before, planned_steps())


@pytest.mark.parametrize("file", [file for file in ELSEWHERE if (identity.PACKAGE / file).exists()])
def test_code_that_makes_no_numbers_changes_no_id(package, planned_steps, before, file):
    with package.edited({file: recomputed(package.text(file))}):
        assert not changed_steps(before, planned_steps())


@pytest.mark.parametrize(
    ("file", "old", "new", "labels"),
    [
        ("search/mde.py", "np.floor(", "np.ceil(", {"mf-mde", "mlp-mde"}),
        (
            "search/dnis.py",
            "clamp_(0, 1)",
            "clamp_(0, 2)",
            {"mf-dnis", "mlp-dnis", "deepfm-dnis", "neumf-dnis", "fm-dnis"},
        ),
        ("search/nis.py", "argmax(1)", "argmin(1)", {"neumf-nis_se", "neumf-nis_me", "mf-nis_se"}),
        ("models/deepfm.py", "self.deep(", "2 * self.deep(", {"deepfm-grid", "deepfm-dnis"}),
        ("tasks/ctr.py", "2 * pairs", "3 * pairs", {"deepfm-grid", "deepfm-dnis", "fm-grid", "fm-dnis"}),
        ("data/planted_ctr.py", "WAVE_FREQUENCY = 2.0", "WAVE_FREQUENCY = 2.1", {"deepfm-grid", "deepfm-dnis"}),
    ],
)
def test_a_number_changed_by_hand_changes_the_searches_that_use_it(
    package, planned_steps, before, file, old, new, labels
):
    with package.edited(package.replaced(file, old, new)):
        found = {step.label for step in changed_steps(before, planned_steps()) if step.name == "search"}
    assert {label.split("-seed")[0] for label in found} == labels


def test_the_report_s_code_changes_the_report_only(package, planned_steps, before, small):
    report = plan_study("demo", small).id
    with package.edited({"report/formatting.py": recomputed(package.text("report/formatting.py"))}):
        assert plan_study("demo", small).id != report
        assert not changed_steps(before, planned_steps())
    assert plan_study("demo", small).id == report


def test_a_changed_core_gives_development_ids_until_it_is_recorded(package, planned_steps, before):
    trained = depending(before, lambda step: step.name in {"search", "prune"})
    with package.edited(package.replaced("training/adam.py", "0.9, 0.999, 1e-8", "0.91, 0.999, 1e-8")):
        unrecorded = planned_steps()
        assert changed_steps(before, unrecorded) == trained
        assert {step for step in CORE if is_development(step)} == {"search", "prune"}
        raised = package.recorded(search=99, prune=99)
        with package.edited(package.recorded()):  # the golden values were the same: a refactoring
            assert not changed_steps(before, planned_steps())
        with package.edited(raised):  # they were not
            assert not any(map(is_development, CORE))
            recorded = planned_steps()
            assert changed_steps(before, recorded) == trained
            assert len(changed_steps(unrecorded, recorded)) == len(trained)
    assert not changed_steps(before, planned_steps())  # the source as it was


def test_a_raised_version_alone_gives_other_ids(package, planned_steps, before):
    with package.edited(package.recorded(split=2)):
        assert changed_steps(before, planned_steps()) == depending(before, lambda step: step.name == "split")


def test_which_file_a_step_is_handed_is_part_of_its_core_alone(package, planned_steps, before):
    swapped = package.replaced("wiring.py", 'for name in ("train", "validation")}', 'for name in ("train", "test")}')
    with package.edited(swapped):
        after = planned_steps()
        assert {step for step in CORE if is_development(step)} == {"search"}
    assert changed_steps(before, after) == depending(before, lambda step: step.name == "search")


def test_code_that_moves_within_the_core_changes_nothing(package, planned_steps, before):
    text = package.text("training/order.py")
    tree = ast.parse(text)
    (moved,) = (node for node in tree.body if getattr(node, "name", "") == "drawn")
    segment = ast.get_source_segment(text, moved)
    orders = f'"""Orders."""\n\nimport torch\nfrom torch import Tensor\nfrom nisbench.seeds import Stream, derived\n\n\n{segment}\n'
    rest = "from nisbench.training.orders import drawn\n" + text.replace(segment, "")
    with package.edited({"training/order.py": rest, "training/orders.py": orders}):
        assert not changed_steps(before, planned_steps())
    with package.edited({"training/order.py": rest, "training/orders.py": orders.replace("randperm", "arange")}):
        assert {step.name for step in changed_steps(before, planned_steps())} == {"search", "prune"}


def test_a_new_file_in_the_core_s_folders_belongs_to_it(package, planned_steps, before):
    with package.edited({"training/more.py": "FACTOR = 2\n"}):
        assert {step.name for step in changed_steps(before, planned_steps())} == {"search", "prune"}


def test_every_pattern_of_the_core_names_something():
    for step, patterns in CORE.items():
        for pattern in patterns:
            file, _, function = pattern.removeprefix("!").partition(":")
            found = list(identity.PACKAGE.glob(file))
            assert found, f"{step}: {pattern}"
            assert not function or f"\ndef {function}(" in found[0].read_text(), f"{step}: {pattern}"


def own_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nisbench."):
            yield from ((node.module, alias.name) for alias in node.names)


def test_a_name_is_imported_from_one_place_only():
    """Hashes leave out where our own names are imported from, so that code may move: no name may stand for two things."""
    trees = {file: ast.parse((identity.PACKAGE / file).read_text()) for file in {*OF_KINDS, *OF_CORE}}
    places = {}
    for tree in trees.values():
        for module, name in own_imports(tree):
            places.setdefault(name, set()).add(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    for name in places:
        defining = [file for file, tree in trees.items() if name in {getattr(node, "name", None) for node in tree.body}]
        assert len(defining) <= 1, f"{name} is defined in {defining}"


def test_no_kind_uses_another_s_file():
    """An edit of that file would change the results of both, and the ids of one."""
    modules = {f"nisbench.{file.removesuffix('.py').replace('/', '.')}": file for file in OF_KINDS}
    for file in OF_KINDS:
        tree = ast.parse((identity.PACKAGE / file).read_text())
        imported = {name for module, alias in own_imports(tree) for name in (module, f"{module}.{alias}")}
        assert not imported & modules.keys(), file


# --- normalised source ----------------------------------------------------------------------------------------


def same(one, other):
    return repr(normalised(ast.parse(one))) == repr(normalised(ast.parse(other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1  # a comment"),
        ("x = 1", "x: int = 1"),
        ("def f(x): return x", 'def f(x: int) -> str:\n    """Doc."""\n    return x'),
        ("raise ValueError('a')", "raise ValueError(f'b {c}') from error"),
        ("raise ValueError", "raise ValueError('b')"),
        ("log.info('a %s', x)", "log.debug('b')"),
        ("self.log.warning('a')", "log.warning('b', stacklevel=2)"),
        ("heartbeat.log('a')", "heartbeat.log('b')"),
        ("return_ = NisbenchError('a')", "return_ = NisbenchError('b')"),
        ("from nisbench.a import f", "from nisbench.b import f"),
        ("class A(B):\n  x = 1\n  colour = 3", "class A(B):\n  x = 1\n  colour: ClassVar[str] = 'red'"),
        ("x = 1\nEXAMPLE = {'a': 1}", "x = 1"),
        ("x = (1)", "x = 1"),
        ("x = 'a' 'b'", "x = 'ab'"),
        ("f(1,\n  2)", "f(1, 2)"),
    ],
)  # fmt: skip
def test_the_same_code(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 0", "x = None"),
        ("x = 0.0", "x = -0.0"),
        ("x = 1.5", "x = '1.5'"),
        ("x = ...", "x = 'Ellipsis'"),
        ("x = b'a'", "x = 'a'"),
        ("x = a < b", "x = a <= b"),
        ("x = a + b", "x = a - b"),
        ("x = [1]", "x = (1,)"),
        ("x = []", "x = None"),
        ("f()", "f(None)"),
        ("return_ = f(a=1)", "return_ = f(b=1)"),
        ("raise ValueError('a')", "raise TypeError('a')"),
        ("raise", "raise ValueError"),
        ("x = torch.log(a)", "x = torch.log(b)"),
        ("x = a.log()", "x = a.log(2)"),
        ("x = math.log(2)", "x = math.log(3)"),
        ("f('words')", "f('other words')"),
        ("from nisbench.a import f", "from nisbench.a import g"),
        ("from nisbench.a import f", "from nisbench.a import f as g"),
        ("from numpy import floor", "from math import floor"),
        ("@cache\ndef f(): pass", "def f(): pass"),
        ("def f(x=1): pass", "def f(x=2): pass"),
        ("def f(*, x): pass", "def f(x): pass"),
        ("x = f'{a!r}'", "x = f'{a}'"),
        ("x = f'{a:.4f}'", "x = f'{a:.5f}'"),
        ("for i in x: pass", "for i in x: break"),
        ("class A(B): pass", "class A(C): pass"),
        ("x = {**a}", "x = {a: a}"),
        ("x = a[1:]", "x = a[:1]"),
        ("async def f(): pass", "def f(): pass"),
        ("def f():\n  measured = g(1)\n  return measured", "def f():\n  measured = g(2)\n  return measured"),
        ("class A:\n  def f(self):\n    self.colour = 1", "class A:\n  def f(self):\n    self.colour = 2"),
        ("for colour in a: pass", "for colour in b: pass"),
    ],
)  # fmt: skip
def test_other_code(one, other):
    assert not same(one, other)


SOURCE = """
class A:
    def f(self, x: int = 1, *, y=None) -> str:
        return f"{x!r} {x:>{3}}"
"""


def test_code_is_the_same_in_every_python():
    """Fields that only some Python versions have, and that say nothing when they are empty, do not enter."""
    tree = ast.parse(SOURCE)
    expected = normalised(tree)
    for node in ast.walk(tree):
        for name in ("type_params", "kind", "type_comment"):
            if not getattr(node, name, None):
                node._fields = tuple(field for field in node._fields if field != name)
    assert normalised(tree) == expected
    for node in ast.walk(tree):
        node._fields = (*node._fields, "new_in_python_4")
        node.new_in_python_4 = []
    assert normalised(tree) == expected
    assert (
        hashlib.sha256(repr(expected).encode()).hexdigest()[:12] == "06e137c97021"
    )  # what any Python version must come to


def test_the_precision_enters_ids_where_it_is_not_float32(small, planned, changed):
    before = plan(SMALL, small).study("movielens_1m").steps
    assert planned("training: {precision: float32}").study("movielens_1m").steps.keys() == before.keys()
    cell = next(cell for cell in plan(SMALL, small).study("movielens_1m").cells)
    assert "precision" not in hashed_form(cell.search)["training"]
    assert "precision" not in hashed_form(cell.prune)
    assert len(changed("training: {precision: tf32}")) == sum(
        step.name in ("search", "prune") for step in before.values()
    )
