"""Modules of several lanes as one, which computes the rows of all of them at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..methods.base import AdapterModule
from ..methods.kept import Kept, flows
from .flows import Flow, Part, Rows
from .lanes import Assignment, Lanes


@dataclass(frozen=True)
class _Chosen:
    """What was stacked for a state of the weights, and what of it was chosen for rows that come again."""

    state: int
    stacks: Sequence[Tensor]
    assignment: Assignment | None
    chosen: Sequence[Tensor]


class Choice:
    """Which of several stacked modules each row goes through.

    Args:
        lanes: The lanes.
        slots: The place of each lane's module in the stack.
    """

    def __init__(self, lanes: Lanes, slots: tuple[int, ...]) -> None:
        self.lanes = lanes
        self.slots = slots
        self._kept = Kept()
        self._last: _Chosen | None = None

    def __call__(
        self, x: Tensor, sources: Callable[[], list[Tensor]], stacked: Callable[[], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """See `Chooser`."""
        state, assignment = self.lanes.state_of_weights(), self.lanes.assignment(x)
        if state is None:
            tensors = sources()
            stacks = stacked() if flows(tensors) else self._kept.get(tensors, stacked)
            return assignment.chosen(stacks, self.slots)
        last = self._last  # where graphs are compiled, it must not be looked at: there is no state
        if last is None or last.state != state:
            tensors = sources()
            self.lanes.watch(self, tensors)
            stacks = self._kept.get(tensors, stacked)
        elif last.assignment is assignment:
            return last.chosen
        else:
            stacks = last.stacks
        chosen = assignment.chosen(stacks, self.slots)
        if assignment.lasts or last is None or last.state != state:
            lasting = (assignment, chosen) if assignment.lasts else (None, ())
            self._last = _Chosen(state, stacks, *lasting)
        return chosen

    def __deepcopy__(self, memo: dict[int, Any]) -> Choice:
        return Choice(copy.deepcopy(self.lanes, memo), self.slots)

    def __reduce__(self) -> tuple[type[Choice], tuple[Any, ...]]:
        return Choice, (self.lanes, self.slots)


class AllOfThem:
    """Every one of several stacked modules is applied to the same input."""

    def __init__(self) -> None:
        self._kept = Kept()

    def __call__(
        self, x: Tensor, sources: Callable[[], list[Tensor]], stacked: Callable[[], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """See `Chooser`."""
        tensors = sources()
        stacks: Sequence[Tensor] = stacked() if flows(tensors) else self._kept.get(tensors, stacked)
        return stacks


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
            key = part.common_key() if isinstance(part, AdapterModule) else None
            if key is None:
                return None
            found = kinds.setdefault(key, [])
            if all(part is not other for other in found):
                found.append(part)  # type: ignore[arg-type]
    return [_together(modules, rows) for modules in kinds.values()]


def simplified(flow: Flow) -> Flow:
    """The same flow, with one module in the place of those of all lanes, where that can be."""
    parts: list[Part] = []
    for part in flow:
        found = together(part) if isinstance(part, Rows) else None
        is_one = found is not None and len(found) == 1 and found[0].holds_all
        parts.append(found[0].module if found is not None and is_one else part)
    return tuple(parts)


def _together(modules: list[nn.Module], rows: Rows) -> Together:
    places = {id(module): place for place, module in enumerate(modules)}
    slots = tuple(places.get(id(flow[0]), 0) if flow else 0 for flow in rows.flows)
    holds = tuple(bool(flow) and id(flow[0]) in places for flow in rows.flows)
    first = modules[0]
    assert isinstance(first, AdapterModule)
    return Together(type(first).stacked(modules, Choice(rows.lanes, slots)), rows.lanes, holds, all(holds))
