"""The code beside the parameters is what runs, or nothing does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nisbench import api, checkout
from nisbench.errors import NisbenchError
from tests.helpers.paths import ROOT
from tests.helpers.project import copy_project

NISBENCH = Path(sys.executable).with_name("nisbench")
EDIT = ("training/lazy_adam_numba.py", "LEAST = 1 << 16", "LEAST = 1 << 15")
"""In the core of all searches."""


def test_a_folder_without_code_of_its_own_is_served_by_what_is_installed(tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "src").mkdir()
    checkout.check(tmp_path)
    (tmp_path / "src" / "nisbench").symlink_to(checkout.RUNNING)
    checkout.check(tmp_path)


def test_another_checkout_s_code_is_refused(tmp_path, monkeypatch):
    """Also where a restart is of no use, and in Python."""
    own = tmp_path / "src" / "nisbench"
    (tmp_path / "params").mkdir()
    own.mkdir(parents=True)
    for file in (own / "__init__.py", tmp_path / "Snakefile", tmp_path / "params" / "datasets.yaml"):
        file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'src'}{os.pathsep}elsewhere")  # and yet another was imported
    monkeypatch.setattr(sys, "argv", [str(NISBENCH), "plan"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *sys.argv])
    monkeypatch.setattr(os, "execve", None)
    for refused in (checkout.check, checkout.restart_with_own_code, lambda _: api.home()):
        with pytest.raises(NisbenchError, match=r"The code that runs is .*Set PYTHONPATH=\$PWD/src"):
            refused(Path())


def test_a_second_checkout_s_ids_are_of_its_own_code(tmp_path):
    """With the first one's environment active: as in a git worktree."""
    second = copy_project(tmp_path / "second")
    first_code = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(
            [NISBENCH, *command], cwd=second.root, env=first_code, text=True, capture_output=True, check=False
        )
        return json.loads(done.stdout)

    def searches():
        steps = run("plan", "demo", "--no-cost", "--json")["steps"]
        return {step["id"] for step in steps if step["step"] == "search"}

    before = searches()
    file, old, new = EDIT
    second.edit(f"src/nisbench/{file}", lambda text: text.replace(old, new))
    assert not before & searches()
    (told,) = [each["text"] for each in run("doctor", "--json") if each["what"] == "code"]
    assert str(second.root / "src" / "nisbench") in told
