"""Modules of several lanes as one, which computes the rows of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..methods.base import AdapterModule
from .flows import Rows
from .lanes import Lanes


@dataclass(frozen=True)
class Choice:
    """Which of several stacked modules each row goes through.

    Args:
        lanes: The lanes.
        slots: The place of each lane's module in the stack.
    """

    lanes: Lanes
    slots: tuple[int, ...]

    def __call__(self, x: Tensor, stacks: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `Chooser`."""
        return self.lanes.assignment(x).chosen(stacks, self.slots)


@dataclass(frozen=True)
class Together:
    """Modules of one kind as one.

    Args:
        module: The module.
        lanes: The lanes.
        holds: For each lane, whether its module is among them.
        holds_all: Whether those of all lanes are.
    """

    module: AdapterModule
    lanes: Lanes
    holds: tuple[bool, ...]
    holds_all: bool

    def where(self, changed: Tensor, value: Tensor) -> Tensor:
        """What has changed, for the rows of these lanes; for the others what it was."""
        if self.holds_all:
            return changed
        assignment = self.lanes.assignment(value)
        if assignment.known is not None and all(self.holds[lane] for lane in assignment.known):
            return changed
        is_ours = assignment.slots(tuple(map(int, self.holds)), value.device) != 0
        is_ours = is_ours.repeat_interleave(value.shape[0] // assignment.groups)
        return torch.where(is_ours.view(-1, *[1] * (value.ndim - 1)), changed, value)


def together(rows: Rows) -> list[Together] | None:
    """The modules of all lanes, as one for each kind of them; None if some are of no kind, or not single."""
    kinds: dict[Any, list[nn.Module]] = {}
    for flow in rows.flows:
        if len(flow) > 1:
            return None
        for part in flow:
            key = part.stack_key() if isinstance(part, AdapterModule) else None
            if key is None:
                return None
            found = kinds.setdefault(key, [])
            if all(part is not other for other in found):
                found.append(part)  # type: ignore[arg-type]
    return [_together(modules, rows) for modules in kinds.values()]


def _together(modules: list[nn.Module], rows: Rows) -> Together:
    places = {id(module): place for place, module in enumerate(modules)}
    slots = tuple(places.get(id(flow[0]), 0) if flow else 0 for flow in rows.flows)
    holds = tuple(bool(flow) and id(flow[0]) in places for flow in rows.flows)
    first = modules[0]
    assert isinstance(first, AdapterModule)
    return Together(type(first).stacked(modules, Choice(rows.lanes, slots)), rows.lanes, holds, all(holds))
