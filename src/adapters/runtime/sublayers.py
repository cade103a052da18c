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
from .blocks import Change, change_of
from .calls import Calls
from .flows import Flow, Fused, Mean, modules_of
from .hooks import HookPoint, Step
from .sublayer_flows import OutputLeaves, SumLeaves, ending


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
class ChangeNormInput:
    """Before the norm of a post-norm block: s = x + r is changed, by several adapters in some composition."""

    change: Change

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        return (self.change(inputs[0]), *inputs[1:])


@dataclass
class ChangeOutput:
    """After the module that gives x: x becomes x′, for each adapter in turn.

    Args:
        maps: The adapters.
        change: What several in some composition do, instead: a function of x, r and x again.
        index: Where x is in the module's output; None if it is the output.
        residual: Hold the summands of r; none if no adapter needs it.
        norm: The block's norm, if it has one.
        finishes: Whether the last adapter ends a pre-norm block by itself (`original_ln_after` off).
        is_swapped: Whether the adapters take x for r, and r for x.
        is_flat: Whether x is brought into the shape of r for them.
        gate: Holds a tensor if this call of a module that is called several times is the right one.
        kept: Where to leave x′, r and x for `ReplaceNormOutput`.
    """

    maps: Sequence[SublayerMap]
    change: Change | None
    index: int | None
    residual: Sequence[Cell]
    norm: nn.Module | None
    finishes: bool
    is_swapped: bool = False
    is_flat: bool = False
    gate: Cell | None = None
    kept: tuple[Cell, Cell, Cell] | None = None

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
        if self.change is not None:
            x = self.change(x, x, r, own) if self.finishes else self.change(x, r, own)
        if self.kept is not None:
            self.kept[0].put(x)
            self.kept[1].put(r)
            self.kept[2].put(own)
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
    """After the norm of a post-norm block: the last adapter's result takes the place of norm(x + r).

    Args:
        last: A function of norm(x + r), of x and r, and of the sublayer's own x.
        kept: Hold x, r and the sublayer's own x.
    """

    last: Change
    kept: tuple[Cell, Cell, Cell]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        return self.last(output, *[cell.take() for cell in self.kept])


def sublayer_steps(base: nn.Module, sublayer: Sublayer, flow: Flow, calls: Calls) -> Iterator[tuple[HookPoint, Step]]:
    """The steps that make a sublayer's output go through adapters.

    Raises:
        ValueError: an adapter needs the residual, and the anatomy has not found it.
    """
    maps = [module for module in modules_of(flow) if isinstance(module, SublayerMap)]
    is_series = all(isinstance(part, nn.Module) for part in flow)
    replaces_norm = any(m.replaces_norm for m in modules_of(flow[-1:]) if isinstance(m, SublayerMap))
    site = sublayer.site(not replaces_norm, is_parallel=any(m.is_parallel for m in maps))
    norm = base.get_submodule(site.norm) if site.norm is not None else None
    start = calls.start_at(sublayer.host, flow)
    if site.norm_follows and all(m.increments_norm for m in maps) and _is_linear(flow):
        assert norm is not None
        step = IncrementNormInput(maps) if is_series else ChangeNormInput(change_of(flow, SumLeaves(norm, start)))
        yield (norm, "before"), step
        return
    residual: list[Cell] = []
    needs_residual = any(m.needs_residual for m in maps)
    if site.is_swapped or site.is_flat or (needs_residual and not site.ignores_residual):
        residual = [Cell() for _ in _residual_taps(site, sublayer)]
        for tap, cell in zip(site.residual, residual, strict=True):
            yield _capture(base, tap, cell)
    gate = None
    if site.output.armed_by is not None:
        gate = Cell()
        yield (base.get_submodule(site.output.armed_by), "after"), CaptureOutput(gate, None)
    point: HookPoint = (base.get_submodule(site.output.path), "after")
    common = (site.output.index, residual, norm)
    flags = (site.is_swapped, site.is_flat, gate)
    if not (replaces_norm and site.norm_follows):
        leaves = OutputLeaves(norm, start)
        series, change = (maps, None) if is_series else ((), change_of(flow, leaves))
        if replaces_norm and not is_series:
            change = ending(flow, None, start)
        yield point, ChangeOutput(series, change, *common, replaces_norm, *flags)
        return
    assert norm is not None
    kept = (Cell(), Cell(), Cell())
    before = change_of(flow[:-1], OutputLeaves(norm, start)) if len(flow) > 1 else None
    yield point, ChangeOutput((), before, *common, False, *flags, kept)
    yield (norm, "after"), ReplaceNormOutput(ending(flow[-1:], norm, start), kept)


def _reads_output(part: Fused) -> bool:
    fusion = part.fusion
    return fusion.reads_query_before_norm or fusion.reads_residual_in_values or any(len(f) > 1 for f in part.flows)


def _is_linear(flow: Flow) -> bool:
    """Whether what is done to x can be done to x + r instead: weights have to add up to one, and no one reads x."""
    for part in flow:
        if isinstance(part, nn.Module):
            continue
        if isinstance(part, Mean) and abs(sum(part.weights) - 1.0) > 1e-6:
            return False
        if isinstance(part, Fused) and _reads_output(part):
            return False
        if not all(map(_is_linear, part.flows)):
            return False
    return True


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
