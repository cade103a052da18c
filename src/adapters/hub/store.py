"""Downloads that are kept: small documents, and unpacked archives by their checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.archives import checksum, content_folder, extracted
from ..checkpoints.files import AdapterFileError, write_json
from .cache import cache_home, locked
from .download import DOCUMENT, FILE, Limits, fetch, is_offline
from .errors import AdapterNotFoundError, ChecksumError, DownloadError, OfflineError
from .progress import progress_bar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checksums:
    """What is known of a file before it is there.

    Args:
        sha256: Its SHA-256.
        sha1: Its SHA-1, which is all that the oldest indices have.
    """

    sha256: str | None = None
    sha1: str | None = None

    def check(self, path: Path, name: str) -> str:
        """The SHA-256 of a file.

        Raises:
            ChecksumError: it is another file.
        """
        found = checksum(path)
        if self.sha256 and found != f"sha256:{self.sha256.lower()}":
            raise ChecksumError(f"{name} is not what was published: it has {found}, not sha256:{self.sha256}.")
        if self.sha1 and not self.sha256 and checksum(path, "sha1") != f"sha1:{self.sha1.lower()}":
            raise ChecksumError(f"{name} is not what was published: its sha1 is not {self.sha1}.")
        return found.removeprefix("sha256:")


def document(url: str, limits: Limits = DOCUMENT, offline: bool = False) -> bytes:
    """A small file on the web. The copy in the cache is used where the server says that it is still right.

    Raises:
        AdapterNotFoundError: there is no such file.
        OfflineError: downloads are switched off, and there is no copy.
        DownloadError: it cannot be downloaded, and there is no copy.
    """
    folder = cache_home() / "documents"
    body, facts = folder / f"{_key(url)}.body", folder / f"{_key(url)}.json"
    with locked(folder / f"{_key(url)}.lock"):
        known = _read_facts(facts) if body.is_file() else {}
        if offline or is_offline():
            if not known:
                raise OfflineError(f"{url} is not in the cache, and downloads are switched off.")
            return body.read_bytes()
        part = folder / f"{_key(url)}.part"
        part.unlink(missing_ok=True)  # documents are small: they are not continued
        try:
            answer = fetch(url, part, limits, known.get("headers"))
        except AdapterNotFoundError:
            raise
        except DownloadError as error:
            if not known:
                raise
            logger.warning("%s The copy in the cache is used.", error)
            return body.read_bytes()
        if not answer.is_unchanged:
            os.replace(part, body)
            write_json(facts, {"url": url, "headers": dict(answer.headers)})
        return body.read_bytes()


def archive(
    url: str,
    sums: Checksums = Checksums(),
    limits: Limits = FILE,
    offline: bool = False,
    force: bool = False,
) -> Path:
    """An archive on the web, unpacked. One of a known checksum is downloaded only once, wherever it is.

    Args:
        url: The address.
        sums: What is known of it.
        limits: What it may take.
        offline: Whether to use what is in the cache, and nothing else.
        force: Whether to download it again.

    Returns:
        The folder, which is not to be changed.

    Raises:
        ChecksumError: it is another file than the one that was published.
        DownloadError: it cannot be downloaded, or is no archive that can be unpacked.
    """
    home = cache_home()
    facts = home / "addresses" / f"{_key(url)}.json"
    with locked(home / "addresses" / f"{_key(url)}.lock"):
        known = _read_facts(facts)
        folder = _known_folder(sums, known)
        if folder is not None and not force and (sums.sha256 or sums.sha1 or offline or is_offline()):
            return folder
        if offline or is_offline():
            raise OfflineError(f"{url} is not in the cache, and downloads are switched off.")
        part = home / "parts" / _key(url)
        part.parent.mkdir(parents=True, exist_ok=True)
        condition = known.get("headers") if folder is not None and not force else None
        if condition or force:
            part.unlink(missing_ok=True)
        try:
            with progress_bar(url) as progress:
                answer = fetch(url, part, limits, condition, progress)
        except AdapterNotFoundError:
            raise
        except DownloadError as error:
            if folder is None or force:
                raise
            logger.warning("%s The copy in the cache is used.", error)
            return folder
        if answer.is_unchanged and folder is not None:
            return folder
        try:
            sha256 = sums.check(part, url)
            folder = _unpacked(part, sha256, url)
        finally:
            part.unlink(missing_ok=True)
        write_json(facts, {"url": url, "headers": dict(answer.headers), "sha256": sha256, "sha1": sums.sha1})
        return folder


def local_archive(path: Path, sums: Checksums = Checksums()) -> Path:
    """An archive on this machine, unpacked to the cache.

    Raises:
        ChecksumError: it is another file than the one that was published.
        HubError: it is no archive that can be unpacked.
    """
    return _unpacked(path, sums.check(path, str(path)), str(path))


def _unpacked(path: Path, sha256: str, name: str) -> Path:
    folder = cache_home() / "archives" / sha256
    with locked(folder.with_name(f"{sha256}.lock")):
        if not folder.is_dir():
            try:
                extracted(path, folder)
            except AdapterFileError as error:
                raise DownloadError(str(error).replace(str(path), name)) from None
    return content_folder(folder)


def _known_folder(sums: Checksums, known: Mapping[str, Any]) -> Path | None:
    """The folder of an archive that was unpacked before."""
    sha256 = sums.sha256 or known.get("sha256")
    if sha256 is None or (sums.sha1 and not sums.sha256 and sums.sha1 != known.get("sha1")):
        return None
    folder = cache_home() / "archives" / str(sha256).lower()
    return content_folder(folder) if folder.is_dir() else None


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _read_facts(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return data
    return {}
