"""Parameters: what is valid loads, what is not says where and what would be right."""

import json
import time

import pytest

from nisbench.errors import NisbenchError
from nisbench.params.loading import OVERLAYS_VARIABLE, load
from nisbench.params.tree import read_yaml
from nisbench.studies import plan
from tests.conftest import ROOT


@pytest.fixture
def overlay(tmp_path):
    """Load the project's parameters with this YAML text merged over them."""

    def load_with(text, name="over.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return load(ROOT, overlays=[path])

    return load_with


def test_the_project_s_own_parameters_are_the_paper_s(config):
    training = config.by_study["paper"].training
    assert (training.base_dimension, training.batch_size, training.learning_rate) == (64, 4096, 1e-3)
    methods = config.by_study["paper"].methods
    assert methods["grid_search"].dimensions == list(range(4, 65, 4))
    assert methods["random_search"].trials == len(methods["mde"].settings) == 16
    assert methods["dnis"].learning_rate == 1e-2
    assert config.by_study["paper"].datasets["movielens_20m"].blocks.count == 10
    assert config.by_study["paper"].datasets["movielens_20m"].split.proportions == [8, 1, 1]


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("training: {batch_sise: 5}", "over.yaml:1: training.batch_sise", "did you mean 'batch_size'"),
        ("trainin: {batch_size: 5}", "over.yaml:1: trainin", "did you mean 'training'"),
        ("methods:\n  dnis:\n    learning_rat: 1.0", "over.yaml:3: methods.dnis.learning_rat", "'learning_rate'"),
        ("training: {batch_size: 4096.5}", "over.yaml:1: training.batch_size", "valid integer, not 4096.5"),
        ("training: {batch_size: '4096'}", "over.yaml:1: training.batch_size", "valid integer, not '4096'"),
        ("training: {batch_size: true}", "over.yaml:1: training.batch_size", "valid integer"),
        ("training: {learning_rate: -1}", "over.yaml:1: training.learning_rate", "greater than 0, not -1"),
        ("training: {learning_rate: .inf}", "over.yaml:1: training.learning_rate", "finite"),
        ("training: {device: gpu}", "over.yaml:1: training.device", "pattern"),
        ("methods: {dnis: {kind: dins}}", "over.yaml:1: methods.dnis.kind", "did you mean 'dnis'"),
        ("datasets: {x: {title: X}}", "over.yaml:1: datasets.x.format", "missing"),
        ("models: {Bad-Name: {kind: mf, title: X, global_mean: true, biases: true, reduction: sum}}", "over.yaml:1: models.Bad-Name", "pattern"),
        ("studies: {demo: {grids: {rating: {models: [mff]}}}}", "over.yaml:1: studies.demo.grids.rating.models.0", "unknown model 'mff'; did you mean 'mf'"),
        ("studies: {demo: {grids: {rating: {methods: {dnsi: [1]}}}}}", "over.yaml:1: studies.demo.grids.rating.methods.dnsi", "did you mean 'dnis'"),
        ("studies: {demo: {grids: {rating: {datasets: [movielens_2m]}}}}", "over.yaml:1: studies.demo.grids.rating.datasets.0", "did you mean 'movielens_"),
        ("studies: {demo: {grids: {rating: {datasets: [planted_ratings, criteo]}}}}", "over.yaml:1: studies.demo.grids.rating.datasets.1", "criteo is for the task ctr"),
        ("studies: {demo: {tables: [table9]}}", "over.yaml:1: studies.demo.tables.0", "not 'table9'"),
        ("studies: {demo: {seeds: [1, 1]}}", "over.yaml:1: studies.demo.seeds", "1 is listed twice"),
        ("studies: {demo: {grids: {rating: {methods: {dnis: [0.5]}}}}}", "over.yaml:1: studies.demo.grids.rating.methods.dnis.0", "greater than or equal to 1"),
        ("studies: {demo: {override: {}}}", "over.yaml:1: studies.demo.override", "did you mean 'overrides'"),
        ("studies: {demo: {overrides: {training: {x: 1}}}}", "over.yaml:1: training.x", "unknown key"),
        ("studies: {demo: {overrides: {studies: {}}}}", "over.yaml:1: studies.demo.overrides.studies", "cannot be"),
        ("training: {base_dimension: 8}", "params/methods.yaml", "64 exceeds training.base_dimension = 8 in studies.controls.grids.plain"),
        ("studies: {demo: {grids: {ctr: {models: [mf]}}}}", "params/studies/demo.yaml:", "planted_ctr is for the task ctr"),
        ("methods: {grid_search: {dimensions: [4, 8, 4]}}", "methods.grid_search.dimensions", "4 is listed twice"),
        ("studies: {demo: {overrides: {methods: {mde: {settings: [{base_dimension: 17, temperature: 0}]}}}}}", "over.yaml:1: methods.mde.settings", "17 exceeds training.base_dimension = 16"),
        ("studies: {movielens_1m: {tables: [table3]}}", "over.yaml:1: studies.movielens_1m.tables.0", "for the task ctr, which"),
        ("training: {device: !!bool foo}", "over.yaml:1", "not a valid value"),
        ('training: {device: "a\\ud800"}', "over.yaml:1", "not a valid value"),
        (f"training: {{max_epochs: -0x{'f' * 5000}}}", "over.yaml:1", "a huge number"),
        ("datasets: {movielens_1m: {url: '~nobody-by-this-name/x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "home"),
        ('datasets: {movielens_1m: {url: "a\\0b"}}', "over.yaml:1: datasets.movielens_1m.url", "https address"),
        ("datasets: {movielens_1m: {split: {proportions: [8000000, 1, 1]}}}", "over.yaml:1", "less than or equal to 1000000"),
        ("models: {mlp: {hidden: [2x]}}", "over.yaml:1: models.mlp.hidden.0", "multiple of the dimension such as 2d, not '2x'"),
        ("reference: {results: {movielens_20m: {64: {gru: {}}}}}", "over.yaml:1: reference.results.movielens_20m.64.gru", "'gru'"),
        ("datasets: {movielens_1m_topk: {like: movielens}}", "over.yaml:1: datasets.movielens_1m_topk.like", "must name another entry"),
        ("datasets: {movielens_1m: {like: movielens_1m_topk}}", "datasets.movielens_1m", "is in turn like this one"),
        ("datasets: {movielens_1m: {task: topkk}}", "over.yaml:1: datasets.movielens_1m.task", "did you mean 'topk'"),
        ("datasets: {movielens_1m: {split: {sed: 1}}}", "over.yaml:1: datasets.movielens_1m.split.sed", "did you mean 'seed'"),
        ("datasets: {movielens_1m: {split: {seed: -1}}}", "over.yaml:1: datasets.movielens_1m.split.seed", "greater than or equal to 0"),
        ("studies: {demo: {grids: {topk: {overrides: {datasets: {planted_topk: {task: nope}}}}}}}", "over.yaml:1: datasets.planted_topk.task", "unknown task 'nope'"),
        ("studies: {recovery: {overrides: {methods: {dnis_released: {warm_start_epochs: 0}}}}}", "methods.dnis_released.freeze_network", "was not trained"),
        ("studies: {recovery: {overrides: {methods: {uniform_tuned: {rounds: 1}}}}}", "methods.uniform_tuned.rounds", "must be 0"),
        ("studies: {recovery: {overrides: {methods: {mde_projected: {power_of_two: true, settings: [{base_dimension: 12, temperature: 0.1, budget: null}]}}}}}", "methods.mde_projected.settings.0.base_dimension", "must be a power of two"),
        ("studies: {recovery: {overrides: {methods: {mde_projected: {settings: [{base_dimension: 8, temperature: 0.1, budget: 9.0}]}}}}}", "methods.mde_projected.settings.0.budget", "exceeds the base dimension, 8"),
        ("studies: {recovery: {grids: {rating: {methods: {bias_only: [2]}}}}}", "methods.bias_only", "there are no embeddings to prune"),
        ("studies: {recovery: {grids: {rating: {methods: {random_mask: [1, 2]}}}}}", "over.yaml:1: studies.recovery.grids.rating.methods.random_mask.0", "1 prunes nothing"),
        ("studies: {recovery: {overrides: {methods: {mde_projected: {settings: [{base_dimension: 8, temperature: 0.1, budget: null}, {base_dimension: 8, temperature: 0.1, budget: null}]}}}}}", "over.yaml:1: methods.mde_projected.settings", "listed twice"),
        ("studies: {recovery: {overrides: {methods: {nis_se: {column_blocks: 17}}}}}", "over.yaml:1: methods.nis_se.column_blocks", "17 exceeds"),
        ("studies: {movielens_1m: {grids: {rating: {methods: {oracle: [1]}}}}}", "over.yaml:1: studies.movielens_1m.grids.rating.methods.oracle", "no planted dimensions"),
        ("studies: {movielens_1m: {tables: [recovery]}}", "over.yaml:1: studies.movielens_1m.tables.0", "takes a planted data set"),
        ("studies: {demo: {figures: [figure4]}}", "over.yaml:1: studies.demo.figures.0", "did you mean 'figure"),
        ("studies: {criteo: {figures: [figure2a]}}", "over.yaml:1: studies.criteo.figures.0", "a grid that varies training.base_dimension"),
        ("studies: {criteo: {figures: [pareto, figure3c]}}", "over.yaml:1: studies.criteo.figures.1", "both DNIS and network pruning"),
        ("studies: {demo: {figures: [pareto, pareto]}}", "over.yaml:1: studies.demo.figures", "'pareto' is listed twice"),
        ("studies: {demo: {grids: {topk: {vary: {training.l3: [1]}}}}}", "over.yaml:1: studies.demo.grids.topk.vary.training.l3", "training has no 'l3' to vary; it has: base_dimension"),
        ("studies: {demo: {grids: {topk: {vary: {studies.demo.seeds: [1]}}}}}", "over.yaml:1: studies.demo.grids.topk.vary.studies.demo.seeds", "params/ has no 'studies' to vary"),
        ("studies: {demo: {grids: {topk: {vary: {training.patience: [0]}}}}}", "over.yaml:1: training.patience", "greater than 0, not 0"),
        ("studies: {demo: {grids: {topk: {vary: {training.patience: [1, 1]}}}}}", "over.yaml:1: studies.demo.grids.topk.vary.training.patience", "1 is listed twice"),
        ("studies: {demo: {grids: {topk: {vary: {training.patience: [1], training.l2: [0.0]}}}}}", "over.yaml:1: studies.demo.grids.topk.vary", "at most 1 item"),
        ("datasets: {criteo_x1: {test: {path: train.csv}}}", "over.yaml:1: datasets.criteo_x1.test.path", "'train.csv' is listed twice"),
        ("datasets: {criteo: {task: rating}}", "over.yaml:1: datasets.criteo.task", "criteo serve only: ctr"),
        ("datasets: {movielens_20m: {task: topk}}", "params/datasets.yaml", "must be leave_one_out for top-k"),
        ("datasets: {movielens_20m: {split: leave_one_out}}", "over.yaml:1: datasets.movielens_20m.split", "for top-k, not for rating"),
        ("datasets: {movielens_20m: {split: published}}", "over.yaml:1: datasets.movielens_20m.split", "cannot be published"),
        ("datasets: {movielens_20m: {split: leave_1_out}}", "over.yaml:1: datasets.movielens_20m.split", "did you mean 'leave_one_out'"),
        ("studies: {demo: {grids: {ctr: {overrides: {training: {x: 1}}}}}}", "over.yaml:1: training.x", "unknown key"),
        ("studies: {demo: {grids: {topk: {overrides: {training: {base_dimension: 8}}}}}}", "params/studies/demo.yaml", "16 exceeds"),
        ("reference: {results: {criteo: {64: {fm: {mde: {1: {acu: 0.5}}}}}}}", "over.yaml:1: reference.results.criteo.64.fm.mde.1.acu", "'auc'"),
        ("training: {batch_size: 1, batch_size: 2}", "over.yaml:1", "training.batch_size is repeated"),
        ("training: [1", "over.yaml:1", "not valid YAML"),
        ("training: &a {x: *a}", "over.yaml", "an alias that contains itself"),
        ("training: {device: 2026-02-30}", "over.yaml:1", "not a valid value"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "over.yaml:3", "merge keys"),
        ('training: {device: "\x01"}', "over.yaml", "not valid YAML"),
        ("methods: {mde: {settings: [{base_dimension: 4}]}}", "over.yaml:1: methods.mde.settings.0.temperature", "missing"),
        ("datasets: {movielens_1m: {url: 'ftp://x/y.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "https address"),
        ("- 1", "over.yaml:1", "must be a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_error_naming_file_line_key_and_what_is_right(overlay, text, where, says):
    with pytest.raises(NisbenchError) as raised:
        overlay(text)
    assert where in str(raised.value)
    assert says in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1 or not where.startswith("over.yaml")


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: !!python/object/apply:os.system [echo]", "over.yaml:1: the tag tag:yaml.org,2002:python/object/apply:os.system is not"),
        ("a: !!python/object:os.system {}", "over.yaml:1: the tag tag:yaml.org,2002:python/object:os.system is not"),
        ("a: !!python/name:os.system", "over.yaml:1: not valid YAML: could not determine a constructor"),
        ("? !!python/object/apply:os.system [echo]\n: 1", "over.yaml:1: not valid YAML: could not determine a constructor"),
        ("!!python/object:os.system {a: 1}", "over.yaml:1: the tag"),
        ("a: !!set {x}", "over.yaml:1: the tag tag:yaml.org,2002:set is not read here; leave it out"),
        (LAUGHS, "over.yaml: more than 5000 values, each alias counted"),
        (LAUGHS.replace("[", "{p: ").replace("]", "}").replace(", ", ", q: ", 1), "over.yaml"),
        (f"a: [{'1, ' * 5000}1]", "over.yaml: more than 5000 values"),
        ("a: " + "[" * 5000, "over.yaml: nested too deeply"),
        ("a: " + "{b: " * 5000, "over.yaml: nested too deeply"),
        ("- " * 5000, "over.yaml: nested too deeply"),
        (f"a: {'x' * (1 << 18)}", "over.yaml: has more than 262144 bytes"),
        (f"a: {'1:' * 120_000}1", "over.yaml:1: not a valid value: a huge number"),
        (f"a: 1{':1' * 120_000}.5", "over.yaml:1: not a valid value: a huge number"),
        (f"a: 1{':1' * 300}.5", "over.yaml:1: not a valid value: int too large to convert to float"),
        (f"a: {'9' * 900}", "over.yaml:1: not a valid value: a huge number"),
        (f"{'x' * 1000}: 1\n{'x' * 1000}: 1", "over.yaml:2: the key xxxxx"),
        (f"0x{'f' * 1000}: 1", "over.yaml:1: not a valid value: a huge number"),
        (".nan: 1", "over.yaml:1: a key must be a name or a number"),
    ],
    ids=range(20),
)  # fmt: skip
def test_yaml_made_to_harm_is_refused_at_once(tmp_path, text, says):
    path = tmp_path / "over.yaml"
    path.write_text(text)
    started = time.perf_counter()
    with pytest.raises(NisbenchError) as raised:
        read_yaml(path)
    assert time.perf_counter() - started < 20
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1000


GRID = {"datasets": ["movielens_1m"], "models": ["mf"], "methods": {"dnis": [1]}}
STUDY = {"title": "X", "grids": {"g": GRID}, "seeds": [1], "tables": []}


BAD_NAMES = [
    "../x",
    "..",
    ".",
    "",
    "a/b",
    "/etc/x",
    "a\\b",
    "c:x",
    "~",
    "a b",
    "a.b",
    "A",
    "-x",
    "_x",
    "1",
    "\u00e4",
    "a\n",
    "a\0",
    "x" * 49,
]


@pytest.mark.parametrize(
    ("section", "entry"),
    [("tasks", {"kind": "rating"}), ("datasets", {"like": "movielens_1m"}), ("models", {"like": "mf"}), ("methods", {"like": "dnis"}), ("studies", STUDY)],
)  # fmt: skip
def test_names_that_could_be_other_places_are_refused(overlay, section, entry):
    """Names become folders and parts of file names."""
    with pytest.raises(NisbenchError) as raised:
        overlay(json.dumps({section: dict.fromkeys(BAD_NAMES, entry)}))
    for name in BAD_NAMES:
        assert f"over.yaml:1: {section}.{name}: string should " in str(raised.value)


def test_a_grid_s_name_is_held_to_the_same(overlay):
    with pytest.raises(NisbenchError, match=r"over.yaml:1: studies.x.grids...\/x: string should match pattern"):
        overlay(json.dumps({"studies": {"x": STUDY | {"grids": {"../x": GRID}}}}))


def test_more_runs_than_anyone_could_want_are_refused(overlay):
    grids = {f"g{i}": GRID | {"vary": {"training.l2": [j / 100 for j in range(100)]}} for i in range(3)}
    with pytest.raises(NisbenchError, match=r"over.yaml:1: studies.x: asks for 120000 runs; 100000 are the most"):
        overlay(json.dumps({"studies": {"x": STUDY | {"grids": grids, "seeds": list(range(400))}}}))


def test_of_many_problems_the_first_are_told(overlay):
    with pytest.raises(NisbenchError) as raised:
        overlay(json.dumps({f"x{i}" + "x" * 100: 1 for i in range(2000)}))
    assert len(str(raised.value).splitlines()) == 21
    assert str(raised.value).endswith("\nand more")
    assert len(str(raised.value)) < 10_000


def test_a_long_row_of_entries_each_like_the_next_is_refused(overlay):
    models = {f"m{i}": {"like": f"m{i + 1}"} for i in range(1500)} | {"m1500": {"like": "mf"}}
    with pytest.raises(NisbenchError, match="more than 20 entries, each like the next"):
        overlay(json.dumps({"models": models}))


def test_what_two_entries_share_is_told_once(overlay):
    with pytest.raises(NisbenchError) as raised:
        overlay("datasets: {movielens_1m: {ratings: 5}}")  # movielens_1m_topk is like it
    assert len(str(raised.value).splitlines()) == 1
    assert "datasets.movielens_1m.ratings" in str(raised.value)


def test_every_problem_is_told_at_once(overlay):
    with pytest.raises(NisbenchError) as raised:
        overlay("training: {batch_size: 0, patience: x}")
    assert len(str(raised.value).splitlines()) == 2


def test_later_overlays_win_and_reach_every_study(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("training: {patience: 7, max_epochs: 9}")
    (tmp_path / "b.yaml").write_text("training: {patience: 8}")
    monkeypatch.setenv(OVERLAYS_VARIABLE, f"{tmp_path}/a.yaml:{tmp_path}/b.yaml")
    for params in load(ROOT).by_study.values():
        assert (params.training.patience, params.training.max_epochs) == (8, 9)


def test_a_study_s_overrides_hold_for_that_study_alone(overlay):
    config = overlay("studies: {demo: {overrides: {training: {patience: 9}}}}")
    assert config.by_study["demo"].training.patience == 9
    assert config.by_study["paper"].training.patience == config.params.training.patience == 3


def test_an_overlay_is_the_last_word_also_over_a_study_s_overrides(overlay):
    assert load(ROOT, []).by_study["demo"].training.batch_size == 2048  # set by the study
    assert overlay("training: {batch_size: 512}").by_study["demo"].training.batch_size == 512
    both = "training: {batch_size: 512}\nstudies: {demo: {overrides: {training: {batch_size: 256}}}}"
    assert overlay(both).by_study["demo"].training.batch_size == 256
    assert overlay(both).by_study["paper"].training.batch_size == 512


@pytest.mark.parametrize("name", ["all", "search", "runs", "tables_demo", "data_x"])
def test_a_study_cannot_take_a_target_s_name(overlay, name):
    study = (
        "{title: X, grids: {g: {datasets: [movielens_1m], models: [mf], methods: {dnis: [1]}}}, seeds: [1], tables: []}"
    )
    with pytest.raises(NisbenchError, match=f"over.yaml:1: studies.{name}: a study cannot have this name"):
        overlay(f"studies: {{{name}: {study}}}")


def test_local_paths_are_relative_to_the_file_that_names_them(overlay, tmp_path):
    config = overlay("datasets: {movielens_1m: {url: here/ml.zip}}")
    assert config.params.datasets["movielens_1m"].url == str(tmp_path / "here/ml.zip")
    config = overlay("studies: {movielens_1m: {overrides: {datasets: {movielens_1m: {url: ../ml.zip}}}}}")
    assert config.by_study["movielens_1m"].datasets["movielens_1m"].url == str(tmp_path.parent / "ml.zip")


def test_an_entry_like_another_has_what_it_does_not_say_itself(overlay, tmp_path):
    text = "datasets: {movielens_1m: {url: ml.zip, split: {seed: 7}}, again: {like: movielens_1m_topk, title: Again}}"
    datasets = overlay(text).params.datasets
    own, like, again = (datasets[name] for name in ("movielens_1m", "movielens_1m_topk", "again"))
    assert own.split.seed == 7
    assert own.url == like.url == again.url == str(tmp_path / "ml.zip")
    assert (like.split, like.blocks.by, like.blocks.count, like.task) == ("leave_one_out", "count", 20, "topk")
    assert again == like.model_copy(update={"title": "Again"})


def test_a_grid_may_add_entries_of_its_own(overlay):
    grid = "{datasets: [small], models: [mf], methods: {dnis: [1]}, overrides: {datasets: {small: {like: planted_ratings, users: 9}}}}"
    text = f"studies: {{x: {{title: X, grids: {{g: {grid}}}, seeds: [1], tables: [table2]}}}}"
    config = overlay(text)
    assert config.by_grid["x", "g", None].datasets["small"].users == 9
    assert plan(ROOT, config).study("x").titles["g", "dataset small"] == "Planted ratings"


def test_1e_3_is_a_number(overlay):
    assert overlay("training: {learning_rate: 1e-3}").params.training.learning_rate == 0.001


def test_a_missing_overlay_is_named(monkeypatch):
    monkeypatch.setenv(OVERLAYS_VARIABLE, "nowhere.yaml")
    with pytest.raises(NisbenchError, match=r"nowhere\.yaml: cannot be read"):
        load(ROOT)


def test_a_folder_without_parameters_says_where_to_go(tmp_path):
    with pytest.raises(NisbenchError, match="top folder"):
        load(tmp_path)


def test_the_overlay_of_the_real_data_is_valid(real_data):
    config = load(ROOT, overlays=[real_data / "sources.yaml"])
    assert config.params.datasets["movielens_1m"].url == str((real_data / "ml-1m.zip").resolve())
