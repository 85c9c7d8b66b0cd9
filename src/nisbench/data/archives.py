"""Read single files out of archives without ever unpacking to disk."""

import codecs
import hashlib
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

import pyarrow as pa

from nisbench.errors import NisbenchError, shortened

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, pa.ArrowException, EOFError, OSError, ValueError,
    OverflowError, RuntimeError,
)  # fmt: skip
ENCRYPTED = 1  # bit of a zip entry's flags
READ_AT_ONCE = 1 << 20
MOST_MEMBERS = 10_000
MOST_BYTES = 64 << 20  # that an archive may unpack to,
MOST_TIMES = 100  # or so many times its size: text shrinks to between a third and a tenth
LONGEST_HEADER = 64 << 10
LONGEST_LINE = 1 << 20


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[io.BufferedReader]:
    """The bytes of one file in a zip or tar.gz archive, as a stream.

    Raises `NisbenchError`, then or while it is read, if the archive is damaged, lacks the file, unpacks to far more than its
    size, or holds names that point outside a folder it would be unpacked to: a publisher's archive does not.
    """
    with ExitStack() as stack:
        with _wrap_archive_errors(archive):
            with archive.open("rb") as file:
                opened = _open_zip if file.read(2) == b"PK" else _open_tar
            most = max(MOST_BYTES, MOST_TIMES * archive.stat().st_size)
            stream = opened(stack, archive, member, most)
        yield io.BufferedReader(Counted(stream, archive, most), READ_AT_ONCE)


@contextmanager
def _wrap_archive_errors(archive: Path) -> Iterator[None]:
    """Around what only an archive's content can make fail."""
    try:
        yield
    except DAMAGED as error:
        raise NisbenchError(
            f"{archive}: not a readable archive: {shortened(str(error))}. Delete it and run again."
        ) from error


def _open_zip(stack: ExitStack, archive: Path, member: str, most: int) -> IO[bytes]:
    opened = stack.enter_context(zipfile.ZipFile(archive))
    entries = opened.infolist()
    for number, entry in enumerate(entries, start=1):
        _check(archive, number, entry.filename)
    found = [entry for entry in entries if entry.filename == member]
    if len(found) != 1:
        raise NisbenchError(
            f"{archive}: holds {len(found) or 'no'} {member!r}; it holds {_listed([entry.filename for entry in entries])}"
        )
    if found[0].flag_bits & ENCRYPTED:
        raise NisbenchError(f"{archive}: {member} is encrypted")
    if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python unpacks others without limit
        raise NisbenchError(f"{archive}: {member} is packed by a method other than deflate. Pack it anew.")
    _check_size(archive, member, found[0].file_size, most)
    return stack.enter_context(opened.open(found[0]))


def _open_tar(stack: ExitStack, archive: Path, member: str, most: int) -> IO[bytes]:
    # Arrow decompresses ahead in C++; as a stream, the archive is read no further than the file wanted.
    plain = stack.enter_context(pa.input_stream(str(archive), compression="gzip", buffer_size=READ_AT_ONCE))
    counted = Counted(plain, archive, most)
    opened = stack.enter_context(tarfile.open(fileobj=counted, mode="r|", bufsize=READ_AT_ONCE, tarinfo=_Entry))  # noqa: SIM115
    names = []
    for number, entry in enumerate(opened, start=1):
        _check(archive, number, entry.name)
        names.append(entry.name.removeprefix("./"))
        _check_size(archive, names[-1], entry.size, most)
        if names[-1] == member:
            stream = opened.extractfile(entry) if entry.isfile() else None
            if stream is None:
                raise NisbenchError(f"{archive}: {member} is not a file but a folder, a link or the like")
            return stream
    raise NisbenchError(f"{archive}: holds no {member!r}; it holds {_listed(names)}")


class _Entry(tarfile.TarInfo):
    """An entry of a tar archive. Python reads headers whole and searches them in quadratic time: long ones are refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        if entry.size < 0 or (entry.type not in tarfile.REGULAR_TYPES and entry.size > LONGEST_HEADER):
            raise tarfile.ReadError(f"a header of {entry.size} bytes")
        return entry


def _check(archive: Path, number: int, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in str(path):
        raise NisbenchError(
            f"{archive}: refused: it holds a file that would land outside its folder: {shortened(name)!r}"
        )
    if number > MOST_MEMBERS:
        raise NisbenchError(f"{archive}: refused: it holds more than {MOST_MEMBERS} files")


def _check_size(archive: Path, member: str, size: int, most: int) -> None:
    if not 0 <= size <= most:
        raise NisbenchError(
            f"{archive}: refused: {shortened(member)!r} has {size} bytes by its header, but an archive of "
            f"{archive.stat().st_size} bytes may hold {most} at most"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(shortened(name)) for name in names[:10]) + more if names else "nothing"


class Counted(io.RawIOBase):
    """What is read from an archive, as long as it is not far more than the archive could hold."""

    def __init__(self, stream: IO[bytes], archive: Path, most: int) -> None:
        self.stream, self.archive, self.most, self.count = stream, archive, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        with _wrap_archive_errors(self.archive):
            data = self.stream.read(len(view))
        self.count += len(data)
        if self.count > self.most:
            raise NisbenchError(
                f"{self.archive}: refused: it unpacks to more than the {self.most} bytes that an archive of "
                f"{self.archive.stat().st_size} bytes may hold"
            )
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(READ_AT_ONCE), b""))


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


def numbered_lines(stream: io.BufferedReader, file: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, without their ends or a byte order mark, and their numbers from 1."""
    for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), b""), start=1):
        if len(line) > LONGEST_LINE:
            raise NisbenchError(f"{file}:{number}: a line of more than {LONGEST_LINE} bytes")
        text = line.rstrip(b"\r\n")
        yield number, text.removeprefix(codecs.BOM_UTF8) if number == 1 else text


def shown_bytes(text: bytes) -> str:
    """A value from a file as error messages show it."""
    return repr(shortened(text.decode("utf-8", errors="backslashreplace")))
