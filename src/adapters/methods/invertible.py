"""Invertible adapters after the embeddings (MAD-X, Pfeiffer et al. 2020, arXiv:2005.00052).

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .base import AdapterModule
from .layers import Activation, Projection


class Invertible(AdapterModule, ABC):
    """A map of the hidden states that can be undone."""

    @abstractmethod
    def forward(self, x: Tensor, rev: bool = False) -> Tensor:
        """The map, or its inverse. Shape: (B, T, D) to (B, T, D)."""


class NICECouplingBlock(Invertible):
    """Additive coupling (NICE, Dinh et al. 2015): y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁), for the two halves of x.

    Args:
        size: Hidden size D; even.
        non_linearity: Activation inside F and G.
        reduction_factor: D/2 over the inner size of F and G.
    """

    def __init__(self, size: int, non_linearity: str, reduction_factor: float) -> None:
        super().__init__()
        half = _half(size)
        self.F = _subnet(half, half, non_linearity, reduction_factor)
        self.G = _subnet(half, half, non_linearity, reduction_factor)

    def forward(self, x: Tensor, rev: bool = False) -> Tensor:
        """Shape: (B, T, D) to (B, T, D)."""
        first, second = x.chunk(2, dim=-1)
        if rev:
            second = second - self.G(first)
            first = first - self.F(second)
        else:
            first = first + self.F(second)
            second = second + self.G(first)
        return torch.cat([first, second], dim=-1)


class GLOWCouplingBlock(Invertible):
    """Affine coupling (RealNVP / Glow, Dinh et al. 2017): y₁ = e(s₂) x₁ + t₂, y₂ = e(s₁) x₂ + t₁.

    s and t are the two halves of a subnet's output, and e(s) = exp(c · 0.636 · atan(s / c)) keeps the scale between
    exp(-c) and exp(c) with c = 5.

    Args:
        size: Hidden size D; even.
        non_linearity: Activation inside the subnets.
        reduction_factor: D/2 over the inner size of the subnets.
    """

    clamp = 5.0

    def __init__(self, size: int, non_linearity: str, reduction_factor: float) -> None:
        super().__init__()
        half = _half(size)
        self.s1 = _subnet(half, 2 * half, non_linearity, reduction_factor)
        self.s2 = _subnet(half, 2 * half, non_linearity, reduction_factor)

    def _log_scale(self, s: Tensor) -> Tensor:
        return self.clamp * 0.636 * torch.atan(s / self.clamp)

    def forward(self, x: Tensor, rev: bool = False) -> Tensor:
        """Shape: (B, T, D) to (B, T, D)."""
        first, second = x.chunk(2, dim=-1)
        if rev:
            s, t = self.s1(first).chunk(2, dim=-1)
            second = (second - t) * torch.exp(-self._log_scale(s))
            s, t = self.s2(second).chunk(2, dim=-1)
            first = (first - t) * torch.exp(-self._log_scale(s))
        else:
            s, t = self.s2(second).chunk(2, dim=-1)
            first = torch.exp(self._log_scale(s)) * first + t
            s, t = self.s1(first).chunk(2, dim=-1)
            second = torch.exp(self._log_scale(s)) * second + t
        return torch.cat([first, second], dim=-1)


COUPLINGS: dict[str, type[NICECouplingBlock] | type[GLOWCouplingBlock]] = {
    "nice": NICECouplingBlock,
    "glow": GLOWCouplingBlock,
}


def _half(size: int) -> int:
    if size % 2:
        raise ValueError(f"An invertible adapter needs an even hidden size; this model has {size}.")
    return size // 2


def _subnet(in_features: int, out_features: int, non_linearity: str, reduction_factor: float) -> nn.Sequential:
    inner = max(1, int(in_features // reduction_factor))
    return nn.Sequential(
        Projection(in_features, inner, "bert"), Activation(non_linearity), Projection(inner, out_features, "bert")
    )
