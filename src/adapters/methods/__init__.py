"""Adaptation methods, one file each. `METHODS` is the only list of them: a new method is a file and a line here."""

from __future__ import annotations

from ..anatomy.parts import Anatomy
from ..configuration import AdapterConfig, BnConfig
from .base import Method as Method
from .base import Placement as Placement
from .bottleneck import BottleneckMethod

METHODS: dict[type[AdapterConfig], Method] = {
    BnConfig: BottleneckMethod(),
}


def placements_of(config: AdapterConfig, anatomy: Anatomy) -> list[Placement]:
    """The modules of a new adapter, and where they belong; nothing is attached yet.

    Raises:
        ValueError: the model has no layers that were found, or the configuration cannot be met by it.
    """
    if not anatomy.layers:
        raise ValueError(
            f"No adapter can be added to this {anatomy.model_class}: not found is {', '.join(anatomy.missing)}. "
            "Describe the model with an AdapterModelInterface: adapters.init(model, interface=...)."
        )
    return list(method_of(config).place(config, anatomy))


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
