"""Which adapters a model has, as its `config.json` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import AdapterConfig
from .hashing import get_adapter_config_hash


class ModelAdaptersConfig:
    """The adapters of a model by name, with their configurations.

    Args:
        **kwargs: What `to_dict` gave: `adapters` (name to hash) and `config_map` (hash to configuration).
    """

    def __init__(self, **kwargs: Any) -> None:
        config_map: Mapping[str, Any] = kwargs.get("config_map", {})
        self._configs: dict[str, AdapterConfig] = {}
        for name, config_id in kwargs.get("adapters", {}).items():
            self.add(name, config_map.get(config_id, config_id))

    @property
    def adapters(self) -> dict[str, str]:
        """The hash of each adapter's configuration."""
        return {name: get_adapter_config_hash(config) for name, config in self._configs.items()}

    def add(self, adapter_name: str, config: str | Mapping[str, Any] | None = None) -> None:
        """Add a name with its configuration (by default `seq_bn`).

        Raises:
            ValueError: the name is there already.
        """
        if adapter_name in self._configs:
            raise ValueError(f"There is an adapter named {adapter_name!r} already.")
        self._configs[adapter_name] = AdapterConfig.load(config if config is not None else "seq_bn")

    def get(self, adapter_name: str) -> AdapterConfig | None:
        """The configuration of an adapter, or None."""
        return self._configs.get(adapter_name)

    def __contains__(self, adapter_name: str) -> bool:
        return adapter_name in self._configs

    def __iter__(self) -> Any:
        return iter(self._configs)

    def __len__(self) -> int:
        return len(self._configs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `config.json` holds it under `adapters`."""
        return {
            "adapters": self.adapters,
            "config_map": {get_adapter_config_hash(c): c.to_dict() for c in self._configs.values()},
            "fusions": {},
            "fusion_config_map": {},
            "fusion_name_map": {},
        }
