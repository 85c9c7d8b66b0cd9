"""Files that are either whole or not there."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nisbench.errors import NisbenchError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there if the block ends well, delete it if not.

    Raises `NisbenchError` if there is no room for it, or no permission.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut may leave the name without the content
        temporary.replace(path)
    except NisbenchError:
        raise
    except Exception as error:
        number = _number(error)
        if number not in NOT_WRITTEN:
            raise
        raise NisbenchError(_not_written(path, number)) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EISDIR)
NOT_WRITTEN = (*NO_ROOM, *NOT_ALLOWED)


def problem(error: OSError, path: Path | None = None) -> str:
    """What is wrong with a file or folder, and what to do about it. `path` names it, if the error does not, or does worse."""
    name = path or error.filename
    what = (
        f"{name}: {os.strerror(error.errno).lower()}." if error.errno and name else f"{type(error).__name__}: {error}."
    )
    if error.errno in NO_ROOM:
        return f"{what} Free some room, or lift the limit, and run the same command again."
    if error.errno in NOT_ALLOWED:
        return f"{what} Give yourself the right to it, and run the same command again. See `nisbench doctor`."
    if error.errno in NO_FOLDER:
        return f"{what} It is gone, or is no folder, or none can be made there. See `nisbench doctor`."
    return what


def check_writable(folder: Path) -> None:
    """Raise `NisbenchError` if no file can be made in `folder`, or it cannot be made itself. Leaves nothing behind."""
    there = folder
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise NisbenchError(problem(error, there)) from error


def _number(error: BaseException) -> int | None:
    """The system's number of an error; libraries in other languages only name it in their text."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    named = re.search(r"(?:errno|os error) (\d+)", str(error), re.IGNORECASE)
    return int(named[1]) if named else None


def _not_written(path: Path, number: int | None) -> str:
    problem = f"{path}: cannot be written: {os.strerror(number or 0).lower()}. No part of it was kept."
    if number not in NO_ROOM:
        return f"{problem} Give yourself the right to write there, and run the same command again."
    there = next(folder for folder in path.absolute().parents if folder.exists())
    left = shutil.disk_usage(there).free / 2**20
    return f"{problem} {left:,.0f} MiB are free there. Free some, or lift the limit, and run the same command: it goes on from what is done."


DELETE = ". Delete it and run again."
"""The remedy for any file that is not what it should be: a step of which a file is missing is done again."""


def bad_file(path: Path, problem: str) -> NisbenchError:
    """The error of a file that is not what it should be."""
    return NisbenchError(f"{path}: {problem}{DELETE}")


def check_regular(path: Path) -> Path:
    """`path`. Raises `NisbenchError` if something else than a file is there: a pipe, which would be waited for, or a folder."""
    if path.exists() and not path.is_file():
        raise bad_file(path, "is not a file")
    return path


def md5_sum(path: Path) -> str:
    """The MD5 sum that publishers give to check a file by, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def sha256_sum(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal: read only if it has changed since it was read or written last."""
    known = _sha256_sums.get(path)
    if known is None or known[0] != _state(path):
        with path.open("rb") as file:
            state = _state(path)
            known = state, hashlib.file_digest(file, "sha256").hexdigest()
        _sha256_sums[path] = known
    return known[1]


def know_sha256(path: Path, digest: str) -> None:
    """Keep the sum of a file that was computed while it was written."""
    _sha256_sums[path] = _state(path), digest


_sha256_sums: dict[Path, tuple[list[int], str]] = {}


def kept_md5_sum(path: Path) -> str:
    """The MD5 sum of a file, which is kept for the next command if it takes long to compute."""
    path = path.absolute()
    state, known = _state(path), _kept_sums()
    found = known.get(str(path))
    if isinstance(found, list) and len(found) == 2 and found[0] == state and isinstance(found[1], str):
        return found[1]
    digest = md5_sum(path)
    if path.stat().st_size >= LARGE:
        with suppress(NisbenchError):  # it may not be possible to write here
            write_json(KEPT_SUMS, known | {str(path): [state, digest]})
    return digest


KEPT_SUMS = Path("logs", "md5.json")
"""MD5 sums of local archives, by path, each with the file's state when it was read."""
LARGE = 1 << 26
"""Bytes; a smaller file is read in less than a second."""


def _kept_sums() -> dict[str, Any]:
    try:
        found = read_json(KEPT_SUMS)
    except (NisbenchError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(path: Path) -> list[int]:
    """What changes when a file does, short of reading it."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Readable JSON; floats keep every digit."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises `NisbenchError` if the file is no JSON, or holds what no file of ours does: NaN, infinity."""
    try:
        text = check_regular(path).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise bad_file(path, f"not readable as JSON: {error}") from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:30]} is not finite")
    return number
