"""The head of each word and the relation to it: trees as of Universal Dependencies.

Shapes: N rows, W words, C relations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import RunError
from ..rows import Row, Rows
from .base import IGNORED, Prepared, by_row
from .words import WordKind


class DependencyParsing(WordKind):
    """A tree for each row: columns `head` (0 for the root, else the number of a word from 1 on) and `deprel`."""

    head_type = "dependency_parsing"
    label_column = "deprel"
    metrics = ("las", "uas")
    label_names = ("labels_arcs", "labels_rels", "word_starts")
    reads = 2
    heads = "head"

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Tokens, where words start, and their heads and relations."""
        words = self.words(rows)
        columns, starts = self.of_words(words)
        columns = dict(columns)
        # The head reads words from the second position on; the last position ends the last word.
        columns["word_starts"] = [
            _at([0, *places, sum(mask) - 1], len(mask))  # the last token ends a text
            for places, mask in zip(starts, columns["attention_mask"], strict=True)
        ]
        if is_labelled:
            trees = zip(*self._trees(rows, words), strict=True)
            kept = [_kept(*tree, len(places)) for tree, places in zip(trees, starts, strict=True)]
            lengths = list(map(len, columns["input_ids"]))
            for part, name in enumerate(self.label_names[:2]):
                values = [[pair[part] for pair in pairs] for pairs in kept]
                columns[name] = [_at(own, length, IGNORED) for own, length in zip(values, lengths, strict=True)]
        return Prepared(rows, by_row(columns), starts)

    def _trees(self, rows: Rows, words: list[list[str]]) -> tuple[list[list[int]], list[list[int]]]:
        arcs, relations = rows.lists(self.heads), rows.lists(self.label)
        numbers = []
        for line, (own, heads, labels) in enumerate(zip(words, arcs, relations, strict=True)):
            if not len(own) == len(heads) == len(labels):
                raise RunError(
                    f"{rows.where(line)} has {len(own)} words, {len(heads)} heads and {len(labels)} relations."
                )
            if not all(isinstance(head, int) and 0 <= head <= len(own) for head in heads):
                raise RunError(f"{rows.where(line)}: a head is none of 0 to {len(own)}.")
            numbers.append(self.numbers(labels, rows, line))
        return arcs, numbers

    def fill_of(self, key: str) -> int:
        """Starts of words are filled up with zeros."""
        return 0 if key == "word_starts" else IGNORED

    def add_head(self, model: Any, name: str) -> None:
        """A parsing head with the relations' names."""
        model.add_dependency_parsing_head(name, num_labels=len(self.labels), id2label=self.id2label())

    def kept(self, values: Any, labels: Any) -> Any:
        """The best head of each word, and its relation, of what takes the square of the length for each relation.

        Shapes: relations (B, W, W + 1, C) and heads (B, W, W + 1) to (B, W) twice, heads and relations.
        """
        relations, arcs = values[:2]
        last = labels[2].argmax(-1) - 1  # behind the last word there is the position where it ends
        beyond = torch.arange(arcs.shape[-1], device=arcs.device) > last[:, None, None]
        heads = arcs.masked_fill(beyond, -torch.inf).argmax(-1)
        chosen = relations.gather(2, heads[:, :, None, None].expand(-1, -1, 1, relations.shape[-1]))
        return heads, chosen.squeeze(2).argmax(-1)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """Head and relation of each word. Shapes of the outputs: (N, W) twice."""
        heads, relations = (np.asarray(part).astype(int).tolist() for part in outputs)
        found = []
        for row, places in enumerate(given.notes):
            count = len(places)
            found.append((heads[row][:count], [self.labels[number] for number in relations[row][:count]]))
        return found

    def shown(self, answer: Any) -> Row:
        """Heads and relations."""
        return {self.heads: answer[0], self.label: answer[1]}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """Shares of words with the right head (UAS), and with the right relation too (LAS)."""
        words = self.words(given.rows)
        arcs, relations = self._trees(given.rows, words)
        total = attached = labelled = 0
        for (heads, kinds), true_heads, true_kinds in zip(self.answers(outputs, given), arcs, relations, strict=True):
            total += len(true_heads)
            for head, kind, true_head, true_kind in zip(heads, kinds, true_heads, true_kinds, strict=False):
                attached += head == true_head
                labelled += head == true_head and kind == self.labels[true_kind]
        return {"uas": 100 * attached / total, "las": 100 * labelled / total}


def _kept(heads: list[int], relations: list[int], count: int) -> list[tuple[int, int]]:
    """Heads and relations of the words that were not cut off; where the head was, there is no label."""
    pairs = list(zip(heads, relations, strict=True))[:count]
    return [pair if pair[0] <= count else (IGNORED, IGNORED) for pair in pairs]


def _at(values: list[int], length: int, fill: int = 0) -> list[int]:
    return [*values, *[fill] * (length - len(values))][:length]
