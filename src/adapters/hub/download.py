"""Files over HTTP: whole or not at all, within limits, and each only once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from .errors import AdapterNotFoundError, DownloadError

if TYPE_CHECKING:
    import httpx2 as httpx

logger = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are there, and how many there will be, if the server says so."""

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Limits:
    """What a download may take.

    Args:
        bytes: The largest file.
        silence: Seconds without a byte after which the connection is given up, and made anew.
        seconds: Seconds in all, with everything that is tried again.
        tries: How often it is tried.
        redirects: How many redirects are followed.
        pause: Seconds before it is tried again; twice as many each time.
    """

    bytes: int = 4 << 30
    silence: float = 30.0
    seconds: float = 3600.0
    tries: int = 4
    redirects: int = 5
    pause: float = 0.5


FILE = Limits()
DOCUMENT = Limits(bytes=64 << 20, seconds=120.0, tries=3, pause=0.3)


@dataclass(frozen=True)
class Answer:
    """What a server said of a file.

    Args:
        is_unchanged: Whether it said that the copy which is there is still right, so that nothing was downloaded.
        headers: `etag` and `last-modified`, where it sent them.
    """

    is_unchanged: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class _Again(Exception):
    """It may work if it is tried again."""


def is_url(text: str) -> bool:
    """Whether a text is an address on the web."""
    return text.lower().startswith(("http://", "https://"))


def check_url(url: str) -> str:
    """The address itself.

    Raises:
        DownloadError: it is none that downloads may go to.
    """
    try:
        found = urlsplit(url)
        host = found.hostname
        _ = found.port
    except ValueError:
        host = None
    if not is_url(url) or not host:
        raise DownloadError(f"{url!r} is no address that can be downloaded from; it begins with https:// or http://.")
    return url


def is_offline() -> bool:
    """Whether the environment variable ADAPTERS_OFFLINE forbids all downloads."""
    return os.environ.get("ADAPTERS_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def fetch(
    url: str,
    path: Path,
    limits: Limits = FILE,
    known: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Answer:
    """Download a file. What is in `path` already is taken for its beginning, if the server still has the same file.

    >>> fetch("https://example.org/adapter.zip", Path("adapter.zip.part"))

    Args:
        url: The address.
        path: The file, which holds the beginning if the download fails.
        limits: What it may take.
        known: The headers of an answer for a copy of the whole file that is elsewhere: it is not downloaded again.
        progress: Told of what has been downloaded.

    Raises:
        AdapterNotFoundError: there is no such file on the server.
        DownloadError: it cannot be downloaded; the message says why.
    """
    deadline = time.monotonic() + limits.seconds
    with _client(limits) as client:
        for attempt in range(limits.tries):
            try:
                answer = _try(client, check_url(url), path, limits, known or {}, deadline, progress)
                if answer.is_unchanged and not known:
                    raise DownloadError(f"{url}: the server says that there is a copy of it here, and there is none.")
                return answer
            except _Again as problem:
                pause = limits.pause * 2**attempt
                if attempt + 1 == limits.tries or time.monotonic() + pause > deadline:
                    raise DownloadError(
                        f"{url} could not be downloaded: {problem} (tried {attempt + 1} times)."
                    ) from None
                logger.info("%s: %s; trying again in %.1f s", url, problem, pause)
                time.sleep(pause)
    raise AssertionError("a limit of no tries")


def _client(limits: Limits) -> httpx.Client:
    from .. import __version__

    # Redirects are followed here, one by one. The bytes of a file are wanted as they are: what is sent compressed
    # could not be continued, and its size could not be checked.
    headers = {"user-agent": f"adapters/{__version__}", "accept-encoding": "identity"}
    client: httpx.Client = http_library().Client(timeout=limits.silence, follow_redirects=False, headers=headers)
    return client


def http_library() -> Any:
    """The HTTP library that huggingface_hub comes with: `httpx2`, or `httpx` before its release 2."""
    try:
        import httpx2
    except ModuleNotFoundError:
        import httpx

        return httpx
    return httpx2


def _try(
    client: httpx.Client,
    url: str,
    path: Path,
    limits: Limits,
    known: Mapping[str, str],
    deadline: float,
    progress: Progress | None,
) -> Answer:
    there = path.stat().st_size if path.is_file() else 0
    validator = _read_validator(path) if there else ""
    headers = _conditions(known)
    if validator and not known:
        headers |= {"range": f"bytes={there}-", "if-range": validator}
    http = http_library()
    try:
        with _following(client, url, headers, limits) as response:
            return _receive(response, path, there, limits, deadline, progress)
    except http.TimeoutException:
        raise _Again(f"the server was silent for {limits.silence:g} seconds") from None
    except http.HTTPError as error:
        raise _Again(str(error) or type(error).__name__) from None
    except http.InvalidURL as error:
        raise DownloadError(f"{url!r} is no address: {error}.") from None


def _conditions(known: Mapping[str, str]) -> dict[str, str]:
    names = {"etag": "if-none-match", "last-modified": "if-modified-since"}
    return {names[key]: value for key, value in known.items() if key in names}


@contextmanager
def _following(client: httpx.Client, url: str, headers: Mapping[str, str], limits: Limits) -> Iterator[httpx.Response]:
    """The answer at the end of the redirects."""
    for _ in range(limits.redirects + 1):
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code not in _REDIRECTS:
                yield response
                return
            target = urljoin(url, response.headers.get("location", ""))
        if not is_url(target) or (url.lower().startswith("https:") and not target.lower().startswith("https:")):
            raise DownloadError(f"{url} redirects to {target!r}, where no download may go.")
        url = check_url(target)
    raise DownloadError(f"{url} redirects more than {limits.redirects} times.")


def _receive(
    response: httpx.Response, path: Path, there: int, limits: Limits, deadline: float, progress: Progress | None
) -> Answer:
    if response.status_code == 304:
        return Answer(is_unchanged=True)
    start = _start(response, path, there)
    length = response.headers.get("content-length", "")
    total = start + int(length) if length.isdigit() else None
    if total is not None and total > limits.bytes:
        raise DownloadError(f"{response.url} has {total:,} bytes; at most {limits.bytes:,} are downloaded.")
    _write_validator(path, response.headers)
    received = start
    with path.open("r+b" if start else "wb") as file:
        file.seek(start)
        for block in response.iter_raw():
            received += len(block)
            if received > limits.bytes:
                raise DownloadError(f"{response.url} has more than {limits.bytes:,} bytes, the limit of downloads.")
            if time.monotonic() > deadline:
                raise DownloadError(f"{response.url} took more than {limits.seconds:g} seconds.")
            file.write(block)
            if progress is not None:
                progress(received, total)
    _validator_file(path).unlink(missing_ok=True)
    kept = {key: response.headers[key] for key in ("etag", "last-modified") if key in response.headers}
    return Answer(headers=kept)


def _start(response: httpx.Response, path: Path, there: int) -> int:
    """Where in the file the bytes begin that the server sends.

    Raises:
        AdapterNotFoundError: there is no such file.
        DownloadError: the server refuses.
        _Again: another try may help.
    """
    status = response.status_code
    if status == 200:
        return 0
    if status == 206 and response.headers.get("content-range", "").startswith(f"bytes {there}-"):
        return there
    if status in (206, 416):  # another part than the one asked for, or the file has become shorter
        path.unlink(missing_ok=True)
        raise _Again("the server has another file than the one that was begun")
    if status in (404, 410):
        raise AdapterNotFoundError(f"There is no {response.url} (the server says {status}).")
    said = f"the server says {status} {response.reason_phrase}".rstrip()
    if status in _RETRIED:
        raise _Again(said)
    raise DownloadError(f"{response.url} could not be downloaded: {said}.")


def _validator_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.etag")


def _read_validator(path: Path) -> str:
    """What the server called the file whose beginning is there: only of the same file the rest may be asked for."""
    file = _validator_file(path)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _write_validator(path: Path, headers: Mapping[str, str]) -> None:
    etag = headers.get("etag", "")
    strong = etag if etag and not etag.startswith("W/") else ""
    _validator_file(path).write_text(strong, encoding="utf-8")
