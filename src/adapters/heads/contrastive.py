"""Contrastive losses: texts that belong together are close to one another, and far from all others of the batch.

Shapes: B rows, N texts of each, E size of embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .losses import Items, averaged, cross_entropy


def among_rows(x: Tensor, groups: Tensor | None, temperature: float, symmetric: bool, items: Items) -> Tensor:
    """Each row's first text has to find its second one among the others of all rows (InfoNCE).

    s = x₀ yᵀ / temperature, and cross-entropy with the number of the row; y are the B second texts, then all others.

    Args:
        x: Embeddings. Shape: (B, N, E), N > 1.
        groups: Rows of the same number are not held against one another. Shape: (B,).
        temperature: What the products are divided by.
        symmetric: Whether the second texts have to find the first ones too; the loss is the mean of both.
        items: See `losses.py`.
    """
    first, second, others = x[:, 0], x[:, 1], x[:, 2:].flatten(0, 1)
    found = [first @ torch.cat([second, others]).T / temperature]
    if symmetric:
        found.append(second @ first.T / temperature)
    own = torch.arange(len(x), device=x.device)
    losses = []
    for scores in found:
        if groups is not None:
            is_same = (groups[:, None] == groups) & (own[:, None] != own)
            scores = scores.masked_fill(nn.functional.pad(is_same, (0, scores.shape[1] - len(x))), float("-inf"))
        losses.append(cross_entropy(scores, own, items))
    return torch.stack(losses).mean()


def among_groups(x: Tensor, groups: Tensor, temperature: float, items: Items) -> Tensor:
    """Each text has to find those of its group among all others (supervised contrastive learning).

    The mean over texts i with others P of their group, of -1/|P| Σ_p log softmax_{j≠i}(x_i·x_j / temperature)_p.

    Args:
        x: Embeddings. Shape: (B, E).
        groups: The number of each one's group. Shape: (B,).
        temperature: What the products are divided by.
        items: See `losses.py`.
    """
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    scores = (x @ x.T / temperature).masked_fill(itself, -1e9)  # not -inf: a text alone in its batch has a gradient too
    belongs = (groups[:, None] == groups) & ~itself
    of_texts = -scores.log_softmax(dim=1).where(belongs, 0.0).sum(dim=1) / belongs.sum(dim=1).clamp_min(1)
    return averaged(of_texts.sum(), belongs.any(dim=1).sum().clamp_min(1), items)
