"""Words as tokens: which token each word begins with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..config import TaskSection
from ..rows import Rows
from .base import Kind, names_in, numbered


class WordKind(Kind):
    """A kind of task whose rows are lists of words."""

    columns = ("tokens",)

    @classmethod
    def found_labels(cls, task: TaskSection, rows: Rows) -> list[str]:
        """The labels that the task names, or those of the training rows."""
        values = [label for labels in rows.lists(task.label or cls.label_column) for label in labels]
        return list(task.labels or names_in(values))

    def numbers(self, labels: Sequence[Any], rows: Rows, line: int) -> list[int]:
        """The labels of one row as numbers."""
        one = Rows(rows.path, [{}] * len(labels), [rows.lines[line]] * len(labels))
        return numbered(labels, self.labels, one, self.label)

    def words(self, rows: Rows) -> list[list[str]]:
        """The words of each row."""
        return [[str(word) for word in words] for words in rows.lists(self.text_columns[0])]

    def of_words(self, words: Sequence[Sequence[str]]) -> tuple[Mapping[str, list[Any]], list[list[int]]]:
        """Tokens, and for each word the position of its first token; words that were cut off have none."""
        seen = self._seen({word for row in words for word in row})
        encoded = self.tokenized([[seen[word] for word in row] for row in words], is_split_into_words=True)
        starts = []
        for number in range(len(words)):
            found: dict[int, int] = {}
            for position, word in enumerate(encoded.word_ids(number)):  # type: ignore[attr-defined]
                if word is not None:
                    found.setdefault(word, position)
            starts.append([found[word] for word in sorted(found)])
        return dict(encoded), starts

    def _seen(self, words: Collection[str]) -> dict[str, str]:
        """Words as they are tokenized: those of which nothing would be left (invisible characters) are unknown ones."""
        if not words:
            return {}
        tokens = self.processor([[word] for word in words], is_split_into_words=True, add_special_tokens=False)
        unknown = self.processor.unk_token or "?"
        return {word: word if ids else unknown for word, ids in zip(words, tokens["input_ids"], strict=True)}
