"""How adapters of fused experts become a step: the experts run with changed matrices, for this call only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..anatomy.parts import Experts
from ..methods.experts import ExpertsAdapter
from ..methods.twins import run_with
from .blocks import Change, change_of
from .calls import Calls
from .flows import Flow, Fused, Rows, has_pieces
from .hooks import HookPoint, Step


@dataclass
class ChangeExperts:
    """Instead of experts: the same with the matrices that adapters make of theirs, one after the other."""

    adapters: Sequence[ExpertsAdapter]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        parameters: dict[str, Tensor | None] = dict(module._parameters)
        for adapter in self.adapters:
            parameters |= adapter.changed(parameters)
        return run_with(module, parameters, *inputs, **arguments)


@dataclass
class ExpertLeaves:
    """Adapters of experts: a function of what they give, of the module and of what it is called with."""

    is_local = False

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """See `Leaves.series`."""
        return AdaptExperts(ChangeExperts([m for m in modules if isinstance(m, ExpertsAdapter)]))

    def together(self, rows: Rows) -> Change | None:
        """See `Leaves.together`."""
        return None

    def start(self, value: Tensor) -> int:
        """See `Leaves.start`."""
        return 0

    def fused(self, part: Fused) -> Change:
        """See `Leaves.fused`."""
        raise ValueError("Fuse is not defined for LoRA of fused experts; Average and Parallel are.")


@dataclass
class AdaptExperts:
    """What experts give with changed matrices. Shape: (tokens, D)."""

    changed: ChangeExperts

    def __call__(self, y: Tensor, *call: Any) -> Tensor:
        result: Tensor = self.changed(*call)
        return result


@dataclass
class MixExperts:
    """Instead of experts: what several adapters in some composition make of what they give."""

    change: Change

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        y = run_with(module, dict(module._parameters), *inputs, **arguments)
        return self.change(y, module, inputs, arguments)


def expert_steps(base: nn.Module, experts: Experts, flow: Flow, calls: Calls) -> Iterator[tuple[HookPoint, Step]]:
    """The step of adapters at a module of experts.

    Raises:
        ValueError: the sequence is to be cut, of which experts know nothing.
    """
    place: HookPoint = (base.get_submodule(experts.path), "instead")
    adapters = [m for m in flow if isinstance(m, ExpertsAdapter)]
    if len(adapters) == len(flow):
        yield place, ChangeExperts(adapters)
        return
    if has_pieces(flow):
        raise ValueError("Split is not defined for LoRA of fused experts: these do not see sequences.")
    yield place, MixExperts(change_of(flow, ExpertLeaves()))
