"""What the methods of a model share: what is kept of its adapters, what files say of it, and its names."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__ as VERSION
from ..anatomy import AdapterModelInterface
from ..checkpoints.errors import read_from
from ..composition import AdapterCompositionBlock
from ..embeddings import LoadedEmbeddings
from ..fusions import set_trainable
from ..methods.fusion import Fusion
from ..registry import Adapter, AdapterRegistry

_LONGEST_FILE_NAME = 255  # bytes


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
            "model_class": _class_name(type(self)),
            "model_name": self.model_name,
            "model_type": self._model_type(),
            "version": f"adapters.{VERSION}",
        }


def _class_name(model_class: type) -> str:
    """The name of a model's class. FSDP puts a class of its own in front of it."""
    first = model_class.__bases__[0]
    is_divided = first.__module__.startswith("torch.distributed.")
    return (model_class.__bases__[1] if is_divided else model_class).__name__


def check_name(name: Any) -> None:
    """Raise for what is no name. Files come from elsewhere, so the names in them are checked too."""
    if not isinstance(name, str):
        raise TypeError(f"The first argument is the name of the adapter, a string, not {type(name).__name__}.")
    if not name.strip() or "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise ValueError(f"{name!r} is no name for an adapter: it names a folder when saved, so no '/', '\\' or '..'.")


def check_saved_name(name: str, folder: Path) -> None:
    """Raise `AdapterFileError` for a name in a file that is none."""
    with read_from(folder):
        check_name(name)


def folder_within(folder: Path, name: str) -> Path:
    """The folder of an adapter, a fusion or a head within another. It has its name, as far as file systems allow."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) > _LONGEST_FILE_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:16]
        return folder / f"{encoded[: _LONGEST_FILE_NAME - 20].decode('utf-8', 'ignore')}~{digest}"
    return folder / name


@dataclasses.dataclass(frozen=True)
class _Attached:
    """What a model had at some moment."""

    adapters: Mapping[str, Adapter]
    fusions: Mapping[str, Fusion]
    active: AdapterCompositionBlock | None
    skip_layers: tuple[int, ...]


@contextlib.contextmanager
def all_or_none(registry: AdapterRegistry) -> Iterator[None]:
    """Take back what a `with` block has attached, if it fails. What it replaces stays active, and frozen if it was."""
    before = _Attached(dict(registry.adapters), dict(registry.fusions), registry.active, registry.skip_layers)
    try:
        yield
        _treat_as_replaced(registry, before)
    except BaseException:
        _take_back(registry, before)
        raise


def _treat_as_replaced(registry: AdapterRegistry, before: _Attached) -> None:
    """Freeze what now has the name of a former adapter or fusion that was frozen; activate what was active."""
    for name, adapter in before.adapters.items():
        if name in registry.adapters and not any(p.requires_grad for p in adapter.parameters()):
            registry.set_trainable(name, False)
    for name, fusion in before.fusions.items():
        if name in registry.fusions and not any(p.requires_grad for p in fusion.parameters()):
            set_trainable(registry.fusions[name], False)
    if registry.active is None and before.active is not None:  # a part of it was replaced
        registry.activate(before.active, before.skip_layers)


def _take_back(registry: AdapterRegistry, before: _Attached) -> None:
    for name in [name for name, fusion in registry.fusions.items() if before.fusions.get(name) is not fusion]:
        registry.delete_fusion(name)
    for name in [name for name, adapter in registry.adapters.items() if before.adapters.get(name) is not adapter]:
        registry.delete(name)
    for name, adapter in before.adapters.items():
        if name not in registry.adapters:
            registry.put_back(adapter)
    for name, fusion in before.fusions.items():
        if name not in registry.fusions:
            registry.put_back(fusion)
    registry.activate(before.active, before.skip_layers)


def folder_of(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; an adapter is saved to a folder.")
    return folder


def refuse_loaders(loaders: Sequence[Any] | None) -> None:
    if loaders:
        raise NotImplementedError("custom_weights_loaders are not supported; save such weights beside the adapter.")
