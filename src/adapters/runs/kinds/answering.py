"""Answers that stand in a text, as in SQuAD.

Shapes: N features, T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torchmetrics.functional.text import squad

from ..errors import RunError
from ..rows import Row, Rows
from .base import Kind, Prepared, by_row

_LONGEST = 30
_BEST = 20
_SHORTEST = 12


class QuestionAnswering(Kind):
    """Columns with a question and a context, and `answers`: {"text": [...], "answer_start": [...]}.

    A list with a dictionary for each answer, as in the files of SQuAD, will do as well.
    """

    head_type = "question_answering"
    columns = ("question", "context")
    counts = range(2, 3)
    label_column = "answers"
    metrics = ("f1", "exact_match")
    label_names = ("start_positions", "end_positions")
    reads = 2
    longest = 384

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Long contexts give several features, which overlap by a quarter. Where there is no answer, it is token 0."""
        names = self.text_columns
        length = self.max_length
        if length < _SHORTEST:
            raise RunError(f"task.max_length is {length}; questions with contexts need {_SHORTEST} or more.")
        questions, contexts = self._cut(rows.texts(names[0]), length // 3), rows.texts(names[1])
        encoded = self.processor(
            questions,
            contexts,
            truncation="only_second",
            max_length=length,
            stride=length // 4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        columns = {key: value for key, value in encoded.items() if key in self._input_names}
        rows_of, offsets = encoded["overflow_to_sample_mapping"], encoded["offset_mapping"]
        places = []
        for number, row in enumerate(rows_of):
            of_context = [part == 1 for part in encoded.sequence_ids(number)]
            places.append((row, [pair if own else None for pair, own in zip(offsets[number], of_context, strict=True)]))
        if is_labelled:
            wanted = [self._span(rows, row, contexts[row]) for row in range(len(rows))]
            spans = [_positions(wanted[row], places[number][1]) for number, row in enumerate(rows_of)]
            columns["start_positions"], columns["end_positions"] = map(list, zip(*spans, strict=True))
        return Prepared(rows, by_row(columns), places)

    def _cut(self, texts: list[str], length: int) -> list[str]:
        """Texts cut off at so many tokens: of a context there must be something left beside its question."""
        options = {"add_special_tokens": False, "truncation": True, "return_offsets_mapping": True}
        places = self.processor(texts, max_length=length, **options)["offset_mapping"]
        return [text[: own[-1][1]] if len(own) == length else text for text, own in zip(texts, places, strict=True)]

    def _answers(self, rows: Rows, line: int) -> tuple[list[str], list[int]]:
        answers = rows.rows[line].get(self.label)
        if isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
            answers = {key: [one.get(key) for one in answers] for key in ("text", "answer_start")}
        if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
            raise RunError(
                f"{rows.where(line)}: {self.label} is {answers!r}; it should be "
                '{"text": ["…"], "answer_start": [0]}, both empty if there is no answer.'
            )
        return list(answers["text"]), list(answers["answer_start"])

    def _span(self, rows: Rows, line: int, context: str) -> tuple[int, int] | None:
        """The first character of the first answer, and the one behind its last."""
        texts, starts = self._answers(rows, line)
        if not texts:
            return None
        begin, text = starts[0], texts[0]
        if not isinstance(begin, int) or not isinstance(text, str) or context[begin : begin + len(text)] != text:
            raise RunError(f"{rows.where(line)}: at character {begin} of the context there is not {text!r}.")
        begin += len(text) - len(text.lstrip())  # there is no token for a space
        return begin, begin + len(text.strip())

    def add_head(self, model: Any, name: str) -> None:
        """A question-answering head."""
        model.add_qa_head(name)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """The most probable span of each row. Shapes of the outputs: (N, T) twice, starts and ends.

        There is no answer where each part of the context says so, more than any says that it holds one: a part without
        the answer says nothing of the others.
        """
        starts, ends = np.asarray(outputs[0]), np.asarray(outputs[1])
        best = [(-np.inf, "")] * len(given.rows)
        none = [np.inf] * len(given.rows)
        for number, (row, places) in enumerate(given.notes):
            context = str(given.rows.rows[row][self.text_columns[1]])
            best[row] = max(best[row], _best_span(starts[number], ends[number], places, context))
            none[row] = min(none[row], float(starts[number][0] + ends[number][0]))
        return [text if score > least else "" for (score, text), least in zip(best, none, strict=True)]

    def shown(self, answer: Any) -> Row:
        """The answer."""
        return {"answer": answer}

    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """F1 over words and exact matches, as SQuAD measures them."""
        predicted: list[Any] = []
        wanted: list[Any] = []
        for row, answer in enumerate(self.answers(outputs, given)):
            texts, starts = self._answers(given.rows, row)
            predicted.append({"prediction_text": answer, "id": str(row)})
            wanted.append({"answers": {"text": texts or [""], "answer_start": starts or [0]}, "id": str(row)})
        found = squad(predicted, wanted)
        return {"f1": float(found["f1"]), "exact_match": float(found["exact_match"])}


def _positions(span: tuple[int, int] | None, places: list[Any]) -> tuple[int, int]:
    """First and last token of a span, (0, 0) if these tokens do not hold all of it."""
    if span is None:
        return 0, 0
    begin = [n for n, place in enumerate(places) if place is not None and place[0] <= span[0] < place[1]]
    end = [n for n, place in enumerate(places) if place is not None and place[0] < span[1] <= place[1]]
    return (begin[0], end[0]) if begin and end else (0, 0)


def _best_span(starts: Any, ends: Any, places: list[Any], context: str) -> tuple[float, str]:
    """Score and text of the best span of these tokens."""
    best = (-np.inf, "")
    inside = [n for n, place in enumerate(places) if place is not None]
    for begin in sorted(inside, key=lambda n: -starts[n])[:_BEST]:
        for end in sorted(inside, key=lambda n: -ends[n])[:_BEST]:
            score = float(starts[begin] + ends[end])
            if begin <= end < begin + _LONGEST and score > best[0]:
                best = (score, context[places[begin][0] : places[end][1]])
    return best
