"""How adapters at a linear layer, an embedding or fused experts become steps.

Shapes: I inputs, O outputs of the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..anatomy.parts import Matrix
from ..methods.base import LinearMap
from .calls import Calls
from .hooks import HookPoint, Step


@dataclass
class AdaptLinear:
    """After a linear layer: y becomes y′ = f(x, y)."""

    adapter: LinearMap

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.adapter.adapt(inputs[0], output)


@dataclass
class AdaptLinearInSequence:
    """After a linear layer: y becomes y′ by one adapter after the other."""

    maps: Sequence[LinearMap]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Tensor:
        for adapter in self.maps:
            output = adapter.adapt(inputs[0], output)
        return output  # type: ignore[no-any-return]


def matrix_steps(
    base: nn.Module, matrix: Matrix, maps: Sequence[LinearMap], calls: Calls
) -> Iterator[tuple[HookPoint, Step]]:
    """The steps of adapters at one matrix, one after the other."""
    step = AdaptLinear(maps[0]) if len(maps) == 1 else AdaptLinearInSequence(maps)
    yield (base.get_submodule(matrix.path), "after"), step
