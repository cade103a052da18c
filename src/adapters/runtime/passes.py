"""Tensors that hold for one pass of the model: made where it begins, read in its layers.

What is kept for a layer that is checkpointed must not depend on what the model does afterwards, so such a layer takes
these tensors as inputs (`ReplayedCheckpoint`): it is recomputed with those of its own pass, and gradients reach them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..methods.base import SharedModule


class PassValue:
    """The tensors of one kind, for each thread its own; an empty tuple outside of a pass.

    While a graph is compiled, a plain attribute does: it is set and taken back within that graph.
    """

    def __init__(self) -> None:
        self._traced: tuple[Tensor, ...] = ()

    def put(self, tensors: tuple[Tensor, ...]) -> None:
        """Keep tensors; an empty tuple ends it."""
        if torch.compiler.is_dynamo_compiling():
            self._traced = tensors
        elif tensors:
            _PASS.values[self] = tensors
        else:
            _PASS.values.pop(self, None)

    def get(self) -> tuple[Tensor, ...]:
        """The tensors."""
        return self._traced if torch.compiler.is_dynamo_compiling() else _PASS.values.get(self, ())


class _Pass(threading.local):
    """What is kept by a thread."""

    def __init__(self) -> None:
        self.values: dict[PassValue, tuple[Tensor, ...]] = {}


_PASS = _Pass()


def values_of_pass() -> dict[PassValue, tuple[Tensor, ...]]:
    """What is kept right now, by this thread."""
    return {} if torch.compiler.is_dynamo_compiling() else dict(_PASS.values)


@contextlib.contextmanager
def pass_values(values: Mapping[PassValue, tuple[Tensor, ...]]) -> Iterator[None]:
    """Keep these, and nothing else, until the end of the block."""
    before, _PASS.values = _PASS.values, dict(values)
    try:
        yield
    finally:
        _PASS.values = before


@dataclass
class BeginPass:
    """Before the model: make what layers share."""

    shared: Sequence[tuple[SharedModule, PassValue]]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], other: Any) -> None:
        for source, value in self.shared:
            value.put(source.shares())


@dataclass
class EndPass:
    """After the model: forget it."""

    values: Sequence[PassValue]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for value in self.values:
            value.put(())
