"""The contract between a method and the rest of the library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..anatomy.parts import Anatomy, Sublayer


@dataclass(frozen=True)
class Placement:
    """A module of an adapter, and where it belongs.

    Args:
        host: Path of the module that it is attached to, from the base model ("" for the base model itself).
        container: Path of the dictionary of adapters within the host: `adapters`, `output_adapters.adapters` …
        location: What `get_adapter` calls the place: `mh_adapter`, `output_adapter`, `cross_adapter`, `invertible` …
        layer: Number of the layer, or -1 for what belongs to no layer.
        module: The module.
        sublayer: The sublayer whose output it changes, if it does that.
    """

    host: str
    container: str
    location: str
    layer: int
    module: nn.Module
    sublayer: Sublayer | None = None


class SublayerMap(Protocol):
    """A module that changes the output of a sublayer: x becomes x′, and the model goes on with x′ + r (and its norm).

    Shapes: B rows, T tokens, D hidden size.
    """

    increments_norm: bool
    """x′ = x + f(norm(x + r)) for some f: in a post-norm block only the norm's input is needed."""
    replaces_norm: bool
    """The result takes the place of norm(x + r), not of x."""
    needs_residual: bool
    """x′ depends on r."""
    is_parallel: bool
    """f reads r alone, and is added to the sublayer's own x."""

    def increment(self, h: Tensor) -> Tensor:
        """f(h), without any residual. Shape: (B, T, D) to (B, T, D)."""

    def adapt(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """x′, before what `replaces_norm` says. Shapes: (B, T, D), (B, T, D) to (B, T, D)."""

    def finish(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """What the block gives for the sum, if this is the last map and `replaces_norm`. Shapes as `adapt`."""


class Method(Protocol):
    """What a file in this folder offers."""

    def place(self, config: Any, anatomy: Anatomy) -> Iterable[Placement]:
        """Make the modules of a new adapter, and say where they belong.

        Raises:
            ValueError: the configuration cannot be met by a model of this anatomy.
        """

    def fixed_parameters(self, config: Any) -> frozenset[str]:
        """The last parts of the names of parameters that are never trained."""
