"""The golden values are what today's code computes, and `make golden` does what it says."""

import json
import shutil

import pytest

from nisbench import identity
from nisbench.identity import CORE, core_source, is_development
from tests.golden import __main__ as golden
from tests.golden.cases import compute, machine_kind


@pytest.mark.slow
def test_golden_values_are_what_is_computed():
    recorded, values = golden.read_values(), compute()
    exact = recorded["machine"] == machine_kind()
    for step in CORE:
        assert golden.differences(recorded["values"][step], values[step], exact=exact) == []
        assert values[step].keys() == recorded["values"][step].keys(), "new cases: run `make golden`"


def test_no_id_is_a_development_id():
    assert [step for step in CORE if is_development(step)] == [], "the core was changed: run `make golden`"


def test_versions_are_those_of_the_golden_values():
    versions = {step: identity.recorded_core()[step]["version"] for step in CORE}
    assert versions == golden.read_values()["versions"]


@pytest.fixture
def in_a_copy(tmp_path, monkeypatch):
    """`make golden`'s files, copied, and values as they would be computed."""
    recorded = golden.read_values()
    for name, path in (("CORE_FILE", identity.CORE_FILE), ("VALUES_FILE", golden.VALUES_FILE)):
        copy = tmp_path / path.name
        shutil.copy(path, copy)
        monkeypatch.setattr(golden, name, copy)
    monkeypatch.setattr(golden, "machine_kind", lambda: recorded["machine"])
    values = json.loads(json.dumps(recorded["values"]))
    monkeypatch.setattr(golden, "compute", lambda: values)
    return values


def core(in_file=None):
    return json.loads((in_file or golden.CORE_FILE).read_text())


@pytest.mark.usefixtures("in_a_copy")
def test_the_same_values_record_the_new_source(monkeypatch):
    monkeypatch.setattr(golden, "core_source", lambda step: f"new {step}")
    assert golden.main() == 0
    assert {entry["source"] for entry in core().values()} == {f"new {step}" for step in CORE}


def test_other_values_are_refused_until_the_version_is_raised(in_a_copy, monkeypatch, capsys):
    before = golden.VALUES_FILE.read_text()
    case = next(iter(in_a_copy["search"]))
    in_a_copy["search"][case]["losses"][0][0] *= 1 + 1e-12
    monkeypatch.setattr(golden, "core_source", lambda step: f"new {step}")
    assert golden.main() == 1
    shown = capsys.readouterr().out
    assert f"{case}: losses[0][0]" in shown
    assert "Refused for: search" in shown
    assert core()["search"] == json.loads(identity.CORE_FILE.read_text())["search"]  # so ids stay development ids
    assert core()["prune"]["source"] == "new prune"

    raised = core()
    raised["search"]["version"] += 1
    golden.CORE_FILE.write_text(json.dumps(raised))
    assert golden.main() == 0
    assert core()["search"] == {"version": raised["search"]["version"], "source": "new search"}
    assert golden.VALUES_FILE.read_text() != before


@pytest.mark.parametrize(
    ("now", "exact", "alike"),
    [
        ({"a": [1.0, 2]}, True, True),
        ({"a": [1.0 + 1e-9, 2]}, True, False),
        ({"a": [1.0 + 1e-9, 2]}, False, True),
        ({"a": [1.001, 2]}, False, False),
        ({"a": [1.0, 3]}, False, False),
        ({"a": [1.0]}, False, False),
        ({"b": [1.0, 2]}, False, False),
    ],
)
def test_what_counts_as_the_same(now, exact, alike):
    assert (golden.differences({"case": {"a": [1.0, 2]}}, {"case": now}, exact=exact) == []) == alike


def test_a_source_is_a_hash():
    assert all(len(core_source(step)) == 64 for step in CORE)
