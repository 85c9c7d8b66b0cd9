"""`make gpu` on a machine without a GPU: what it calls, how long that may take, and what it makes of failures."""

import os
import sys

import pytest

from tests import gpu


def test_a_command_that_takes_too_long_is_stopped():
    status, said = gpu.run(
        [sys.executable, "-c", "import time; print('began', flush=True); time.sleep(60)"], 1, dict(os.environ)
    )
    assert status == 124
    assert "began" in said
    assert "stopped after 1 s" in said


@pytest.mark.parametrize(("tests", "benchmark", "expected"), [(0, 0, 0), (1, 0, 1), (0, 3, 3)])
def test_tests_come_first_and_the_benchmark_in_the_time_that_is_left(
    tests, benchmark, expected, monkeypatch, tmp_path, capsys
):
    called = []

    def run(command, seconds, _environment):
        called.append((command, seconds))
        return (tests, "2 passed") if "pytest" in command else (benchmark, "| shape |")

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu", "--minutes", "8", "--movielens-1m", "ml-1m.zip"])
    assert gpu.main() == expected
    (first, of_tests), (others, of_others), (second, _) = called
    assert first[1:3] == others[1:3] == ["-m", "pytest"]
    assert others[-1] == f"not ({first[-1]})"
    assert max(of_tests, of_others) <= 180
    assert second[1:5] == ["-m", "benchmarks", "--card", "--device"]
    assert 4 < float(second[second.index("--minutes") + 1]) < 8
    assert (tmp_path / "logs" / "gpu-tests.log").read_text() == "2 passed" * 2
    assert "| shape |" in capsys.readouterr().out
