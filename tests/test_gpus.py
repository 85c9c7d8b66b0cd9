"""Several GPUs on one machine, which are pretended: each job takes one, and waits while all are taken."""

import os
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from nisbench import gpus, machine


class WaitingError(Exception):
    """A job would wait."""


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """GPUs as the variable names them; CUDA sees one at most where they are parts of one. A job that would wait raises."""

    def names():
        chosen = os.environ[gpus.VARIABLE].split(",")
        return chosen[:1] if chosen[0].startswith(gpus.INSTANCE) else chosen

    def waits(_seconds):
        raise WaitingError

    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(machine.time, "sleep", waits)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names()))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _index: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=names()[index]))

    def job(variable):
        """Begin a job with this variable: the name of the GPU that it takes."""
        monkeypatch.setenv(gpus.VARIABLE, variable)
        device = jobs.enter_context(machine.device("cuda"))
        return names()[device.index]

    with ExitStack() as jobs:
        yield job


@pytest.mark.parametrize("variable", ["GPU-1,GPU-2", "MIG-1,MIG-2", "0,1"])
def test_each_job_takes_a_gpu_of_its_own(variable, pretended):
    assert {pretended(variable), pretended(variable)} == set(variable.split(","))
    with pytest.raises(WaitingError):
        pretended(variable)


def test_jobs_that_see_the_same_gpu_under_different_numbers_do_not_share_it(pretended):
    assert pretended("GPU-1,GPU-2") == "GPU-1"
    assert pretended("GPU-2,GPU-1") == "GPU-2"


@pytest.mark.parametrize(
    ("variable", "listed", "expected"),
    [
        ("", "GPU 0: A (UUID: GPU-1)", []),
        ("0", "", ["0"]),
        ("GPU-1, MIG-2", "", ["GPU-1", "MIG-2"]),
        ("1,-1,0", "", ["1"]),
        (None, "", []),
        (None, "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n", ["GPU-1", "GPU-2"]),
        (
            None,
            "GPU 0: A (UUID: GPU-1)\n  MIG 3g.40gb Device 0: (UUID: MIG-1)\n  MIG 3g.40gb Device 1: (UUID: MIG-2)\nGPU 1: A (UUID: GPU-2)",
            ["MIG-1", "MIG-2", "GPU-2"],
        ),
    ],
)
def test_gpus_are_those_of_the_variable_or_all(variable, listed, expected, monkeypatch):
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(gpus.VARIABLE, variable)
    monkeypatch.setattr(gpus, "_listed", lambda: listed)
    assert gpus.visible() == expected


def test_the_chosen_instance_is_forgotten_afterwards(pretended, monkeypatch):
    monkeypatch.setenv(gpus.VARIABLE, "MIG-1,MIG-2")
    with machine.device("auto") as used:
        assert used == torch.device("cuda", 0)
        assert gpus.visible() == ["MIG-1"]
    assert gpus.visible() == ["MIG-1", "MIG-2"]
    assert pretended("MIG-1,MIG-2") == "MIG-1"


def test_how_torch_sums_is_afterwards_as_it_was_before():
    """Whoever calls `nisbench.search` has a process of their own."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), machine.torch_modes(deterministic=True, precision="tf32"):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == "high"
        raise KeyError
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()) == before
