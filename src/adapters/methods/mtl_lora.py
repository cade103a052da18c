"""MTL-LoRA (Yang et al. 2024, arXiv:2410.09437): y = W x + b + s · Σᵢ wᵢ Bᵢ Λ A x, for one task of several.

Letters: I inputs, O outputs of the adapted matrix, R its adapted rows, n matrices that are one in the model, r rank,
u up-projections.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..configuration import MTLLoRAConfig
from .lora_inits import initialise
from .low_rank import LowRank
from .targets import Target

SHARED = ("lora_A", "lora_B")
"""The parameters that the adapters of several tasks may have in common."""


class MTLLoRA(LowRank):
    """Shapes of the parameters: `lora_A` (n·r, I), `lora_B` (u, R, r), `weights` (u,), and Λ.

    Args:
        config: The configuration.
        target: The matrix.
    """

    group: str | None = None
    """What those are called together that it shares its parameters with, if it does."""

    def __init__(self, config: MTLLoRAConfig, target: Target) -> None:
        super().__init__(config, target)
        parts, rank = len(self.sizes), self.rank
        self.sharpness = config.weights_sharpness
        self.lora_A = nn.Parameter(torch.empty(parts * rank, self.in_features))
        self.lora_B = nn.Parameter(torch.empty(config.n_up_projection, sum(self.sizes), rank))
        initialise(config.init_weights, self._parameters)  # type: ignore[arg-type]
        self.weights = nn.Parameter(torch.ones(config.n_up_projection))
        is_diagonal = config.task_specific_matrix_type == "singular_values"
        self.task_specific = Diagonal(parts * rank) if is_diagonal else Square(parts, rank)

    def take(self, parameters: Mapping[str, nn.Parameter], group: str | None) -> None:
        """Have these parameters from now on, in the place of its own.

        Args:
            parameters: Those of `SHARED`, by name.
            group: What those are called together that have them; None if they are its own.
        """
        for name, parameter in parameters.items():
            setattr(self, name, parameter)
        self.group = group
        self.kept.forget()

    def factors(self) -> tuple[Tensor, Tensor]:
        """See `LowRank.factors`."""
        shares = torch.softmax(self.weights / self.sharpness, dim=0)
        blocks = (shares[:, None, None] * self.lora_B).sum(dim=0)
        return self.lora_A, self.task_specific(self.spread_blocks(blocks))

    @property
    def sources(self) -> list[Tensor]:
        """See `LowRank.sources`."""
        own = [self._parameters[name] for name in ("lora_A", "lora_B", "weights")]
        return [*own, *self._modules["task_specific"]._parameters.values()]  # type: ignore[union-attr, list-item]


class Diagonal(nn.Module):
    """Λ as a diagonal matrix, which starts as the identity. Shape of the parameter: `values` (n·r,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(size))

    def forward(self, b: Tensor) -> Tensor:
        """B Λ. Shape: (O, n·r), kept."""
        return b * self.values


class Square(nn.Module):
    """Λ as any matrix, one for each part, which starts as the identity. Shape of the parameter: `weight` (n·r, r)."""

    def __init__(self, parts: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(rank).repeat(parts, 1))

    def forward(self, b: Tensor) -> Tensor:
        """B Λ. Shape: (O, n·r), kept."""
        blocks = torch.split(self.weight, self.weight.shape[1])
        return b @ torch.block_diag(*blocks) if len(blocks) > 1 else b @ self.weight  # type: ignore[no-untyped-call]
