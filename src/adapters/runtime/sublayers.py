"""How adapters at the output of a sublayer become steps at hook points.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.parts import Site, Sublayer, Tap
from ..methods.base import SublayerMap
from .calls import Calls
from .hooks import HookPoint, Step


class Cell:
    """Holds a tensor between two hooks of the same forward pass, for each thread its own.

    While a graph is compiled, a plain attribute does: it is set and taken back within that graph.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._traced: Tensor | None = None

    def put(self, value: Tensor) -> None:
        """Remember a tensor."""
        if torch.compiler.is_dynamo_compiling():
            self._traced = value
        else:
            self._local.value = value

    def take(self) -> Tensor:
        """Give the tensor back, and forget it."""
        value = self.take_if_any()
        assert value is not None
        return value

    def see(self) -> Tensor:
        """Give the tensor, and go on holding it."""
        value = self._traced if torch.compiler.is_dynamo_compiling() else self._local.__dict__.get("value")
        assert value is not None
        return value

    def take_if_any(self) -> Tensor | None:
        """Give the tensor back if there is one, and forget it."""
        if torch.compiler.is_dynamo_compiling():
            value, self._traced = self._traced, None
        else:
            values = self._local.__dict__
            value, values["value"] = values.get("value"), None
        return value

    def __deepcopy__(self, memo: dict[int, object]) -> Cell:
        return Cell()

    def __reduce__(self) -> tuple[type[Cell], tuple[()]]:
        return Cell, ()


@dataclass
class CaptureInput:
    """Before a module: remember its first input."""

    cell: Cell

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not inputs:
            raise RuntimeError(
                f"{type(module).__name__} was called with keyword arguments only, so the residual of its sublayer "
                "cannot be seen; please report this model."
            )
        self.cell.put(inputs[0])


@dataclass
class CaptureOutput:
    """After a module: remember its output."""

    cell: Cell
    index: int | None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.cell.put(output if self.index is None else output[self.index])


@dataclass
class IncrementNormInput:
    """Before the norm of a post-norm block: s = x + r becomes s + f(norm(s)), for each adapter in turn.

    x is never needed: with x′ = x + f(norm(x + r)), the sum x′ + r is this. One hook, nothing captured.
    """

    maps: Sequence[SublayerMap]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        s = inputs[0]
        for adapter in self.maps:
            s = s + adapter.increment(module.forward(s))
        return (s, *inputs[1:])


@dataclass
class ChangeOutput:
    """After the module that gives x: x becomes x′, for each adapter in turn.

    Args:
        maps: The adapters.
        index: Where x is in the module's output; None if it is the output.
        residual: Hold the summands of r; none if no adapter needs it.
        norm: The block's norm, if it has one.
        finishes: Whether the last adapter ends a pre-norm block by itself (`original_ln_after` off).
        is_swapped: Whether the adapters take x for r, and r for x.
        is_flat: Whether x is brought into the shape of r for them.
        gate: Holds a tensor if this call of a module that is called several times is the right one.
        kept: Where to leave x′ and r for `ReplaceNormOutput`.
    """

    maps: Sequence[SublayerMap]
    index: int | None
    residual: Sequence[Cell]
    norm: nn.Module | None
    finishes: bool
    is_swapped: bool = False
    is_flat: bool = False
    gate: Cell | None = None
    kept: tuple[Cell, Cell] | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if self.gate is not None and self.gate.take_if_any() is None:
            return None
        x = output if self.index is None else output[self.index]
        summands = [cell.take() for cell in self.residual]
        r: Any = sum(summands[1:], summands[0]) if summands else None
        shape = x.shape
        if self.is_flat:
            x = x.reshape(r.shape)
        if self.is_swapped:
            x, r = r, x
        own = x
        last = len(self.maps) - 1
        for i, adapter in enumerate(self.maps):
            # A parallel adapter adds to what the sublayer itself has made, also behind others in a stack.
            before = own if adapter.is_parallel else x
            x = adapter.finish(before, r, None) if self.finishes and i == last else adapter.adapt(before, r, self.norm)
        if self.kept is not None:
            self.kept[0].put(x)
            self.kept[1].put(r)
        if self.is_swapped:
            x = r + (x - own)  # in this order: no effect is then no change of any bit
        if self.is_flat:
            x = x.reshape(shape)
        if self.index is None:
            return x
        changed = (*output[: self.index], x, *output[self.index + 1 :])
        return changed if type(output) is tuple else type(output)(changed)


@dataclass
class ReplaceNormOutput:
    """After the norm of a post-norm block: the last adapter's result takes the place of norm(x + r)."""

    adapter: SublayerMap
    kept: tuple[Cell, Cell]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        return self.adapter.finish(self.kept[0].take(), self.kept[1].take(), module)


def sublayer_steps(
    base: nn.Module, sublayer: Sublayer, maps: Sequence[SublayerMap], calls: Calls
) -> Iterator[tuple[HookPoint, Step]]:
    """The steps that make a sublayer's output go through adapters, one after the other.

    Raises:
        ValueError: an adapter needs the residual, and the anatomy has not found it.
    """
    last = maps[-1]
    site = sublayer.site(not last.replaces_norm, is_parallel=any(m.is_parallel for m in maps))
    norm = base.get_submodule(site.norm) if site.norm is not None else None
    if site.norm_follows and all(m.increments_norm for m in maps):
        assert norm is not None
        yield (norm, "before"), IncrementNormInput(maps)
        return
    residual: list[Cell] = []
    if site.is_swapped or site.is_flat or (any(m.needs_residual for m in maps) and not site.ignores_residual):
        residual = [Cell() for _ in _residual_taps(site, sublayer)]
        for tap, cell in zip(site.residual, residual, strict=True):
            yield _capture(base, tap, cell)
    gate = None
    if site.output.armed_by is not None:
        gate = Cell()
        yield (base.get_submodule(site.output.armed_by), "after"), CaptureOutput(gate, None)
    point: HookPoint = (base.get_submodule(site.output.path), "after")
    index = site.output.index
    if not (last.replaces_norm and site.norm_follows):
        finishes = last.replaces_norm
        yield point, ChangeOutput(maps, index, residual, norm, finishes, site.is_swapped, site.is_flat, gate)
        return
    assert norm is not None
    kept = (Cell(), Cell())
    earlier = maps[:-1]
    yield point, ChangeOutput(earlier, index, residual, norm, False, site.is_swapped, site.is_flat, gate, kept)
    yield (norm, "after"), ReplaceNormOutput(last, kept)


def _residual_taps(site: Site, sublayer: Sublayer) -> Sequence[Tap]:
    if not site.residual:
        raise ValueError(
            f"The residual of the {sublayer.kind} in {sublayer.host or 'the model'} is not known, and this "
            "configuration needs it: use one without is_parallel and original_ln_before, or name the places where it "
            "can be seen (layer_pre_self_attn, layer_pre_ffn …) in an AdapterModelInterface."
        )
    return site.residual


def _capture(base: nn.Module, tap: Tap, cell: Cell) -> tuple[HookPoint, Step]:
    module = base.get_submodule(tap.path)
    if tap.side == "input":
        return (module, "before"), CaptureInput(cell)
    return (module, "after"), CaptureOutput(cell, tap.index)
