"""Run ids: they change with what a result depends on, and with nothing else."""

import shutil
from pathlib import Path

import pytest

import nisbench
from nisbench import code_version, runs
from nisbench.errors import NisbenchError
from nisbench.params.loading import load
from nisbench.studies import plan
from tests.conftest import ROOT


@pytest.fixture
def changed(tmp_path):
    """Titles of the steps that a study asks for, and did not before, once this YAML text is merged over the parameters."""

    def compare(text, study="movielens_1m"):
        path = tmp_path / "over.yaml"
        path.write_text(text)
        before = plan(ROOT, load(ROOT, [])).study(study).steps
        after = plan(ROOT, load(ROOT, [path])).study(study).steps
        return sorted(after[step].title() for step in after.keys() - before.keys())

    return compare


def test_a_method_s_parameter_changes_its_search_and_prunings_only(changed):
    models = ("mf", "mlp", "neumf")
    seeds, rates = (1, 2, 3), ("1", "1.25", "2", "2.5", "5", "10")
    expected = {f"search movielens_1m {model}-dnis-seed{seed}" for model in models for seed in seeds}
    expected |= {f"prune movielens_1m {m}-dnis-seed{s}-cr{rate}" for m in models for s in seeds for rate in rates}
    expected |= {f"search movielens_1m_topk neumf_topk-dnis-seed{seed}" for seed in seeds}
    expected |= {f"prune movielens_1m_topk neumf_topk-dnis-seed{s}-cr{rate}" for s in seeds for rate in ("1", "2", "4")}
    assert set(changed("methods: {dnis: {learning_rate: 0.02}}")) == expected


def test_a_method_s_parameter_changes_those_that_are_like_it(changed):
    titles = changed("methods: {dnis: {learning_rate: 0.02}}", study="recovery")
    assert {title.split("mf-")[1].split("-seed")[0] for title in titles} == {
        "dnis", "dnis_second_order", "dnis_released", "dnis_retrained", "shuffled_blocks",
    }  # fmt: skip


def test_a_model_s_parameter_changes_that_model_only(changed):
    titles = changed("models: {mlp: {hidden: [8]}}", study="paper")
    assert titles
    assert all(" mlp-" in title for title in titles)


def test_a_compression_rate_more_is_one_pruning_more(changed):
    more = changed("studies: {movielens_1m: {grids: {rating: {methods: {mde: [1, 4]}}}}}")
    assert more == [
        f"prune movielens_1m {model}-mde-seed{s}-cr4" for model in ("mf", "mlp", "neumf") for s in (1, 2, 3)
    ]


def test_a_seed_more_is_its_searches_and_prunings_only(changed):
    more = changed("studies: {movielens_1m: {seeds: [1, 2, 3, 4]}}")
    assert more
    assert all("-seed4" in title for title in more)


def test_a_value_more_that_a_grid_varies_is_its_searches_and_prunings_only(changed):
    text = "studies: {movielens_1m: {grids: {base_dimension: {vary: {training.base_dimension: [8, 64, 99]}}}}}"
    seeds = (1, 2, 3)
    expected = {f"prune movielens_1m mf-{method}-seed{seed}-cr1" for method in ("dnis", "full_table") for seed in seeds}
    expected |= {
        f"search movielens_1m mf-{method}-seed{seed}" for method in ("dnis", "network_pruning") for seed in seeds
    }
    assert set(changed(text)) == expected


def test_the_split_s_seed_changes_all_but_download_and_preparation(changed):
    titles = changed("datasets: {movielens_1m: {split: {seed: 2}}}")
    assert {title.split()[0] for title in titles} == {"split", "block", "search", "prune"}
    assert {title.split("-")[1] for title in titles if title.startswith("search")} == {
        "grid_search", "uniform_tuned", "random_search", "mde", "dnis", "network_pruning",
    }  # fmt: skip
    assert not [title for title in titles if "topk" in title]


def test_a_task_s_parameter_changes_its_searches_only(changed):
    titles = changed("tasks: {topk: {negatives: 5}}")
    assert {title.split()[0] for title in titles} == {"search", "prune"}
    assert all("movielens_1m_topk" in title for title in titles)


def test_a_grid_s_overrides_hold_for_that_grid_alone(changed):
    titles = changed("studies: {movielens_1m: {grids: {topk: {overrides: {training: {batch_size: 99}}}}}}")
    assert titles
    assert all("neumf_topk" in title for title in titles)


def test_a_cell_in_two_grids_that_differ_is_two_cells(config):
    cells = [cell for cell in plan(ROOT, config).study("paper").cells if cell.model == "neumf_topk"]
    assert {(cell.grid, cell.settings.training.base_dimension) for cell in cells} == {("topk_16", 16), ("topk_32", 32)}
    assert len({cell.prune.id for cell in cells}) == len(cells) == 2 * 6


def test_blocks_change_nothing_before_them(changed):
    names = {title.split()[0] for title in changed("datasets: {movielens_1m: {blocks: {count: 6}}}")}
    assert names == {"block", "search", "prune"}


@pytest.mark.parametrize(
    "text",
    [
        "methods: {dnis: {title: Other}}",
        "training: {device: cpu, checkpoint_seconds: 1}",
        "datasets: {movielens_1m: {url: mirror/ml-1m.zip}}",  # the same MD5 sum, so the same file
        "studies: {movielens_1m: {tables: [table2]}}",
        "training: {learning_rate: 1.0e-3}",
    ],
)
def test_what_cannot_change_a_result_changes_no_run(changed, text):
    assert changed(text) == []


def test_without_an_md5_the_address_names_the_archive(tmp_path):
    path = tmp_path / "over.yaml"
    path.write_text("datasets: {movielens_latest_small: {url: other.zip}}")
    ids = [
        [step.id for step in plan(ROOT, load(ROOT, over)).of_dataset("movielens_latest_small", "download")]
        for over in ([], [path])
    ]
    assert ids[0] != ids[1]


def test_a_local_file_without_an_md5_is_what_is_in_it(tmp_path):
    found = []
    for folder, content in [("a", "x"), ("b", "x"), ("b", "y")]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "ml.zip").write_text(content)
        (tmp_path / folder / "over.yaml").write_text("datasets: {movielens_latest_small: {url: ml.zip}}")
        whole = plan(ROOT, load(ROOT, [tmp_path / folder / "over.yaml"]))
        found.append(whole.of_dataset("movielens_latest_small", "download")[0].id)
    assert found[0] == found[1] != found[2]


def test_methods_that_differ_in_name_or_pruning_share_their_search(config):
    study = plan(ROOT, config).study("recovery")
    searches = {cell.method: cell.search for cell in study.cells if cell.seed == 1 and not cell.grid}
    assert searches["dnis_retrained"] is not searches["dnis"]  # of different cells
    assert searches["dnis_retrained"].id == searches["dnis"].id
    assert searches["network_pruning"].id == searches["iterative_pruning"].id == searches["random_mask"].id
    assert searches["dnis"].id != searches["shuffled_blocks"].id
    prunes = {(cell.method, cell.compression_rate): cell.prune for cell in study.cells if cell.seed == 1}
    assert prunes["dnis_retrained", 2].id != prunes["dnis", 2].id
    assert prunes["dnis_retrained", 2].settings.training == searches["dnis"].settings.training
    assert prunes["dnis", 2].settings.training is None
    assert len({cell.prune.id for cell in study.cells}) == len(study.cells)


def test_a_data_set_twice_with_other_blocks(tmp_path):
    path = tmp_path / "over.yaml"
    text = (ROOT / "params" / "datasets.yaml").read_text()
    entry = text[text.index("  movielens_1m:") : text.index("  movielens_20m:")]
    changed = (
        entry[: entry.index("  movielens_1m_topk:")]
        .replace("movielens_1m:", "movielens_1m_l20:")
        .replace("count: 10", "count: 20")
    )
    path.write_text(f"datasets:\n{changed}")
    assert plan(ROOT, load(ROOT, [path])).of_dataset("movielens_1m_l20", "block")


def test_titles_and_reference_change_the_tables_only(tmp_path):
    path = tmp_path / "over.yaml"
    path.write_text("methods: {dnis: {title: Other}}")
    before, after = (plan(ROOT, load(ROOT, over)).study("demo") for over in ([], [path]))
    assert before.id != after.id
    assert before.steps.keys() == after.steps.keys()


def test_a_grid_cannot_vary_what_its_runs_do_not_depend_on(tmp_path):
    path = tmp_path / "over.yaml"
    path.write_text(
        "studies: {demo: {grids: {topk: {vary: {methods.dnis.learning_rate: [0.01, 0.02]}}}, tables: [table2]}}"
    )
    with pytest.raises(NisbenchError, match=r"topk.vary: methods.dnis.learning_rate changes nothing for neumf_topk on"):
        plan(ROOT, load(ROOT, [path]))


def test_an_id_s_beginning_is_enough_and_a_strange_one_is_explained(config):
    whole = plan(ROOT, config)
    step = whole.studies["demo"].cells[0].prune
    assert whole.step(step.id[:8], "prune") is step
    with pytest.raises(NisbenchError, match="nisbench plan"):
        whole.step("ffffffffffff")
    with pytest.raises(NisbenchError, match="several ids"):
        whole.step("")


def test_two_runs_of_one_id_are_refused(config, monkeypatch):
    monkeypatch.setattr(runs, "ID_LENGTH", 1)
    with pytest.raises(NisbenchError, match="share the id"):
        plan(ROOT, config)


def test_paths_hold_the_id(config):
    for step in plan(ROOT, config).steps.values():
        assert step.folder.name.endswith(step.id)


# --- code versions --------------------------------------------------------------------------------------------

ALL_METHODS = {
    "grid_search", "uniform_tuned", "random_search", "mde", "nis_se", "nis_me", "dnis", "network_pruning",
}  # fmt: skip


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Ids and titles of the demo's steps after `old` became `new` in a copy of one source file."""

    def ids(file=None, old="", new=""):
        folder = tmp_path / f"{file}-{len(new)}".replace("/", "-")
        shutil.copytree(Path(nisbench.__file__).parent, folder)
        if file:
            source = (folder / file).read_text()
            assert old in source
            (folder / file).write_text(source.replace(old, new, 1))
        with monkeypatch.context() as patch:
            patch.setattr(nisbench, "__file__", str(folder / "__init__.py"))
            code_version.code_version.cache_clear()
            code_version._module_tree.cache_clear()
            return {step.id: step.title() for step in plan(ROOT, load(ROOT, [])).study("demo").steps.values()}

    yield ids
    code_version.code_version.cache_clear()
    code_version._module_tree.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("search/mde.py", "import numpy as np", "import numpy as np  # a comment", set()),
        ("search/mde.py", '"""', '"""Another docstring. ', set()),
        ("search/mde.py", "np.floor(", "np.ceil(", {"mde"}),
        ("search/dnis.py", "clamp_(0, 1)", "clamp_(0, 2)", {"dnis"}),
        ("search/nis.py", "argmax(", "argmin(", {"nis_se", "nis_me"}),
        ("training/trainer.py", "loss < progress", "loss <= progress", ALL_METHODS),
        ("models/deepfm.py", "self.deep(", "2 * self.deep(", {"dnis", "mde", "grid_search", "random_search"}),
        ("evaluation/ctr.py", "2 * pairs", "3 * pairs", {"dnis", "mde", "grid_search", "random_search"}),
        ("console.py", "%(message)s", "> %(message)s", set()),
        ("report/layout.py", ".4f", ".5f", set()),
    ],
)
def test_changed_code_changes_the_runs_that_use_it(edited, file, old, new, expected):
    before, after = edited(), edited(file, old, new)
    changed = [after[step].split() for step in after.keys() - before.keys()]
    assert {label[0].split("-")[1] for step, _, *label in changed if step == "search"} == expected
    assert {step for step, *_ in changed} <= {"search", "prune"}


def test_a_number_and_its_text_are_different_code(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(nisbench, "__file__", str(tmp_path / "__init__.py"))
    for text in ("x = 1.5", "x = '1.5'", "x = ...", "x = 'Ellipsis'"):
        (tmp_path / "some.py").write_text(text)
        code_version.code_version.cache_clear()
        code_version._module_tree.cache_clear()
        found.append(code_version.code_version(("nisbench.some",)))
    assert len(set(found)) == 4
    code_version.code_version.cache_clear()
    code_version._module_tree.cache_clear()


def test_a_code_version_is_the_same_in_every_python(monkeypatch, tmp_path):
    """Fields that only some Python versions have, and that say nothing when empty, do not enter."""
    source = 'def f(x: int) -> str:\n    """Doc."""\n    return f"{x!r} {x:>{3}}"\n'
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "some.py").write_text(source)
    monkeypatch.setattr(nisbench, "__file__", str(tmp_path / "__init__.py"))
    code_version.code_version.cache_clear()
    code_version._module_tree.cache_clear()
    assert code_version.code_version(("nisbench.some",)).startswith("4d8c64e36ae2")
    code_version.code_version.cache_clear()
    code_version._module_tree.cache_clear()
