"""Heads at work: each reads its own rows of what the base model gives.

Shapes: B rows of the batch, N channels of `Parallel`, R = N·B rows of the base model's outputs, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.utils.generic import ModelOutput

from .base import PredictionHead
from .outputs import MultiHeadOutput
from .rows import HeadRows, selected


def predictions(
    heads: Mapping[str, PredictionHead],
    chosen: Sequence[HeadRows],
    is_single: bool,
    outputs: ModelOutput,
    sentence: Tensor,
    attention_mask: Tensor | None,
    labels: Mapping[str, Any],
    batch: int,
    return_dict: bool,
) -> Any:
    """What heads predict.

    Args:
        heads: All heads by name.
        chosen: Those to use, and their rows.
        is_single: Whether one head was asked for, and not several.
        outputs: The outputs of the base model.
        sentence: One vector per row. Shape: (R, D).
        attention_mask: Which tokens are no padding. Shape: (B, T).
        labels: The labels by the names of arguments: a tensor for all heads, a list of one for each head, or tensors by
            the names of heads.
        batch: B.
        return_dict: Whether to give outputs with names, or tuples.

    Raises:
        ValueError: the labels do not fit.
    """
    total = sentence.shape[0]
    used = [heads[str(head.name)] for head in chosen]
    _check_names(labels, used)
    found: list[Any] = []
    for number, (head, rows) in enumerate(zip(used, chosen, strict=True)):
        own = _labels_of(labels, number, head, rows, len(used), total, batch)
        found.append(
            head(
                outputs=selected(outputs, rows.rows, total, batch),
                cls_output=selected(sentence, rows.rows, total, batch),
                attention_mask=selected(attention_mask, rows.rows, total, batch),
                return_dict=return_dict,
                **own,
            )
        )
    if is_single:
        return found[0]
    losses = [_loss(output, bool(labels)) for output in found]
    given = [loss for loss in losses if loss is not None]
    return MultiHeadOutput(found, sum(given[1:], start=given[0]) if given else None, chosen)


def _loss(output: Any, has_labels: bool) -> Tensor | None:
    if isinstance(output, tuple):
        return output[0] if has_labels else None
    loss: Tensor | None = output.get("loss")
    return loss


def arguments_of(head: Any) -> list[str]:
    """The names of the arguments that a head takes from the call of the model."""
    return [*head.get_label_names(), *head.further_inputs]


def _check_names(labels: Mapping[str, Any], heads: Sequence[PredictionHead]) -> None:
    known = {name for head in heads for name in arguments_of(head)}
    for name in labels:
        if name not in known:
            asked = ", ".join(f"{head.name!r}: {', '.join(arguments_of(head)) or 'nothing'}" for head in heads)
            raise ValueError(f"The call has {name}=…, which no head in use takes; they take ({asked}).")


def _labels_of(
    labels: Mapping[str, Any], number: int, head: PredictionHead, rows: HeadRows, count: int, total: int, batch: int
) -> dict[str, Tensor]:
    """The labels of one head: of its rows, if there are labels of all rows."""
    own: dict[str, Tensor] = {}
    for name in arguments_of(head):
        value = labels.get(name)
        if isinstance(value, Mapping):
            value = value.get(head.name)
        elif isinstance(value, (list, tuple)):
            if len(value) != count:
                raise ValueError(
                    f"{name} is a list of {len(value)} for {count} heads in use: give one tensor for each head in a "
                    "list, or one tensor for all."
                )
            value = value[number]
        if value is not None:
            k = head.rows_of_label
            own[name] = (
                value if len(value) == len(rows.rows) // k else _selected_labels(name, value, rows, k, total, batch)
            )
    return own


def _selected_labels(name: str, value: Tensor, rows: HeadRows, k: int, total: int, batch: int) -> Tensor:
    if len(value) not in (total // k, batch // k):
        raise ValueError(
            f"{name} has {len(value)} rows; the batch has {batch // k}, and head {rows.name!r} reads "
            f"{len(rows.rows) // k} of them."
        )
    of_labels = rows.rows if k == 1 else [row // k for row in rows.rows[::k]]
    chosen: Tensor = selected(value, of_labels, total // k, batch // k)
    return chosen
