"""Configurations with a name, which a hub keeps: `add_adapter("task", config="small@my-hub")`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..configuration import AdapterConfig
from ..configuration.base import is_config_file, parse_preset
from .errors import AdapterNotFoundError, HubError
from .reading import hub_in_use, open_hub

_IN_USE = "hub"


def config_from_hub(text: str) -> AdapterConfig:
    """A configuration that a hub keeps.

    >>> config_from_hub("small@my-hub")
    >>> config_from_hub("small[non_linearity=gelu]@https://example.org/hub")
    >>> config_from_hub("small@hub")  # of the hub that ADAPTERS_HUB names

    Args:
        text: Its name, with fields to change in brackets, and after the @ the folder or the address of the hub.

    Raises:
        HubError: there is no such hub or configuration.
        AdapterConfigError: a field is not known, or a value has no meaning.
    """
    before, _, place = text.partition("@")
    name, fields = parse_preset(before)
    address = hub_in_use() if place == _IN_USE else place
    if not address:
        raise HubError(f"{text!r}: the environment variable ADAPTERS_HUB names no hub; write the hub after the '@'.")
    hub = open_hub(address)
    known: Any = hub.document("architectures.json")
    if not isinstance(known, Mapping) or not isinstance(known.get(name), Mapping):
        there = ", ".join(sorted(known)) if isinstance(known, Mapping) and known else "none"
        raise AdapterNotFoundError(f"{hub.address} has no configuration {name!r}; it has {there}.")
    return AdapterConfig.parsed(known[name], **fields)


def loaded(config: str | Mapping[str, Any]) -> AdapterConfig:
    """A configuration from whatever names one, also on a hub. See `AdapterConfig.load`."""
    is_on_hub = isinstance(config, str) and "@" in config and not is_config_file(config)
    return config_from_hub(str(config)) if is_on_hub else AdapterConfig.load(config)
