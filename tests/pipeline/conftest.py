"""Projects in which the demo study was run: once per session, and copied for each test that changes something."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.helpers.project import Project, copy_project, put_into_git_and_dvc


@pytest.fixture
def fresh(tmp_path) -> Project:
    """A project in which nothing was run."""
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def _done_once(tmp_path_factory):
    return run_once(tmp_path_factory.getbasetemp() / "demo")


@cache
def run_once(folder: Path) -> tuple[Project, dict[str, int]]:
    """A project whose demo was run, and the jobs of that run: one for all folders of tests that have the fixture."""
    project = copy_project(folder)
    return project, project.snakemake("demo")


@pytest.fixture
def first_jobs(_done_once) -> dict[str, int]:
    """The jobs of the first run of `done`."""
    return _done_once[1]


@pytest.fixture
def unchanged(_done_once) -> Project:
    """The project whose demo study was run by Snakemake, for tests that only look."""
    return _done_once[0]


@pytest.fixture
def done(_done_once, tmp_path) -> Project:
    """A copy of the project whose demo study was run by Snakemake."""
    return _done_once[0].copy(tmp_path / "project")


@pytest.fixture(scope="session")
def _versioned_once(_done_once, tmp_path_factory) -> Project:
    project = _done_once[0].copy(tmp_path_factory.mktemp("versioned") / "project")
    project.edit("params/studies/demo.yaml", only_ratings)
    put_into_git_and_dvc(project)
    assert project.dvc_repro() == {"tables_demo": 1}
    project.succeeded("git", "add", "-A")
    project.succeeded("git", "commit", "-qm", "demo")
    return project


def only_ratings(study: str) -> str:
    """The tiny study on one data set: DVC starts Snakemake once for each stage of each."""
    tree = yaml.safe_load(study)
    demo = tree["studies"]["demo"]
    demo["grids"] = {"rating": demo["grids"]["rating"]}
    demo["tables"] = ["table1", "table2"]
    return yaml.safe_dump(tree, sort_keys=False)


@pytest.fixture
def versioned(_versioned_once, tmp_path) -> Project:
    """A project with its demo run, in git and DVC."""
    return _versioned_once.copy(tmp_path / "project")
