"""The keys and values that flows of prefixes give to one attention.

Shapes: R rows, T tokens, S keys, P positions of prefixes, K heads of keys and values, d size of a head, L lanes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..methods.base import PrefixMap
from ..methods.kept import Kept, flows
from ..methods.observed import Observation, shown_for
from .calls import Calls
from .flows import Flow, Mean, Pieces, Rows, modules_of
from .lanes import Lanes
from .passes import PassValue

Prefix = tuple[Tensor, Tensor, Tensor | None]
"""Keys and values, (1 or R, K, P, d), and which positions a row sees, (1 or R, P), or None if all."""


class PrefixSource(ABC):
    """What gives a prefix."""

    length: int
    """Number of positions P."""

    @abstractmethod
    def prefix(self, hidden: Tensor | None) -> Prefix:
        """The prefix.

        Args:
            hidden: The hidden states that the attention is called with, if any prefix reads them. Shape: (R, T, D).
        """


@dataclass
class OnePrefix(PrefixSource):
    """The prefix of an adapter.

    Args:
        adapter: Its module.
        shared: Where the tensors of its pool are while a pass lasts.
    """

    adapter: PrefixMap
    shared: PassValue

    def __post_init__(self) -> None:
        self.length = self.adapter.length

    def prefix(self, hidden: Tensor | None) -> Prefix:
        """See `PrefixSource.prefix`."""
        return (*self.adapter.prefix(self.shared.get() or self.adapter.pool.shares(), hidden), None)


@dataclass
class PrefixesInARow(PrefixSource):
    """Several, one behind the other; or none."""

    sources: Sequence[PrefixSource]

    def __post_init__(self) -> None:
        self.length = sum(source.length for source in self.sources)

    def prefix(self, hidden: Tensor | None) -> Prefix:
        """See `PrefixSource.prefix`."""
        found = [source.prefix(hidden) for source in self.sources]
        rows = max(keys.shape[0] for keys, _, _ in found)
        keys = torch.cat([_of_rows(keys, rows) for keys, _, _ in found], 2)
        values = torch.cat([_of_rows(values, rows) for _, values, _ in found], 2)
        if all(seen is None for _, _, seen in found):
            return keys, values, None
        masks = [keys.new_ones(1, keys.shape[2], dtype=torch.bool) if seen is None else seen for keys, _, seen in found]
        rows = max(mask.shape[0] for mask in masks)
        return keys, values, torch.cat([mask.expand(rows, -1) for mask in masks], 1)


@dataclass
class MeanPrefix(PrefixSource):
    """The weighted mean of the keys, and of the values, of prefixes of the same length."""

    sources: Sequence[PrefixSource]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        lengths = sorted({source.length for source in self.sources})
        if len(lengths) > 1:
            raise ValueError(
                f"Average of prefix tuning: prefixes of different lengths ({', '.join(map(str, lengths))}) have no "
                "mean. Use Stack, which puts them one behind the other, or Parallel."
            )
        self.length = lengths[0]

    def prefix(self, hidden: Tensor | None) -> Prefix:
        """See `PrefixSource.prefix`."""
        found = [source.prefix(hidden) for source in self.sources]
        pairs = list(zip(self.weights, found, strict=True))
        keys = sum((weight * keys for weight, (keys, _, _) in pairs), start=torch.zeros(()))
        values = sum((weight * values for weight, (_, values, _) in pairs), start=torch.zeros(()))
        return keys.to(found[0][0]), values.to(found[0][1]), next((s for _, _, s in found if s is not None), None)


class PrefixByRows(PrefixSource):
    """For each row the prefix of its lane. Shorter ones are filled up with positions that are not seen.

    Args:
        sources: The prefix of each lane.
        lanes: The lanes.
    """

    def __init__(self, sources: Sequence[PrefixSource], lanes: Lanes) -> None:
        self.sources = sources
        self.lanes = lanes
        self.length = max(source.length for source in sources)
        self.is_even = all(source.length == self.length for source in sources)
        self._kept = Kept()

    def prefix(self, hidden: Tensor | None) -> Prefix:
        """See `PrefixSource.prefix`."""
        assert hidden is not None
        assignment = self.lanes.assignment(hidden)
        rows, each = hidden.shape[0], hidden.shape[0] // assignment.groups
        lanes = tuple(range(len(self.sources)))
        if Observation.count:
            of_rows = assignment.slots(lanes, hidden.device).repeat_interleave(each)
            found = [self._shown(source, hidden, of_rows == lane) for lane, source in enumerate(self.sources)]
        else:
            found = [source.prefix(hidden) if source.length else None for source in self.sources]
        given = [one for one in found if one is not None]
        tensors = [tensor for one in given for tensor in one if tensor is not None]
        if any(one[0].shape[0] > 1 for one in given):  # the rows of one adapter differ too
            keys, values, seen = self._stacked(found, rows)
            chosen = assignment.slots(lanes, keys.device).repeat_interleave(each)
            order = torch.arange(rows, device=keys.device)
            return keys[chosen, order], values[chosen, order], None if seen is None else seen[chosen, order]
        keys, values, seen = (
            self._stacked(found, 1) if flows(tensors) else self._kept.get(tensors, lambda: self._stacked(found, 1))
        )
        stacks = [keys[:, 0], values[:, 0], *([] if seen is None else [seen[:, 0]])]
        own = [one.repeat_interleave(each, 0) for one in assignment.chosen(stacks, lanes)]
        return own[0], own[1], own[2] if seen is not None else None

    @staticmethod
    def _shown(source: PrefixSource, hidden: Tensor, rows: Tensor) -> Prefix | None:
        """The prefix of a lane, which shows the gates of its own rows."""
        with shown_for(rows):
            return source.prefix(hidden) if source.length else None

    def _stacked(self, found: Sequence[Prefix | None], rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Shapes: (L, 1 or R, K, P, d), twice, and (L, 1 or R, P)."""
        like = next(one for one in found if one is not None)
        keys = torch.stack([_filled(one and one[0], like[0], self.length, rows) for one in found])
        values = torch.stack([_filled(one and one[1], like[1], self.length, rows) for one in found])
        if self.is_even and all(one is None or one[2] is None for one in found):
            return keys, values, None
        masks = []
        for one, source in zip(found, self.sources, strict=True):
            seen = None if one is None else one[2]
            own = keys.new_ones(rows, source.length, dtype=torch.bool) if seen is None else seen.expand(rows, -1)
            masks.append(nn.functional.pad(own, (0, self.length - source.length), value=False))
        return keys, values, torch.stack(masks)


def _of_rows(x: Tensor, rows: int) -> Tensor:
    return x if x.shape[0] == rows else x.expand(rows, -1, -1, -1)


def _filled(x: Tensor | None, like: Tensor, length: int, rows: int) -> Tensor:
    """A prefix, or none, with zeros up to a length. Shape: (R, K, P, d)."""
    if x is None:
        x = like[:1, :, :0]
    return _of_rows(nn.functional.pad(x, (0, 0, 0, length - x.shape[2])), rows)


def prefix_source(flow: Flow, calls: Calls) -> PrefixSource:
    """What gives the prefix of a flow.

    Raises:
        ValueError: what is asked for has no meaning for prefixes.
    """
    sources = [_source(part, calls) for part in flow]
    return sources[0] if len(sources) == 1 else PrefixesInARow(sources)


def _source(part: object, calls: Calls) -> PrefixSource:
    if isinstance(part, PrefixMap):
        return OnePrefix(part, calls.shared(part.pool))
    if isinstance(part, Mean):
        return MeanPrefix([prefix_source(flow, calls) for flow in part.flows], part.weights)
    if isinstance(part, Rows):
        return PrefixByRows([prefix_source(flow, calls) for flow in part.flows], part.lanes)
    name = "Split" if isinstance(part, Pieces) else "Fuse"
    raise ValueError(
        f"{name} is not defined for prefix tuning: a prefix is seen by all tokens, and adds nothing of its own to "
        "them. Stack, Average (of equal lengths), Parallel, BatchSplit and adapter_names are."
    )


def read_hidden(flow: Flow) -> bool:
    """Whether the hidden states are needed: for gates, or to know the rows."""
    has_rows = any(isinstance(part, Rows) for part in flow) or not all(isinstance(p, nn.Module) for p in flow)
    return has_rows or any(isinstance(m, PrefixMap) and m.reads_hidden for m in modules_of(flow))


def counted_positions(length: int, flow: Flow) -> int:
    """By how many positions text is moved: P if the prefixes of a flow count, else 0.

    Raises:
        ValueError: some count and others do not, or rows would be moved by different numbers.
    """
    counts = {m.counts_positions for m in modules_of(flow) if isinstance(m, PrefixMap)}
    if True not in counts:
        return 0
    lengths = _lengths(flow)
    if len(counts) > 1 or len(lengths) > 1:
        raise ValueError(
            "Prefixes that count positions (counts_positions=True) move the text of all rows, so they cannot be used "
            "together with others that do not, or of another length, or with rows without a prefix."
        )
    return length


def _lengths(flow: Flow) -> set[int]:
    """The numbers of positions that rows may have in front."""
    totals = {0}
    for part in flow:
        inner = {part.length} if isinstance(part, PrefixMap) else set()
        if isinstance(part, (Mean, Rows)):
            inner = set().union(*map(_lengths, part.flows))
        totals = {total + length for total in totals for length in inner}
    return totals
