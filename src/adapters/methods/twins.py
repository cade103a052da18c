"""Running a module of the model with other tensors in the place of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def run_with(module: nn.Module, parameters: Mapping[str, Tensor | None], *inputs: Any, **arguments: Any) -> Any:
    """What a module computes if its parameters are these tensors. Nothing is changed in it: threads may share it.

    >>> run_with(linear, {"weight": 2 * linear.weight, "bias": None}, x)

    Args:
        module: The module. Its hooks are not run.
        parameters: All of its own parameters by name.
        *inputs: What it is called with.
        **arguments: What it is called with.
    """
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__["_parameters"] = parameters
    return type(module).forward(twin, *inputs, **arguments)
