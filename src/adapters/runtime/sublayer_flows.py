"""What flows of adapters do at the output of a sublayer.

There are two ways to see it. In the *sum* s = x + r that the norm of a post-norm block reads, or in x itself, where r
and `own` are seen beside it: `own` is what the sublayer has made, before any adapter.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..methods.base import SublayerMap
from ..methods.bottleneck import Bottleneck, StackedBottleneck
from ..methods.fusion import FusionModule
from .blocks import ByKinds, ByPieces, ByRows, Change, Leaves, WeightedSum, by_kinds, change_of, fused, unchanged
from .choice import AllOfThem, together
from .flows import Flow, Fused, Mean, Pieces, Rows

Start = Callable[[Tensor], int]
"""The number of tokens before the first one of a tensor: those in the cache."""


@dataclass
class SumLeaves:
    """At the sum: s becomes s + f(norm(s)).

    Args:
        norm: The norm.
        start: See `Start`.
    """

    norm: nn.Module
    start: Start
    is_local = True

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """See `Leaves.series`."""
        return IncrementSum(self.norm, [m for m in modules if isinstance(m, SublayerMap)])

    def together(self, rows: Rows) -> Change | None:
        """See `Leaves.together`."""
        return by_kinds(rows, self)

    def fused(self, part: Fused) -> Change:
        """See `Leaves.fused`."""
        return FuseSum(self.norm, part.fusion, [of_child(flow, self) for flow in part.flows], at_once(part))


@dataclass
class IncrementSum:
    """s + f(norm(s)), for one adapter after the other. Shape: (B, T, D), kept."""

    norm: nn.Module
    maps: Sequence[SublayerMap]

    def __call__(self, s: Tensor) -> Tensor:
        for adapter in self.maps:
            s = s + adapter.increment(self.norm.forward(s))
        return s


@dataclass
class OutputLeaves:
    """At the output x of the sublayer, with r and `own`.

    Args:
        norm: The norm of the block, if it has one.
        start: See `Start`.
    """

    norm: nn.Module | None
    start: Start
    is_local = True

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """See `Leaves.series`."""
        return AdaptOutput(self.norm, [m for m in modules if isinstance(m, SublayerMap)])

    def together(self, rows: Rows) -> Change | None:
        """See `Leaves.together`."""
        return by_kinds(rows, self)

    def fused(self, part: Fused) -> Change:
        """See `Leaves.fused`."""
        return FuseOutput(self.norm, part.fusion, [of_child(flow, self) for flow in part.flows], at_once(part))


@dataclass
class AdaptOutput:
    """x by one adapter after the other. A parallel one adds to `own`, also behind others. Shape: (B, T, D), kept."""

    norm: nn.Module | None
    maps: Sequence[SublayerMap]

    def __call__(self, x: Tensor, r: Tensor | None, own: Tensor) -> Tensor:
        for adapter in self.maps:
            x = adapter.adapt(own if adapter.is_parallel else x, r, self.norm)
        return x


# -- the last adapter of a block that goes on without its residual and norm -------------------------------------------


def ending(flow: Flow, norm: nn.Module | None, start: Start) -> Change:
    """What a block gives, as a function of (what it gives without this flow, x, r, own).

    Args:
        flow: The flow; the adapters at its end may take the place of the block's norm.
        norm: That norm; None in a pre-norm block, which goes on to add r.
        start: See `Start`.
    """
    if not flow:
        return unchanged
    before = None if len(flow) == 1 else change_of(flow[:-1], OutputLeaves(norm, start))
    return FinishAfter(before, _finish(flow[-1:], norm, start), norm)


def _finish(flow: Flow, norm: nn.Module | None, start: Start) -> Change:
    (part,) = flow
    if isinstance(part, nn.Module):
        assert isinstance(part, SublayerMap)
        return FinishOutput(norm, part)
    if isinstance(part, Fused):
        return FinishOutput(norm, change_of(flow, OutputLeaves(norm, start)))
    if isinstance(part, Rows) and (found := together(part)) is not None:
        return ByKinds([(_finish((those.module,), norm, start), those) for those in found])
    changes = [ending(inner, norm, start) for inner in part.flows]
    if isinstance(part, Mean):
        return WeightedSum(changes, part.weights)
    if isinstance(part, Pieces):
        return ByPieces(changes, part.lengths, OutputLeaves(norm, start))
    return ByRows(changes, part.lanes, is_local=True)


@dataclass
class FinishOutput:
    """What a block gives with its last adapter."""

    norm: nn.Module | None
    last: SublayerMap | Change

    def __call__(self, value: Tensor, x: Tensor, r: Tensor, own: Tensor) -> Tensor:
        last = self.last
        if not isinstance(last, SublayerMap):
            x = last(x, r, own)
        elif last.replaces_norm:
            return last.finish(own if last.is_parallel else x, r, self.norm)
        else:
            x = last.adapt(own if last.is_parallel else x, r, self.norm)
        result: Tensor = x if self.norm is None else self.norm.forward(x + r)
        return result


@dataclass
class FinishAfter:
    """What a block gives, with adapters before the last one."""

    before: Change | None
    last: Change
    norm: nn.Module | None

    def __call__(self, value: Tensor, x: Tensor, r: Tensor, own: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(x, r, own)
            value = x if self.norm is None else self.norm.forward(x + r)
        return self.last(value, x, r, own)


# -- AdapterFusion ----------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """One of the flows that are fused.

    Args:
        before: All but its last part; None if that is all.
        last: Its last part, if that is an adapter: what it adds is what is fused.
        whole: All of it.
    """

    before: Change | None
    last: SublayerMap | None
    whole: Change


def of_child(flow: Flow, leaves: Leaves) -> Child:
    """A flow that is fused with others."""
    last = flow[-1] if flow and isinstance(flow[-1], SublayerMap) else None
    return Child(change_of(flow[:-1], leaves) if len(flow) > 1 else None, last, change_of(flow, leaves))


def at_once(part: Fused) -> StackedBottleneck | None:
    """The adapters that are fused as one, if all flows are single bottlenecks that read the same."""
    modules = [flow[0] for flow in part.flows if len(flow) == 1 and isinstance(flow[0], Bottleneck)]
    keys = {module.common_key() for module in modules}
    if len(modules) < len(part.flows) or len(keys) > 1 or None in keys or modules[0].depends_on_rows:
        return None
    return StackedBottleneck(modules, AllOfThem())


@dataclass
class FuseSum:
    """The sum s with what adapters add to it, mixed by attention."""

    norm: nn.Module
    fusion: FusionModule
    children: Sequence[Child]
    at_once: StackedBottleneck | None

    def __call__(self, s: Tensor) -> Tensor:
        h = self.norm.forward(s)
        if self.at_once is not None:
            return fused(self.fusion, h, increments(self.at_once, h), s)
        values = [c.whole(s) - s if c.last is None else c.last.increment(h) for c in self.children]
        return fused(self.fusion, h, values, s)


def increments(adapters: StackedBottleneck, h: Tensor) -> Tensor:
    """What each of N adapters adds for the same input. Shape: (B, T, D) to (N, B·T, D)."""
    return adapters.increment(h.reshape(1, -1, h.shape[-1]).expand(adapters.count, -1, -1))


@dataclass
class FuseOutput:
    """The output x with what adapters add to it, mixed by attention.

    The last adapter's configuration says what asks, and what the result is added to. As in AdapterHub's `adapters`, a
    stack among the children starts from what that adapter reads, in the place of x.
    """

    norm: nn.Module | None
    fusion: FusionModule
    children: Sequence[Child]
    at_once: StackedBottleneck | None

    def __call__(self, x: Tensor, r: Tensor | None, own: Tensor) -> Tensor:
        outer = next((child.last for child in reversed(self.children) if child.last is not None), None)
        h = x if outer is None else outer.reads(x, r, self.norm)
        values: Tensor | list[Tensor]
        if self.at_once is not None:
            values = increments(self.at_once, h)
        else:
            values = [self._added(child, x, h, r, own) for child in self.children]
        if outer is not None and outer.is_parallel:
            return own + fused(self.fusion, h, values, h)
        query = x if self.fusion.reads_query_before_norm else h
        return fused(self.fusion, query, values, x if outer is None else outer.residual(h, x, r))

    def _added(self, child: Child, x: Tensor, h: Tensor, r: Tensor | None, own: Tensor) -> Tensor:
        if child.last is None:
            return child.whole(x, r, own) - x
        start = x if child.before is None else child.before(h, r, own)
        return child.last.increment(child.last.reads(start, r, self.norm))
