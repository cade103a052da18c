"""What models with several active heads give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from .rows import HeadRows


@dataclass
class MultiHeadOutput(ModelOutput):
    """The outputs of several heads: a sequence of them, which are also found by the names of the heads.

    >>> model.set_active_adapters(Parallel("topics", "sentiment"))
    >>> output = model(**batch, labels=[topics, sentiments])
    >>> output[0].logits, output["sentiment"].logits, output.loss

    Args:
        head_outputs: One output for each head, in the order of the setup; where each row has an adapter of its own, in
            the order in which these first occur.
        loss: The sum of the losses of the heads. Shape: ().
        past_key_values: The cache of all rows, if the base model gives one.
        heads: The heads, and the rows of each.
    """

    head_outputs: list[Any] | None = None
    loss: Tensor | None = None
    past_key_values: Any = None
    heads: InitVar[Sequence[HeadRows]] = ()

    def __post_init__(self, heads: Sequence[HeadRows]) -> None:
        cast(Any, super()).__post_init__()
        self._heads = tuple(heads)

    @property
    def head_names(self) -> tuple[str, ...]:
        """The names of the heads."""
        return tuple(str(head.name) for head in self._heads)

    @property
    def logits(self) -> Tensor:
        """The logits of all heads below one another, in the order of the batch. Shape: (R, ...), R the sum of rows.

        Raises:
            ValueError: the heads have logits of different shapes, or none.
        """
        found = [output.get("logits") for output in self.head_outputs or ()]
        shapes = [None if logits is None else tuple(logits.shape) for logits in found]
        if None in shapes or len({shape[1:] for shape in shapes if shape is not None}) > 1:
            named = ", ".join(f"{name!r}: {shape}" for name, shape in zip(self.head_names, shapes, strict=True))
            raise ValueError(f"The logits of these heads have no common shape ({named}); read those of each head.")
        logits = torch.cat(found)
        rows = [row for head in self._heads for row in head.rows]
        if rows == sorted(rows):
            return logits
        return logits[torch.tensor(rows, device=logits.device).argsort(stable=True)]

    def __len__(self) -> int:
        return len(self.head_outputs or ())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.head_outputs or ())

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return (self.head_outputs or [])[key]
        if key in self.keys() or key not in self.head_names:
            return dict(self.items())[key]
        return cast(list[Any], self.head_outputs)[self.head_names.index(key)]
