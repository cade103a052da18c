"""What adapters do at one point of the model: a setup, with the modules that its adapters have there.

A flow is a sequence of parts, one after the other; an empty one changes nothing. A part is a module, or several flows
whose results are mixed or put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, Union

from torch import nn

from ..composition import Average, Fuse, Setup, Split, Stack
from ..methods.fusion import FusionModule
from .lanes import Lanes

Part: TypeAlias = Union[nn.Module, "Mixture"]
Flow: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True)
class Mean:
    """The weighted sum of what flows give."""

    flows: tuple[Flow, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Pieces:
    """Each piece of the sequence goes through its own flow.

    Args:
        flows: The flows.
        lengths: The lengths of the pieces, in tokens.
    """

    flows: tuple[Flow, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Fused:
    """What flows give, mixed by learned weights."""

    flows: tuple[Flow, ...]
    fusion: FusionModule


@dataclass(frozen=True)
class Rows:
    """Each row goes through the flow of its lane."""

    flows: tuple[Flow, ...]
    lanes: Lanes

    def __hash__(self) -> int:
        return hash(self.flows)


Mixture: TypeAlias = Mean | Pieces | Fused | Rows


def modules_of(flow: Flow) -> Iterator[nn.Module]:
    """All modules of adapters in a flow."""
    for part in flow:
        if isinstance(part, nn.Module):
            yield part
        else:
            for inner in part.flows:
                yield from modules_of(inner)


def has_pieces(flow: Flow) -> bool:
    """Whether the sequence is cut somewhere in it."""
    mixtures = [part for part in flow if not isinstance(part, nn.Module)]
    return any(isinstance(part, Pieces) or any(map(has_pieces, part.flows)) for part in mixtures)


def flow_of(setup: Setup, modules: Mapping[str, Sequence[nn.Module]], fusion: Callable[[Fuse], FusionModule]) -> Flow:
    """The flow of a setup without blocks that tell rows apart.

    Args:
        setup: The setup.
        modules: By the names of adapters, the modules that they have here.
        fusion: Finds what was trained to mix the children of a `Fuse` here.
    """
    if setup is None:
        return ()
    if isinstance(setup, str):
        return tuple(modules.get(setup, ()))
    flows = tuple(flow_of(child, modules, fusion) for child in setup)
    if isinstance(setup, Stack):
        return tuple(part for flow in flows for part in flow)
    if not any(flows):
        return ()
    if isinstance(setup, Average):
        return (Mean(flows, tuple(setup.weights)),)
    if isinstance(setup, Split):
        return (Pieces(flows, tuple(setup.splits)),)
    assert isinstance(setup, Fuse)
    # An adapter that has no module here takes no part in the mixture; the bare model does.
    mixed = tuple(flow for flow, child in zip(flows, setup, strict=True) if flow or child is None)
    return (Fused(mixed, fusion(setup)),)


def routed(flows: Sequence[Flow], lanes: Lanes, may_divide: Callable[[Sequence[Flow]], bool]) -> Flow:
    """One flow for all rows, from that of each lane.

    Rows do not depend on each other, so the first parts of all lanes can act first, then the second ones …: parts that
    all lanes share are then no longer told apart, and the others act together.

    Args:
        flows: The flow of each lane.
        lanes: The lanes.
        may_divide: Whether flows may be divided into their parts here.
    """
    if all(flow == flows[0] for flow in flows):
        return flows[0]
    longest = max(map(len, flows))
    if longest == 1 or not may_divide(flows):
        return (Rows(tuple(flows), lanes),)
    found: list[Part] = []
    for i in range(longest):
        found += routed([flow[i : i + 1] for flow in flows], lanes, may_divide)
    return tuple(found)
