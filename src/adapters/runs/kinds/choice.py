"""The choice of one of several texts, as in COPA and SWAG: columns with what precedes, then one for each choice.

Shapes: B rows, N choices, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rows import Row, Rows
from .base import Feature, Kind, Prepared, numbered
from .classification import accuracy

# What COPA asks for, in words that follow the premise.
_QUESTIONS = {"cause": "because", "effect": "so"}


class MultipleChoice(Kind):
    """One of several texts for each row."""

    head_type = "multiple_choice"
    columns = ("premise", "choice1", "choice2")
    counts = range(3, 1 << 10)

    @property
    def _choices(self) -> list[str]:
        return (self.task.text or list(self.columns))[1:]

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """What precedes, with each choice."""
        texts = self.text_columns
        before = rows.texts(texts[0])
        if all(row.get("question") in _QUESTIONS for row in rows.rows):
            before = [f"{b} {_QUESTIONS[row['question']]}" for b, row in zip(before, rows.rows, strict=True)]
        encoded = [self.tokenized(before, rows.texts(choice)) for choice in texts[1:]]
        features: list[Feature] = [
            {key: [one[key][row] for one in encoded] for key in encoded[0]} for row in range(len(rows))
        ]
        if is_labelled:
            for feature, number in zip(features, self._labels(rows), strict=True):
                feature["labels"] = number
        return Prepared(rows, features)

    def _labels(self, rows: Rows) -> list[int]:
        return numbered(rows.column(self.label), self._choices, rows, self.label)

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """A batch of shape (B, N, T)."""
        names = [key for key in features[0] if key in self._input_names]
        flat = {key: [choice for feature in features for choice in feature[key]] for key in names}
        batch = {
            key: value.view(len(features), len(self._choices), -1)
            for key, value in self.processor.pad(flat, return_tensors="pt").items()
        }
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features])
        return batch

    def add_head(self, model: Any, name: str) -> None:
        """A multiple-choice head."""
        choices = dict(enumerate(self._choices))
        model.add_multiple_choice_head(name, num_choices=len(choices), id2label=choices)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """The number of a choice and its text. Shape of the outputs: (N, choices)."""
        chosen = np.asarray(outputs).argmax(-1).tolist()
        return [(number, str(row[self._choices[number]])) for number, row in zip(chosen, given.rows.rows, strict=True)]

    def shown(self, answer: Any) -> Row:
        """Number and text."""
        return {"label": answer[0], "text": answer[1]}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """Accuracy."""
        chosen = torch.as_tensor(np.asarray(outputs).argmax(-1))
        return {"accuracy": accuracy(chosen, torch.tensor(self._labels(given.rows)))}
