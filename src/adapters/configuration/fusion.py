"""The configurations of AdapterFusion, and of gates: how the outputs of several adapters are mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .base import AdapterConfigError, Fields, check_all_fields, check_fields, parse_preset, read_if_file
from .checks import is_probability, require, require_booleans


@dataclass
class FusionConfig(Fields):
    """What every configuration of a fusion can do."""

    def replace(self, **changes: Any) -> FusionConfig:
        """The same configuration with some fields changed.

        Raises:
            AdapterConfigError: a field does not exist or a value has no meaning.
        """
        check_fields(type(self), changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> FusionConfig:
        """The configuration that `to_dict` gave: of AdapterFusion, or of the class that `architecture` names.

        Raises:
            AdapterConfigError: a field is not known or missing, or a value has no meaning.
        """
        fields = dict(config)
        architecture = fields.get("architecture")
        if architecture not in (None, "gate"):
            raise AdapterConfigError(
                f"There is no way to fuse adapters called {architecture!r}; there is 'gate', and AdapterFusion without "
                "this entry."
            )
        if architecture is None:
            fields.pop("architecture", None)
            fusion_class: type[FusionConfig] = cls if issubclass(cls, AdapterFusionConfig) else AdapterFusionConfig
        else:
            fusion_class = GateFusionConfig
        check_all_fields(fusion_class, fields, "dynamic[temperature=True]")
        return fusion_class(**fields)

    @classmethod
    def load(cls, config: str | Mapping[str, Any] | FusionConfig, **kwargs: Any) -> FusionConfig:
        """A configuration from whatever names one.

        >>> AdapterFusionConfig.load("dynamic", temperature=True).temperature
        True
        >>> AdapterFusionConfig.load("static[query_before_ln=True]").query_before_ln
        True

        Args:
            config: `"dynamic"`, `"static"` or `"gate"`, with fields to change in brackets; a JSON file, such as an
                `adapter_fusion_config.json`; a dictionary; or a configuration.
            **kwargs: Fields to change.

        Raises:
            AdapterConfigError: the name or a field is not known, or a value has no meaning.
        """
        return cls.parsed(read_if_file(config, _PRESETS), **kwargs)

    @classmethod
    def parsed(cls, config: str | Mapping[str, Any] | FusionConfig, **kwargs: Any) -> FusionConfig:
        """As `load`, but of no file: for what files say themselves, which may come from anywhere."""
        if isinstance(config, str):
            name, fields = parse_preset(config)
            if name not in _PRESETS:
                raise AdapterConfigError(
                    f"There is no configuration of fusions named {name!r}; there are {', '.join(map(repr, _PRESETS))}."
                )
            return _PRESETS[name].replace(**{**fields, **kwargs})
        if isinstance(config, FusionConfig):
            return config.replace(**kwargs) if kwargs else config
        if isinstance(config, Mapping):
            return cls.from_dict({**config, **kwargs})
        raise AdapterConfigError(
            f"A configuration of a fusion is 'dynamic', 'static', 'gate', a JSON file, a dictionary or an "
            f"AdapterFusionConfig, not {config!r}."
        )


@dataclass
class AdapterFusionConfig(FusionConfig):
    """AdapterFusion: attention over the outputs of adapters (Pfeiffer et al. 2021, arXiv:2005.00247).

    >>> model.add_adapter_fusion(["a", "b"], "dynamic[temperature=True]")

    For the query q, the outputs zᵢ of the adapters and the residual r, it gives Σᵢ pᵢ V zᵢ + r, where pᵢ is the softmax
    over the adapters of (Q q + b) · (K zᵢ + c).

    Args:
        key: Whether there is K with c; without it, zᵢ is its own key.
        query: Whether there is Q with b; without it, q is asked with itself.
        value: Whether there is V; without it, zᵢ is its own value.
        query_before_ln: Whether q is the output of the sublayer itself, and not what the adapters read.
        regularization: Whether `get_fusion_regularization_loss` keeps V near the identity.
        residual_before: Whether r is added to each zᵢ, and not to the result: it goes through V then.
        temperature: Divide the scores by a temperature. It starts at 50, and falls by 0.05 with every pass of training,
            down to 1. It is saved; files of AdapterHub's `adapters` 1.3 do not have it, and start at 50 again.
        value_before_softmax: Whether V comes before the weighted sum. Both ways are equal; kept for files.
        value_initialized: Whether V starts as the identity (with 1e-6 beside the diagonal), or with N(0, 0.02).
        dropout_prob: Dropout probability of the scores; None for none.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    key: bool
    query: bool
    value: bool
    query_before_ln: bool
    regularization: bool
    residual_before: bool
    temperature: bool
    value_before_softmax: bool
    value_initialized: bool | str
    dropout_prob: float | None

    def __post_init__(self) -> None:
        require_booleans(self, _SWITCHES)
        named = (True, False, "True", "False")
        require(self.value_initialized in named, self, "value_initialized", "True or False")
        is_dropout = self.dropout_prob is None or is_probability(self.dropout_prob)
        require(is_dropout, self, "dropout_prob", "a probability in [0, 1), or None")


@dataclass
class StaticAdapterFusionConfig(AdapterFusionConfig):
    """AdapterFusion without the matrix V."""

    key: bool = True
    query: bool = True
    value: bool = False
    query_before_ln: bool = False
    regularization: bool = False
    residual_before: bool = False
    temperature: bool = False
    value_before_softmax: bool = True
    value_initialized: bool | str = False
    dropout_prob: float | None = None


@dataclass
class DynamicAdapterFusionConfig(AdapterFusionConfig):
    """AdapterFusion as it was published: with the matrix V, which starts as the identity."""

    key: bool = True
    query: bool = True
    value: bool = True
    query_before_ln: bool = False
    regularization: bool = True
    residual_before: bool = False
    temperature: bool = False
    value_before_softmax: bool = True
    value_initialized: bool | str = True
    dropout_prob: float | None = None


@dataclass
class GateFusionConfig(FusionConfig):
    """A learned mixture: the weights are the softmax of one number per adapter, at each place where adapters act.

    >>> model.add_adapter_fusion(["a", "b"], "gate")

    It starts as the mean, does not depend on the input, and costs nothing beyond the adapters. AdapterHub's `adapters`
    1.3 does not know it.

    Args:
        architecture: Its name in files.
    """

    architecture: str = "gate"

    def __post_init__(self) -> None:
        require(self.architecture == "gate", self, "architecture", "'gate'")


def preset_of(config: FusionConfig) -> str | None:
    """The name of the preset that says the same as a configuration, whatever their classes."""
    fields = config.to_dict()
    return next((name for name, preset in _PRESETS.items() if preset.to_dict() == fields), None)


_SWITCHES = (
    *("key", "query", "value", "query_before_ln", "regularization", "residual_before", "temperature"),
    "value_before_softmax",
)

ADAPTERFUSION_CONFIG_MAP: dict[str, AdapterFusionConfig] = {
    "static": StaticAdapterFusionConfig(),
    "dynamic": DynamicAdapterFusionConfig(),
}
"""The presets of AdapterFusion, as 1.3 has them; a gate is none."""
_PRESETS: dict[str, FusionConfig] = {**ADAPTERFUSION_CONFIG_MAP, "gate": GateFusionConfig()}
DEFAULT_ADAPTERFUSION_CONFIG = "dynamic"
