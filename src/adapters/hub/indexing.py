"""The index of a hub, made from its cards, in AdapterHub's v2 layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ..checkpoints.files import atomically
from ..configuration import DEFAULT_ADAPTER_CONFIG
from ..configuration.hashing import get_adapter_config_hash
from .cards import AdapterCard, full_config
from .index import config_id_of
from .info import AdapterInfo
from .reading import INDEX

Cards = Mapping["tuple[str, str]", AdapterCard]
"""Cards by organisation and file."""


def documents(cards: Cards, architectures: Mapping[str, Mapping[str, Any]], address: str | None) -> dict[str, Any]:
    """The files of an index by their paths in it.

    Args:
        cards: The cards.
        architectures: The configurations with a name.
        address: Where the hub is on the web; archives have addresses there then, so that older readers find them.
    """
    found: dict[str, Any] = {"architectures.json": dict(architectures), "all.json": []}
    for (org, file), card in sorted(cards.items()):
        config = full_config(card, architectures)
        config_id, path = get_adapter_config_hash(config), f"adapters/{org}/{file}.json"
        current = next(f for f in card.files if f.version == card.default_version)
        info = AdapterInfo(
            source="ah",
            adapter_id=f"@{org}/{file}",
            model_name=card.model_name,
            task=card.task,
            subtask=card.subtask,
            username=org,
            adapter_config=config,
            sha1_checksum=current.sha1,
        )
        found["all.json"].append(asdict(info))
        found[path] = {
            "config_id": config_id,
            "default_version": card.default_version,
            "files": {f.version: _file(f.url, f.sha1, f.sha256, address) for f in card.files},
            "info": asdict(info),
            "card": card.model_dump(exclude_none=True, exclude={"files", "default_version", "config"}),
        }
        of_model = found.setdefault(f"index/{card.model_name}.json", {})
        of_config = of_model.setdefault(card.task, {}).setdefault(card.subtask, {}).setdefault(config_id, {})
        # Of two files of one organisation with one configuration, the index can name only one; the other has its
        # direct name.
        of_config.setdefault("versions", {}).setdefault(org, path)
    for path, index in found.items():
        if path.startswith("index/"):
            _add_defaults(index)
    return found


def _add_defaults(index: dict[str, Any]) -> None:
    """Say which adapter is meant by a subtask alone: that of the standard configuration, or the first.

    Where several organisations have one, none is the default: whoever asks is told that there are several.
    """
    standard = config_id_of(DEFAULT_ADAPTER_CONFIG)
    for subtasks in index.values():
        for configs in subtasks.values():
            chosen = configs[standard if standard in configs else min(configs)]["versions"]
            if len(chosen) == 1:
                configs["default"] = next(iter(chosen.values()))


def _file(url: str, sha1: str, sha256: str, address: str | None) -> dict[str, str]:
    if "://" in url:
        return {"url": url, "sha1": sha1, "sha256": sha256}
    absolute = urljoin(address.rstrip("/") + "/", url) if address else url
    return {"url": absolute, "path": url, "sha1": sha1, "sha256": sha256}


def text_of(document: Any) -> str:
    """A document of an index as it is written: the same content always gives the same text."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(root: Path, wanted: Mapping[str, Any]) -> int:
    """Write the documents of an index that have changed, and remove those that are no longer wanted.

    Entries come before what names them, and go after it, so that whoever reads meanwhile finds what is named.

    Returns:
        How many files were written or removed.
    """
    folder, changed = root / INDEX, 0
    for path in sorted(wanted, key=lambda p: (not p.startswith("adapters/"), p)):
        changed += _write(folder / path, text_of(wanted[path]))
    for path in sorted((p.relative_to(folder).as_posix() for p in folder.rglob("*.json")), reverse=True):
        if path not in wanted:
            (folder / path).unlink()
            changed += 1
    return changed


def _write(path: Path, text: str) -> bool:
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    atomically(path, lambda temporary: temporary.write_bytes(text.encode()))
    return True
