"""Estimates of what a study will take."""

import subprocess
import sys

import pytest
import torch

from nisbench.cost import estimate, shapes, steps
from nisbench.params.loading import load
from nisbench.studies import plan
from tests.conftest import ROOT

CPU = torch.device("cpu")


def test_a_study_s_searches_are_timed_once(tmp_path, monkeypatch):
    study = plan(ROOT, load(ROOT, overlays=[])).study("demo")
    monkeypatch.chdir(tmp_path)
    found, unknown = estimate.of_study(study, lambda _step: False, CPU, lambda _text: None)
    assert unknown == []
    assert {(row.method, row.trials) for row in found} == {
        ("grid_search", 6), ("uniform_tuned", 6), ("random_search", 6), ("mde", 4), ("dnis", 1),
        ("nis_se", 2), ("nis_me", 2), ("full_table", 1),
    }  # fmt: skip
    assert all(row.seconds > 0 and row.memory_mib > 0 and row.assumed for row in found)
    monkeypatch.setattr(steps, "cost", None)  # what was measured is kept
    assert estimate.of_study(study, lambda _step: False, CPU, lambda _text: None)[0] == found


def test_generated_instances_have_the_shape_asked_for():
    shape = shapes.of_clicks(2, 5, 1000, 80)
    assert shape.features == 1002
    data = shapes.generate(shape, 500, CPU)
    first = torch.tensor([0, *shape.field_sizes]).cumsum(0)
    assert ((data.ids >= first[:-1]) & (data.ids < first[1:])).all()
    assert (data.values[:, 2:] == 1).all()
    ratings = shapes.generate(shapes.of_ratings(6040, 3706, 100), 4096, CPU)
    users, items = (len(column.unique()) for column in ratings.ids.unbind(1))
    assert (users, items) == pytest.approx((2350, 1655), rel=0.05)  # as in a batch of MovieLens-1M's


def test_peak_memory_is_the_process_s_own():
    held_here = b"x" * (400 << 20)  # by the process that starts the other, which is smaller
    code = "import torch; from nisbench.machine import peak_memory_mib; print(peak_memory_mib(torch.device('cpu')))"

    def peak(statement: str) -> float:
        done = subprocess.run([sys.executable, "-c", statement + code], check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout)

    small, held = peak(""), peak("held = b'x' * (100 << 20); ")
    del held_here
    assert held - small == pytest.approx(100, abs=20)
