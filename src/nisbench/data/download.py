"""Fetch a data set's archive: with progress, retries and a check, and whole or not at all."""

import shutil
import tempfile
import time
from pathlib import Path

import pooch
import requests

from nisbench.errors import NisbenchError
from nisbench.files import atomic_write, md5_sum
from nisbench.logs import log

ATTEMPTS = 4
PAUSE = 1  # seconds, doubled at every attempt
TIMEOUT = 30  # seconds without a byte


def run(url: str, md5: str | None, target: Path) -> None:
    """Panel the archive at `url` (an address or a local path) at `target`.

    A transfer that breaks off is begun again, up to `ATTEMPTS` times. Raises `NisbenchError` if the archive cannot be
    had or its MD5 sum is not `md5`; then nothing is left at `target`.
    """
    if "://" not in url:
        _copy(Path(url), md5, target)
        return
    log.info("downloading %s", url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = pooch.retrieve(
                    url,
                    known_hash=None,
                    fname=target.name,
                    path=folder,
                    downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT),
                )
                break
            except (requests.exceptions.RequestException, OSError, ValueError) as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                refused = status is not None and 400 <= status < 500 and status not in (408, 429)
                if attempt == ATTEMPTS or refused or isinstance(error, ValueError):
                    raise NisbenchError(
                        f"{url}: could not be downloaded: {error}\nFetch it by other means and name the file in an "
                        "overlay (see README): datasets.<name>.url may be a local path."
                    ) from error
                log.warning("attempt %d of %d failed (%s); trying again", attempt, ATTEMPTS, error)
                time.sleep(PAUSE * 2**attempt)
        _check(Path(found), url, md5)
        Path(found).replace(target)


def _copy(source: Path, md5: str | None, target: Path) -> None:
    if not source.is_file():
        raise NisbenchError(f"{source}: there is no such file (a data set's url names it)")
    _check(source, str(source), md5)
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _check(file: Path, name: str, md5: str | None) -> None:
    found = md5_sum(file)
    if md5 is None:
        log.info("%s: MD5 %s (none was given to check it against)", name, found)
    elif found != md5:
        raise NisbenchError(
            f"{name}: its MD5 sum is {found}, but the parameters say {md5}: the file is damaged, or another version. "
            "Nothing was kept."
        )
