"""How an invertible adapter becomes steps: its map after the embeddings, and its inverse before a tied LM head.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..anatomy.parts import Anatomy
from ..methods.base import Placement
from .hooks import HookPoint, Step


@dataclass
class MapOutput:
    """After the embeddings: their output goes through an invertible adapter."""

    coupling: nn.Module

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.coupling(output)  # type: ignore[no-any-return]


def invertible_steps(
    base: nn.Module, anatomy: Anatomy, placements: Sequence[Placement]
) -> Iterator[tuple[HookPoint, Step]]:
    """The steps of the invertible adapter among the modules of one adapter, if there is one."""
    tower = anatomy.embedding_tower
    for placement in placements:
        if placement.location == "invertible" and tower is not None and tower.embeddings is not None:
            yield (tower.embeddings, "after"), MapOutput(placement.module)
