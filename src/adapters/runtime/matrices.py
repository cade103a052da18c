"""How adapters at a linear layer, an embedding or fused experts become steps.

Shapes: I inputs, O outputs of the layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..anatomy.parts import Matrix
from ..methods.base import LinearMap
from ..methods.low_rank import LowRank
from .calls import Calls
from .hooks import HookPoint, Step


@dataclass
class AdaptLinearInSequence:
    """After a linear layer: y becomes y′ by one adapter after the other."""

    steps: Sequence[Step]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Tensor:
        for step in self.steps:
            output = step(module, inputs, output)
        return output  # type: ignore[no-any-return]


@dataclass
class AdaptLinearInChain:
    """After a linear layer: what one low-rank adapter would add is the input of the next, and the last one adds.

    So AdapterHub's adapters stacked them: y′ = y + B₂ A₂ B₁ A₁ x.
    """

    first: Sequence[LowRank]
    last: LowRank

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = u = inputs[0]
        for adapter in self.first:
            u = adapter.increment(u, x)
        return self.last.adapt(x, output, u)


def matrix_steps(
    base: nn.Module, matrix: Matrix, maps: Sequence[LinearMap], calls: Calls
) -> Iterator[tuple[HookPoint, Step]]:
    """The steps of adapters at one matrix, one after the other.

    Raises:
        ValueError: low-rank adapters follow each other at a matrix where what one adds cannot be read by the next.
    """
    steps: list[Step] = []
    for is_low_rank, run in itertools.groupby(maps, lambda adapter: isinstance(adapter, LowRank)):
        adapters = list(run)
        if is_low_rank and len(adapters) > 1:
            steps.append(_chain(matrix, adapters))
        else:
            steps += [adapter.after for adapter in adapters]
    yield (base.get_submodule(matrix.path), "after"), steps[0] if len(steps) == 1 else AdaptLinearInSequence(steps)


def _chain(matrix: Matrix, adapters: Sequence[LinearMap]) -> AdaptLinearInChain:
    chained = [adapter for adapter in adapters if isinstance(adapter, LowRank)]
    if not all(adapter.is_square for adapter in chained):
        kinds = " and ".join(type(adapter).__name__ for adapter in chained)
        what = f"fuses {', '.join(matrix.rows)}" if matrix.rows else f"is {matrix.out_features} × {matrix.in_features}"
        raise ValueError(
            f"A Stack of {kinds} adapters cannot be at {matrix.path}: the second one would read what the first one "
            f"adds, and the matrix {what} instead of square. Merge the first into the weights (merge_adapter) and "
            "activate the second, make one of both (average_adapter), or train them at different matrices."
        )
    return AdaptLinearInChain(chained[:-1], chained[-1])
