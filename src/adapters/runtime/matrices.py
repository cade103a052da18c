"""How adapters at a linear layer, an embedding or fused experts become steps.

Shapes: I inputs, O outputs of the layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.parts import Matrix
from ..methods.base import LinearMap
from ..methods.low_rank import LowRank
from .blocks import Change, FuseAdded, by_kinds, change_of
from .calls import Calls
from .flows import Flow, Fused, Rows
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

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """See `LinearMap.after`."""
        return self.adapt(inputs[0], output)

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """See `LinearMap.adapt`."""
        u = x
        for adapter in self.first:
            u = adapter.increment(u, x)
        return self.last.adapt(x, y, u)


@dataclass
class ChangeLinear:
    """After a linear layer: y is changed by several adapters in some composition."""

    change: Change

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.change(output, inputs[0])


@dataclass
class MatrixLeaves:
    """Adapters at a matrix: a function of y and x.

    Args:
        matrix: The matrix.
        start: The number of tokens in the cache.
    """

    matrix: Matrix
    start: Callable[[Tensor], int]
    is_local = True

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """See `Leaves.series`."""
        return AdaptLinear(_links(self.matrix, [m for m in modules if isinstance(m, LinearMap)]))

    def together(self, rows: Rows) -> Change | None:
        """See `Leaves.together`."""
        return by_kinds(rows, self)

    def fused(self, part: Fused) -> Change:
        """See `Leaves.fused`: what they add to y is fused."""
        return FuseAdded(part.fusion, [change_of(flow, self) for flow in part.flows])


@dataclass
class AdaptLinear:
    """y by one adapter after the other, or by a chain. Shapes: (..., O), (..., I) to (..., O)."""

    links: Sequence[LinearMap | AdaptLinearInChain]

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            y = y.clone()  # adapters may change it in place, and others read it too
        for link in self.links:
            y = link.adapt(x, y)
        return y


def matrix_steps(base: nn.Module, matrix: Matrix, flow: Flow, calls: Calls) -> Iterator[tuple[HookPoint, Step]]:
    """The steps of adapters at one matrix.

    Raises:
        ValueError: low-rank adapters follow each other at a matrix where what one adds cannot be read by the next.
    """
    place: HookPoint = (base.get_submodule(matrix.path), "after")
    maps = [part for part in flow if isinstance(part, LinearMap)]
    if len(maps) < len(flow):
        yield place, ChangeLinear(change_of(flow, MatrixLeaves(matrix, calls.start_at(matrix.path, flow))))
        return
    steps: list[Step] = [link.after for link in _links(matrix, maps)]
    yield place, steps[0] if len(steps) == 1 else AdaptLinearInSequence(steps)


def _links(matrix: Matrix, maps: Sequence[LinearMap]) -> list[LinearMap | AdaptLinearInChain]:
    """Adapters one after the other, where low-rank ones in a row are a chain."""
    links: list[LinearMap | AdaptLinearInChain] = []
    for is_low_rank, run in itertools.groupby(maps, lambda adapter: isinstance(adapter, LowRank)):
        adapters = list(run)
        if is_low_rank and len(adapters) > 1:
            links.append(_chain(matrix, adapters))
        else:
            links += adapters
    return links


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
