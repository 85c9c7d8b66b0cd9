"""The ids of docs/evidence/incremental.md, and a few of its jobs, under Snakemake. DVC, and other kinds of change, are in tests/pipeline."""

import pytest

from tests.reliability.incremental import (
    ID_ROWS,
    ROWS,
    by_snakemake,
    changed_and_back,
    counted_ids,
    ids_of,
    listed,
    prepared_for_ids,
)

pytestmark = pytest.mark.pipeline
TESTED = ["a compression rate added", "entries of params/ renamed", "a search's folder and a table lost"]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A project whose core is the one recorded, and its ids."""
    project = prepared_for_ids(tmp_path_factory.mktemp("released") / "project")
    return project, ids_of(project)


@pytest.mark.parametrize("row", [row for row in ID_ROWS if not row.golden], ids=lambda row: row.name)
def test_a_change_gives_new_ids_to_what_depends_on_it(released, row):
    new, development = counted_ids(*released, row)
    assert (listed(new), listed(development)) == (listed(row.new), listed(row.development))


@pytest.mark.parametrize("name", TESTED)
def test_a_change_reruns_what_it_must_and_set_back_nothing_but_the_tables(done, name):
    (row,) = (row for row in ROWS if row.name == name)
    change, back = changed_and_back(done, row, by_snakemake)
    assert (listed(change.jobs), listed(back.jobs)) == (listed(row.expected), listed(row.back))
