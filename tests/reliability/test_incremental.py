"""A few rows of docs/incremental.md, under Snakemake. DVC, and other kinds of change, are in tests/pipeline; the script runs all."""

import pytest

from tests.reliability.incremental import ROWS, by_snakemake, changed_and_back, listed

TESTED = [
    "the split's seed",
    "a compression rate added",
    "a source file of one method",
    "a comment and a docstring only",
    "the device",
    "a search's folder and a table lost",
    "a data set's folder and a table lost",
]


@pytest.mark.parametrize("name", TESTED)
def test_a_change_reruns_what_it_must_and_set_back_nothing_but_the_tables(done, name):
    (row,) = (row for row in ROWS if row.name == name)
    change, back = changed_and_back(done, row, by_snakemake)
    assert (listed(change.jobs), listed(back.jobs)) == (listed(row.expected), listed(row.back))
