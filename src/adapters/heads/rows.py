"""Which head reads which rows.

Shapes: B rows of the batch, N channels of `Parallel`, R = N·B rows that the base model gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from ..composition import AdapterCompositionBlock, BatchSplit, MultiTask, Parallel, parse_heads_from_composition
from ..composition import channels as channels_of

Heads: TypeAlias = AdapterCompositionBlock | Sequence[Any] | str | None
"""Heads: a name, a list of them (one for each channel of `Parallel`), or a block of them."""


@dataclass(frozen=True)
class HeadRows:
    """A head, and the rows of the base model's outputs that it reads.

    Args:
        name: The name of the head; None where no head belongs to what the rows went through.
        rows: The rows.
    """

    name: str | None
    rows: Sequence[int]


def heads_of(setup: Any) -> Heads:
    """The heads that belong to a setup: those of the names of its last adapters.

    >>> heads_of(Stack("language", Parallel("a", "b")))
    ['a', 'b']
    """
    return cast(Heads, parse_heads_from_composition(setup))


def assigned(heads: Heads, rows: int, channels: int, tasks: Sequence[int] | Tensor | None) -> list[HeadRows]:
    """The rows of each head.

    Args:
        heads: The heads.
        rows: Number of rows R.
        channels: Number N of channels.
        tasks: For each row of the batch the number of a child of `MultiTask`. Shape: (B,).

    Raises:
        ValueError: the heads do not fit the rows.
    """
    found = None if tasks is None else list(tasks.tolist() if isinstance(tasks, Tensor) else tasks)
    return list(_assigned(heads, range(rows), channels, found))


def _assigned(heads: Any, rows: Sequence[int], channels: int, tasks: list[int] | None) -> list[HeadRows]:
    if heads is None or isinstance(heads, str):
        return [HeadRows(heads, rows)]
    if isinstance(heads, (Parallel, list, tuple)):
        return _of_channels(heads, rows, channels, tasks)
    per_channel = len(rows) // channels
    if isinstance(heads, (BatchSplit, MultiTask)) and channels > 1:
        parts = [rows[i * per_channel : (i + 1) * per_channel] for i in range(channels)]
        return [head for part in parts for head in _assigned(heads, part, 1, tasks)]
    if isinstance(heads, BatchSplit):
        total = sum(heads.batch_sizes)
        if not total or len(rows) % total:
            raise ValueError(f"The heads are {heads!r}: they are for {total} rows, but the batch has {len(rows)}.")
        found, start = [], 0
        for child, size in zip(heads, heads.batch_sizes, strict=True):
            end = start + size * (len(rows) // total)
            found += _assigned(child, rows[start:end], 1, tasks)
            start = end
        return found
    if isinstance(heads, MultiTask):
        return _of_tasks(heads, rows, tasks)
    if isinstance(heads, AdapterCompositionBlock):
        return _assigned(heads_of(heads), rows, channels, tasks)
    raise ValueError(
        f"Heads are named by a name, a list of names, or blocks of them such as Parallel('a', 'b'), not {heads!r}."
    )


def _of_channels(heads: Sequence[Any], rows: Sequence[int], channels: int, tasks: list[int] | None) -> list[HeadRows]:
    if channels == 1:  # several heads on the same rows
        return [head for child in heads for head in _assigned(child, rows, 1, tasks)]
    widths = [_width(child) for child in heads]
    if sum(widths) != channels:
        raise ValueError(
            f"The heads are {heads!r}, but the adapters in use repeat the batch {channels} times: name {channels} "
            "heads, or one for all."
        )
    found, start, per_channel = [], 0, len(rows) // channels
    for child, width in zip(heads, widths, strict=True):
        end = start + width * per_channel
        found += _assigned(child, rows[start:end], width, tasks)
        start = end
    return found


def _width(heads: Any) -> int:
    return sum(map(_width, heads)) if isinstance(heads, (list, tuple)) else channels_of(heads)


def _of_tasks(heads: MultiTask, rows: Sequence[int], tasks: list[int] | None) -> list[HeadRows]:
    if not tasks:
        raise ValueError(f"The heads are {heads!r}: give task_ids=[...] in the call of the model.")
    if len(rows) % len(tasks):
        raise ValueError(f"task_ids: {len(tasks)} rows, but the batch has {len(rows)}.")
    each = len(rows) // len(tasks)
    chosen = [task for task in tasks for _ in range(each)]
    of_head: dict[Any, list[int]] = {}
    for row, task in zip(rows, chosen, strict=True):
        of_head.setdefault(heads[task], []).append(row)
    return [head for child, own in of_head.items() for head in _assigned(child, own, 1, None)]


def selected(value: Any, rows: Sequence[int], total: int, batch: int) -> Any:
    """What belongs to some rows, of a tensor, or of what holds tensors; all else as it is.

    Args:
        value: It. Shape: (R, ...), or (B, ...), which stands for all channels.
        rows: The rows, of R.
        total: R.
        batch: B.
    """
    if isinstance(value, Tensor):
        count = value.shape[0] if value.ndim else 0
        if count not in (total, batch):
            return value
        return _of_rows(value, rows, count)
    if isinstance(value, ModelOutput):
        return type(value)(**{key: selected(inner, rows, total, batch) for key, inner in value.items()})
    if type(value) in (tuple, list):
        return type(value)(selected(inner, rows, total, batch) for inner in value)
    return value


def _of_rows(value: Tensor, rows: Sequence[int], count: int) -> Tensor:
    if isinstance(rows, range) and rows.step == 1:  # the usual case: a view
        first = rows.start % count if len(rows) else 0
        if first == 0 and len(rows) == count:
            return value
        if first + len(rows) <= count:
            return value[first : first + len(rows)]
    return value[torch.tensor([row % count for row in rows], dtype=torch.long, device=value.device)]


def of_batch(value: Any, rows: int) -> Any:
    """What belongs to the rows of a batch, repeated for all channels. Shape: (B, ...) to (R, ...)."""
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] == rows or rows % value.shape[0]:
        return value
    return torch.cat([value] * (rows // value.shape[0]))


def names_in_use(heads: Any, tasks: Sequence[int] | Tensor | None) -> set[str | None]:
    """The names of the heads that rows go through; of a `MultiTask`, those of the tasks that the batch has."""
    if heads is None or isinstance(heads, str):
        return {heads}
    children = list(heads)
    if isinstance(heads, MultiTask) and tasks is not None and not torch.compiler.is_compiling():
        chosen = set(tasks.tolist() if isinstance(tasks, Tensor) else tasks)
        children = [child for number, child in enumerate(children) if number in chosen]
    return {name for child in children for name in names_in_use(child, tasks)}
