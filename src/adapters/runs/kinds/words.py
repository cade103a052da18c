"""Words as tokens: which token each word begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..rows import Rows
from .base import Kind


class WordKind(Kind):
    """A kind of task whose rows are lists of words."""

    columns = ("tokens",)

    def words(self, rows: Rows) -> list[list[str]]:
        """The words of each row."""
        return [[str(word) for word in words] for words in rows.lists(self.text_columns(rows)[0])]

    def of_words(self, words: Sequence[Sequence[str]]) -> tuple[Mapping[str, list[Any]], list[list[int]]]:
        """Tokens, and for each word the position of its first token; words that were cut off have none."""
        encoded = self.tokenized([list(row) for row in words], is_split_into_words=True)
        starts = []
        for number in range(len(words)):
            found: dict[int, int] = {}
            for position, word in enumerate(encoded.word_ids(number)):  # type: ignore[attr-defined]
                if word is not None:
                    found.setdefault(word, position)
            starts.append([found[word] for word in sorted(found)])
        return dict(encoded), starts
