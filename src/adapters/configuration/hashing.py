"""The 16-digit hash by which the hub tells configurations apart, equal to that of AdapterHub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

# Fields that came after the first hashes were published; their defaults must not change these.
_LATER_DEFAULTS: dict[str, Any] = {
    "phm_layer": True,
    "phm_dim": 4,
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
    "phm_c_init": "normal",
    "phm_init_range": 0.0001,
    "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "phm_rank": 1,
    "phm_bias": True,
    "init_weights": "bert",
    "scaling": 1.0,
}


# What AdapterHub does not know, and where it is the empty value that says something: DiReFT is no NoReFT …
_FULL_DEFAULT = {"subtract_projection": True, "scale_bias": True}


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_empty(inner) for key, inner in value.items() if _says_something(key, inner)}
    return value


def _says_something(key: str, value: Any) -> bool:
    field = str(key).rpartition(".")[2]  # in unions, the number of the configuration is in front
    return bool(value != _FULL_DEFAULT[field]) if field in _FULL_DEFAULT else bool(value)


def get_adapter_config_hash(config: Mapping[str, Any], length: int = 16, ignore_params: Sequence[str] = ()) -> str:
    """The hash of a configuration.

    >>> get_adapter_config_hash(AdapterConfig.load("seq_bn"))
    '9076f36a74755ac4'

    Args:
        config: A configuration or its dictionary.
        length: Number of hexadecimal digits.
        ignore_params: Fields to leave out.
    """
    fields = {key: value for key, value in dict(config).items() if key not in ignore_params}
    minimized = {
        key: value
        for key, value in _without_empty(fields).items()
        if key not in _LATER_DEFAULTS or value != _LATER_DEFAULTS[key]
    }
    return hashlib.sha1(json.dumps(minimized, sort_keys=True).encode()).hexdigest()[:length]
