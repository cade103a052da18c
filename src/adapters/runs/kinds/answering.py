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


class QuestionAnswering(Kind):
    """Columns with a question and a context, and `answers`: {"text": [...], "answer_start": [...]}."""

    head_type = "question_answering"
    columns = ("question", "context")
    label_column = "answers"
    metrics = ("f1", "exact_match")
    label_names = ("start_positions", "end_positions")

    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """Long contexts give several features, which overlap by a quarter. Where there is no answer, it is token 0."""
        names = self.text_columns(rows)
        if len(names) != 2:
            raise RunError(f"Answering reads a question and a context, not {', '.join(names)}.")
        questions, contexts = (rows.texts(name) for name in names)
        length = self.max_length
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

    def _answers(self, rows: Rows, line: int) -> tuple[list[str], list[int]]:
        answers = rows.rows[line].get(self.label)
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
        begin, end = starts[0], starts[0] + len(texts[0])
        if context[begin:end] != texts[0]:
            raise RunError(f"{rows.where(line)}: at character {begin} of the context there is not {texts[0]!r}.")
        return begin, end

    def add_head(self, model: Any, name: str) -> None:
        """A question-answering head."""
        model.add_qa_head(name)

    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """The most probable span of each row. Shapes of the outputs: (N, T) twice, starts and ends."""
        starts, ends = np.asarray(outputs[0]), np.asarray(outputs[1])
        best: dict[int, tuple[float, str]] = {}
        for number, (row, places) in enumerate(given.notes):
            context = str(given.rows.rows[row][self.text_columns(given.rows)[1]])
            found = _best_span(starts[number], ends[number], places, context)
            if row not in best or found[0] > best[row][0]:
                best[row] = found
        return [best[row][1] for row in range(len(given.rows))]

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
    """Score and text of the best span of these tokens; no answer has the score of token 0."""
    best = (float(starts[0] + ends[0]), "")
    inside = [n for n, place in enumerate(places) if place is not None]
    for begin in sorted(inside, key=lambda n: -starts[n])[:_BEST]:
        for end in sorted(inside, key=lambda n: -ends[n])[:_BEST]:
            score = float(starts[begin] + ends[end])
            if begin <= end < begin + _LONGEST and score > best[0]:
                best = (score, context[places[begin][0] : places[end][1]])
    return best
