"""How a module of an adapter that takes the place of one of the model becomes a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..anatomy.parts import WholeModule
from ..methods.base import ModuleMap
from .calls import Calls
from .hooks import HookPoint, Step


@dataclass
class ReplaceModule:
    """Instead of a module: the adapter's."""

    adapter: ModuleMap

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        return self.adapter.replaced(module, inputs, arguments)


def module_steps(
    base: nn.Module, point: WholeModule, maps: Sequence[ModuleMap], calls: Calls
) -> Iterator[tuple[HookPoint, Step]]:
    """The step of an adapter that takes a module's place. Of several the last one does."""
    yield (base.get_submodule(point.path), "instead"), ReplaceModule(maps[-1])
