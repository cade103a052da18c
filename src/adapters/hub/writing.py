"""A hub in a folder, to write to. Cards and archives are what counts; the index is made from them.

    hub.yaml                        that it is a hub, and its address on the web
    adapters/<org>/<file>.yaml      cards
    architectures/<name>.yaml       configurations with a name
    files/<ab>/<sha256>.zip         archives, named by their content
    dist/v2/                        the index, in AdapterHub's layout

An archive is written before its card, and the card before the index, each atomically. So a process that is killed
leaves at worst an archive without a card, or a card that is not in the index yet: `reindex` puts that right, and so
does whoever writes next.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ConfigDict

from ..checkpoints.archives import checksum
from ..configuration import AdapterConfig
from . import indexing
from .cache import locked
from .cards import AdapterCard, ArchitectureCard, CardFile, checked, read_card, write_card
from .contents import Contents, contents_of
from .errors import AdapterNotFoundError, HubError
from .identifiers import Identifier, parse
from .packing import pack
from .releases import Release, next_card

MARK = "hub.yaml"
_LOCK = ".lock"


class HubMark(BaseModel):
    """What `hub.yaml` says.

    Args:
        layout: The layout of the hub.
        address: Where it is on the web, if it is.
    """

    model_config = ConfigDict(extra="forbid")
    layout: int = 1
    address: str | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """What became of an adapter that was added.

    Args:
        identifier: The name that it is loaded by.
        direct: The name that leads to it without the index.
        version: Its version.
        sha256: The checksum of its archive.
        card: Its card.
    """

    identifier: str
    direct: str
    version: str
    sha256: str
    card: Path


@final
class HubFolder:
    """A hub to write to. Any number of processes may write at the same time.

    >>> hub = HubFolder.init("my-hub")
    >>> hub.add("sst-2-adapter", "sentiment/sst-2@me", model_name="bert-base-uncased")
    >>> model.load_adapter("sentiment/sst-2@me", hub="my-hub")

    Args:
        root: Its folder.

    Raises:
        HubError: the folder is no hub.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not (self.root / MARK).is_file() and not (self.root / "adapters").is_dir():
            raise HubError(f"{self.root} is no hub; `adapters hub init {self.root}` makes one.")

    @classmethod
    def init(cls, root: str | Path, address: str | None = None) -> HubFolder:
        """Make a hub in a folder, or give one that is there another address.

        Args:
            root: The folder, new, empty or a hub.
            address: Where it will be on the web. Only readers of old need it: they take archives from this address.

        Raises:
            HubError: there is something else in the folder.
        """
        folder = Path(root).expanduser()
        if folder.exists() and not folder.is_dir():
            raise HubError(f"{folder} is a file; a hub is a folder.")
        is_hub = (folder / MARK).is_file() or (folder / "adapters").is_dir()
        if folder.is_dir() and any(folder.iterdir()) and not is_hub:
            raise HubError(f"{folder} is not empty, and no hub.")
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / _LOCK):
            if address is not None or not (folder / MARK).is_file():
                write_card(folder / MARK, HubMark(address=address))
            (folder / "adapters").mkdir(exist_ok=True)
            hub = cls(folder)
            hub._reindex()
        return hub

    # -- reading its cards ------------------------------------------------------------------------------------------

    @property
    def address(self) -> str | None:
        """Where it is on the web, if it is."""
        return read_card(self.root / MARK, HubMark).address if (self.root / MARK).is_file() else None

    def cards(self) -> dict[tuple[str, str], AdapterCard]:
        """All cards, by organisation and file.

        Raises:
            CardError: one is not what it should be.
        """
        paths = sorted((self.root / "adapters").glob("*/*.yaml"))
        return {(path.parent.name, path.stem): read_card(path, AdapterCard) for path in paths}

    def architectures(self) -> dict[str, dict[str, Any]]:
        """All configurations with a name.

        Raises:
            CardError: one is not what it should be.
        """
        paths = sorted((self.root / "architectures").glob("*.yaml"))
        cards = [read_card(path, ArchitectureCard) for path in paths]
        return {card.name: card.config for card in cards}

    def archive(self, file: CardFile) -> Path | None:
        """The archive of a version; None if it is elsewhere on the web."""
        return None if "://" in file.url else self.root / file.url

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(
        self,
        source: str | Path,
        identifier: str,
        model_name: str | None = None,
        version: str | None = None,
        facts: Mapping[str, Any] | None = None,
        file: str | None = None,
        is_default: bool = True,
        overwrite: bool = False,
    ) -> Published:
        """Publish an adapter, or a new version of one.

        Args:
            source: The folder that it was saved to, or an archive of one.
            identifier: Its name, `<task>/<subtask>@<org>`.
            model_name: The name of its model; by default the one that the adapter was saved with.
            version: Its version; by default the next number.
            facts: Further keys of its card, see `AdapterCard`, and of the version: `score`, `file_description`.
            file: The name of its card; by default made of model, task, subtask and configuration.
            is_default: Whether this version is the one that is loaded if none is asked for.
            overwrite: Whether a version that is there may be replaced.

        Raises:
            HubError: the folder holds no adapter, a name has no meaning, or the version is there already.
            CardError: the card would not be one.
        """
        name = parse(identifier)
        if len(name.parts) != 2 or name.org is None:
            raise HubError(f"{identifier!r}: what is published needs its whole name, <task>/<subtask>@<org>.")
        release = Release(name, model_name, version, facts or {}, file, is_default, overwrite)
        with contents_of(Path(source).expanduser()) as contents, self._packed(contents) as archive, self._writing():
            sums = {kind: checksum(archive, kind).rpartition(":")[2] for kind in ("sha1", "sha256")}
            kept = f"files/{sums['sha256'][:2]}/{sums['sha256']}.zip"
            configs = self.architectures()
            stem = release.stem(contents, configs)
            path = self.root / "adapters" / name.org / f"{stem}.yaml"
            old = read_card(path, AdapterCard) if path.is_file() else None
            card, new = next_card(old, release, contents, configs, kept, sums)
            self._keep(archive, self.root / kept)
            write_card(path, card)
        return Published(str(name), f"@{name.org}/{stem}", new, sums["sha256"], path)

    def remove(self, identifier: str, version: str | None = None) -> list[str]:
        """Take an adapter off the hub, or one version of it. Archives that no card names go too.

        Args:
            identifier: Its name, by task or direct, if only one has it.
            version: The version; by default all.

        Returns:
            The direct names of the adapters that are gone or changed.

        Raises:
            AdapterNotFoundError: there is no such adapter or version.
            HubError: several have this name.
        """
        name = parse(identifier)
        with self._writing():
            cards = self.cards()
            found = [key for key, card in cards.items() if _is_meant(name, key, card)]
            if not found:
                raise AdapterNotFoundError(f"There is no {identifier!r} in {self.root}.")
            if len(found) > 1:
                listed = ", ".join(f"@{org}/{file}" for org, file in found)
                raise HubError(f"{identifier!r} is the name of several: {listed}. Remove them one by one.")
            self._remove_version(found[0], cards[found[0]], version)
            self._remove_unnamed()
        return [f"@{org}/{file}" for org, file in found]

    def add_architecture(self, name: str, config: Any, description: str | None = None, overwrite: bool = False) -> None:
        """Give a configuration a name.

        >>> hub.add_architecture("small", "seq_bn[reduction_factor=64]")
        >>> model.add_adapter("task", config="small@my-hub")

        Args:
            name: Its name.
            config: The configuration, as for `add_adapter`.
            description: What is to say of it.
            overwrite: Whether one of this name may be replaced; adapters that use it keep what they are.

        Raises:
            HubError: the name is taken, or has no meaning.
        """
        fields = AdapterConfig.load(config).to_dict()
        card = checked(
            {"name": name, "config": fields, "description": description}, ArchitectureCard, f"The configuration {name}"
        )
        path = self.root / "architectures" / f"{name}.yaml"
        with self._writing():
            if path.is_file() and read_card(path, ArchitectureCard).config != fields:
                users = [f"@{org}/{file}" for (org, file), c in self.cards().items() if c.config["using"] == name]
                if users:
                    raise HubError(f"{name!r} is used by {', '.join(users[:5])}; give the configuration another name.")
                if not overwrite:
                    raise HubError(f"There is another configuration {name!r}; overwrite it, or choose another name.")
            write_card(path, card)

    def reindex(self) -> int:
        """Make the index anew from the cards.

        Returns:
            How many of its files have changed.

        Raises:
            CardError: a card is not what it should be.
        """
        with locked(self.root / _LOCK):
            return self._reindex()

    # -- parts of these ---------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep others out, and make the index anew at the end."""
        with locked(self.root / _LOCK):
            self.cards()  # a card that is wrong is said before anything is written
            yield
            self._reindex()

    def _reindex(self) -> int:
        return indexing.write(self.root, indexing.documents(self.cards(), self.architectures(), self.address))

    @contextmanager
    def _packed(self, contents: Contents) -> Iterator[Path]:
        """An archive of an adapter, in the hub's folder under a name that nobody reads."""
        folder = self.root / "files"
        folder.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
        os.close(handle)
        try:
            pack(contents.folder, Path(name))
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _keep(self, archive: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        archive.chmod(0o644)
        os.replace(archive, target)

    def _remove_version(self, key: tuple[str, str], card: AdapterCard, version: str | None) -> None:
        path = self.root / "adapters" / key[0] / f"{key[1]}.yaml"
        left = [f for f in card.files if version is not None and f.version != version]
        if version is not None and len(left) == len(card.files):
            listed = ", ".join(f.version for f in card.files)
            raise AdapterNotFoundError(f"@{key[0]}/{key[1]} has no version {version!r}; it has {listed}.")
        if not left:
            path.unlink()
            return
        default = card.default_version if card.default_version != version else left[-1].version
        write_card(path, card.model_copy(update={"files": left, "default_version": default}))

    def _remove_unnamed(self) -> None:
        """Remove the archives that no card names."""
        named = {file.url for card in self.cards().values() for file in card.files}
        for path in (self.root / "files").glob("*/*.zip"):
            if path.relative_to(self.root).as_posix() not in named:
                path.unlink()


def _is_meant(name: Identifier, key: tuple[str, str], card: AdapterCard) -> bool:
    if name.file is not None:
        return (name.org, name.file) == key
    parts = ((card.task, card.subtask), (card.task,), (card.subtask,))
    return name.parts in parts and name.org in (None, key[0])
