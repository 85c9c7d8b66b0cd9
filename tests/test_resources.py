"""What steps ask a scheduler for, and the profiles of those that ask."""

import re
import tomllib
from dataclasses import replace

import pytest
import yaml

from nisbench.cost import remaining, resources
from nisbench.cost.resources import MINUTES, resources_of
from nisbench.studies import plan
from tests.helpers.paths import ROOT, SMALL


@pytest.fixture
def demo(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan(SMALL, small).study("demo")


def step(demo, name, dataset="planted_ratings"):
    return next(each for each in demo.steps.values() if (each.name, each.dataset) == (name, dataset))


def changed(search, **training):
    settings = search.settings
    return replace(
        search, settings=settings.model_copy(update={"training": settings.training.model_copy(update=training)})
    )


def test_a_small_step_asks_for_a_process_s_memory_and_only_training_for_a_gpu(demo):
    for name in ("prepare", "split", "block", "search", "prune"):
        found = resources_of(step(demo, name))
        assert 1200 < found.mem_mb < 1400
        assert found.runtime == MINUTES[name]
        assert found.gpu == (name in {"search", "prune"})


def test_no_gpu_is_asked_for_where_none_is_used(demo):
    assert resources_of(changed(step(demo, "search"), device="cpu")).gpu == 0


def test_memory_grows_with_the_table_and_a_pruning_asks_for_no_less(demo):
    search = step(demo, "search")
    wide = resources_of(changed(search, base_dimension=1 << 20)).mem_mb
    # 100 features, five copies of each weight, 20 % more than expected
    assert wide - resources_of(search).mem_mb == pytest.approx(1.2 * 4 * 5 * 100, rel=0.01)


def test_data_that_are_there_say_their_size(demo):
    split, prepare = step(demo, "split"), step(demo, "prepare")
    dataset = prepare.settings.dataset
    assert resources._size(split, "train") == ((60, 40), dataset.instances * 8 // 10)
    split.folder.mkdir(parents=True)
    dataset.small().module().prepare(dataset, None, split.path("train"), split.folder / "vocabulary.parquet")
    assert resources._size(split, "train") == ((60, 40), dataset.instances)


def test_an_estimate_is_doubled(demo):
    search = step(demo, "search")
    remaining.write("demo", {search.id: 3600.0})
    assert resources_of(search).runtime == 10 + 120
    remaining.write("demo", {search.id: 7200.0})
    assert resources_of(search).runtime == 10 + 240


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_profiles_of_clusters_say_all_that_the_default_says(name):
    default, own = (
        yaml.safe_load((ROOT / "workflow" / "profiles" / each / "config.yaml").read_text())
        for each in ("default", name)
    )
    assert default.items() <= own.items()


def test_the_image_is_made_of_what_there_is():
    """A builder would find out, but only after it has installed everything."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} <= {"FROM", "RUN", "WORKDIR", "COPY", "CMD"}
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'\.\[(.*)\]'", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    (python,) = re.findall(r"python:(3\.\d+)", lines[0])
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
