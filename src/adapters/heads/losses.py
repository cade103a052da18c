"""Losses of heads: those of transformers, for the same labels.

Each is a mean over items (labels). The `Trainer` of transformers says in `num_items_in_batch` how many there are in all
the batches of one step: then it is their sum, divided by that number. So a step that gathers the gradients of several
small batches is one with a large batch.

Shapes: B rows, T tokens, C labels.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn

from .base import PredictionHead

Items: TypeAlias = Tensor | int | None
"""The number of items in all batches of a step; None if this batch is all."""

IGNORED = -100
"""The label of what has none."""


def averaged(total: Tensor, count: Tensor | int, items: Items) -> Tensor:
    """The mean over items.

    Args:
        total: The sum of the losses of this batch. Shape: ().
        count: The number of items in this batch.
        items: The number of items in all batches of the step.
    """
    if items is None:
        return total / count
    return total / (items.to(total.device) if isinstance(items, Tensor) else items)


def cross_entropy(logits: Tensor, labels: Tensor, items: Items, ignored: int = IGNORED) -> Tensor:
    """The mean of -log p of labels. Shapes: (N, C), (N,) to ()."""
    if items is None:
        return nn.functional.cross_entropy(logits, labels, ignore_index=ignored)
    total = nn.functional.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    return averaged(total, 1, items)


def loss_of_labels(head: PredictionHead, logits: Tensor, labels: Tensor, items: Items) -> Tensor:
    """Cross-entropy, or the mean squared error of one score. Shapes: (B, C), (B,) to ().

    Raises:
        ValueError: the labels are of another shape, or are no whole numbers.
    """
    if logits.shape[-1] == 1:
        wanted = checked(head, labels, tuple(logits.shape[:1]), logits).view(-1).to(logits.dtype)
        return averaged(nn.functional.mse_loss(logits.view(-1), wanted, reduction="sum"), wanted.numel(), items)
    if labels.shape == logits.shape and labels.ndim == 2:
        raise ValueError(
            f"Head {head.name!r} ({head.config['head_type']}) gives each row one of {logits.shape[-1]} labels: labels "
            f"are numbers of shape {tuple(logits.shape[:1])}, not {tuple(labels.shape)}. For rows with several labels "
            "add a head with multilabel=True."
        )
    return cross_entropy(logits, classes(head, labels, tuple(logits.shape[:1]), logits).view(-1), items)


def loss_of_multilabels(head: PredictionHead, logits: Tensor, labels: Tensor, items: Items) -> Tensor:
    """Binary cross-entropy. Shapes: (B, C), (B, C) to ().

    Raises:
        ValueError: the labels are of another shape.
    """
    wanted = checked(head, labels, tuple(logits.shape), logits).to(logits.dtype)
    total = nn.functional.binary_cross_entropy_with_logits(logits, wanted.view_as(logits), reduction="sum")
    return averaged(total, logits.numel(), items)


def classes(head: PredictionHead, labels: Tensor, wanted: tuple[int, ...], logits: Tensor) -> Tensor:
    """Labels that number classes, of any type of whole numbers, where the logits are.

    Raises:
        ValueError: they are of another shape, or no whole numbers.
    """
    if labels.is_floating_point():
        raise ValueError(
            f"Head {head.name!r} ({head.config['head_type']}) needs whole numbers as labels, not {labels.dtype}. "
            "Scores are for heads with num_labels=1, and several labels per row for those with multilabel=True."
        )
    return checked(head, labels, wanted, logits).long()


def checked(head: PredictionHead, labels: Tensor, wanted: tuple[int, ...], logits: Tensor) -> Tensor:
    """Labels of the wanted shape, or of that with a last 1, where the logits are.

    Raises:
        ValueError: they are of another shape.
    """
    if tuple(labels.shape) not in (wanted, (*wanted, 1)):
        raise ValueError(
            f"Head {head.name!r} ({head.config['head_type']}) needs labels of shape {wanted}, not "
            f"{tuple(labels.shape)}."
        )
    return labels.to(logits.device)


def one_of(head_name: str, option: str, value: str, choices: tuple[str, ...]) -> str:
    """An option that is one of some words.

    Raises:
        ValueError: it is not.
    """
    if value not in choices:
        raise ValueError(f"Head {head_name!r}: {option}={value!r}; choose one of {', '.join(map(repr, choices))}.")
    return value
