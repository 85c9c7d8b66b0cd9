"""What all tests share: parameters, small data, the real data sets where they are at hand, and which tests are which."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nisbench.data.instances import Instances
from nisbench.params.datasets import PlantedRatings
from nisbench.params.kinds import VARIABLE as PLUGINS_VARIABLE
from nisbench.params.loading import OVERLAYS_VARIABLE, Config, load
from nisbench.params.models import MF
from tests.helpers import hypothesis  # noqa: F401 - registers a profile
from tests.helpers.kernels import INTERPRET
from tests.helpers.paths import REAL_DATA, ROOT, SMALL

if not torch.cuda.is_available():
    os.environ.setdefault(INTERPRET, "1")

KINDS_OF_TESTS = {"unit", "pipeline", "slow", "gpu"}
PIPELINE_FOLDERS = {"pipeline", "reliability"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs whole pipelines, and as `unit` every test that nothing else marks."""
    for item in items:
        if PIPELINE_FOLDERS & set(item.path.relative_to(ROOT / "tests").parts):
            item.add_marker("pipeline")
        if not KINDS_OF_TESTS & {mark.name for mark in item.iter_markers()}:
            item.add_marker("unit")


@pytest.fixture(autouse=True)
def _own_parameters_only(monkeypatch):
    for variable in (OVERLAYS_VARIABLE, PLUGINS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _threads():
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    torch.set_num_threads(min(2, os.cpu_count() or 1) if alone else 1)


@pytest.fixture(scope="session")
def config() -> Config:
    """The project's own parameters."""
    return load(ROOT, overlays=[])


@pytest.fixture(scope="session")
def small() -> Config:
    """A few parameters (`tests/helpers/small`), for tests that need some."""
    return load(SMALL, overlays=[])


@pytest.fixture(scope="session")
def mf() -> MF:
    return MF(kind="mf", title="MF", global_mean=True, biases=True, reduction="sum")


@pytest.fixture(scope="session")
def planted(config) -> PlantedRatings:
    """The demo's data set, much smaller."""
    return config.params.datasets["planted_ratings"].model_copy(
        update={"users": 60, "items": 40, "instances": 3000, "rank": 4, "levels": 3}
    )


@pytest.fixture
def ratings() -> Instances:
    """500 random ratings of 30 features, 20 of them users."""
    generator = np.random.default_rng(0)
    ids = np.stack([generator.integers(0, 20, 500), generator.integers(20, 30, 500)], axis=1)
    labels = generator.normal(3, 1, 500)
    return Instances(torch.tensor(ids, dtype=torch.int32), torch.tensor(labels, dtype=torch.float32))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real archives; they may not be shipped, so the tests that read them skip elsewhere."""
    if not (REAL_DATA / "sources.yaml").exists():
        pytest.skip("the real MovieLens archives are not at hand: their licence forbids shipping them")
    return REAL_DATA
