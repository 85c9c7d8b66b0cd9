"""Read a file that was downloaded: alone or out of an archive, compressed or not, without ever unpacking to disk.

What it is, its first bytes tell; its name does not matter.
"""

import codecs
import hashlib
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from nisbench.errors import NisbenchError, shortened, without_password
from nisbench.progress import Ticker, share

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, pa.ArrowException, EOFError, OSError,
    ValueError, OverflowError, RuntimeError,
)  # fmt: skip
ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    **dict.fromkeys((b"BZh%d" % level for level in range(1, 10)), "bz2"),
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
}
"""Compressions of one file or of a tar archive, by their first bytes."""
SUFFIXES = {".gz", ".bz2", ".zst", ".xz"}
NOT_DATA = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x04\x22\x4d\x18": "an LZ4 file",
    b"%PDF-": "a PDF document",
    b"version https://git-lfs": "a pointer to a file in Git LFS, not the file",
}
"""What is often taken for a data set, by its first bytes."""
TAR_BLOCK = 512
ENCRYPTED = 1  # bit of a zip entry's flags
READ_AT_ONCE = 1 << 20
MOST_MEMBERS = 10_000
MOST_BYTES = 64 << 20  # that an archive may unpack to,
MOST_TIMES = 100  # or so many times its size: text shrinks to between a third and a tenth
LONGEST_HEADER = 64 << 10
LONGEST_LINE = 1 << 20


_url: ContextVar[str | None] = ContextVar("url", default=None)


class UnreadableError(NisbenchError):
    """A file is damaged, or is none that can be read."""


@contextmanager
def fetched_from(urls: Sequence[str], archive: Path | None) -> Iterator[None]:
    """While it is read, errors call the copy `archive`, or a file in it, what the user calls it: by address or path in ``params/``."""
    if not urls or archive is None:
        yield
        return
    token = _url.set(urls[0] if len(urls) == 1 else None)
    try:
        yield
    except NisbenchError as error:
        text = str(error)
        if len(urls) > 1:
            for url in urls:
                text = text.replace(f"{archive}: {PurePosixPath(url).name}", without_password(url))
        text = text.replace(str(archive), without_password(urls[0]) if len(urls) == 1 else "the files of `url`")
        if isinstance(error, UnreadableError) and any("://" in url for url in urls):
            text += (
                f"\nOnce the address has another file, remove our copy, {archive.parent}, so that it is fetched anew."
            )
        raise NisbenchError(text) from error
    finally:
        _url.reset(token)


@contextmanager
def open_member(archive: Path, member: str | None) -> Iterator[io.BufferedReader]:
    """The bytes of one file, as a stream.

    `archive` is a zip or tar archive that holds the file `member`; or it is the file itself, and `member` is its name or
    None. All but a zip may be compressed by gzip, bzip2, Zstandard or xz.

    Raises `NisbenchError`, then or while it is read, if the archive is damaged, lacks the file, unpacks to far more than its
    size, or holds names that point outside a folder it would be unpacked to: a publisher's archive does not.
    """
    with ExitStack() as stack:
        with _wrap_archive_errors(archive):
            with archive.open("rb") as file:
                start = file.read(TAR_BLOCK)
            most = max(MOST_BYTES, MOST_TIMES * archive.stat().st_size)
            if start.startswith(ZIP):
                stream, size = _open_zip(stack, archive, member, most)
                packed = None
            else:
                packed = stack.enter_context(archive.open("rb"))
                stream, size = _open_unzipped(stack, packed, archive, member, most, _compression(start))
        yield io.BufferedReader(Counted(stream, archive, most, size, packed), READ_AT_ONCE)


@contextmanager
def _wrap_archive_errors(archive: Path) -> Iterator[None]:
    """Around what only an archive's content can make fail."""
    try:
        yield
    except MemoryError:  # Arrow's is one of its other errors too
        raise
    except DAMAGED as error:
        raise UnreadableError(
            f"{archive}: not a readable archive: {shortened(str(error))}. Replace it by a whole one."
        ) from error


def plain(stream: io.BufferedReader, archive: Path, start: bytes) -> io.BufferedReader:
    """A stream that begins so, decompressed if it is compressed: what an archive holds may be once more."""
    kind = _compression(start)
    if kind is None:
        return stream
    opened: Any = lzma.LZMAFile(stream) if kind == "xz" else pa.CompressedInputStream(stream, kind)  # noqa: SIM115
    most = max(MOST_BYTES, MOST_TIMES * archive.stat().st_size)
    return io.BufferedReader(Counted(opened, archive, most), READ_AT_ONCE)


def _compression(start: bytes) -> str | None:
    return next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)


Sized = tuple[IO[bytes], int | None]
"""The bytes of a file, and how many they are, if that is known."""


def _open_unzipped(
    stack: ExitStack, packed: IO[bytes], archive: Path, member: str | None, most: int, compression: str | None
) -> Sized:
    """A file that is itself what is wanted, or a tar archive."""
    if compression == "xz":
        plain: Any = stack.enter_context(lzma.LZMAFile(packed))  # noqa: SIM115
    else:  # Arrow decompresses ahead in C++; as a stream, the archive is read no further than the file wanted
        plain = stack.enter_context(pa.input_stream(packed, compression=compression, buffer_size=READ_AT_ONCE))
    stream = io.BufferedReader(Counted(plain, archive, most), READ_AT_ONCE)
    start = stream.peek(TAR_BLOCK)[:TAR_BLOCK]
    if _is_tar(start):
        return _open_tar(stack, stream, archive, member, most)
    _check_alone(archive, member, start)
    return stream, None if compression else archive.stat().st_size


def archive_kind(start: bytes) -> str | None:
    """Whether a file that begins so is a zip or a tar archive that is not compressed; None if neither."""
    if start.startswith(ZIP):
        return "zip"
    return "tar" if len(start) == TAR_BLOCK and start.strip(b"\0") and _is_tar(start) else None


def _is_tar(start: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(start, tarfile.ENCODING, "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # one that holds nothing
        return True
    except tarfile.HeaderError:
        return False
    return True


def _check_alone(archive: Path, member: str | None, start: bytes) -> None:
    """Refuse a file, which is no archive, if it cannot be what was asked for. `start` is what it begins with, unpacked."""
    found = no_data(start)
    if found:
        raise UnreadableError(f"{archive}: is {found}. Name another file in `url`: the data, or a zip or tar of it.")
    url = _url.get() or str(archive)
    path = PurePosixPath(unquote(urlsplit(url).path) if "://" in url else url)
    names = [path.name, *([path.stem] if path.suffix.lower() in SUFFIXES else [])]
    if member is not None and member not in names:
        raise UnreadableError(
            f"{archive}: holds no {member!r}: it is not a zip or tar archive but a single file, which begins with "
            f"{shown_bytes(start[:14])}. If that is the file wanted, name it {names[-1]!r} instead; else pack {member!r} "
            "in a zip."
        )


def no_data(start: bytes) -> str | None:
    """What a file is that begins so, if it is none of data; else None."""
    if not start:
        return "an empty file"
    text = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return next((what for magic, what in NOT_DATA.items() if start.startswith(magic)), None)


def _open_zip(stack: ExitStack, archive: Path, member: str | None, most: int) -> Sized:
    opened = stack.enter_context(zipfile.ZipFile(archive))
    entries = opened.infolist()
    for number, entry in enumerate(entries, start=1):
        _check(archive, number, entry.filename)
    found = [entry for entry in entries if entry.filename == member]
    if member is None:
        raise _unnamed(archive, [entry.filename for entry in entries])
    if len(found) != 1:
        raise NisbenchError(
            f"{archive}: holds {len(found) or 'no'} {member!r}; it holds {_listed([entry.filename for entry in entries])}"
        )
    if found[0].flag_bits & ENCRYPTED:
        raise NisbenchError(f"{archive}: {member} is encrypted")
    if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python unpacks others without limit
        raise NisbenchError(f"{archive}: {member} is packed by a method other than deflate. Pack it anew.")
    _check_size(archive, member, found[0].file_size, most)
    return stack.enter_context(opened.open(found[0])), found[0].file_size


def _open_tar(stack: ExitStack, stream: IO[bytes], archive: Path, member: str | None, most: int) -> Sized:
    opened = stack.enter_context(tarfile.open(fileobj=stream, mode="r|", bufsize=READ_AT_ONCE, tarinfo=_Entry))  # noqa: SIM115
    names = []
    for number, entry in enumerate(opened, start=1):
        _check(archive, number, entry.name)
        names.append(entry.name.removeprefix("./"))
        _check_size(archive, names[-1], entry.size, most)
        if names[-1] == member:
            content = opened.extractfile(entry) if entry.isfile() else None
            if content is None:
                raise NisbenchError(f"{archive}: {member} is not a file but a folder, a link or the like")
            return content, entry.size
    if member is None:
        raise _unnamed(archive, names)
    raise NisbenchError(f"{archive}: holds no {member!r}; it holds {_listed(names)}")


def _unnamed(archive: Path, names: list[str]) -> NisbenchError:
    return NisbenchError(f"{archive}: is an archive. Name the file wanted of those in it: {_listed(names)}")


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

    def __init__(
        self,
        stream: IO[bytes],
        archive: Path,
        most: int,
        size: int | None = None,
        packed: IO[bytes] | None = None,
    ) -> None:
        """`size` is that of the file, if it is known; else `packed` is the archive, which tells how far it was read."""
        self.stream, self.archive, self.most, self.size, self.packed, self.count = (
            stream,
            archive,
            most,
            size,
            packed,
            0,
        )

    def come(self) -> tuple[int, int] | None:
        """How many bytes were read, of how many: of the file or, if its size is not known, of the archive."""
        if self.size is not None:
            return self.count, self.size
        return (self.packed.tell(), self.archive.stat().st_size) if self.packed else None

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


class Reading:
    """Reports how far the reading of a file has come."""

    def __init__(self, what: str, stream: io.BufferedReader) -> None:
        """`stream` is what `open_member` gave."""
        self.what, self.stream, self.rows, self.heartbeat = what, stream, 0, Ticker()

    def add(self, rows: int) -> None:
        """So many more rows were read, or will be before the next call."""
        self.rows += rows
        if self.heartbeat.is_due():
            self.heartbeat.log("%s: %s rows%s", self.what, f"{self.rows:,}", self._of())

    def _of(self) -> str:
        source = self.stream.raw
        if not isinstance(source, Counted) or not (come := source.come()):
            return ""
        return f"; MiB {share(come[0] / 2**20, come[1] / 2**20, self.heartbeat.seconds)}"


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


def numbered_blocks(stream: io.BufferedReader, file: str) -> Iterator[tuple[int, bytes]]:
    """A file in blocks of whole lines, without a byte order mark, and the number of each block's first line, from 1."""
    number, rest = 1, b""
    for read in iter(lambda: stream.read(LONGEST_LINE), b""):
        head, end, tail = read.rpartition(b"\n")
        if len(rest) + (read.index(b"\n") if end else len(read)) > LONGEST_LINE:
            raise NisbenchError(f"{file}:{number}: a line of more than {LONGEST_LINE} bytes")
        if end:
            block = rest + head + end
            yield number, block.removeprefix(codecs.BOM_UTF8) if number == 1 else block
            number, rest = number + block.count(b"\n"), tail
        else:
            rest += read
    if rest:
        yield number, rest.removeprefix(codecs.BOM_UTF8) if number == 1 else rest


def numbered_lines(stream: io.BufferedReader, file: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, without their ends or a byte order mark, and their numbers from 1. For plug-ins."""
    for first, block in numbered_blocks(stream, file):
        yield from lines_of(first, block)


def lines_of(first: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a block that are not empty, and their numbers."""
    for number, line in enumerate(block.split(b"\n"), first):
        if line and (text := line.rstrip(b"\r")):
            yield number, text


def shown_bytes(text: bytes) -> str:
    """A value from a file as error messages show it."""
    return repr(shortened(text.decode("utf-8", errors="backslashreplace")))
