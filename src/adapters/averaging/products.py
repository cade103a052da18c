"""Changes of matrices as products ΔW = B A: their sums, inner products, and best approximations of a rank.

Letters: R rows, I columns of a matrix, k rank of a product, n changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LARGE = 1024
"""Matrices with more rows and columns than this have their first singular values found by iteration."""
_ROUNDS = 8


@dataclass(frozen=True)
class Change:
    """ΔW = B A. Shapes: `a` (k, I), `b` (R, k).

    Args:
        a: A.
        b: B, with the scaling.
        rank: The rank of the adapter there.
        is_low_rank: Whether it came as such a product, and not as a whole matrix.
    """

    a: Tensor
    b: Tensor
    rank: int
    is_low_rank: bool = True


@dataclass(frozen=True)
class Combined:
    """What becomes of the changes of one matrix: B A, and how far it is from what was meant.

    Args:
        a: A. Shape: (k, I).
        b: B. Shape: (R, k).
        error: Squared norm of the difference.
        size: Squared norm of what was meant.
    """

    a: Tensor
    b: Tensor
    error: float = 0.0
    size: float = 0.0


def relative_error(parts: Sequence[Combined]) -> float:
    """‖ΔW − B A‖ / ‖ΔW‖ of a matrix that consists of these."""
    size = sum(part.size for part in parts)
    return float((sum(part.error for part in parts) / size) ** 0.5) if size else 0.0


def inner_products(changes: Sequence[Change | None]) -> Tensor:
    """⟨B A, B′ A′⟩ = Σ (BᵀB′ ⊙ A A′ᵀ) of all changes; None is zero. Shape: (n, n)."""
    found = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for i, first in enumerate(changes):
        for j, second in enumerate(changes):
            if first is not None and second is not None:
                found[i, j] = ((first.b.T @ second.b) * (first.a @ second.a.T)).sum()
    return found


def as_product(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A whole matrix as a product A, B with the identity. Shape: (R, I) to (k, I) and (R, k)."""
    if matrix.shape[0] <= matrix.shape[1]:
        return matrix, torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    return torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device), matrix


def truncated(a: Tensor, b: Tensor, rank: int) -> Combined:
    """The best approximation of B A by a product of some rank, by its singular values.

    Args:
        a: A. Shape: (k, I).
        b: B. Shape: (R, k).
        rank: The rank.
    """
    if a.shape[0] < min(a.shape[1], b.shape[0]):
        # B A = Q (S Tᵀ) Pᵀ, of which only S Tᵀ, of size k × k, needs singular values.
        (q, s), (p, t) = torch.linalg.qr(b), torch.linalg.qr(a.T)
        u, values, v = torch.linalg.svd(s @ t.T)
        u, v, size = q @ u, v @ p.T, float(values.double().square().sum())
    else:
        matrix = b @ a
        u, values, v = leading(matrix, rank)
        size = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
    u, values, v = u[:, :rank], values[:rank], v[:rank]
    kept = float(values.double().square().sum())
    root = values.sqrt()
    # What is left of a difference of two equal numbers is rounding.
    error = size - kept if size - kept > 1e-10 * size else 0.0
    return Combined(root[:, None] * v, u * root, error, size)


def leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular values with their vectors: those of a large matrix by iteration on a subspace.

    Args:
        matrix: The matrix. Shape: (R, I).
        rank: How many are wanted; there may be more.

    Returns:
        Vectors, values, vectors. Shapes: (R, k), (k,), (k, I).
    """
    size = 2 * rank + 16
    if min(matrix.shape) <= max(_LARGE, 4 * size):
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        return u, values, v
    start = torch.randn(matrix.shape[1], size, generator=torch.Generator().manual_seed(0)).to(matrix)
    q = torch.linalg.qr(matrix @ start)[0]
    for _ in range(_ROUNDS):
        q = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ q)[0])[0]
    u, values, v = torch.linalg.svd(q.T @ matrix, full_matrices=False)
    return q @ u, values, v
