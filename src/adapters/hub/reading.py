"""Hubs to read from: a folder, or the same folder on the web."""

from __future__ import annotations

import abc
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final
from urllib.parse import quote

from . import store
from .download import check_url, is_url
from .errors import AdapterNotFoundError, HubError
from .identifiers import Identifier
from .info import AdapterInfo, info_from
from .store import Checksums

INDEX = "dist/v2"
"""Where the index is in a hub."""


@dataclass(frozen=True)
class Entry:
    """What a hub says of one adapter.

    Args:
        name: The name that leads to it, `@<org>/<file>`.
        default_version: The version that is meant if none is asked for.
        files: The files of each version: `url`, `sha1`, `sha256`.
        info: The rest.
    """

    name: str
    default_version: str
    files: Mapping[str, Mapping[str, Any]]
    info: AdapterInfo

    def version(self, version: str | None) -> Mapping[str, Any]:
        """The file of a version.

        Raises:
            AdapterNotFoundError: there is no such version.
        """
        chosen = self.default_version if version is None else str(version)
        if chosen not in self.files:
            raise AdapterNotFoundError(
                f"{self.name} has no version {chosen!r}; it has {', '.join(map(repr, self.files)) or 'none'}."
            )
        return self.files[chosen]


class Hub(abc.ABC):
    """A hub in AdapterHub's layout that adapters are read from."""

    address: str
    """How it is called in messages."""

    @abc.abstractmethod
    def read(self, path: str) -> bytes:
        """A small file, by its path in the hub.

        Raises:
            AdapterNotFoundError: there is none.
            DownloadError: it cannot be downloaded.
        """

    @abc.abstractmethod
    def unpacked(self, location: str, sums: Checksums, force: bool = False) -> Path:
        """The folder of an archive, by its path in the hub or its address.

        Raises:
            HubError: it cannot be fetched, or is not what was published.
        """

    @final
    def document(self, path: str) -> Any:
        """A JSON file, by its path in the index.

        Raises:
            AdapterNotFoundError: there is none.
            HubError: it is not JSON.
        """
        text = self.read(f"{INDEX}/{path}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HubError(f"{path} of {self.address} cannot be read as JSON ({error}).") from None

    @final
    def entry(self, path: str) -> Entry:
        """An entry, by its path in the index.

        Raises:
            AdapterNotFoundError: there is none.
            HubError: it says something else than it should.
        """
        data = self.document(path)
        try:
            files = {str(v): dict(file) for v, file in data["files"].items()}
            info = info_from(data["info"]) if "info" in data else AdapterInfo("ah", "")
            name = str(Identifier((), *_org_and_file(path)))
            return Entry(name, str(data["default_version"]), files, info)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise HubError(f"{path} of {self.address} is no entry of an adapter ({error!r}).") from None

    @final
    def fetch(self, entry: Entry, version: str | None = None, force: bool = False) -> Path:
        """The folder of an adapter.

        Raises:
            HubError: there is no such version, or it cannot be fetched, or is not what was published.
        """
        file = entry.version(version)
        sums = Checksums(_text(file.get("sha256")), _text(file.get("sha1")))
        location = file.get("path") or file.get("url")
        if not isinstance(location, str):
            raise HubError(f"{entry.name} of {self.address} does not say where its files are.")
        return self.unpacked(location, sums, force)

    @final
    def all(self) -> list[AdapterInfo]:
        """Every adapter.

        Raises:
            HubError: there is no index, or it cannot be read.
        """
        data = self.document("all.json")
        try:
            return [info_from(item) for item in data]
        except (TypeError, AttributeError) as error:
            raise HubError(f"all.json of {self.address} is no list of adapters ({error!r}).") from None


@final
class FolderHub(Hub):
    """A hub in a folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(folder).expanduser()
        self.address = str(self.root)
        if not self.root.is_dir():
            raise HubError(f"There is no hub {self.address}: no such folder. `adapters hub init` makes one.")
        if not (self.root / INDEX).is_dir():
            raise HubError(f"{self.address} is no hub: it has no {INDEX}. `adapters hub reindex` writes it from cards.")

    def read(self, path: str) -> bytes:
        """See `Hub.read`."""
        file = self._inside(path)
        try:
            return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise AdapterNotFoundError(f"There is no {path} in {self.address}.") from None

    def unpacked(self, location: str, sums: Checksums, force: bool = False) -> Path:
        """See `Hub.unpacked`."""
        if "://" in location:
            return store.archive(check_url(location), sums, force=force)
        file = self._inside(location)
        if not file.is_file():
            raise AdapterNotFoundError(f"The archive {location} is missing in {self.address}.")
        return store.local_archive(file, sums)

    def _inside(self, path: str) -> Path:
        return self.root / checked_path(path, self.address)


@final
class WebHub(Hub):
    """A hub on the web.

    Args:
        url: The address of its folder; that of its index will do.
        offline: Whether to use what is in the cache, and nothing else.
    """

    def __init__(self, url: str, offline: bool = False) -> None:
        self.address = check_url(url).rstrip("/").removesuffix(f"/{INDEX}")
        self.offline = offline

    def read(self, path: str) -> bytes:
        """See `Hub.read`."""
        return store.document(self._url(path), offline=self.offline)

    def unpacked(self, location: str, sums: Checksums, force: bool = False) -> Path:
        """See `Hub.unpacked`."""
        url = check_url(location) if "://" in location else self._url(location)
        return store.archive(url, sums, offline=self.offline, force=force)

    def _url(self, path: str) -> str:
        return f"{self.address}/{quote(checked_path(path, self.address))}"


def open_hub(hub: str | Path, offline: bool = False) -> Hub:
    """The hub at an address or in a folder.

    Raises:
        HubError: there is none.
    """
    if isinstance(hub, str) and is_url(hub):
        return WebHub(hub, offline)
    return FolderHub(hub)


def hub_in_use() -> str | None:
    """The hub that the environment variable ADAPTERS_HUB names."""
    return os.environ.get("ADAPTERS_HUB", "").strip() or None


def checked_path(path: str, address: str) -> str:
    """A path within a hub. Indices come from elsewhere, so that they are not believed.

    Raises:
        HubError: it leads out of the hub.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise HubError(f"{path!r} is no path within {address}.")
    return path


def _org_and_file(path: str) -> tuple[str, str]:
    _, org, file = path.split("/")
    return org, file.removesuffix(".json")


def _text(value: object) -> str | None:
    return str(value) if value else None
