"""Tasks of SuperGLUE whose rows belong together: answers to one question, names for one gap.

Shapes: N rows, C labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torchmetrics.functional.text import squad

from ..rows import Rows
from .base import Prepared, probabilities
from .classification import Classification


class MultiRC(Classification):
    """Which of several answers to a question are right; any number of them may be."""

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """F1 over all answers (F1a), and the share of questions whose answers are all judged rightly."""
        chosen = np.asarray(outputs).argmax(-1)
        wanted = np.asarray(self._labels(given.rows))
        right = [bool((chosen[rows] == wanted[rows]).all()) for rows in groups(given.rows)]
        return super().measured(outputs, given) | {"exact_match": 100 * sum(right) / len(right)}

    @property
    def measures(self) -> tuple[str, ...]:
        """F1, exact match, accuracy."""
        return ("f1", "exact_match", "accuracy")


class ReCoRD(Classification):
    """Which of the names in a passage fills a gap: the most probable one."""

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """F1 over words and exact match of the chosen names, as SQuAD measures them."""
        scores = probabilities(np.asarray(outputs))[:, 1]
        rows = given.rows.rows
        predicted: list[Any] = []
        wanted: list[Any] = []
        for number, own in enumerate(groups(given.rows)):
            best = max(own, key=lambda row: scores[row])
            answers = list(rows[best]["answers"])
            predicted.append({"prediction_text": rows[best]["name"], "id": str(number)})
            wanted.append({"answers": {"text": answers, "answer_start": [0] * len(answers)}, "id": str(number)})
        found = squad(predicted, wanted)
        return {"f1": float(found["f1"]), "exact_match": float(found["exact_match"])}

    @property
    def measures(self) -> tuple[str, ...]:
        """F1, exact match."""
        return ("f1", "exact_match")


def groups(rows: Rows) -> list[list[int]]:
    """The numbers of the rows of each group."""
    found: dict[str, list[int]] = {}
    for number, group in enumerate(rows.column("group")):
        found.setdefault(str(group), []).append(number)
    return list(found.values())
