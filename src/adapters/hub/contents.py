"""What is in a folder that is to be published."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints.archives import as_folder
from ..checkpoints.files import HEAD_CONFIG, read_json
from ..checkpoints.native import updated_config
from ..configuration import AdapterConfig
from ..configuration.hashing import get_adapter_config_hash
from .cards import CUSTOM, named_config
from .errors import HubError
from .packing import ADAPTER, HEAD, SETUP, Kind, kind_of


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is in a folder.

    Args:
        folder: The folder.
        kind: What it holds.
        config: Its configuration.
        model_name: The model that it was saved with.
        model_type: The type of that.
        model_class: The class of that.
        has_head: Whether there is a head.
        type: What it is for.
    """

    folder: Path
    kind: Kind
    config: Mapping[str, Any]
    model_name: str | None
    model_type: str
    model_class: str | None
    has_head: bool
    type: str

    @property
    def config_id(self) -> str:
        """The hash of the configuration."""
        return get_adapter_config_hash(self.config)

    def named_config(self, architectures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The configuration as cards have it."""
        if self.kind is ADAPTER:
            return named_config(self.config, architectures)
        return {"using": CUSTOM, CUSTOM: dict(self.config)}

    def facts(self) -> dict[str, Any]:
        """The keys of a card that follow from the files."""
        return {
            "type": self.type,
            "model_type": self.model_type,
            "model_class": self.model_class,
            "prediction_head": self.has_head,
            "kind": None if self.kind is ADAPTER else self.kind.name,
        }


@contextmanager
def contents_of(source: Path) -> Iterator[Contents]:
    """What a folder or an archive holds.

    Raises:
        HubError: it holds nothing that can be published.
        AdapterFileError: a file in it cannot be read.
    """
    if not source.exists():
        raise HubError(f"There is no {source}.")
    with as_folder(source) as folder:
        kind = kind_of(folder)
        data = read_json(folder / kind.config)
        first = data
        if kind is SETUP:
            configs = {path.parent.name: read_json(path) for path in sorted(folder.glob(f"*/{ADAPTER.config}"))}
            if not configs:
                raise HubError(f"{folder} holds a setup without adapters.")
            first = next(iter(configs.values()))
            inner = {name: _config(of_adapter, folder) for name, of_adapter in configs.items()}
            config: dict[str, Any] = {"architecture": "setup", "setup": data.get("adapter_setup"), "configs": inner}
        elif kind is ADAPTER:
            config = _config(data, folder)
        else:
            config = {"architecture": kind.name, "config": data.get("config")}
        has_head = kind is HEAD or any(folder.glob(HEAD_CONFIG)) or any(folder.glob(f"*/{HEAD_CONFIG}"))
        yield Contents(
            folder=folder,
            kind=kind,
            config=config,
            model_name=first.get("model_name") or None,
            model_type=str(first.get("model_type") or "unknown"),
            model_class=first.get("model_class"),
            has_head=has_head,
            type=str(first.get("type") or "text_task"),
        )


def _config(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    config = data.get("config")
    if not isinstance(config, (Mapping, str)):
        hint = "it is one of peft: load it, and save it with save_adapter" if "peft_type" in data else "is it cut off?"
        raise HubError(f"{folder / ADAPTER.config} has no 'config'; {hint}.")
    return AdapterConfig.parsed(updated_config(config, data.get("version"))).to_dict()
