"""Kernels for a GPU, interpreted on a CPU."""

import importlib
import os
from types import ModuleType

import pytest

INTERPRET = "TRITON_INTERPRET"
"""The variable by which Triton interprets kernels. It must be set before Triton is imported; `tests/conftest.py` does where there is
no GPU."""


def interpreted(name: str) -> ModuleType:
    """A module of kernels whose functions are interpreted; skips the test where that is not possible."""
    pytest.importorskip("triton", reason="Triton is not installed (on Linux, CUDA builds of torch come with it)")
    if os.environ.get(INTERPRET) != "1":
        pytest.skip("kernels are compiled for the GPU of this machine: tests/test_gpu.py")
    return importlib.import_module(name)
