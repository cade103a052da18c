"""Heads at work: each reads its own rows of what the base model gives.

Shapes: B rows of the batch, N channels of `Parallel`, R = N·B rows of the base model's outputs, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.utils.generic import ModelOutput

from .base import PredictionHead, TaskHead
from .outputs import MultiHeadOutput
from .rows import HeadRows, selected


def predictions(
    heads: Mapping[str, PredictionHead],
    chosen: Sequence[HeadRows],
    is_single: bool,
    outputs: ModelOutput,
    sentence: Tensor | None,
    attention_mask: Tensor | None,
    labels: Mapping[str, Any],
    batch: int,
    return_dict: bool,
    items: Tensor | int | None = None,
    texts: int | None = None,
    call: Mapping[str, Any] | None = None,
) -> Any:
    """What heads predict.

    Args:
        heads: All heads by name.
        chosen: Those to use, and their rows.
        is_single: Whether one head was asked for, and not several.
        outputs: The outputs of the base model.
        sentence: One vector per row, if a head needs these. Shape: (R, D).
        attention_mask: Which tokens are no padding. Shape: (B, T).
        labels: The labels by the names of arguments: a tensor for all heads, a list of one for each head, or tensors by
            the names of heads.
        batch: B.
        return_dict: Whether to give outputs with names, or tuples.
        items: The number of labels in all batches of a training step, if these are several.
        texts: How many texts N there are for each row of inputs of shape (B, N, T).
        call: What the base model was called with.

    Raises:
        ValueError: the labels do not fit.
    """
    total = outputs[0].shape[0]
    used = [heads[str(head.name)] for head in chosen]
    _check_names(labels, used)
    found: list[Any] = []
    for number, (head, rows) in enumerate(zip(used, chosen, strict=True)):
        rows_of_label = texts or 1 if head.rows_of_label is None else head.rows_of_label
        own = _labels_of(labels, number, head, rows, rows_of_label, len(used), total, batch)
        found.append(
            head(
                outputs=selected(outputs, rows.rows, total, batch),
                cls_output=selected(sentence, rows.rows, total, batch),
                attention_mask=selected(attention_mask, rows.rows, total, batch),
                return_dict=return_dict or isinstance(head, TaskHead),
                **own,
                **_further(head, items, texts, bool(own)),
                **_call_of(head, rows, total, batch, call or {}),
            )
        )
    losses = [_loss(output, bool(labels)) for output in found]
    if not return_dict:
        found = [output.to_tuple() if isinstance(output, ModelOutput) else output for output in found]
    if is_single:
        return found[0]
    cache = outputs.get("past_key_values")  # of all rows: texts are generated with it
    given = [loss for loss in losses if loss is not None]
    return MultiHeadOutput(found, sum(given[1:], start=given[0]) if given else None, cache, chosen)


def _further(head: PredictionHead, items: Any, texts: int | None, has_labels: bool) -> dict[str, Any]:
    """What heads are told that are made for it.

    Raises:
        ValueError: the loss of the head would not be what is asked for.
    """
    found: dict[str, Any] = {}
    if head.rows_of_label is None:
        found["texts_per_row"] = texts
    if items is None or not has_labels:
        return found
    if not head.accepts_loss_kwargs and isinstance(head, TaskHead):
        raise ValueError(
            f"Head {head.name!r} ({head.config['head_type']}) is a module that gives its loss itself, and takes no "
            "num_items_in_batch. A Trainer that is made while the head is active does not give it."
        )
    return {**found, "num_items_in_batch": items}


def _call_of(head: PredictionHead, rows: HeadRows, total: int, batch: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """What the base model was called with, of the rows of a head that asks for it."""
    if not head.reads_call:
        return {}
    return {"call": {name: selected(value, rows.rows, total, batch) for name, value in call.items()}}


def labels_by_name(labels: Mapping[str, Any], heads: Iterable[str | None]) -> dict[str, Any]:
    """Labels for some heads alone: tensors become dictionaries by the names of these heads."""
    names = list(heads)
    return {
        key: {name: value for name in names if name is not None} if isinstance(value, Tensor) else value
        for key, value in labels.items()
    }


def _loss(output: Any, has_labels: bool) -> Tensor | None:
    if isinstance(output, tuple):
        return output[0] if has_labels else None
    return output.get("loss") if isinstance(output, Mapping) else None


def arguments_of(head: Any, given: Iterable[str] = ()) -> list[str]:
    """The names of the arguments that a head takes from the call of the model.

    Args:
        head: The head.
        given: What there is: a head of a user's class takes all of it.
    """
    if not isinstance(head, TaskHead):
        return list(given)
    return [*head.get_label_names(), *head.further_inputs]


def _check_names(labels: Mapping[str, Any], heads: Sequence[PredictionHead]) -> None:
    known = {name for head in heads for name in arguments_of(head, labels)}
    for name in labels:
        if name not in known:
            asked = ", ".join(f"{head.name!r}: {', '.join(arguments_of(head)) or 'nothing'}" for head in heads)
            raise ValueError(f"The call has {name}=…, which no head in use takes; they take ({asked}).")


def _labels_of(
    labels: Mapping[str, Any],
    number: int,
    head: PredictionHead,
    rows: HeadRows,
    k: int,
    count: int,
    total: int,
    batch: int,
) -> dict[str, Any]:
    """The labels of one head: of its rows, if there are labels of all rows."""
    own: dict[str, Any] = {}
    for name in arguments_of(head, labels):
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
        if isinstance(value, Tensor) and value.ndim:
            value = _selected_labels(name, value, rows, k, total, batch)
        if value is not None:
            own[name] = value
    return own


def _selected_labels(name: str, value: Tensor, rows: HeadRows, k: int, total: int, batch: int) -> Tensor:
    if len(value) == len(rows.rows) // k:
        return value
    if len(value) not in (total // k, batch // k):
        raise ValueError(
            f"{name} has {len(value)} rows; the batch has {batch // k}, and head {rows.name!r} reads "
            f"{len(rows.rows) // k} of them."
        )
    of_labels = rows.rows if k == 1 else [row // k for row in rows.rows[::k]]
    chosen: Tensor = selected(value, of_labels, total // k, batch // k)
    return chosen
