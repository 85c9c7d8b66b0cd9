"""A few rows of docs/incremental.md, under Snakemake; what they need no more than others is in tests/pipeline and by the script."""

import pytest

from tests.reliability.incremental import ROWS, by_snakemake, changed_and_back, listed

TESTED = [
    "the split's seed",
    "a compression rate added",
    "a study's list of tables",
    "a source file of one method",
    "a source file of a data set's preparation",
    "a source file that cannot change results",
    "a comment and a docstring only",
    "the device",
    "an overlay instead of an edit",
    "a search's folder and a table lost",
    "a data set's folder and a table lost",
]


@pytest.mark.parametrize("name", TESTED)
def test_a_change_reruns_what_it_must_and_set_back_nothing_but_the_tables(done, name):
    (row,) = (row for row in ROWS if row.name == name)
    change, back = changed_and_back(done, row, by_snakemake)
    assert (listed(change.jobs), listed(back.jobs)) == (listed(row.expected), listed(row.back))
