"""Unions: several methods under the name of one adapter."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from .base import AdapterConfig, AdapterConfigError, UnknownFieldError, register_method, register_preset
from .bottleneck import BnConfig, ParBnConfig, SeqBnConfig
from .lora import LoRAConfig
from .prefix_tuning import PrefixTuningConfig


class ConfigUnion(AdapterConfig):
    """Several configurations whose modules make up one adapter.

    As a dictionary it has the fields of all of them, with their number in front: `0.r`, `1.reduction_factor`. By a
    number alone it gives the configuration.

    >>> model.add_adapter("task", ConfigUnion(LoRAConfig(r=8), SeqBnConfig(reduction_factor=16)))
    >>> model.add_adapter("task", "lora[r=8]|seq_bn[reduction_factor=16]")

    Args:
        *configs: The configurations.

    Raises:
        AdapterConfigError: none was given, or two of them place modules at the same place.
    """

    architecture = "union"
    configs: tuple[AdapterConfig, ...]
    _parts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *configs: AdapterConfig | str | Mapping[str, Any]) -> None:
        flat: list[AdapterConfig] = []
        for config in map(AdapterConfig.load, configs):
            flat += config.configs if isinstance(config, ConfigUnion) else [config]
        if not flat:
            raise AdapterConfigError("A ConfigUnion needs at least one configuration.")
        for first, second in itertools.combinations(flat, 2):
            _refuse_overlap(first, second)
        object.__setattr__(self, "configs", tuple(flat))

    def __getitem__(self, field: str | int) -> Any:
        if field in ("architecture", "configs", *self._parts):
            return getattr(self, str(field))
        if isinstance(field, int):
            return self.configs[field]
        number, _, name = field.partition(".")
        if not number.isdigit() or int(number) >= len(self.configs):
            raise KeyError(field)
        return self.configs[int(number)][name]

    def __iter__(self) -> Iterator[str]:
        return (f"{n}.{name}" for n, config in enumerate(self.configs) for name in config)

    def __len__(self) -> int:
        return sum(map(len, self.configs))

    def __eq__(self, other: object) -> bool:
        # As with dictionaries: what counts are the fields, and not the classes that gave their defaults.
        return isinstance(other, ConfigUnion) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(config.architecture for config in self.configs))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.configs))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.configs

    def to_dict(self) -> dict[str, Any]:
        """The configurations, as `adapter_config.json` holds them."""
        return {"architecture": "union", "configs": [config.to_dict() for config in self.configs]}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AdapterConfig:
        """The union that `to_dict` gave.

        Raises:
            AdapterConfigError: it is not one, or a configuration in it has no meaning.
        """
        configs = config.get("configs")
        if not isinstance(configs, (list, tuple)):
            raise AdapterConfigError("A union has 'configs', a list of configurations.")
        return cls(*(AdapterConfig.parsed(inner) for inner in configs))

    def replace(self, **changes: Any) -> AdapterConfig:
        """The same union with some fields changed: of all its configurations, or of that whose number is in front.

        >>> MAMConfig().replace(leave_out=[0], **{"1.reduction_factor": 8})

        Raises:
            AdapterConfigError: a field does not exist, for a name without a number in one of the configurations, or a
                value has no meaning.
        """
        by_number: dict[int, dict[str, Any]] = {}
        for field, value in changes.items():
            number, dot, name = field.partition(".")
            if dot and (not number.isdigit() or int(number) >= len(self.configs)):
                raise UnknownFieldError(
                    f"ConfigUnion has no field {field!r}; name the configuration by its number, as in '0.r'."
                )
            for one in [int(number)] if dot else range(len(self.configs)):
                by_number.setdefault(one, {})[name if dot else field] = value
        configs = tuple(c.replace(**by_number.get(n, {})) for n, c in enumerate(self.configs))
        changed = type(self)(*configs)
        return changed if changed.configs == configs else ConfigUnion(*configs)  # UniPELT without a gate is none

    def without_layers(self, left_out: Sequence[int], layers: Sequence[int]) -> AdapterConfig:
        """See `AdapterConfig.without_layers`."""
        return type(self)(*(config.without_layers(left_out, layers) for config in self.configs))


class MAMConfig(ConfigUnion):
    """Mix-and-match (He et al. 2022, arXiv:2110.04366): prefix tuning, and a parallel bottleneck at the feed-forward.

    Args:
        prefix_tuning: Its prefix tuning; by default with a bottleneck of 800.
        adapter: Its bottleneck adapter; by default `par_bn`.
    """

    _parts = ("prefix_tuning", "adapter")

    def __init__(self, prefix_tuning: PrefixTuningConfig | None = None, adapter: BnConfig | None = None) -> None:
        super().__init__(prefix_tuning or PrefixTuningConfig(bottleneck_size=800), adapter or ParBnConfig())

    @property
    def prefix_tuning(self) -> AdapterConfig:
        """Its prefix tuning."""
        return self.configs[0]

    @property
    def adapter(self) -> AdapterConfig:
        """Its bottleneck adapter."""
        return self.configs[1]


class UniPELTConfig(ConfigUnion):
    """UniPELT (Mao et al. 2022, arXiv:2110.07577): prefix tuning, a bottleneck and LoRA, each with a gate.

    Args:
        prefix_tuning: Its prefix tuning; by default of length 10.
        adapter: Its bottleneck adapter; by default `seq_bn`.
        lora: Its LoRA; by default with alpha 2.
    """

    _parts = ("prefix_tuning", "adapter", "lora")

    def __init__(
        self,
        prefix_tuning: PrefixTuningConfig | None = None,
        adapter: BnConfig | None = None,
        lora: LoRAConfig | None = None,
    ) -> None:
        super().__init__(
            *(
                config.replace(use_gating=True)
                for config in (
                    prefix_tuning or PrefixTuningConfig(prefix_length=10),
                    adapter or SeqBnConfig(),
                    lora or LoRAConfig(alpha=2),
                )
            )
        )

    @property
    def prefix_tuning(self) -> AdapterConfig:
        """Its prefix tuning."""
        return self.configs[0]

    @property
    def adapter(self) -> AdapterConfig:
        """Its bottleneck adapter."""
        return self.configs[1]

    @property
    def lora(self) -> AdapterConfig:
        """Its LoRA."""
        return self.configs[2]


_SWITCHES = ("mh_adapter", "output_adapter", "cross_adapter", "selfattn_lora", "intermediate_lora", "output_lora")


def _refuse_overlap(first: AdapterConfig, second: AdapterConfig) -> None:
    """Raise if two configurations of one method meet at a place. What needs the model to be seen is seen later."""
    if first.architecture != second.architecture:
        return
    switches = [name for name in _SWITCHES if name in first and name in second]
    apart = bool(switches) and not any(first[name] and second[name] for name in switches)
    by_name = any(config.get(f) for config in (first, second) for f in ("leave_out", "target_modules", "modules"))
    if not apart and not by_name:
        raise AdapterConfigError(
            f"{type(first).__name__} and {type(second).__name__} cannot be combined: both have modules at the same "
            "places. Give them other places, by their switches or by leave_out."
        )


register_method(ConfigUnion, "union")
register_preset("mam", MAMConfig())
register_preset("unipelt", UniPELTConfig())
