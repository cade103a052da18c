"""Whether a hub in a folder is what it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.archives import checksum
from ..checkpoints.files import AdapterFileError
from ..configuration.base import AdapterConfigError
from ..configuration.hashing import get_adapter_config_hash
from . import indexing
from .cards import AdapterCard, ArchitectureCard, CardFile, full_config, read_card
from .contents import contents_of
from .errors import CardError, HubError
from .reading import INDEX, checked_path
from .writing import HubFolder


@dataclass(frozen=True)
class Problem:
    """Something that is wrong in a hub.

    Args:
        place: Where.
        what: What.
    """

    place: str
    what: str


def verify(hub: HubFolder) -> list[Problem]:
    """Everything that is wrong in a hub: cards, archives, checksums, configurations, and the index.

    Each archive is unpacked, and its configuration compared with the card's. Nothing is changed.
    """
    return list(_problems(hub))


def _problems(hub: HubFolder) -> Iterator[Problem]:
    architectures: dict[str, dict[str, object]] = {}
    for path in sorted((hub.root / "architectures").glob("*.yaml")):
        try:
            card = read_card(path, ArchitectureCard)
            architectures[card.name] = card.config
        except CardError as error:
            yield Problem(_place(hub, path), str(error))
    cards: dict[tuple[str, str], AdapterCard] = {}
    for path in sorted((hub.root / "adapters").glob("*/*.yaml")):
        try:
            of_adapter = read_card(path, AdapterCard)
            config_id = get_adapter_config_hash(full_config(of_adapter, architectures))
        except CardError as error:
            yield Problem(_place(hub, path), str(error))
            continue
        cards[path.parent.name, path.stem] = of_adapter
        for file in of_adapter.files:
            for what in _wrong_with(hub, of_adapter, file, config_id):
                yield Problem(f"{_place(hub, path)}, version {file.version}", what)
    yield from _wrong_in_index(hub, indexing.documents(cards, architectures, hub.address))
    named = {file.url for card in cards.values() for file in card.files}
    for path in sorted((hub.root / "files").rglob("*")):
        if path.is_file() and _place(hub, path) not in named:
            yield Problem(_place(hub, path), "no card names this file")


def _wrong_with(hub: HubFolder, card: AdapterCard, file: CardFile, config_id: str) -> Iterator[str]:
    if "://" in file.url:
        return
    try:
        path = hub.root / checked_path(file.url, str(hub.root))
        if not path.is_file():
            yield f"{file.url} is missing"
            return
        for kind, expected in (("sha256", file.sha256), ("sha1", file.sha1)):
            found = checksum(path, kind)
            if found != f"{kind}:{expected.lower()}":
                yield f"{file.url} has {found}, and the card says {expected}"
                return
        with contents_of(path) as contents:
            if contents.config_id != config_id:
                yield f"the configuration of the card has the hash {config_id}, that of the files {contents.config_id}"
            if (card.kind or "adapter") != contents.kind.name:
                yield f"the card says {card.kind or 'adapter'}, and the files are a {contents.kind.name}"
    except (HubError, AdapterFileError, AdapterConfigError) as error:
        yield str(error)


def _wrong_in_index(hub: HubFolder, wanted: dict[str, object]) -> Iterator[Problem]:
    folder = hub.root / INDEX
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.json")}
    for name in sorted(wanted.keys() | there.keys()):
        place = f"{INDEX}/{name}"
        if name not in there:
            yield Problem(place, "missing; `adapters hub reindex` writes it")
        elif name not in wanted:
            yield Problem(place, "no card is behind it; `adapters hub reindex` removes it")
        elif there[name].read_bytes() != indexing.text_of(wanted[name]).encode():
            yield Problem(place, "is not what the cards say; `adapters hub reindex` writes it anew")


def _place(hub: HubFolder, path: Path) -> str:
    return path.relative_to(hub.root).as_posix()
