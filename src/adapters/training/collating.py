"""Batches whose rows say which adapter they go through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import default_data_collator

COLUMN = "adapter_names"


class AdapterNamesCollator:
    """Lets the rows of a data set name their adapters in a column `adapter_names`, each with the head of that name.

    >>> rows = [{"input_ids": …, "labels": 1, "adapter_names": "sentiment"}, {…, "adapter_names": "topics"}]
    >>> model.train_adapter(MultiTask("sentiment", "topics"))
    >>> arguments = TrainingArguments("runs")
    >>> AdapterTrainer(model, arguments, data_collator=AdapterNamesCollator(), train_dataset=rows).train()

    For the `Trainer` of transformers set `remove_unused_columns=False`: it would remove the column without a word.

    A row whose name is None goes through the base model alone.

    Args:
        collator: Makes batches of all else; by default transformers' own, which pads nothing. For texts of different
            lengths give a `DataCollatorWithPadding`.
    """

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]] = default_data_collator) -> None:
        self.collator = collator

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        """A batch of rows, with a list of names.

        Raises:
            ValueError: some rows have the column and others do not.
        """
        rows = [dict(row) for row in features]
        named = [COLUMN in row for row in rows]
        if not any(named):
            return self.collator(rows)
        if not all(named):
            raise ValueError(
                f"Of {len(rows)} rows of a batch {sum(named)} have a column {COLUMN!r}: all or none have it."
            )
        names = [row.pop(COLUMN) for row in rows]
        return {**self.collator(rows), COLUMN: names}
