"""Which adapters and fusions a model has, as its `config.json` says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import AdapterConfig
from .fusion import DEFAULT_ADAPTERFUSION_CONFIG, AdapterFusionConfig, FusionConfig, preset_of
from .hashing import get_adapter_config_hash
from .union import ConfigUnion


class ModelAdaptersConfig:
    """The adapters and the fusions of a model by name, with their configurations.

    Args:
        **kwargs: What `to_dict` gave: `adapters` (name to hash) and `config_map` (hash to configuration); `fusions`
            (name to preset or hash), `fusion_config_map` and `fusion_name_map` (name to adapters).

    Attributes:
        active_setup: What is active in the model, an `AdapterCompositionBlock`, or None. To change it, call
            `model.set_active_adapters`.
        skip_layers: The layers whose adapters are left out, or None.
    """

    active_setup: Any = None
    skip_layers: list[int] | None = None

    def __init__(self, **kwargs: Any) -> None:
        config_map: Mapping[str, Any] = kwargs.get("config_map", {})
        self._configs: dict[str, AdapterConfig] = {}
        self._fusions: dict[str, tuple[FusionConfig, list[str | None]]] = {}
        for name, config_id in kwargs.get("adapters", {}).items():
            self.add(name, AdapterConfig.parsed(config_map.get(config_id, config_id)))
        fusion_map: Mapping[str, Any] = kwargs.get("fusion_config_map", {})
        names: Mapping[str, Any] = kwargs.get("fusion_name_map", {})
        for name, config_id in kwargs.get("fusions", {}).items():
            config = AdapterFusionConfig.parsed(fusion_map.get(config_id, config_id))
            self.add_fusion(names.get(name, name.split(",")), config, name)

    @property
    def adapters(self) -> dict[str, str]:
        """The hash of each adapter's configuration."""
        return {name: get_adapter_config_hash(config) for name, config in self._configs.items()}

    @property
    def config_map(self) -> dict[str, AdapterConfig]:
        """The configurations by their hashes."""
        return {get_adapter_config_hash(config): config for config in self._configs.values()}

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

    def match(
        self,
        adapter_name: str,
        config_type: type[AdapterConfig],
        layer_idx: int | None = None,
        location_key: str | None = None,
    ) -> AdapterConfig | None:
        """The configuration of an adapter, or that within its union, if it is of a kind.

        >>> model.adapters_config.match("task", BnConfig, location_key="mh_adapter")

        Args:
            adapter_name: The adapter.
            config_type: The kind, such as `BnConfig`.
            layer_idx: A layer that it must not leave out.
            location_key: A field that must be on, such as "output_adapter".
        """
        config = self._configs.get(adapter_name)
        for part in config.configs if isinstance(config, ConfigUnion) else [config]:
            if not isinstance(part, config_type) or layer_idx in part.get("leave_out", []):
                continue
            if location_key is None or part.get(location_key):
                return part
        return None

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
            "config_map": {config_id: config.to_dict() for config_id, config in self.config_map.items()},
            "fusions": self.fusions,
            "fusion_config_map": {get_adapter_config_hash(config): config.to_dict() for config in own},
            "fusion_name_map": self.fusion_name_map,
        }
