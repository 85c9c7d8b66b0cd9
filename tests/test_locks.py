"""Locks beside what they guard, also where the file system has none."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from nisbench import locks
from nisbench.errors import NisbenchError


@pytest.fixture(autouse=True)
def _warn_again():
    locks._warn.cache_clear()


def test_two_checkouts_that_share_a_folder_share_its_locks(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs").symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "step").mkdir(parents=True)
    held = locks.take(locks.beside(tmp_path / "one" / "runs" / "step"))
    shutil.rmtree(tmp_path / "shared" / "step")  # it is made anew, and the lock stays
    assert locks.take(locks.beside(tmp_path / "two" / "runs" / "step")) is None
    held.release()
    assert locks.take(locks.beside(tmp_path / "two" / "runs" / "step"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_work_goes_on_after_one_warning(number, tmp_path, monkeypatch, caplog):
    """Also where a lock's file was left behind: nobody is waited for."""

    def flock(_file, operation):
        if not operation & fcntl.LOCK_UN:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for step in ("a", "b"):
        lock = locks.beside(tmp_path / step)
        lock.touch()
        for wait in (False, True):
            taken = locks.take(lock, wait=wait)
            assert taken is not None
            taken.release()
    (warning,) = caplog.messages
    assert f"{tmp_path} is on a file system without locks ({os.strerror(number).lower()})" in warning


@pytest.mark.parametrize("folder", ["file/step", "/proc/step"])
def test_where_no_lock_can_be_made_one_message_says_why(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(NisbenchError, match=r"^\S+: .* See `nisbench doctor`"):
        locks.take(locks.beside(Path(folder)))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("rw,vers=3,local_lock=none", None),
        ("rw,vers=3,local_lock=all", "local_lock=all"),
        ("rw,localflock", "localflock"),
    ],
)
def test_a_mount_whose_locks_are_of_one_machine_is_known(options, found, tmp_path, monkeypatch):
    device = tmp_path.stat().st_dev
    other = "21 1 0:1 / /other rw,relatime shared:1 - nfs server:/other rw,local_lock=flock"
    ours = f"22 1 {os.major(device)}:{os.minor(device)} / /ours rw,relatime shared:1 - nfs server:/ours {options}"
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, **given: f"{other}\n{ours}\n" if self.name == "mountinfo" else read(self, **given),
    )
    assert locks.of_one_machine(tmp_path) == found
