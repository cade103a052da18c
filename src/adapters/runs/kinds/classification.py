"""Texts, or pairs of texts, with one label or with a score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torchmetrics.functional import f1_score, matthews_corrcoef, pearson_corrcoef, spearman_corrcoef

from ..config import TaskSection
from ..errors import RunError
from ..rows import Row, Rows
from ..tasks import TASKS
from .base import Kind, Prepared, by_row, names_in, numbered, probabilities


class Classification(Kind):
    """One label for each row."""

    head_type = "classification"
    counts = range(1, 3)

    @classmethod
    def found_labels(cls, task: TaskSection, rows: Rows) -> list[str]:
        """The labels that the task names, or those of the training rows."""
        return list(task.labels or names_in(rows.labels(task.label or cls.label_column)))

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Tokens of one text or of two, and the number of the label."""
        columns = dict(self.tokenized(*(rows.texts(name) for name in self.text_columns)))
        if is_labelled:
            columns["labels"] = self._labels(rows)
        return Prepared(rows, by_row(columns))

    def _labels(self, rows: Rows) -> list[Any]:
        return list(numbered(rows.labels(self.label), self.labels, rows, self.label))

    def add_head(self, model: Any, name: str) -> None:
        """A classification head with the labels' names."""
        model.add_classification_head(name, num_labels=len(self.labels), id2label=self.id2label())

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """Label and its probability. Shape of the outputs: (N, C)."""
        found = probabilities(np.asarray(outputs))
        chosen = found.argmax(-1)
        return [(self.labels[number], float(row[number])) for number, row in zip(chosen.tolist(), found, strict=True)]

    def shown(self, answer: Any) -> Row:
        """Label and probability."""
        return {"label": answer[0], "score": round(answer[1], 4)}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """Accuracy, and what the task's name says besides."""
        chosen = torch.as_tensor(np.asarray(outputs).argmax(-1))
        wanted = torch.tensor(self._labels(given.rows))
        return {name: _METRICS[name](chosen, wanted, len(self.labels)) for name in self.measures if name in _METRICS}

    @property
    def measures(self) -> tuple[str, ...]:
        """What the task's name says, and accuracy."""
        known = TASKS.get(self.task.name or "")
        names = known.metrics if known is not None and known.kind == self.task.kind else self.metrics
        return tuple(dict.fromkeys((*names, *self.metrics)))


class Regression(Classification):
    """A score for each row."""

    metrics = ("pearson", "spearman")

    @classmethod
    def found_labels(cls, task: TaskSection, rows: Rows) -> list[str]:
        """None."""
        return []

    def _labels(self, rows: Rows) -> list[Any]:
        found = []
        for line, value in enumerate(rows.column(self.label)):
            try:
                found.append(float(value))
            except (TypeError, ValueError):
                found.append(math.nan)
            if not math.isfinite(found[-1]):
                raise RunError(f"{rows.where(line)}: {self.label} is {value!r}; it should be a number.")
        return found

    def add_head(self, model: Any, name: str) -> None:
        """A classification head with one score."""
        model.add_classification_head(name, num_labels=1)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """Scores. Shape of the outputs: (N, 1)."""
        return [float(value) for value in np.asarray(outputs).reshape(-1)]

    def shown(self, answer: Any) -> Row:
        """The score."""
        return {"score": round(answer, 4)}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """Correlations with the scores: none where all are the same."""
        values, wanted = torch.as_tensor(np.asarray(outputs)).reshape(-1), torch.tensor(self._labels(given.rows))
        if torch.equal(values, values[:1].expand_as(values)) or torch.equal(wanted, wanted[:1].expand_as(wanted)):
            return {"pearson": 0.0, "spearman": 0.0}
        values, wanted = values.double(), wanted.double()
        return {
            "pearson": 100 * float(pearson_corrcoef(values, wanted)),
            "spearman": 100 * float(spearman_corrcoef(values, wanted)),
        }


def accuracy(chosen: Any, wanted: Any) -> float:
    """The share of labels that are right, in per cent."""
    return 100 * float((chosen == wanted).float().mean())


_METRICS = {
    "accuracy": lambda chosen, wanted, count: accuracy(chosen, wanted),
    "f1": lambda chosen, wanted, count: 100 * float(f1_score(chosen, wanted, "binary")),
    "mcc": lambda chosen, wanted, count: (
        100 * float(matthews_corrcoef(chosen, wanted, "multiclass", num_classes=count))
    ),
    "macro_f1": lambda chosen, wanted, count: (
        100 * float(f1_score(chosen, wanted, "multiclass", num_classes=count, average="macro"))
    ),
}
