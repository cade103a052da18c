"""How adapters of fused experts become a step: the experts run with changed matrices, for this call only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..anatomy.parts import Experts
from ..methods.experts import ExpertsAdapter
from ..methods.twins import run_with
from .calls import Calls
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


def expert_steps(
    base: nn.Module, experts: Experts, adapters: Sequence[ExpertsAdapter], calls: Calls
) -> Iterator[tuple[HookPoint, Step]]:
    """The step of adapters at a module of experts."""
    yield (base.get_submodule(experts.path), "instead"), ChangeExperts(adapters)
