"""Fetch a data set's file, an archive as a rule: with progress, retries and a check, and whole or not at all."""

import hashlib
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from tqdm import tqdm

from nisbench.data.archives import archive_kind, no_data
from nisbench.errors import NisbenchError, without_password
from nisbench.files import atomic_write, know_sha256
from nisbench.logs import log
from nisbench.params.datasets import file_name
from nisbench.progress import Ticker, share

ATTEMPTS = 4
PAUSE = 1  # seconds, doubled at every attempt
TIMEOUT = 30  # seconds without a byte
READ_AT_ONCE = 1 << 20
MOST_BYTES = 64 << 30  # from an address; a local file may be of any size
LEAST_START = 512  # bytes that tell a web page from data


def run(urls: Sequence[str], md5s: Sequence[str | None], target: Path) -> None:
    """Place what is at `urls` (addresses or local paths) at `target`: one file as it is, several in a zip, by their names.

    `md5s` are the files' MD5 sums, as far as they are known. Raises `NisbenchError` as `fetch` does.
    """
    if len(urls) == 1:
        fetch(urls[0], md5s[0], target)
        return
    with (
        atomic_write(target) as temporary,
        tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for url, md5 in zip(urls, md5s, strict=True):
            file = Path(folder, "file")
            fetch(url, md5, file)
            _refuse_archive(file, without_password(url))
            entry = zipfile.ZipInfo(file_name(url))  # of no date, so that the archive is the same every time
            with file.open("rb") as opened, archive.open(entry, "w", force_zip64=True) as packed:
                shutil.copyfileobj(opened, packed, READ_AT_ONCE)


def _refuse_archive(file: Path, name: str) -> None:
    with file.open("rb") as opened:
        found = archive_kind(opened.read(LEAST_START))
    if found:
        raise NisbenchError(
            f"{name}: is a {found} archive, and `url` lists several files. Give the archive alone, or unpack it and list what it "
            "holds."
        )


def fetch(url: str, md5: str | None, target: Path) -> None:
    """Place the file at `url` (an address or a local path) at `target`, as it lies on the server.

    A transfer that breaks off is begun again, up to `ATTEMPTS` times. Raises `NisbenchError` if the file cannot be had, is a
    web page or empty, or its MD5 sum is not `md5`; then nothing is left at `target`.
    """
    with atomic_write(target) as temporary:
        sums = _download(url, temporary) if "://" in url else _copy(Path(url), temporary)
        _check(temporary, without_password(url), sums.md5.hexdigest(), md5)
    know_sha256(target, sums.sha256.hexdigest())


class Sums:
    """Of what is written, so that it need not be read again."""

    def __init__(self) -> None:
        self.md5, self.sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()

    def update(self, data: bytes) -> None:
        self.md5.update(data)
        self.sha256.update(data)


def _copy(source: Path, target: Path) -> Sums:
    if source.is_dir():
        raise NisbenchError(
            f"{source}: is a folder, and a data set's url names files. List them, or pack the folder in a zip."
        )
    if not source.is_file():
        raise NisbenchError(f"{source}: there is no such file (a data set's url names it)")
    try:
        opened = source.open("rb")
    except OSError as error:
        raise NisbenchError(f"{source}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    sums, size, heartbeat, done = Sums(), source.stat().st_size, Ticker(), 0
    with opened, target.open("wb") as file:
        while data := opened.read(READ_AT_ONCE):
            file.write(data)
            sums.update(data)
            done += len(data)
            if heartbeat.is_due():
                heartbeat.log("copying %s: MiB %s", source, share(done / 2**20, size / 2**20, heartbeat.seconds))
    return sums


def _download(url: str, target: Path) -> Sums:
    shown = without_password(url)
    log.info("downloading %s", shown)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(url, target)
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            ConnectionError,
            TimeoutError,
            ValueError,
        ) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            refused = status is not None and status < 500 and status not in (408, 429)
            if attempt == ATTEMPTS or refused or isinstance(error, ValueError):
                raise NisbenchError(
                    f"{shown}: could not be downloaded: {error}\nFetch it by other means and name the file in an "
                    "overlay (see README): datasets.<name>.url may be a local path."
                ) from error
            log.warning("attempt %d of %d failed (%s); trying again", attempt, ATTEMPTS, error)
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("the last attempt succeeds or raises")


def _transfer(url: str, target: Path) -> Sums:
    """Store the body of a response byte for byte: a Content-Encoding says how it is packed, and the MD5 sum is of that."""
    parts = urlsplit(url)
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # so that no error shows the password
    asked = {"Accept-Encoding": "identity"}
    with requests.get(plain, headers=asked, auth=login, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        if response.status_code != requests.codes.ok:
            answer = f"the server answers {response.status_code} ({response.reason}), which is not the whole file"
            raise requests.HTTPError(answer, response=response)
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdigit() else None
        if size is not None and size > MOST_BYTES:
            raise _too_large(url)
        sums = Sums()
        with (
            target.open("wb") as file,
            tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as progress,
        ):
            # urllib3 raises if the body is shorter than its Content-Length
            for data in response.raw.stream(READ_AT_ONCE, decode_content=False):
                file.write(data)
                sums.update(data)
                progress.update(len(data))
                if file.tell() > MOST_BYTES:
                    raise _too_large(url)
    return sums


def _too_large(url: str) -> NisbenchError:
    return NisbenchError(
        f"{without_password(url)}: refused: more than {MOST_BYTES >> 30} GiB. If it is right, fetch it by other means and "
        "name the file: datasets.<name>.url may be a local path."
    )


def _check(file: Path, name: str, found: str, md5: str | None) -> None:
    """Raise `NisbenchError` if a file, whose MD5 sum was `found`, is not what was asked for."""
    with file.open("rb") as opened:
        otherwise = no_data(opened.read(LEAST_START))
    if md5 is None and otherwise:
        raise NisbenchError(f"{name}: is {otherwise}, not data. Nothing was kept. Correct the data set's url.")
    if md5 is None:
        log.info("%s: MD5 %s (none was given to check it against)", name, found)
    elif found != md5:
        what = (
            f"it is {otherwise}"
            if otherwise
            else "the file is damaged, another version, or packed again (`repacked_md5`)"
        )
        raise NisbenchError(f"{name}: its MD5 sum is {found}, but the parameters say {md5}: {what}. Nothing was kept.")
