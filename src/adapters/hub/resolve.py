"""From the name of an adapter to a folder with its files.

A name is tried as, in this order:

1. an address (`https://…`) of an archive,
2. a folder or an archive on this machine,
3. a name on the hub that is given as `hub`, and then nowhere else,
4. a name on the hub that the environment variable ADAPTERS_HUB names,
5. a repository on the Hugging Face Hub, if it has the form `org/name`,
6. without ADAPTERS_HUB: a name in the index that AdapterHub has left behind, whose adapters are on the Hugging Face Hub
   now.

With `hub`, steps 1 and 2 are left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.archives import is_archive
from . import huggingface, store
from .architectures import loaded
from .download import is_url
from .errors import AdapterNotFoundError, ChecksumError, DownloadError, HubError, OfflineError
from .huggingface import Access
from .identifiers import GRAMMAR, Identifier, parse, parsed
from .index import config_id_of, direct_name, find
from .model_names import known_names
from .packing import ADAPTER, Kind, kind_of
from .reading import Entry, Hub, WebHub, hub_in_use, open_hub
from .store import Checksums

logger = logging.getLogger(__name__)

ADAPTER_HUB_URL = "https://raw.githubusercontent.com/Adapter-Hub/Hub/master/dist/v2/"
"""The index that AdapterHub has left behind."""

HUGGING_FACE = "hf"
"""What `hub` is for the Hugging Face Hub alone."""

_NEEDS_MODEL = "depends on the model, which has no name here; give model_name (on the command line --model)."

_ARCHIVE_NAME = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where adapters come from.

    Args:
        hub: A hub: a folder, an address, or "hf" for the Hugging Face Hub. Names are then looked up there alone.
        access: How the Hugging Face Hub is reached.
        checksum: The SHA-256 or SHA-1 of an archive.
    """

    hub: str | Path | None = None
    access: Access = field(default_factory=Access)
    checksum: str | None = None

    @property
    def sums(self) -> Checksums:
        """The checksum, by its kind.

        Raises:
            HubError: it is none.
        """
        if self.checksum is None:
            return Checksums()
        kind, _, digits = self.checksum.strip().rpartition(":")
        kinds = {64: "sha256", 40: "sha1"}
        if kinds.get(len(digits)) is None or kind not in ("", kinds[len(digits)]):
            raise HubError(f"{self.checksum!r} is no checksum: give the 64 digits of a SHA-256, or 40 of a SHA-1.")
        return Checksums(sha256=digits) if len(digits) == 64 else Checksums(sha1=digits)


@dataclass(frozen=True)
class Wanted:
    """Which adapter of a name is meant.

    Args:
        kind: What it should be.
        model_name: The model that it is for.
        config: Its configuration, if not any will do.
        version: Its version: on the Hugging Face Hub a branch, a tag or a commit.
        strict: Whether it is an error if there is none of this configuration; otherwise another one is taken.
    """

    kind: Kind = ADAPTER
    model_name: str | None = None
    config: str | Mapping[str, Any] | None = None
    version: str | None = None
    strict: bool = True


@dataclass(frozen=True)
class Found:
    """What a name stands for.

    Args:
        folder: The folder with the files.
        is_of_config: Whether it was chosen by the configuration that is wanted.
    """

    folder: Path
    is_of_config: bool = False


def resolve(name: str | Path, wanted: Wanted = Wanted(), source: Source = Source()) -> Found:
    """The folder with the files that a name stands for; see the top of this file.

    >>> resolve("sentiment/sst-2@ukp", Wanted(model_name="bert-base-uncased"), Source(hub="my-hub")).folder

    Args:
        name: A folder, an archive, an address, or a name on a hub.
        wanted: Which adapter of this name.
        source: Where it comes from.

    Returns:
        Where it is. A folder that is not there is given as it is, if the name can be nothing else.

    Raises:
        AdapterNotFoundError: there is none; the message says where it was looked for, and suggests names.
        AmbiguousAdapterError: there are several.
        DownloadError: it cannot be downloaded.
    """
    text = str(name)
    if not text:
        raise HubError("The name of an adapter is empty.")
    if source.hub is None:
        if isinstance(name, str) and is_url(text):
            return Found(_from_url(text, wanted, source))
        local = Path(text).expanduser()
        if is_archive(local):
            _refuse_version(text, wanted)
            return Found(store.local_archive(local, source.sums))
        if (local / wanted.kind.config).is_file() or isinstance(name, Path) or _is_path(text):
            _refuse_version(text, wanted)
            return Found(local)
    if source.checksum is not None:
        raise HubError("checksum is for archives; hubs know the checksums of theirs.")
    return _from_hubs(text, wanted, source)


def entry_of(hub: Hub, name: Identifier, wanted: Wanted) -> Entry:
    """What a hub says of an adapter.

    Raises:
        HubError: as `resolve`.
    """
    return hub.entry(path_of(hub, name, wanted))


def path_of(hub: Hub, name: Identifier, wanted: Wanted) -> str:
    """Where in the index of a hub an adapter is.

    Raises:
        HubError: as `resolve`.
    """
    if name.file is not None:
        return f"adapters/{name.org}/{name.file}.json"
    config_id = config_id_of(loaded(wanted.config)) if wanted.config is not None else None
    if not wanted.model_name:
        raise HubError(f"{str(name)!r} {_NEEDS_MODEL}")
    tried = []
    for model in known_names(wanted.model_name):
        try:
            index = hub.document(f"index/{model}.json")
        except AdapterNotFoundError:
            tried.append(model)
            continue
        try:
            return find(index, name, config_id, wanted.strict)
        except AdapterNotFoundError as error:
            raise AdapterNotFoundError(f"{hub.address}, {model}: {error}") from None
    raise AdapterNotFoundError(f"{hub.address} has no adapters for {' or '.join(tried) or wanted.model_name}.")


def _from_url(url: str, wanted: Wanted, source: Source) -> Path:
    _refuse_version(url, wanted)
    access = source.access
    return store.archive(url, source.sums, offline=access.local_files_only, force=access.force_download)


def _from_hubs(text: str, wanted: Wanted, source: Source) -> Found:
    """A name that is looked up: where it is found first. If it is nowhere, all reasons are given together."""
    reasons: list[str] = []
    for place, look in _places(text, wanted, source):
        try:
            return look()
        except (AdapterNotFoundError, OfflineError) as error:
            reasons.append(f"{place}: {error}")
        except DownloadError as error:
            # A hub that does not answer is not passed over: a later one may have something else of this name.
            if not reasons or isinstance(error, ChecksumError):
                raise
            reasons.append(f"{place}: {error}")
    here = Path(text).expanduser()
    if source.hub is None and here.exists():
        held = f"a folder without {wanted.kind.config}" if here.is_dir() else "no folder and no archive"
        reasons.insert(0, f"this machine: {here} is {held}.")
    elif source.hub is None:
        reasons.insert(0, "this machine: there is no such folder or archive.")
    if len(reasons) == 1 and source.hub is not None:
        raise AdapterNotFoundError(f"{text!r} was not found: {reasons[0].partition(': ')[2]}")
    raise AdapterNotFoundError(f"{text!r} was not found.\n" + "\n".join(f"  On {reason}" for reason in reasons))


def _places(text: str, wanted: Wanted, source: Source) -> list[tuple[str, Callable[[], Found]]]:
    """Where a name is looked for, in order."""
    access, chosen, default = source.access, source.hub, hub_in_use()
    name = parsed(text)

    def on_hugging_face() -> Found:
        return Found(huggingface.download(text, wanted.version, wanted.kind, access))

    def on(hub: str | Path) -> Callable[[], Found]:
        return lambda: _from_hub(open_hub(hub, access.local_files_only), parse(text), wanted, access)

    if chosen == HUGGING_FACE:
        if not huggingface.is_repository(text):
            raise HubError(f"{text!r} is no name of a repository on the Hugging Face Hub, which is '<org>/<name>'.")
        return [("the Hugging Face Hub", on_hugging_face)]
    if chosen is not None:
        parse(text)
        return [(f"the hub {chosen}", on(chosen))]
    places: list[tuple[str, Callable[[], Found]]] = []
    if default is not None and name is not None:
        places.append((f"the hub {default} (ADAPTERS_HUB)", on(default)))
    if huggingface.is_repository(text):
        places.append(("the Hugging Face Hub", on_hugging_face))
    if default is None and name is not None:
        places.append(("AdapterHub", lambda: _from_adapterhub(name, wanted, access)))
    if not places:
        raise HubError(
            f"{text!r} is no folder, no archive, no address, no repository '<org>/<name>' of the Hugging Face Hub, and "
            f"no name on a hub ({GRAMMAR})."
        )
    return places


def _from_hub(hub: Hub, name: Identifier, wanted: Wanted, access: Access) -> Found:
    folder = hub.fetch(entry_of(hub, name, wanted), wanted.version, access.force_download)
    if not (folder / wanted.kind.config).is_file():
        held = kind_of(folder)
        raise HubError(f"{str(name)!r} of {hub.address} is a {held.name}: load it with {held.load}.")
    return Found(folder, _has_config(name, wanted))


def _has_config(name: Identifier, wanted: Wanted) -> bool:
    return wanted.config is not None and wanted.strict and name.file is None


def _from_adapterhub(name: Identifier, wanted: Wanted, access: Access) -> Found:
    """An adapter of the hub that AdapterHub has left behind: its adapters are on the Hugging Face Hub now."""
    hub = WebHub(ADAPTER_HUB_URL, offline=access.is_offline)
    if name.file is None and not wanted.model_name:
        raise AdapterNotFoundError(f"it {_NEEDS_MODEL}")
    path = path_of(hub, name, wanted)
    repository = f"AdapterHub/{direct_name(path).rpartition('/')[2]}"
    logger.warning("%s of AdapterHub's old hub is now %s on the Hugging Face Hub.", name, repository)
    try:
        return Found(huggingface.download(repository, wanted.version, wanted.kind, access), _has_config(name, wanted))
    except AdapterNotFoundError:
        entry = hub.entry(path)
        logger.warning("%s is not there; it is downloaded from %s.", repository, entry.version(wanted.version)["url"])
        return Found(hub.fetch(entry, wanted.version, access.force_download), _has_config(name, wanted))


def _is_path(text: str) -> bool:
    """Whether a text can be nothing else than a path on this machine."""
    starts = (".", "~", "/", "\\")
    return (
        text.startswith(starts) or "\\" in text or text.count("/") > 1 or text.endswith("/")
        or re.match(r"[A-Za-z]:", text) is not None or _ARCHIVE_NAME.search(text) is not None
    )  # fmt: skip


def _refuse_version(text: str, wanted: Wanted) -> None:
    if wanted.version is not None:
        raise HubError(f"version={wanted.version!r} is for adapters on a hub; {text} is there in one version only.")
