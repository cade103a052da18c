"""Evaluation and answers: a trained model on a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .kinds import Kind, Prepared


def outputs_of(
    model: Any,
    kind: Kind,
    given: Prepared,
    batch_size: int,
    watch: Callable[[int], None] = lambda rows: None,
    is_half: bool = False,
) -> tuple[Any, float | None]:
    """What a model gives for all features, and the mean loss if there are labels.

    Args:
        model: The model, in evaluation mode.
        kind: The kind of the task.
        given: The features.
        batch_size: Rows in a batch.
        watch: Called with the number of rows that are done.
        is_half: Whether products are computed in bfloat16.

    Returns:
        One array for each output (a tuple of them if there are several), filled up with -100 where rows differ in
        length; and the loss.
    """
    order = list(range(len(given.features)))
    parts: list[tuple[Any, ...]] = []
    losses: list[float] = []
    for batch in _batches(order, batch_size):
        inputs = kind.collated([given.features[number] for number in batch])
        with torch.autocast(model.device.type, torch.bfloat16, enabled=is_half):
            found = kind.outputs(model, {key: value.to(model.device) for key, value in inputs.items()})
        if found.loss is not None:
            losses += [found.loss] * len(batch)
        parts.append(tuple(value.float().cpu().numpy() for value in found.values))
        done = batch[-1] + 1
        watch(_rows_in(done, given) - _rows_in(batch[0], given))
    joined = tuple(_joined(column) for column in zip(*parts, strict=True))
    return joined[0] if len(joined) == 1 else joined, sum(losses) / len(losses) if losses else None


def measured_loss(kind: Kind, loss: float) -> dict[str, float]:
    """What a loss says of a kind whose answers are not measured."""
    return {} if kind.needs_outputs else {"perplexity": math.exp(min(loss, 80.0))}


def _rows_in(features: int, given: Prepared) -> int:
    """How many rows some features are, on average: long texts are several features, short ones share one."""
    return round(features * len(given.rows) / max(len(given.features), 1))


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _joined(parts: Sequence[Any]) -> Any:
    """Arrays below one another, each filled up to the largest."""
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    found = np.full((sum(map(len, parts)), *shape), -100.0, dtype=np.float32)
    start = 0
    for part in parts:
        found[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
        start += len(part)
    return found
