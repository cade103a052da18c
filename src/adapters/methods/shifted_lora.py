"""LoRA that starts at a part of the weight (PiSSA, OLoRA): y = W x + b + s · (B A − B₀ A₀) x.

In the papers, W − s · B₀ A₀ takes the place of W, and is frozen. Here W stays, and what A and B start as is kept beside
them, so that the model without the adapter is what it was, and nothing changes at the start.

Letters: I inputs of the adapted matrix, R its adapted rows, n matrices that are one in the model, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from ..configuration import AdapterConfigError, LoRAConfig
from .lora_inits import DECOMPOSITIONS
from .low_rank import LowRank
from .targets import Target
from .weights import dense_weight


class ShiftedLoRA(LowRank):
    """Shapes of the parameters: `lora_A` and `start_A` (n·r, I), `lora_B` and `start_B` (R, r).

    In the words of plain LoRA it is one of rank 2 r, with A and A₀ below each other, and B and −B₀ side by side.

    Args:
        config: The configuration.
        target: The matrix.

    Raises:
        AdapterConfigError: the configuration has what does not go with it, or the rank is that of no part of W.
    """

    fixed = frozenset({"start_A", "start_B"})

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__(config, target)
        for name in ("use_dora", "use_gating"):
            if config[name]:
                raise AdapterConfigError(f"{name}=True does not go with init_weights={config.init_weights!r}.")
        if self.rank > min(*self.sizes, self.in_features):
            raise AdapterConfigError(
                f"r={self.rank} is more than {target.matrix.path} has, of {self.sizes} rows and {self.in_features} "
                f"columns: with init_weights={config.init_weights!r} the rank is that of a part of the weight."
            )
        self._decompose = DECOMPOSITIONS[config.init_weights]
        self._matrix = target.matrix
        a = torch.empty(self.inner, self.in_features, dtype=torch.float32)
        b = torch.empty(sum(self.sizes), self.rank, dtype=torch.float32)
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        self.start_A = nn.Parameter(torch.empty_like(a), requires_grad=False)
        self.start_B = nn.Parameter(torch.empty_like(b), requires_grad=False)

    def start(self, base: nn.Module) -> None:
        """See `AdapterModule.start`."""
        weight = dense_weight(base, self._matrix).float()
        rows = weight if self.rows is None else weight[self.rows.to(weight.device)]
        pairs = [self._decompose(part, self.rank, self.scaling) for part in torch.split(rows, self.sizes)]
        with torch.no_grad():
            for own, made in ("A", [a for a, _ in pairs]), ("B", [b for _, b in pairs]):
                self.get_parameter(f"start_{own}").copy_(torch.cat(made))
                self.get_parameter(f"lora_{own}").copy_(torch.cat(made))

    def factors(self) -> tuple[Tensor, Tensor]:
        """See `LowRank.factors`. Here their rank is 2 r."""
        (a, b), (a0, b0) = self._pairs()
        return torch.cat([a, a0]), torch.cat([b, -b0], dim=1)

    @property
    def sources(self) -> list[Tensor]:
        """See `LowRank.sources`."""
        return [self._parameters[name] for name in ("lora_A", "lora_B", "start_A", "start_B")]  # type: ignore[misc]

    def adapt(self, x: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """See `LowRank.adapt`. Of two products, and not of one of rank 2 r, nothing is left if A = A₀ and B = B₀."""
        changed = y + self.increment(x if u is None else u, x)
        return changed if changed.dtype is y.dtype else changed.to(y.dtype)

    def increment(self, u: Tensor, x: Tensor) -> Tensor:
        """See `LowRank.increment`."""
        (a, b), (a0, b0) = self._pairs()
        u = u.to(a.dtype)
        if self.training and self.dropout:
            u = dropout(u, self.dropout)
        return self.scaling * (linear(linear(u, a), b) - linear(linear(u, a0), b0))

    def _pairs(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        a, b, a0, b0 = self.sources
        if self.is_whole:
            return (a, b), (a0, b0)
        return (a, self.spread_blocks(b)), (a0, self.spread_blocks(b0))
