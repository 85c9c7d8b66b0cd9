"""Parameters: what is valid loads, what is not says where and what would be right."""

import functools
import json

import pytest

from nisbench.errors import NisbenchError, printable
from nisbench.params import loading
from nisbench.params.loading import OVERLAYS_VARIABLE, load
from nisbench.params.tree import read_yaml
from nisbench.studies import plan
from tests.helpers.paths import ROOT, SMALL


@pytest.fixture(scope="module", autouse=True)
def _own_files_are_read_once():
    """Most of the time of these tests would go into the same YAML."""
    read = functools.cache(read_yaml)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "read_yaml", lambda path: (read if SMALL in path.parents else read_yaml)(path))
        yield


@pytest.fixture
def overlay(tmp_path):
    """Load the small parameters with this YAML text merged over them."""

    def load_with(text, name="over.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return load(SMALL, overlays=[path])

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
        ("training: {batch_size: 4096.5}", "over.yaml:1: training.batch_size", "must be a whole number, not 4096.5"),
        ("training: {batch_size: '4096'}", "over.yaml:1: training.batch_size", "must be a whole number, not '4096'"),
        ("training: {batch_size: true}", "over.yaml:1: training.batch_size", "must be a whole number, not true"),
        ("training: {learning_rate: -1}", "over.yaml:1: training.learning_rate", "greater than 0, not -1"),
        ("training: {learning_rate: .inf}", "over.yaml:1: training.learning_rate", "finite"),
        ("training: {device: gpu}", "over.yaml:1: training.device", "must be auto, cpu, cuda or cuda:INDEX, not 'gpu'"),
        ("methods: {dnis: {kind: dins}}", "over.yaml:1: methods.dnis.kind", "did you mean 'dnis'"),
        ("datasets: {x: {title: X}}", "over.yaml:1: datasets.x.format", "this key is missing; there is: criteo, criteo_x1, movielens"),
        ("models: {Bad-Name: {kind: mf, title: X, global_mean: true, biases: true, reduction: sum}}", "over.yaml:1: models.Bad-Name", "must be lower-case letters, digits and underscores"),
        ("studies: {demo: {grids: {rating: {models: [mff]}}}}", "over.yaml:1: studies.demo.grids.rating.models.0", "unknown model 'mff'; did you mean 'mf'"),
        ("studies: {demo: {grids: {rating: {methods: {dnsi: [1]}}}}}", "over.yaml:1: studies.demo.grids.rating.methods.dnsi", "did you mean 'dnis'"),
        ("studies: {demo: {grids: {rating: {datasets: [movielens_1]}}}}", "over.yaml:1: studies.demo.grids.rating.datasets.0", "did you mean 'movielens_"),
        ("studies: {demo: {grids: {rating: {datasets: [planted_ratings, criteo]}}}}", "over.yaml:1: studies.demo.grids.rating.datasets.1", "criteo is for the task ctr"),
        ("studies: {demo: {tables: [table9]}}", "over.yaml:1: studies.demo.tables.0", "there is no table 'table9'; did you mean 'table"),
        ("studies: {demo: {seeds: [1, 1]}}", "over.yaml:1: studies.demo.seeds", "1 is listed twice"),
        ("studies: {demo: {grids: {rating: {methods: {dnis: [0.5]}}}}}", "over.yaml:1: studies.demo.grids.rating.methods.dnis.0", "greater than or equal to 1"),
        ("studies: {demo: {override: {}}}", "over.yaml:1: studies.demo.override", "did you mean 'overrides'"),
        ("studies: {demo: {overrides: {training: {x: 1}}}}", "over.yaml:1: training.x", "unknown key"),
        ("studies: {demo: {overrides: {studies: {}}}}", "over.yaml:1: studies.demo.overrides.studies", "overrides cannot set studies; remove it"),
        ("training: {base_dimension: 8}", "params/methods.yaml", "16 exceeds training.base_dimension = 8 in studies.criteo.grids.ctr; to change one study or grid only, use its overrides (studies.criteo.grids.ctr.overrides)"),
        ("studies: {demo: {grids: {ctr: {models: [mf]}}}}", "params/studies/demo.yaml:", "planted_ctr is for the task ctr"),
        ("methods: {grid_search: {dimensions: [4, 8, 4]}}", "methods.grid_search.dimensions", "4 is listed twice"),
        ("studies: {demo: {overrides: {methods: {mde: {settings: [{base_dimension: 17, temperature: 0}]}}}}}", "over.yaml:1: methods.mde.settings", "17 exceeds training.base_dimension = 16"),
        ("studies: {movielens_1m: {tables: [table3]}}", "over.yaml:1: studies.movielens_1m.tables.0", "for the task ctr, which"),
        ("training: {device: !!bool foo}", "over.yaml:1", "not a valid value"),
        ('training: {device: "a\\ud800"}', "over.yaml:1", "not a valid value"),
        (f"training: {{max_epochs: -0x{'f' * 5000}}}", "over.yaml:1", "a huge number"),
        ("datasets: {movielens_1m: {url: '~nobody-by-this-name/x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "home"),
        ('datasets: {movielens_1m: {url: "a\\0b"}}', "over.yaml:1: datasets.movielens_1m.url", "https address"),
        ("datasets: {movielens_1m: {url: 's3://bucket/x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "must be an https address or the path of a file, not 's3://bucket/x.zip'; fetch it by other means"),
        ("datasets: {movielens_1m: {url: 'git+ssh://me:secret@host/x'}}", "over.yaml:1: datasets.movielens_1m.url", "not 'git+ssh://host/x'"),
        ("datasets: {movielens_1m: {url: 'file:///tmp/x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "leave out file://"),
        ("datasets: {movielens_1m: {url: 'C:\\data\\x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "which is a path of Windows"),
        ("datasets: {movielens_1m: {url: 'c:x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "which is a path of Windows"),
        ("datasets: {movielens_1m: {url: '\\\\server\\x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "which is a path of Windows"),
        ("datasets: {movielens_1m: {url: 'https://'}}", "over.yaml:1: datasets.movielens_1m.url", "it has no host"),
        ("datasets: {movielens_1m: {url: 'https:///x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "it has no host"),
        ("datasets: {movielens_1m: {url: 'https://host/a b.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "or a space"),
        ("datasets: {movielens_1m: {url: 'https://host:99999/x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "Port out of range"),
        ("datasets: {movielens_1m: {url: 'https://[::1/x.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "Invalid IPv6 URL"),
        ("datasets: {movielens_1m: {url: ' '}}", "over.yaml:1: datasets.movielens_1m.url", "must be an https address"),
        ('datasets: {movielens_1m: {url: "https://host/\\e[2J"}}', "over.yaml:1: datasets.movielens_1m.url", "must be an https address"),
        ("datasets: {movielens_1m: {url: /tmp}}", "over.yaml:1: datasets.movielens_1m.url", "must be a file, and '/tmp' is a folder; list its files"),
        ("datasets: {movielens_1m: {url: 42}}", "over.yaml:1: datasets.movielens_1m.url", "must be text, not 42; put it in quotes"),
        ("training: {base_dimension: 0100}", "over.yaml:1", "YAML reads 0100 as 64: write that, or put it in quotes"),
        ("training: {checkpoint_seconds: 1:30}", "over.yaml:1", "YAML reads 1:30 as 90"),
        ("datasets: {movielens_1m: {md5: 12345678901234567890123456789012}}", "over.yaml:1", "a huge number; put it in quotes if it is text"),
        ("datasets: {movielens_1m: {md5: c4d9eecf}}", "over.yaml:1: datasets.movielens_1m.md5", "32 hexadecimal digits"),
        ("datasets: {no: {extends: movielens_1m}}", "over.yaml:1", "a key must be a name or a number; put no in quotes if it is a name"),
        ("datasets: {movielens_1m: {title: 2026-01-01}}", "over.yaml:1: datasets.movielens_1m.title", "must be text, not datetime.date(2026, 1, 1); put it in quotes"),
        ('studies: {demo: {title: "a\\e[2Jb"}}', "over.yaml:1: studies.demo.title", "must be one line of at most 120 characters that can be printed"),
        ('studies: {demo: {title: "a\\nb"}}', "over.yaml:1: studies.demo.title", "must be one line"),
        ('methods: {dnis: {title: "a\\u202eb"}}', "over.yaml:1: methods.dnis.title", "must be one line"),
        (f"models: {{mf: {{title: {'x' * 121}}}}}", "over.yaml:1: models.mf.title", "must be one line of at most 120"),
        ('studies: {demo: {note: "a\\e[2Jb"}}', "over.yaml:1: studies.demo.note", "must be text that can be printed"),
        ("datasets: {planted_ratings: {instances: 1000000000000000}}", "over.yaml:1: datasets.planted_ratings.instances", "less than or equal to 1000000000"),
        ("datasets: {planted_ratings: {users: 1000000000}}", "over.yaml:1: datasets.planted_ratings.users", "less than or equal to 100000000"),
        ("datasets: {planted_ratings: {blocks: {count: 100000000}}}", "over.yaml:1: datasets.planted_ratings.blocks.count", "less than or equal to 1000000"),
        ("training: {base_dimension: 1000000}", "over.yaml:1: training.base_dimension", "less than or equal to 65536"),
        ("training: {batch_size: 1000000000000}", "over.yaml:1: training.batch_size", "less than or equal to 16777216"),
        ("models: {mlp: {hidden: [1000000]}}", "over.yaml:1: models.mlp.hidden.0", "from 1 to 65536"),
        ("models: {mlp: {hidden: [99999d]}}", "over.yaml:1: models.mlp.hidden.0", "multiple of the dimension"),
        ("datasets: {movielens_1m: {split: {proportions: [8000000, 1, 1]}}}", "over.yaml:1", "less than or equal to 1000000"),
        ("models: {mlp: {hidden: [2x]}}", "over.yaml:1: models.mlp.hidden.0", "multiple of the dimension such as 2d, not '2x'"),
        ("reference: {results: {movielens_1m: {64: {gru: {}}}}}", "over.yaml:1: reference.results.movielens_1m.64.gru", "'gru'"),
        ("datasets: {movielens_1m_topk: {extends: movielens}}", "over.yaml:1: datasets.movielens_1m_topk.extends", "must name another entry of datasets, not 'movielens'; did you mean 'movielens_1m"),
        ("datasets: {movielens_1m: {extends: movielens_1m_topk}}", "datasets.movielens_1m", "circular: movielens_1m extends this entry in turn"),
        ("datasets: {movielens_1m: {task: topkk}}", "over.yaml:1: datasets.movielens_1m.task", "did you mean 'topk'"),
        ("training: {learning_rate_drop: 0.1, patience: 1}", "over.yaml:1: training.learning_rate_drop", "would change nothing: with training.patience = 1"),
        ("datasets: {movielens_1m: {split: {sed: 1}}}", "over.yaml:1: datasets.movielens_1m.split.sed", "did you mean 'seed'"),
        ("datasets: {movielens_1m: {split: {seed: -1}}}", "over.yaml:1: datasets.movielens_1m.split.seed", "greater than or equal to 0"),
        ("studies: {demo: {grids: {topk: {overrides: {datasets: {planted_topk: {task: nope}}}}}}}", "over.yaml:1: datasets.planted_topk.task", "unknown task 'nope'"),
        ("studies: {recovery: {overrides: {methods: {dnis_released: {warm_start_epochs: 0}}}}}", "methods.dnis_released.freeze_network", "was not trained"),
        ("studies: {recovery: {overrides: {methods: {uniform_tuned: {rounds: 1}}}}}", "methods.uniform_tuned.rounds", "must be 0"),
        ("studies: {recovery: {overrides: {methods: {mde_projected: {power_of_two: true, settings: [{base_dimension: 12, temperature: 0.1, budget: null}]}}}}}", "methods.mde_projected.settings.0.base_dimension", "must be a power of two"),
        ("studies: {recovery: {overrides: {methods: {mde_projected: {settings: [{base_dimension: 8, temperature: 0.1, budget: 9.0}]}}}}}", "methods.mde_projected.settings.0.budget", "exceeds the base dimension, 8"),
        ("studies: {recovery: {grids: {rating: {methods: {bias_only: [2]}}}}}", "methods.bias_only", "no embeddings to prune; its only compression rate is 1"),
        ("studies: {recovery: {grids: {rating: {methods: {random_mask: [1, 2]}}}}}", "over.yaml:1: studies.recovery.grids.rating.methods.random_mask.0", "at compression rate 1 nothing is pruned"),
        ("studies: {recovery: {overrides: {methods: {mde_projected: {settings: [{base_dimension: 8, temperature: 0.1, budget: null}, {base_dimension: 8, temperature: 0.1, budget: null}]}}}}}", "over.yaml:1: methods.mde_projected.settings", "listed twice"),
        ("studies: {recovery: {overrides: {methods: {nis_se: {column_blocks: 17}}}}}", "over.yaml:1: methods.nis_se.column_blocks", "17 exceeds"),
        ("studies: {movielens_1m: {grids: {rating: {methods: {oracle: [1]}}}}}", "over.yaml:1: studies.movielens_1m.grids.rating.methods.oracle", "this method needs planted dimensions, and movielens_1m has none"),
        ("studies: {movielens_1m: {tables: [recovery]}}", "over.yaml:1: studies.movielens_1m.tables.0", "needs a data set of planted dimensions"),
        ("studies: {demo: {figures: [figure4]}}", "over.yaml:1: studies.demo.figures.0", "did you mean 'figure"),
        ("studies: {criteo: {figures: [figure2a]}}", "over.yaml:1: studies.criteo.figures.0", "a grid that sweeps training.base_dimension"),
        ("studies: {criteo: {figures: [pareto, figure3c]}}", "over.yaml:1: studies.criteo.figures.1", "both DNIS and network pruning"),
        ("studies: {demo: {figures: [pareto, pareto]}}", "over.yaml:1: studies.demo.figures", "'pareto' is listed twice"),
        ("studies: {demo: {grids: {topk: {sweep: {training.l3: [1]}}}}}", "over.yaml:1: studies.demo.grids.topk.sweep.training.l3", "training has no 'l3' to sweep; did you mean 'l2'?"),
        ("studies: {demo: {grids: {topk: {sweep: {studies.demo.seeds: [1]}}}}}", "over.yaml:1: studies.demo.grids.topk.sweep.studies.demo.seeds", "params/ has no 'studies' to sweep; there is: datasets, methods, models, tasks, training"),
        ("studies: {recovery: {tables: [sweep]}}", "over.yaml:1: studies.recovery.tables.0", "a grid that sweeps a key over several values"),
        ("studies: {demo: {grids: {topk: {sweep: {training.patience: [0]}}}}}", "over.yaml:1: training.patience", "greater than 0, not 0"),
        ("studies: {demo: {grids: {topk: {sweep: {training.patience: [1, 1]}}}}}", "over.yaml:1: studies.demo.grids.topk.sweep.training.patience", "1 is listed twice"),
        ("studies: {demo: {grids: {topk: {sweep: {training.patience: [1], training.l2: [0.0]}}}}}", "over.yaml:1: studies.demo.grids.topk.sweep", "at most 1 item"),
        ("datasets: {criteo_x1: {test: {path: train.csv}}}", "over.yaml:1: datasets.criteo_x1.test.path", "'train.csv' is listed twice"),
        ("datasets: {criteo: {task: rating}}", "over.yaml:1: datasets.criteo.task", "criteo serve only: ctr"),
        ("datasets: {movielens_1m: {task: topk}}", "params/datasets.yaml", "must be leave_one_out for the task topk"),
        ("datasets: {movielens_latest_small: {split: leave_one_out}}", "over.yaml:1: datasets.movielens_latest_small.split", "leave_one_out is not for the task rating"),
        ("datasets: {movielens_latest_small: {split: published}}", "over.yaml:1: datasets.movielens_latest_small.split", "cannot be published"),
        ("datasets: {movielens_latest_small: {split: leave_1_out}}", "over.yaml:1: datasets.movielens_latest_small.split", "did you mean 'leave_one_out'"),
        ("studies: {demo: {grids: {ctr: {overrides: {training: {x: 1}}}}}}", "over.yaml:1: training.x", "unknown key"),
        ("studies: {demo: {grids: {ctr: {overrides: {training: {base_dimension: 8}}}}}}", "params/methods.yaml", "16 exceeds training.base_dimension = 8 in studies.demo.grids.ctr"),
        ("reference: {results: {criteo: {64: {fm: {mde: {1: {acu: 0.5}}}}}}}", "over.yaml:1: reference.results.criteo.64.fm.mde.1.acu", "'auc'"),
        ("training: {batch_size: 1, batch_size: 2}", "over.yaml:1", "the key training.batch_size stands in line 1 already; keep one"),
        ("training: [1", "over.yaml:1", "not valid YAML"),
        ("training: &a {x: *a}", "over.yaml", "nested too deeply, or with an alias that contains itself"),
        ("training: {device: 2026-02-30}", "over.yaml:1", "not a valid value"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "over.yaml:3", "merge keys (<<) are not supported"),
        ('training: {device: "\x01"}', "over.yaml", "not valid YAML"),
        ("methods: {mde: {settings: [{base_dimension: 4}]}}", "over.yaml:1: methods.mde.settings.0.temperature", "missing"),
        ("datasets: {movielens_1m: {url: 'ftp://x/y.zip'}}", "over.yaml:1: datasets.movielens_1m.url", "https address"),
        ("- 1", "over.yaml:1", "must be a mapping"),
        ("training: {embedding_std: x}", "over.yaml:1: training.embedding_std", "must be 'xavier' or a number, not 'x'"),
        ("training: 5", "over.yaml:1: training", "must be a mapping of keys to values, not 5"),
        ("studies: {demo: {title: null}}", "over.yaml:1: studies.demo.title", "must be text, not null"),
        ("studies: {demo: {figures: 4}}", "over.yaml:1: studies.demo.figures", "must be a list, not 4"),
        ("datasets: {movielens_1m: {md5: abc}}", "over.yaml:1: datasets.movielens_1m.md5", "must be 32 hexadecimal digits, not 'abc'"),
        ("datasets: {movielens_1m: {ratings: /x}}", "over.yaml:1: datasets.movielens_1m.ratings", "must be a path inside the archive"),
        ("datasets: {criteo: {scalar_maxima: [1]}}", "over.yaml:1: datasets.criteo.scalar_maxima", "must have at least 13 items, not 1"),
        ("models: {mf: {kind: 3}}", "over.yaml:1: models.mf.kind", "there is no kind 3; there is: deepfm"),
        ("models: {mlp: {mlp_dimension: 2}}", "over.yaml:1: models.mlp.mlp_dimension", "unknown key"),
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
        ("a: !!set {x}", "over.yaml:1: the tag tag:yaml.org,2002:set is not supported; leave it out"),
        (LAUGHS, "over.yaml: more than 5000 values (an alias counts every time it is used)"),
        (LAUGHS.replace("[", "{p: ").replace("]", "}").replace(", ", ", q: ", 1), "over.yaml"),
        (f"a: [{'1, ' * 5000}1]", "over.yaml: more than 5000 values"),
        ("a: " + "[" * 5000, "over.yaml: nested too deeply"),
        ("a: " + "{b: " * 5000, "over.yaml: nested too deeply"),
        ("- " * 5000, "over.yaml: nested too deeply"),
        (f"a: {'x' * (1 << 18)}", "over.yaml: too large for a parameter file (limit 256 KiB)"),
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
    with pytest.raises(NisbenchError) as raised:  # at once: else this test itself would take minutes
        read_yaml(path)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1000


GRID = {"datasets": ["movielens_1m"], "models": ["mf"], "methods": {"dnis": [1]}}
STUDY = {"title": "X", "grids": {"g": GRID}, "seeds": [1], "tables": []}


def test_odd_titles_checksums_and_addresses_that_are_right_are_accepted(overlay):
    title = "<b>&\U0001f600 $x_1^ {a} | `c` \\ %\u00e9"
    md5 = "C4D9EECFCA2AB87C1945AFE126590906"
    url = "https://me:secret@host:8080/a.zip?x=%20#y"
    entry = json.dumps({"extends": "movielens_1m", "title": title, "md5": md5, "url": url})
    params = overlay(f"datasets: {{mine: {entry}}}\nstudies: {{demo: {{title: {json.dumps(title)}}}}}").params
    mine = params.datasets["mine"]
    assert (mine.title, mine.md5, mine.url, params.studies["demo"].title) == (title, md5.lower(), url, title)


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
    [("tasks", {"kind": "rating"}), ("datasets", {"extends": "movielens_1m"}), ("models", {"extends": "mf"}), ("methods", {"extends": "dnis"}), ("studies", STUDY)],
)  # fmt: skip
def test_names_that_could_be_other_places_are_refused(overlay, section, entry):
    """Names become folders and parts of file names."""
    with pytest.raises(NisbenchError) as raised:
        overlay(json.dumps({section: dict.fromkeys(BAD_NAMES, entry)}))
    for name in BAD_NAMES:
        assert printable(f"over.yaml:1: {section}.{name}: must ") in str(raised.value)


def test_a_grid_s_name_is_held_to_the_same(overlay):
    with pytest.raises(NisbenchError, match=r"over.yaml:1: studies.x.grids...\/x: must be lower-case letters"):
        overlay(json.dumps({"studies": {"x": STUDY | {"grids": {"../x": GRID}}}}))


def test_more_runs_than_anyone_could_want_are_refused(overlay):
    grids = {f"g{i}": GRID | {"sweep": {"training.l2": [j / 100 for j in range(100)]}} for i in range(3)}
    with pytest.raises(
        NisbenchError, match=r"over.yaml:1: studies.x: asks for 120000 runs; a study may have at most 100000"
    ):
        overlay(json.dumps({"studies": {"x": STUDY | {"grids": grids, "seeds": list(range(400))}}}))


def test_of_many_problems_the_first_are_told(overlay):
    with pytest.raises(NisbenchError) as raised:
        overlay(json.dumps({f"x{i}" + "x" * 100: 1 for i in range(2000)}))
    assert len(str(raised.value).splitlines()) == 21
    assert str(raised.value).endswith("\nand more")
    assert len(str(raised.value)) < 10_000


def test_a_long_chain_of_entries_that_extend_each_other_is_refused(overlay):
    models = {f"m{i}": {"extends": f"m{i + 1}"} for i in range(1500)} | {"m1500": {"extends": "mf"}}
    with pytest.raises(
        NisbenchError, match="the last in a chain of more than 20 entries; extend an entry nearer to the end"
    ):
        overlay(json.dumps({"models": models}))


def test_what_two_entries_share_is_told_once(overlay):
    with pytest.raises(NisbenchError) as raised:
        overlay("datasets: {movielens_1m: {ratings: 5}}")  # two entries extend it
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
    for params in load(SMALL).by_study.values():
        assert (params.training.patience, params.training.max_epochs) == (8, 9)


def test_a_study_s_overrides_hold_for_that_study_alone(overlay):
    config = overlay("studies: {demo: {overrides: {training: {patience: 9}}}}")
    assert config.by_study["demo"].training.patience == 9
    assert config.by_study["recovery"].training.patience == config.params.training.patience == 3


def test_an_overlay_is_the_last_word_also_over_a_study_s_overrides(overlay):
    assert load(SMALL, []).by_study["demo"].training.batch_size == 256  # set by the study
    assert overlay("training: {batch_size: 64}").by_study["demo"].training.batch_size == 64
    both = "training: {batch_size: 64}\nstudies: {demo: {overrides: {training: {batch_size: 128}}}}"
    assert overlay(both).by_study["demo"].training.batch_size == 128
    assert overlay(both).by_study["recovery"].training.batch_size == 64


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


def test_an_entry_that_extends_another_has_what_it_does_not_set_itself(overlay, tmp_path):
    text = (
        "datasets: {movielens_1m: {url: ml.zip, split: {seed: 7}}, again: {extends: movielens_1m_topk, title: Again}}"
    )
    datasets = overlay(text).params.datasets
    own, topk, again = (datasets[name] for name in ("movielens_1m", "movielens_1m_topk", "again"))
    assert own.split.seed == 7
    assert own.url == topk.url == again.url == str(tmp_path / "ml.zip")
    assert (topk.split, topk.blocks.by, topk.blocks.count, topk.task) == ("leave_one_out", "count", 20, "topk")
    assert again == topk.model_copy(update={"title": "Again"})


def test_a_grid_may_add_entries_of_its_own(overlay):
    grid = "{datasets: [other], models: [mf], methods: {dnis: [1]}, overrides: {datasets: {other: {extends: planted_ratings, users: 9}}}}"
    text = f"studies: {{x: {{title: X, grids: {{g: {grid}}}, seeds: [1], tables: [table2]}}}}"
    config = overlay(text)
    assert config.by_grid["x", "g", None].datasets["other"].users == 9
    assert plan(SMALL, config).study("x").title("g", dataset="other") == "Planted ratings, g"


def test_1e_3_is_a_number(overlay):
    assert overlay("training: {learning_rate: 1e-3}").params.training.learning_rate == 0.001


def test_a_missing_overlay_is_named(monkeypatch):
    monkeypatch.setenv(OVERLAYS_VARIABLE, "nowhere.yaml")
    with pytest.raises(NisbenchError, match=r"nowhere\.yaml: there is no such file \(looked for in /"):
        load(SMALL)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(NisbenchError, match="cannot be read: is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe4")
    with pytest.raises(NisbenchError, match=r"latin.yaml:2: not text in UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_a_folder_without_parameters_says_where_to_go(tmp_path):
    with pytest.raises(NisbenchError, match="top folder"):
        load(tmp_path)


def test_the_overlay_of_the_real_data_is_valid(real_data):
    config = load(ROOT, overlays=[real_data / "sources.yaml"])
    assert config.params.datasets["movielens_1m"].url == str((real_data / "ml-1m.zip").resolve())
