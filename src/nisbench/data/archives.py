"""Read single files out of zip archives without ever unpacking to disk."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from nisbench.errors import NisbenchError


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """The bytes of one file in a zip archive.

    Raises `NisbenchError` if the archive is damaged, lacks the file, or holds names that point outside a folder it
    would be unpacked to: a publisher's archive has none, so such a one is not the publisher's.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                path = PurePosixPath(name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in str(path):
                    raise NisbenchError(
                        f"{archive}: refused: it holds a file that would land outside its folder: {name!r}"
                    )
            if member not in opened.namelist():
                raise NisbenchError(f"{archive}: holds no {member!r}; it holds {', '.join(opened.namelist()[:10])}")
            with opened.open(member) as stream:
                yield stream
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        raise NisbenchError(f"{archive}: not a readable zip archive: {error}. Delete it and run again.") from error
