"""How flows are computed: the same for every kind of point.

What acts at a point changes a tensor, its *value*; it may also read others there, of as many rows and tokens. So a flow
becomes a function (value, *others) ↦ value′, whatever the kind of point is; only what modules do by themselves differs.

Shapes: R rows, T tokens, L lanes, G groups of consecutive rows of the same lane.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ..methods.fusion import FusionModule
from ..methods.observed import Observation, show, shown_for
from .choice import Together, together
from .flows import Flow, Fused, Mean, Mixture, Pieces, Rows
from .lanes import Assignment, Lanes

Change: TypeAlias = Callable[..., Tensor]
"""(value, *others) to value′. What it is given is not changed in place."""


class Leaves(Protocol):
    """What modules do at one kind of point."""

    is_local: bool
    """Whether they change each token by what is there, so that some rows or tokens can be computed alone."""

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """Modules, one after the other."""

    def together(self, rows: Rows) -> Change | None:
        """All lanes in one batched product; None if they are too different."""

    def fused(self, part: Fused) -> Change:
        """Flows, mixed by learned weights.

        Raises:
            ValueError: that has no meaning here.
        """

    def start(self, value: Tensor) -> int:
        """The number of tokens before the first one here: those in the cache."""


def change_of(flow: Flow, leaves: Leaves) -> Change:
    """The function of a flow."""
    changes: list[Change] = []
    for is_module, run in itertools.groupby(flow, lambda part: isinstance(part, nn.Module)):
        if is_module:
            changes.append(leaves.series([part for part in run if isinstance(part, nn.Module)]))
        else:
            changes += [_mixed(part, leaves) for part in run if not isinstance(part, nn.Module)]
    if not changes:
        return unchanged
    return changes[0] if len(changes) == 1 else InTurn(changes)


def _mixed(part: Mixture, leaves: Leaves) -> Change:
    if isinstance(part, Fused):
        return leaves.fused(part)
    if isinstance(part, Rows):
        together = leaves.together(part)
        if together is not None:
            return together
    changes = [change_of(flow, leaves) for flow in part.flows]
    if isinstance(part, Mean):
        return WeightedSum(changes, part.weights)
    if isinstance(part, Pieces):
        return ByPieces(changes, part.lengths, leaves)
    return ByRows(changes, part.lanes, leaves.is_local)


def unchanged(value: Tensor, *others: Tensor | None) -> Tensor:
    """What the bare model does."""
    return value


@dataclass
class InTurn:
    """One change after the other."""

    changes: Sequence[Change]

    def __call__(self, value: Tensor, *others: Tensor | None) -> Tensor:
        for change in self.changes:
            value = change(value, *others)
        return value


@dataclass
class WeightedSum:
    """The weighted sum of what changes give."""

    changes: Sequence[Change]
    weights: Sequence[float]

    def __call__(self, value: Tensor, *others: Tensor | None) -> Tensor:
        total: Tensor | None = None
        for change, weight in zip(self.changes, self.weights, strict=True):
            share = change(value, *others)
            total = share * weight if total is None else torch.add(total, share, alpha=weight)
        assert total is not None
        return total


@dataclass
class ByPieces:
    """Each piece of the sequence by its own change; while a model generates, new tokens belong to the last one."""

    changes: Sequence[Change]
    lengths: Sequence[int]
    leaves: Leaves

    def __call__(self, value: Tensor, *others: Tensor | None) -> Tensor:
        start, tokens = self.leaves.start(value), value.shape[1]
        whole = sum(self.lengths)
        is_longer = start + tokens > whole
        if start + tokens < whole or (is_longer and not start):
            raise ValueError(
                f"Split(splits={list(self.lengths)}) is for sequences of {whole} tokens, and this one has "
                f"{start + tokens}, with shape {tuple(value.shape)}."
            )
        ends = [*itertools.accumulate(self.lengths)]
        ends[-1] = max(whole, start + tokens)
        found, begin = [], 0
        for change, end in zip(self.changes, ends, strict=True):
            first, last = max(begin - start, 0), end - start
            begin = end
            if last <= first:
                continue
            if self.leaves.is_local:
                found.append(change(value[:, first:last], *[o if o is None else o[:, first:last] for o in others]))
            else:
                found.append(change(value, *others)[:, first:last])
        return torch.cat(found, 1)


@dataclass
class ByRows:
    """The rows of each lane by its own change.

    Args:
        changes: A change for each lane.
        lanes: The lanes.
        is_local: Whether some rows can be computed alone.
    """

    changes: Sequence[Change]
    lanes: Lanes
    is_local: bool

    def __call__(self, value: Tensor, *others: Tensor | None) -> Tensor:
        assignment = self.lanes.assignment(value)
        if assignment.known is None or not self.is_local:
            return self._selected(assignment, value, others)
        each = value.shape[0] // assignment.groups
        rows: dict[int, list[int]] = {}
        for group, lane in enumerate(assignment.known):
            rows.setdefault(lane, []).extend(range(group * each, (group + 1) * each))
        found = [self._of_rows(self.changes[lane], own, value, others) for lane, own in rows.items()]
        order = [row for own in rows.values() for row in own]
        together = torch.cat(found)
        if order == list(range(len(order))):
            return together
        back = [0] * len(order)
        for place, row in enumerate(order):
            back[row] = place
        return together[torch.tensor(back, device=value.device)]

    def _of_rows(self, change: Change, rows: list[int], value: Tensor, others: Sequence[Tensor | None]) -> Tensor:
        chosen: slice | Tensor = slice(rows[0], rows[-1] + 1)
        if rows != list(range(rows[0], rows[-1] + 1)):
            chosen = torch.tensor(rows, device=value.device)
        return change(value[chosen], *[o if o is None else o[chosen] for o in others])

    def _selected(self, assignment: Assignment, value: Tensor, others: Sequence[Tensor | None]) -> Tensor:
        """By computing all rows with all changes, where that cannot be avoided."""
        lanes = assignment.slots(tuple(range(len(self.changes))), value.device)
        lanes = lanes.repeat_interleave(value.shape[0] // assignment.groups)
        lanes = lanes.view(-1, *[1] * (value.ndim - 1))
        result = value
        for lane, change in enumerate(self.changes):
            if assignment.known is not None and lane not in assignment.known:
                continue
            if change is unchanged:
                continue
            is_own = lanes == lane
            if Observation.count:
                with shown_for(is_own.flatten()):
                    changed = change(value, *others)
            else:
                changed = change(value, *others)
            result = torch.where(is_own, changed, result)
        return result


@dataclass
class ByKinds:
    """Rows by the adapters of their lanes, those of one kind together."""

    changes: Sequence[tuple[Change, Together]]

    def __call__(self, value: Tensor, *others: Tensor | None) -> Tensor:
        for change, those in self.changes:
            value = those.where(change(value, *others), value)
        return value


def by_kinds(rows: Rows, leaves: Leaves) -> Change | None:
    """The adapters of all lanes together, if they are of kinds that can be."""
    found = together(rows)
    return None if found is None else ByKinds([(leaves.series([those.module]), those) for those in found])


@dataclass
class FuseAdded:
    """What changes add to a value, mixed by learned weights and added to it."""

    fusion: FusionModule
    changes: Sequence[Change]

    def __call__(self, value: Tensor, *others: Tensor | None) -> Tensor:
        added = [change(value, *others) - value for change in self.changes]
        return fused(self.fusion, value, added, value)


def fused(fusion: FusionModule, query: Tensor, values: Sequence[Tensor] | Tensor, residual: Tensor) -> Tensor:
    """What a fusion makes of values. Shapes: (B, T, D) to (B, T, D)."""
    result, weights = fusion.attend(query, values, residual)
    if Observation.count:
        show(fusion, weights)
    return result
