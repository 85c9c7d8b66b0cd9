"""Read single files out of archives without ever unpacking to disk."""

import codecs
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa

from nisbench.errors import NisbenchError

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, pa.ArrowException, NotImplementedError, EOFError,
    OSError,
)  # fmt: skip
ENCRYPTED = 1  # bit of a zip entry's flags


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """The bytes of one file in a zip or tar.gz archive, as a stream.

    Raises `NisbenchError` if the archive is damaged, lacks the file, or holds names that point outside a folder it
    would be unpacked to: a publisher's archive has none, so such a one is not the publisher's.
    """
    try:
        with archive.open("rb") as file:
            opened = _open_zip if file.read(2) == b"PK" else _open_tar
        with opened(archive, member) as stream:
            yield stream
    except DAMAGED as error:
        raise NisbenchError(f"{archive}: not a readable archive: {error}. Delete it and run again.") from error


@contextmanager
def _open_zip(archive: Path, member: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        for name in names:
            _check_name(archive, name)
        if member not in names:
            raise NisbenchError(f"{archive}: holds no {member!r}; it holds {', '.join(names[:10])}")
        if opened.getinfo(member).flag_bits & ENCRYPTED:
            raise NisbenchError(f"{archive}: {member} is encrypted")
        with opened.open(member) as stream:
            yield stream


@contextmanager
def _open_tar(archive: Path, member: str) -> Iterator[IO[bytes]]:
    # Arrow decompresses ahead in C++; as a stream, the archive is read no further than the file wanted.
    with pa.input_stream(str(archive), compression="gzip", buffer_size=1 << 20) as plain:
        with tarfile.open(fileobj=plain, mode="r|", bufsize=1 << 20) as opened:
            names = []
            for entry in opened:
                _check_name(archive, entry.name)
                names.append(entry.name.removeprefix("./"))
                if names[-1] == member and entry.isfile():
                    stream = opened.extractfile(entry)
                    assert stream is not None
                    yield stream
                    return
        raise NisbenchError(f"{archive}: holds no {member!r}; it holds {', '.join(names[:10])}")


def _check_name(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in str(path):
        raise NisbenchError(f"{archive}: refused: it holds a file that would land outside its folder: {name!r}")


class Digested(io.BufferedIOBase):
    """A stream that, as it is read, puts all it reads into a digest."""

    def __init__(self, stream: IO[bytes], digest: "hashlib._Hash") -> None:
        self.stream, self.digest = stream, digest

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        data = self.stream.read(-1 if size is None else size)
        self.digest.update(data)
        return data


def numbered_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, without their ends or a byte order mark, and their numbers from 1."""
    for number, line in enumerate(stream, start=1):
        text = line.rstrip(b"\r\n")
        yield number, text.removeprefix(codecs.BOM_UTF8) if number == 1 else text


def shown_bytes(text: bytes) -> str:
    """A value from a file as error messages show it."""
    shown = text.decode("utf-8", errors="backslashreplace")
    return repr(shown if len(shown) <= 60 else shown[:60] + "...")
