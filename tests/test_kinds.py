"""Kinds: those of plug-ins are as good as the package's own, and a plug-in that cannot be used is refused when it loads."""

import importlib
import sys
from importlib import metadata
from pathlib import Path

import pytest

from nisbench.errors import NisbenchError
from nisbench.identity import kind_file
from nisbench.params import kinds as registry
from nisbench.params.base import Kind
from nisbench.params.kinds import FUNCTIONS, VARIABLE, kinds
from nisbench.params.loading import load
from nisbench.studies import plan
from tests.helpers.code import forget
from tests.helpers.paths import SMALL

HALF = '''
"""Half of the dimensions for all."""

from typing import Annotated, Literal

from pydantic import Field

from nisbench.params.methods import Method


class Half(Method):
    """Half."""

    kind: Literal["half"]
    share: Annotated[float, Field(gt=0, le=1)]


def propose(settings, features, k, seed):
    return []
'''

OVERLAY = """
methods: {half: {kind: half, title: Half, importance: effective, rounds: 0, share: 0.5}}
studies: {demo: {grids: {rating: {methods: {half: [1, 2]}}}}}
"""


@pytest.fixture(autouse=True)
def _forgotten():
    """What a test plugs in is gone after it."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "plugin" in name:
            del sys.modules[name]
    registry._registry.cache_clear()


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """Have NISBENCH_PLUGINS name files of these texts, by their names."""

    def plug_in(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setenv(VARIABLE, ":".join(str(tmp_path / f"{name}.py") for name in texts))
        return tmp_path

    return plug_in


@pytest.fixture
def overlay(tmp_path):
    def load_with(text):
        (tmp_path / "over.yaml").write_text(text)
        return load(SMALL, overlays=[tmp_path / "over.yaml"])

    return load_with


def test_each_of_the_package_s_kinds_is_complete():
    for section, function in FUNCTIONS.items():
        for name, kind in kinds(section).items():
            assert (kind.section, kind.kind_name()) == (section, name)
            assert not [each for each in kind.__class_vars__ if not hasattr(kind, each)]
            assert callable(getattr(kind.module(), function))
            assert kind_file(kind) == Path(kind.module().__file__)


def test_a_plug_in_s_kind_is_validated_planned_and_hashed(plugged, overlay):
    folder = plugged(half=HALF)
    config = overlay(OVERLAY)
    settings = config.params.methods["half"]
    assert (type(settings).__name__, settings.share) == ("Half", 0.5)
    searches = [cell.search for cell in plan(SMALL, config).study("demo").cells if cell.method == "half"]
    assert {search.label for search in searches} == {"mf-half-seed1"}
    assert kind_file(type(settings)) == folder / "half.py"
    assert settings.module().propose(settings, None, 8, 1) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("share: 0.5", "share: 0", "over.yaml:2: methods.half.share: must be greater than 0, not 0"),
        ("share: 0.5", "shar: 0.5, share: 0.5", "over.yaml:2: methods.half.shar: unknown key; did you mean 'share'?"),
        ("kind: half", "kind: hal", "over.yaml:2: methods.half.kind: there is no kind 'hal'; did you mean 'half'?"),
        (
            "kind: half",
            "kind: zz",
            "methods.half.kind: there is no kind 'zz'; there is: autodim, dnis, full, gradual, grid, half",
        ),
    ],
)
def test_a_plug_in_s_kind_has_the_same_errors_as_any_other(plugged, overlay, old, new, says):
    plugged(half=HALF)
    with pytest.raises(NisbenchError) as raised:
        overlay(OVERLAY.replace(old, new))
    assert says in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_without_the_plug_in_its_kind_is_unknown(overlay):
    with pytest.raises(NisbenchError, match=r"over.yaml:2: methods.half.kind: there is no kind 'half'"):
        overlay(OVERLAY)


def test_an_edit_of_a_plug_in_reruns_what_depends_on_it(plugged, overlay):
    def searches(text):
        forget()
        registry._registry.cache_clear()
        sys.modules.pop("nisbench_plugin_half", None)
        (folder / "half.py").write_text(text)
        return {cell.method: cell.search.id for cell in plan(SMALL, overlay(OVERLAY)).study("demo").cells}

    folder = plugged(half=HALF)
    before, edited = searches(HALF), searches(HALF.replace("return []", "return [1]"))
    assert {method for method, step in edited.items() if step != before[method]} == {"half"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "mine.py: defines no settings class: a subclass of Method, Model, Task or Dataset"),
        ("from nisbench.params.methods import DNIS", "mine.py: defines no settings class"),
        (HALF.replace('Literal["half"]', "str"), "mine.py: defines no settings class"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        (HALF.replace('"half"', '"dnis"'), "mine.py: there is a kind 'dnis' among the methods already"),
        (HALF.replace('"half"', '"../x"'), "mine.py: the kind '../x' must be lower-case letters, digits and underscores"),
        (HALF.replace("def propose", "def suggest"), "mine.py: Half needs a function propose() in the same file."),
        (HALF.replace("Method", "Model").replace("methods", "models"), "mine.py: Half does not set tasks."),
        (HALF.replace("Method", "Dataset").replace("methods", "datasets").replace("kind:", "format:"), "mine.py: Half does not set tasks."),
        (HALF.replace("Method", "Task").replace("methods", "tasks"), "does not set headlines, measured, metrics, table, table_title."),
        (HALF.replace("Method", "Kind").replace("methods", "base"), "mine.py: Half does not set package, section."),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_plug_in_that_cannot_be_used_says_why(plugged, text, says):
    folder = plugged(mine=text)
    with pytest.raises(NisbenchError) as raised:
        kinds("methods")
    assert says in str(raised.value)
    assert str(folder / "mine.py") in str(raised.value)


def test_a_plug_in_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "nowhere.py")
    with pytest.raises(NisbenchError) as raised:
        kinds("methods")
    assert str(raised.value) == f"the plug-in nowhere.py is not a file (looked for in {tmp_path})."


def test_a_plug_in_that_is_no_python_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text(HALF)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "notes.txt"))
    with pytest.raises(NisbenchError, match=r"notes\.txt is not a Python file"):
        kinds("methods")


def test_two_plug_ins_of_one_file_name_are_refused(tmp_path, monkeypatch):
    for folder, kind in (("a", "half"), ("b", "third")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(HALF.replace('"half"', f'"{kind}"'))
    monkeypatch.setenv(VARIABLE, f"{tmp_path}/a/mine.py:{tmp_path}/b/mine.py")
    with pytest.raises(
        NisbenchError,
        match=r"there are two plug-ins called mine\.py: .*a/mine\.py and .*b/mine\.py\. Rename one of them\.",
    ):
        kinds("methods")


def test_two_plug_ins_of_one_kind_are_refused(plugged):
    plugged(one=HALF, other=HALF)
    with pytest.raises(NisbenchError, match=r"other\.py: there is a kind 'half' among the methods already"):
        kinds("methods")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Have an installed package name this module among its entry points."""

    def install(name, text=None):
        if text is not None:
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        point = metadata.EntryPoint("half", name, registry.ENTRY_POINTS)
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: [point] * (group == registry.ENTRY_POINTS))
        registry._registry.cache_clear()

    return install


def test_an_installed_package_s_kinds_are_found(installed, overlay, tmp_path):
    installed("some_plugin", HALF)
    found = kinds("methods")["half"]
    assert issubclass(found, Kind)
    assert kind_file(found) == tmp_path / "some_plugin.py"
    assert overlay(OVERLAY).params.methods["half"].share == 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"the plug-in other_plugin cannot be imported: ModuleNotFoundError: No module named 'other_plugin'"),
        ("1 / 0", r"the plug-in other_plugin cannot be imported: ZeroDivisionError"),
        ("x = 1", r"other_plugin: defines no settings class"),
        (HALF.replace('"half"', '"dnis"'), r"other_plugin: there is a kind 'dnis' among the methods already"),
    ],
    ids=range(4),
)
def test_an_installed_package_that_cannot_be_used_says_why(installed, text, says):
    installed("other_plugin", text)
    with pytest.raises(NisbenchError, match=says):
        kinds("methods")
