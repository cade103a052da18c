"""What the arguments of a module's call are called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


class Signature:
    """The parameters of a module's `forward`.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
        self.names = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        self.is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        """Whether it takes any number of arguments without names."""
        self._positions = {name: i for i, name in enumerate(self.names)}

    def given(self, name: str, inputs: tuple[Any, ...], arguments: Mapping[str, Any]) -> Any:
        """An argument of a call by its name, or None."""
        if name in arguments:
            return arguments[name]
        position = self._positions.get(name, len(inputs))
        return inputs[position] if position < len(inputs) else None

    def named(self, inputs: tuple[Any, ...], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of a call by their names."""
        return {**dict(zip(self.names, inputs, strict=False)), **arguments}
