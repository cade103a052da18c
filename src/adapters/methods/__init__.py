"""Adaptation methods, one file each. `METHODS` is the only list of them: a new method is a file and a line here."""

from __future__ import annotations

from ..configuration import AdapterConfig, BnConfig
from .base import Method as Method
from .base import Placement as Placement
from .bottleneck import BottleneckMethod

METHODS: dict[type[AdapterConfig], Method] = {
    BnConfig: BottleneckMethod(),
}


def method_of(config: AdapterConfig) -> Method:
    """The method that a configuration belongs to.

    Raises:
        NotImplementedError: no method takes this class of configuration.
    """
    for config_class, method in METHODS.items():
        if isinstance(config, config_class):
            return method
    known = ", ".join(c.__name__ for c in METHODS)
    raise NotImplementedError(f"No method takes a {type(config).__name__}; there are methods for {known}.")
