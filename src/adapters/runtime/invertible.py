"""How an invertible adapter becomes steps: its map after the embeddings, and its inverse before a tied LM head.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..anatomy.parts import Anatomy
from ..methods.base import Placement
from .hooks import HookPoint, Step


@dataclass
class MapEmbeddings:
    """At the embeddings: they go through an invertible adapter.

    Args:
        coupling: The adapter.
        is_input: Whether they are seen as the first input of a module, or as its output.
    """

    coupling: nn.Module
    is_input: bool

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return (self.coupling(inputs[0]), *inputs[1:]) if self.is_input else self.coupling(output)


@dataclass
class InvertInput:
    """Before the output embeddings: the hidden states go back through the invertible adapter."""

    coupling: nn.Module

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        return (self.coupling(inputs[0], rev=True), *inputs[1:])


def invertible_steps(
    base: nn.Module, anatomy: Anatomy, placements: Sequence[Placement], output_embeddings: nn.Module | None
) -> Iterator[tuple[HookPoint, Step]]:
    """The steps of the invertible adapter among the modules of one adapter, if there is one."""
    tower = anatomy.embedding_tower
    for placement in placements:
        if placement.location == "invertible" and tower is not None and tower.embeddings is not None:
            tap = tower.embeddings
            is_input = tap.side == "input"
            yield (
                (base.get_submodule(tap.path), "before" if is_input else "after"),
                MapEmbeddings(placement.module, is_input),
            )
            if output_embeddings is not None and anatomy.inverts_at_head:
                yield (output_embeddings, "before"), InvertInput(placement.module)
