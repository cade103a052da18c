"""What there is in a model: its adapters, their modules, their sizes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from .. import fusions
from ..anatomy import AdapterModelInterface
from ..composition import Fuse
from ..configuration import AdapterConfig, ModelAdaptersConfig
from ..fusions import FusionLike
from ..registry import AdapterDict
from ..summary import Row, summary_rows, summary_table
from .activating import ActivatesAdapters


class ShowsAdapters(ActivatesAdapters):
    """Methods that tell of the adapters of a model."""

    @property
    def adapters_config(self) -> ModelAdaptersConfig:
        """The configurations of the adapters and fusions by name, and what is active: a copy, which changes nothing.

        Configurations of `peft` are in `model.peft_config`.
        """
        found = ModelAdaptersConfig()
        for name, adapter in self._adapter_registry.adapters.items():
            found.add(name, adapter.config)
        for fusion in self._adapter_registry.fusions.values():
            found.add_fusion(fusion.adapter_names, fusion.config, fusion.name)
        found.active_setup = self._adapter_registry.active
        found.skip_layers = list(self._adapter_registry.skip_layers) or None
        return found

    @property
    def adapter_interface(self) -> AdapterModelInterface | None:
        """The interface that was given to `adapters.init`, or None."""
        return self._adapter_interface

    def get_adapter(self, name: str) -> dict[int, dict[str, nn.Module]]:
        """The modules of an adapter by layer and location; layer -1 holds what belongs to no layer.

        >>> model.get_adapter("task")[0]["output_adapter"]

        Several modules at one location, such as the LoRA of queries and that of values, are a `ModuleList`. Of an
        adapter that is not there nothing is found.
        """
        adapter = self._adapter_registry.adapters.get(name)
        found: dict[int, dict[str, list[nn.Module]]] = {}
        for p in sorted(adapter.placements if adapter is not None else [], key=lambda p: p.layer):
            shown = p.module.shown()
            if shown is not None:
                found.setdefault(p.layer, {}).setdefault(p.location, []).append(shown)
        return {
            layer: {location: own[0] if len(own) == 1 else nn.ModuleList(own) for location, own in places.items()}
            for layer, places in found.items()
        }

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """The layers of the base model, of all towers, with their numbers."""
        for layer in self._adapter_registry.anatomy.layers:
            yield layer.index, self._adapter_registry.base.get_submodule(layer.path)

    @property
    def invertible_adapters(self) -> AdapterDict:
        """All invertible adapters by name."""
        own = self._modules.get("invertible_adapters")  # they are modules of that name, of the model or of one in it
        for adapter in self._adapter_registry.adapters.values() if own is None else ():
            for p in adapter.placements:
                if p.location == "invertible":
                    own = self._adapter_registry.base.get_submodule(p.host)._modules[p.container]
        return own if isinstance(own, AdapterDict) else AdapterDict()

    def get_invertible_adapter(self) -> nn.Module | None:
        """The invertible adapter of the first adapter in the active setup, if it has one."""
        active = self.active_adapters
        name = active.first() if active is not None else None
        if name not in self._adapter_registry.adapters:
            return None
        placements = self._adapter_registry.adapters[name].placements
        return next((p.module for p in placements if p.location == "invertible"), None)

    def adapter_summary(self, as_dict: bool = False) -> str | list[Row]:
        """All adapters with their size, whether they are active, and whether they are trained.

        >>> print(model.adapter_summary())

        Args:
            as_dict: Whether to give one dictionary per row instead of a table.
        """
        active = self.active_adapters
        blocks = list(active.blocks()) if active is not None else []
        names = {name for block in blocks for name in block.flatten()}
        names |= {block.name for block in blocks if isinstance(block, Fuse)}
        rows = summary_rows(self._adapter_registry, names)
        return rows if as_dict else summary_table(rows)

    def adapter_to(self, name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Move an adapter to a device, or to another type of numbers.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        for module in self._adapter_registry[name].modules():
            module.to(device=device, dtype=dtype)
        self._adapter_registry.compile_anew()

    def adapter_fusion_to(
        self, adapter_names: FusionLike, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move a fusion to a device, or to another type of numbers.

        Raises:
            UnknownAdapterError: there is no such fusion.
        """
        for module in fusions.fusion_of(self._adapter_registry, adapter_names).modules():
            module.to(device=device, dtype=dtype)

    def supports_adapter(self, type_or_config: str | AdapterConfig) -> bool:
        """Whether an adapter with this configuration could be added."""
        try:
            self._adapter_registry.build("probe", AdapterConfig.load(type_or_config))
        except (ValueError, NotImplementedError):
            return False
        return True
