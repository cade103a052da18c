"""How adapters behind layers become steps: they add to the hidden states at a few positions of each row.

Shapes: B rows, T tokens of the call, K columns of its attention mask (those of the cache come first), D hidden size,
N positions.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.parts import LayerOutput
from ..methods.base import PositionsMap
from .blocks import Change, FuseAdded, by_kinds, change_of
from .calls import Call, Caller, Calls
from .flows import Flow, Fused, Rows
from .hooks import HookPoint, Step

_LOGGER = logging.getLogger(__name__)
_PROMPT = "prompt"


@dataclass(frozen=True)
class Ends:
    """The same positions in all rows: the first tokens of the call up to `first`, and those from `begin` to `end`."""

    first: int
    begin: int
    end: int

    def change(self, h: Tensor, adapter: PositionsMap) -> Tensor:
        """h with what the adapter adds. Shape: (B, T, D), kept."""
        first, begin, end = self.first, self.begin, self.end
        is_trained = torch.is_grad_enabled()  # then parameters without positions get a gradient too: zero
        pieces = []
        if first or is_trained:
            pieces.append(_changed(h[:, :first], adapter, is_suffix=False))
        if begin > first:
            pieces.append(h[:, first:begin])
        if end > begin or is_trained:
            pieces.append(_changed(h[:, begin:end], adapter, is_suffix=True))
        if end < h.shape[1]:
            pieces.append(h[:, end:])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


@dataclass(frozen=True)
class Chosen:
    """Positions of each row of its own.

    Args:
        parts: The first and the last positions. Shape of both: (B, N, 1), with whether each is one (there may be fewer
            than N in a row).
    """

    parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]

    def change(self, h: Tensor, adapter: PositionsMap) -> Tensor:
        """h with what the adapter adds. Shape: (B, T, D), kept."""
        for is_suffix, (positions, holds) in enumerate(self.parts):
            if positions.shape[1] or torch.is_grad_enabled():
                index = positions.expand(-1, -1, h.shape[-1])
                added = adapter.increment(h.gather(1, index), bool(is_suffix))
                h = h.scatter_add(1, index, added.where(holds, 0))
        return h


@dataclass
class ChangePositions:
    """After a layer: its hidden states are changed at the positions that adapters ask for."""

    change: Change

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return self.change(output)
        if type(output) not in (tuple, list):
            raise ValueError(
                f"{type(module).__name__} gives a {type(output).__name__}; its hidden states are not known."
            )
        h = self.change(output[0])
        return (h, *output[1:]) if type(output) is tuple else [h, *output[1:]]


@dataclass
class LayerLeaves:
    """Adapters behind a layer: a function of its hidden states.

    Args:
        caller: The module that is called with the attention mask of the tokens.
        start: The number of tokens in the cache.
    """

    caller: Caller
    start: Callable[[Tensor], int]
    is_local = False

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """See `Leaves.series`. Of several the first one acts alone, as in AdapterHub's `adapters`."""
        maps = [m for m in modules if isinstance(m, PositionsMap)]
        if len(maps) > 1:
            _warn_once("Of several ReFT adapters in one setup, only the first acts behind a layer.")
        return AdaptPositions(maps[0], self.caller)

    def together(self, rows: Rows) -> Change | None:
        """See `Leaves.together`."""
        return by_kinds(rows, self)

    def fused(self, part: Fused) -> Change:
        """See `Leaves.fused`: what they add is fused."""
        return FuseAdded(part.fusion, [change_of(flow, self) for flow in part.flows])


@dataclass
class AdaptPositions:
    """The hidden states with what an adapter adds at its positions. Shape: (B, T, D), kept."""

    adapter: PositionsMap
    caller: Caller

    def __call__(self, h: Tensor) -> Tensor:
        return positions(self.caller, self.adapter, h).change(h, self.adapter)


def layer_steps(base: nn.Module, point: LayerOutput, flow: Flow, calls: Calls) -> Iterator[tuple[HookPoint, Step]]:
    """The step of adapters behind a layer."""
    leaves = LayerLeaves(calls.of(point.caller), calls.start_at(point.path, flow))
    yield (base.get_submodule(point.path), "after"), ChangePositions(change_of(flow, leaves))


@functools.cache
def _warn_once(message: str) -> None:
    _LOGGER.warning(message)


def positions(caller: Caller, adapter: PositionsMap, h: Tensor) -> Ends | Chosen:
    """Which positions of a call are among the first and the last ones of their rows: found once per call.

    Args:
        caller: What is called.
        adapter: Says how many first and last ones.
        h: The hidden states. Shape: (B, T, D).

    Raises:
        ValueError: the hidden states, or the mask, are not of a shape that has positions.
    """
    call = caller.call
    prefix, suffix = adapter.prefix_positions, adapter.suffix_positions
    key = (prefix, suffix, h.shape)
    found = call.known.get(key)
    if found is None:
        if h.ndim != 3 or h.shape[2] != adapter.size:
            raise ValueError(
                f"{type(caller.module).__name__}: a layer gives hidden states of shape {tuple(h.shape)}, where (batch, "
                f"tokens, {adapter.size}) was expected; what is at positions of this model cannot be changed."
            )
        found = call.known[key] = _positions(call, caller, prefix, suffix, h)
    return found


def _positions(call: Call, caller: Caller, prefix: int, suffix: int, h: Tensor) -> Ends | Chosen:
    tokens, start = h.shape[1], call.start(h)
    if _PROMPT not in call.known:
        call.known[_PROMPT] = caller.prompt(start + tokens, start)
    prompt = call.known[_PROMPT]
    real = call.real()
    if real is None or _all_hold(real):
        end = _within(prompt - start, tokens)
        begin = _within(prompt - suffix - start, end)
        return Ends(min(_within(prefix - start, tokens), begin), begin, end)
    window = slice(start, start + tokens)
    ranks = real.cumsum(1)
    own = real[:, window]
    is_last = own & (ranks > ranks[:, prompt - 1 : prompt] - suffix)[:, window]
    if prompt < start + tokens:
        is_last = is_last & (torch.arange(tokens, device=h.device) < prompt - start)
    is_first = own & (ranks[:, window] <= prefix) & ~is_last
    return Chosen((_chosen(is_first, prefix), _chosen(is_last, suffix)))


def _all_hold(real: Tensor) -> bool:
    """Whether there is no padding, where it costs nothing to look: not on accelerators, not while compiling."""
    return real.device.type == "cpu" and not torch.compiler.is_compiling() and bool(real.all())


def _within(position: int, tokens: int) -> int:
    return max(0, min(position, tokens))


def _chosen(holds: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` positions per row at which something holds. Shape: (B, T) to (B, N, 1), twice."""
    tokens = holds.shape[1]
    order = torch.arange(tokens, device=holds.device)
    found = order.where(holds, tokens).sort(1).values[:, : min(count, tokens), None]
    return found.clamp(max=tokens - 1), found < tokens


def _changed(h: Tensor, adapter: PositionsMap, is_suffix: bool) -> Tensor:
    return h + adapter.increment(h, is_suffix)
