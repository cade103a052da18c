"""What the methods of a model share: what is kept of its adapters, what files say of it, and its names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__ as VERSION
from ..anatomy import AdapterModelInterface
from ..embeddings import LoadedEmbeddings
from ..registry import AdapterRegistry


class HoldsAdapters(nn.Module):
    """A model with a registry of adapters."""

    config: Any
    _adapter_registry: AdapterRegistry
    _adapter_interface: AdapterModelInterface | None
    _adapter_embeddings: LoadedEmbeddings

    @property
    def model_name(self) -> str | None:
        """The name that the base model was loaded by."""
        return getattr(self, "name_or_path", None)

    def _model_type(self) -> str:
        return str(getattr(getattr(self, "config", None), "model_type", ""))

    def _facts(self) -> dict[str, Any]:
        """What every configuration file says of the model."""
        config = getattr(self, "config", None)
        return {
            "hidden_size": getattr(config, "hidden_size", None),
            "model_class": type(self).__name__,
            "model_name": self.model_name,
            "model_type": self._model_type(),
            "version": f"adapters.{VERSION}",
        }


def check_name(name: Any) -> None:
    """Raise for what is no name. Files come from elsewhere, so the names in them are checked too."""
    if not isinstance(name, str):
        raise TypeError(f"The first argument is the name of the adapter, a string, not {type(name).__name__}.")
    if not name.strip() or "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise ValueError(f"{name!r} is no name for an adapter: it names a folder when saved, so no '/', '\\' or '..'.")


def folder_of(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; an adapter is saved to a folder.")
    return folder


def refuse_loaders(loaders: Sequence[Any] | None) -> None:
    if loaders:
        raise NotImplementedError("custom_weights_loaders are not supported; save such weights beside the adapter.")
