"""How an invertible adapter becomes steps: its map after the embeddings, and its inverse before a tied LM head.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..anatomy.parts import Anatomy
from .blocks import Change, change_of
from .calls import Calls
from .flows import Flow, Fused, Mean, Rows
from .hooks import HookPoint, Step


@dataclass
class MapEmbeddings:
    """At the embeddings: they go through invertible adapters.

    Args:
        change: What these do.
        is_input: Whether the embeddings are seen as the first input of a module, or as its output.
    """

    change: Change
    is_input: bool

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return (self.change(inputs[0]), *inputs[1:]) if self.is_input else self.change(output)


@dataclass
class InvertInput:
    """Before the output embeddings: the hidden states go back through the invertible adapters."""

    change: Change

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        return (self.change(inputs[0]), *inputs[1:])


@dataclass
class InvertibleLeaves:
    """Invertible adapters: a function of embeddings.

    Args:
        start: The number of tokens in the cache.
        is_inverse: Whether it is the inverse.
    """

    start: Callable[[Tensor], int]
    is_inverse: bool = False
    is_local = True

    def series(self, modules: Sequence[nn.Module]) -> Change:
        """See `Leaves.series`. Of several the first one acts, as in AdapterHub's `adapters`."""
        return Couple(modules[0], self.is_inverse)

    def together(self, rows: Rows) -> Change | None:
        """See `Leaves.together`."""
        return None

    def fused(self, part: Fused) -> Change:
        """See `Leaves.fused`. They are not fused; that of the first child acts."""
        return change_of(part.flows[0], self)


@dataclass
class Couple:
    """An invertible adapter, or its inverse. Shape: (B, T, D), kept."""

    coupling: nn.Module
    is_inverse: bool

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = self.coupling(x, rev=True) if self.is_inverse else self.coupling(x)
        return result


def invertible_steps(
    base: nn.Module, anatomy: Anatomy, flow: Flow, output_embeddings: nn.Module | None, calls: Calls
) -> Iterator[tuple[HookPoint, Step]]:
    """The steps of invertible adapters.

    Raises:
        ValueError: their mean would have to be inverted.
    """
    tower = anatomy.embedding_tower
    if not flow or tower is None or tower.embeddings is None:
        return
    tap = tower.embeddings
    is_input = tap.side == "input"
    start = calls.start_at(tower.layers[0].path, flow)
    yield (
        (base.get_submodule(tap.path), "before" if is_input else "after"),
        MapEmbeddings(change_of(flow, InvertibleLeaves(start)), is_input),
    )
    if output_embeddings is not None and anatomy.inverts_at_head:
        if _has_mean(flow):
            raise ValueError(
                "Average of invertible adapters: their mean has no inverse for the language model's head. Use one of "
                "them, or a model without such a head."
            )
        yield (output_embeddings, "before"), InvertInput(change_of(flow, InvertibleLeaves(start, is_inverse=True)))


def _has_mean(flow: Flow) -> bool:
    mixtures = [part for part in flow if not isinstance(part, nn.Module)]
    return any(isinstance(part, Mean) or any(map(_has_mean, part.flows)) for part in mixtures)
