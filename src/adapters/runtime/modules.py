"""How a module of an adapter that takes the place of one of the model becomes a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..anatomy.parts import WholeModule
from ..methods.base import LinearMap, ModuleMap, Placement
from ..methods.bitfit import BiasShift
from ..methods.copies import ModuleCopy
from ..methods.weights import is_dense
from .blocks import Change, by_kinds, change_of
from .calls import Calls
from .flows import Flow, Fused, Rows
from .hooks import HookPoint, Step, own_forward


@dataclass
class ReplaceModule:
    """Instead of a module: the adapter's."""

    adapter: ModuleMap

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        return self.adapter.replaced(module, inputs, arguments)


@dataclass
class ChangeModule:
    """Instead of a module: what it gives (or the adapter's that takes its place), changed by further adapters.

    Who calls the module's `forward` by itself, as bottlenecks do with norms, sees the change too.
    """

    adapter: ModuleMap | None
    changes: Sequence[LinearMap]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        if self.adapter is not None:
            y = self.adapter.replaced(module, inputs, arguments)
        else:
            y = cast(Any, module.forward).original(*inputs, **arguments)
        x = inputs[0] if inputs else next(iter(arguments.values()))
        for change in self.changes:
            y = change.adapt(x, y)
        return y


@dataclass
class ProjectToCopy:
    """Instead of the output layer of a language model: the same with the embeddings that an adapter has.

    Shapes: D hidden size, V tokens of the vocabulary.
    """

    embeddings: ModuleCopy

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Tensor:
        weight = cast(Tensor, self.embeddings._parameters["weight"])  # (V, D)
        x = inputs[0] if inputs else arguments["input"]
        return nn.functional.linear(x, weight, module._parameters["bias"])


@dataclass
class FoldBias:
    """Instead of a linear layer: the same with the changed bias, which costs less than to change what it gives.

    Shapes: I inputs, O outputs of the layer.
    """

    shift: BiasShift
    is_transposed: bool

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Tensor:
        own = module._parameters
        weight, bias = cast(Tensor, own["weight"]), self.shift.merged_bias(cast(Tensor, own["bias"]))
        x = inputs[0] if inputs else next(iter(arguments.values()))
        return nn.functional.linear(x, weight.mT if self.is_transposed else weight, bias)


@dataclass
class MixModule:
    """Instead of a module: what several adapters in some composition make of it."""

    change: Change

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        y = cast(Any, module.forward).original(*inputs, **arguments)
        if not isinstance(y, Tensor):
            raise ValueError(
                f"{type(module).__name__} gives a {type(y).__name__} and no tensor: adapters that take its place can "
                "be used alone or in a Stack, not in other blocks."
            )
        return self.change(y, module, inputs, arguments)


@dataclass
class ModuleLeaves:
    """Adapters that stand for a module, or change what it gives: a function of y, the module, and its arguments.

    Args:
        start: The number of tokens in the cache.
    """

    start: Callable[[Tensor], int]
    is_local = False

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """See `Leaves.series`. Of several that take its place the last one does; the changes follow."""
        copies = [m for m in modules if isinstance(m, ModuleMap)]
        return AdaptModule(copies[-1] if copies else None, [m for m in modules if isinstance(m, LinearMap)])

    def together(self, rows: Rows) -> Change | None:
        """See `Leaves.together`."""
        return by_kinds(rows, self)

    def fused(self, part: Fused) -> Change:
        """See `Leaves.fused`."""
        raise ValueError("Fuse is not defined for bitfit, ln_tuning and modules_to_save; Average and Parallel are.")


@dataclass
class AdaptModule:
    """y by the adapter that takes the module's place, then by further changes."""

    adapter: ModuleMap | None
    changes: Sequence[LinearMap]

    def __call__(self, y: Tensor, *call: Any) -> Tensor:
        module, inputs, arguments = call
        if self.adapter is not None:
            y = self.adapter.replaced(module, inputs, arguments)
        x = inputs[0] if inputs else next(iter(arguments.values()))
        for change in self.changes:
            y = change.adapt(x, y)
        return y


def module_steps(base: nn.Module, point: WholeModule, flow: Flow, calls: Calls) -> Iterator[tuple[HookPoint, Step]]:
    """The step of adapters that take a module's place, or change what it gives.

    Of several that take its place the last one does; the changes follow, each in turn.
    """
    place: HookPoint = (base.get_submodule(point.path), "instead")
    if not all(isinstance(part, nn.Module) for part in flow):
        yield place, MixModule(change_of(flow, ModuleLeaves(calls.start_at(point.path, flow))))
        return
    copies = [m for m in flow if isinstance(m, ModuleMap)]
    changes = [m for m in flow if isinstance(m, LinearMap)]
    last = copies[-1] if copies else None
    yield place, ChangeModule(last, changes) if changes or last is None else ReplaceModule(last)


def with_folded_biases(steps: Mapping[HookPoint, Step]) -> dict[HookPoint, Step]:
    """The same steps, but that what changes nothing of a plain linear layer but its bias acts within it."""
    folded: dict[HookPoint, Step] = {}
    for (module, when), step in steps.items():
        shift = step.__self__ if when == "after" and isinstance(step, MethodType) else None
        if isinstance(shift, BiasShift) and (module, "instead") not in steps and _is_plain_linear(module):
            folded[module, "instead"] = FoldBias(shift, isinstance(module, Conv1D))
        else:
            folded[module, when] = step
    return folded


def _is_plain_linear(module: nn.Module) -> bool:
    """Whether a module computes W x + b and no more: no layer of a quantiser, and nothing that others put around it."""
    is_plain = type(module) in (nn.Linear, Conv1D) and is_dense(module._parameters["weight"])
    return is_plain and own_forward(module) is None


def tied_steps(
    base: nn.Module, placements: Iterable[Placement], output: nn.Module | None
) -> Iterator[tuple[HookPoint, Step]]:
    """The step by which an output layer that is tied to embeddings uses those that an adapter has in their place.

    Args:
        base: The base model.
        placements: The modules of the active adapters.
        output: The last layer of a language model, if it is one.

    Raises:
        ValueError: the output layer is none that is known.
    """
    weight = output._parameters.get("weight") if output is not None else None
    if output is None or weight is None:
        return
    found: ModuleCopy | None = None
    for placement in placements:
        is_copy = isinstance(placement.point, WholeModule) and isinstance(placement.module, ModuleCopy)
        if is_copy and base.get_submodule(placement.host)._parameters.get("weight") is weight:
            found = cast(ModuleCopy, placement.module)
    if found is None:
        return
    if not isinstance(output, nn.Linear):
        raise ValueError(
            f"The embeddings are tied to a {type(output).__name__}: an adapter's own embeddings cannot be used there."
        )
    yield (output, "instead"), ProjectToCopy(found)
