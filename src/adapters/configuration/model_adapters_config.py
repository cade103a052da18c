"""Which adapters and fusions a model has, as its `config.json` says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import AdapterConfig
from .fusion import DEFAULT_ADAPTERFUSION_CONFIG, AdapterFusionConfig, FusionConfig, preset_of
from .hashing import get_adapter_config_hash


class ModelAdaptersConfig:
    """The adapters and the fusions of a model by name, with their configurations.

    Args:
        **kwargs: What `to_dict` gave: `adapters` (name to hash) and `config_map` (hash to configuration); `fusions`
            (name to preset or hash), `fusion_config_map` and `fusion_name_map` (name to adapters).
    """

    def __init__(self, **kwargs: Any) -> None:
        config_map: Mapping[str, Any] = kwargs.get("config_map", {})
        self._configs: dict[str, AdapterConfig] = {}
        self._fusions: dict[str, tuple[FusionConfig, list[str | None]]] = {}
        for name, config_id in kwargs.get("adapters", {}).items():
            self.add(name, config_map.get(config_id, config_id))
        fusion_map: Mapping[str, Any] = kwargs.get("fusion_config_map", {})
        names: Mapping[str, Any] = kwargs.get("fusion_name_map", {})
        for name, config_id in kwargs.get("fusions", {}).items():
            self.add_fusion(names.get(name, name.split(",")), fusion_map.get(config_id, config_id), name)

    @property
    def adapters(self) -> dict[str, str]:
        """The hash of each adapter's configuration."""
        return {name: get_adapter_config_hash(config) for name, config in self._configs.items()}

    @property
    def fusions(self) -> dict[str, str]:
        """The name, or else the hash, of each fusion's configuration."""
        return {n: preset_of(config) or get_adapter_config_hash(config) for n, (config, _) in self._fusions.items()}

    @property
    def fusion_name_map(self) -> dict[str, list[str | None]]:
        """The adapters of each fusion."""
        return {name: list(adapters) for name, (_, adapters) in self._fusions.items()}

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

    def add_fusion(
        self,
        adapter_names: Sequence[str | None],
        config: str | Mapping[str, Any] | None = None,
        fusion_name: str | None = None,
    ) -> None:
        """Add a fusion with its configuration (by default `dynamic`).

        Args:
            adapter_names: The adapters.
            config: The configuration.
            fusion_name: Its name; by default those of the adapters, with commas between them.

        Raises:
            ValueError: the name is there already.
        """
        name = fusion_name or ",".join(map(str, adapter_names))
        if name in self._fusions:
            raise ValueError(f"There is a fusion named {name!r} already.")
        loaded = AdapterFusionConfig.load(config if config is not None else DEFAULT_ADAPTERFUSION_CONFIG)
        self._fusions[name] = (loaded, list(adapter_names))

    def get_fusion(self, fusion_name: str | Sequence[str]) -> tuple[FusionConfig | None, list[str | None] | None]:
        """The configuration of a fusion and its adapters, or None twice.

        Args:
            fusion_name: Its name, or its adapters.
        """
        name = fusion_name if isinstance(fusion_name, str) else ",".join(fusion_name)
        return self._fusions.get(name, (None, None))

    def __contains__(self, adapter_name: str) -> bool:
        return adapter_name in self._configs

    def __iter__(self) -> Any:
        return iter(self._configs)

    def __len__(self) -> int:
        return len(self._configs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `config.json` holds it under `adapters`."""
        own = [config for config, _ in self._fusions.values() if preset_of(config) is None]
        return {
            "adapters": self.adapters,
            "config_map": {get_adapter_config_hash(c): c.to_dict() for c in self._configs.values()},
            "fusions": self.fusions,
            "fusion_config_map": {get_adapter_config_hash(config): config.to_dict() for config in own},
            "fusion_name_map": self.fusion_name_map,
        }
