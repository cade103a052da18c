"""What the towers of a model are called with: seen once per call, for all adapters that depend on it.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .hooks import HookPoint, Step


class Calls:
    """The calls of a model's towers, as one routing sees them.

    Args:
        base: The base model.
    """

    def __init__(self, base: nn.Module) -> None:
        self.base = base

    def steps(self) -> Iterator[tuple[HookPoint, Step]]:
        """The steps that see the calls which were asked for."""
        yield from ()
