"""A label for each word: named entities, parts of speech.

Shapes: N rows, T tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import RunError
from ..rows import Row, Rows
from .base import IGNORED, Prepared, by_row
from .classification import accuracy
from .words import WordKind


class Tagging(WordKind):
    """A label for the first token of each word; others have none."""

    head_type = "tagging"
    label_column = "ner_tags"
    metrics = ("f1", "accuracy")

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Tokens, and the label of each word at its first token."""
        words = self.words(rows)
        columns, starts = self.of_words(words)
        columns = dict(columns)
        if is_labelled:
            wanted = self._labels(rows, words)
            columns["labels"] = [
                _at_starts(labels, places, len(ids))
                for labels, places, ids in zip(wanted, starts, columns["input_ids"], strict=True)
            ]
        return Prepared(rows, by_row(columns), starts)

    def _labels(self, rows: Rows, words: Sequence[Sequence[str]]) -> list[list[int]]:
        found = []
        for line, (labels, own) in enumerate(zip(rows.lists(self.label), words, strict=True)):
            if len(labels) != len(own):
                raise RunError(f"{rows.where(line)} has {len(own)} words and {len(labels)} labels ({self.label}).")
            found.append(self.numbers(labels, rows, line))
        return found

    @property
    def measures(self) -> tuple[str, ...]:
        """F1 of spans only where labels are spans."""
        return self.metrics if any(label.startswith(("B-", "I-")) for label in self.labels) else ("accuracy",)

    def add_head(self, model: Any, name: str) -> None:
        """A tagging head with the labels' names."""
        model.add_tagging_head(name, num_labels=len(self.labels), id2label=self.id2label())

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """The label of each word. Shape of the outputs: (N, T, C)."""
        chosen = np.asarray(outputs).argmax(-1)
        return [[self.labels[row[place]] for place in places] for row, places in zip(chosen, given.notes, strict=True)]

    def shown(self, answer: Any) -> Row:
        """The labels."""
        return {self.label: answer}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """F1 of spans, if labels are B-… or I-…, and the share of words that have the right label."""
        words = self.words(given.rows)
        wanted = [[self.labels[n] for n in row] for row in self._labels(given.rows, words)]
        # Words that were cut off count as ones without a label.
        chosen = [
            [*row, *["O"] * (len(own) - len(row))] for row, own in zip(self.answers(outputs, given), words, strict=True)
        ]
        pairs = [pair for a, b in zip(chosen, wanted, strict=True) for pair in zip(a, b, strict=True)]
        right = torch.tensor([a == b for a, b in pairs], dtype=torch.float)
        share = accuracy(right, torch.ones_like(right))
        if "f1" not in self.measures:
            return {"accuracy": share}
        return {"f1": span_f1(chosen, wanted), "accuracy": share}


def _at_starts(labels: Sequence[int], places: Sequence[int], length: int) -> list[int]:
    found = [IGNORED] * length
    for place, label in zip(places, labels, strict=False):
        found[place] = label
    return found


def spans(labels: Sequence[str]) -> set[tuple[int, int, str]]:
    """The spans in labels B-…, I-…: begin, end, and what they are. An I-… that continues nothing begins a span.

    The end may have a letter of its own (E or L), and so may a span of one word (S or U).
    """
    found: set[tuple[int, int, str]] = set()
    begin, kind = 0, ""
    for place, label in enumerate([*labels, "O"]):
        prefix, _, of = label.partition("-")
        if kind and not (prefix in _WITHIN and of == kind):
            found.add((begin, place, kind))
            kind = ""
        if not kind and prefix in (*_FIRST, *_WITHIN):
            begin, kind = place, of
        if kind and prefix in _LAST:
            found.add((begin, place + 1, kind))
            kind = ""
    return found


_FIRST, _WITHIN, _LAST = ("B", "S", "U"), ("I", "E", "L"), ("E", "L", "S", "U")


def span_f1(chosen: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    """F1 of spans that are found exactly, over all rows, in per cent."""
    found = [(spans(a), spans(b)) for a, b in zip(chosen, wanted, strict=True)]
    both = sum(len(a & b) for a, b in found)
    total = sum(len(a) + len(b) for a, b in found)
    return 200 * both / total if total else 100.0
