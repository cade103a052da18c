"""Files of GLUE, SuperGLUE and SQuAD as they are handed out: nameless columns, broken lines, questions in passages."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import RunError
from .rows import Row, Rows, read, read_fields

_COLA = ("source", "label", "original", "sentence")
# Tasks whose files have lines with too few columns.
_BROKEN = ("qqp",)


def read_named(path: Path, name: str | None) -> Rows:
    """The rows of a file of a task that is known by name, with its columns.

    Args:
        path: The file.
        name: The task; with None, or one that is not known, the file is read as it is.

    Raises:
        RunError: it cannot be read.
    """
    if name == "cola" and path.suffix.lower() == ".tsv" and path.is_file():
        fields = read_fields(path)
        if len(fields[0][1]) == len(_COLA) and fields[0][1][1] in ("0", "1"):  # no line with the names of columns
            return _with(path, fields, _COLA)
    if name in _BROKEN and path.suffix.lower() == ".tsv" and path.is_file():
        fields = read_fields(path)
        names = tuple(fields[0][1])
        whole = [line for line in fields[1:] if len(line[1]) == len(names)]
        if whole and len(whole) < len(fields) - 1:
            warnings.warn(
                f"{path}: {len(fields) - 1 - len(whole)} lines have another number of columns than the first; they "
                "are left out.",
                stacklevel=2,
            )
            return _with(path, whole, names)
    return viewed(read(path), name)


def viewed(rows: Rows, name: str | None) -> Rows:
    """Rows of a task in the columns that it is learned from: several for one, where it has several questions."""
    view = _squad if "paragraphs" in rows.rows[0] else _VIEWS.get(name or "")
    if view is None:
        return rows
    found = []
    for number, (line, row) in enumerate(zip(rows.lines, rows.rows, strict=True)):
        try:
            found += [(line, own) for own in view(row)]
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise RunError(
                f"{rows.where(number)} is no row of {name or 'SQuAD'}: {type(error).__name__} {error}. There should "
                "be the columns of the original."
            ) from None
    return Rows(rows.path, [row for _, row in found], [line for line, _ in found])


def _with(path: Path, fields: list[tuple[int, list[str]]], names: tuple[str, ...]) -> Rows:
    for line, values in fields:
        if len(values) != len(names):
            raise RunError(f"{path}, line {line} has {len(values)} columns instead of {len(names)}.")
    rows = [dict(zip(names, values, strict=True)) for _, values in fields]
    return Rows(path, rows, [line for line, _ in fields])


def _squad(row: Row) -> Iterator[Row]:
    """Each question to each paragraph is a row; SQuAD 2 has questions without an answer."""
    for paragraph in row["paragraphs"]:
        for question in paragraph["qas"]:
            yield {"title": row.get("title"), "context": paragraph["context"], **question}


def _wic(row: Row) -> Iterator[Row]:
    """The word stands in front of the first sentence."""
    yield row if "first" in row else {**row, "first": f"{row['word']}: {row['sentence1']}"}


def _wsc(row: Row) -> Iterator[Row]:
    """The pronoun is marked in the text; whether it stands for the noun is asked."""
    if "marked" in row:
        yield row
        return
    target = row.get("target", row)
    words = str(row["text"]).split(" ")
    begin, count = int(target["span2_index"]), len(str(target["span2_text"]).split(" "))
    marked = [*words[:begin], "*", *words[begin : begin + count], "*", *words[begin + count :]]
    yield {**row, "marked": " ".join(marked), "noun": target["span1_text"]}


def _multirc(row: Row) -> Iterator[Row]:
    """Each answer is a row; those of one question have the same `group`."""
    passage = row.get("passage")
    if isinstance(passage, dict):
        for question in passage["questions"]:
            for answer in question["answers"]:
                group = f"{row['idx']}-{question['idx']}"
                texts = (passage["text"], question["question"], answer["text"])
                yield _judged(*texts, group, answer.get("label"))
    elif "group" in row:
        yield row
    else:
        group = f"{row['idx']['paragraph']}-{row['idx']['question']}"
        yield _judged(row["paragraph"], row["question"], row["answer"], group, row.get("label"))


def _judged(passage: str, question: str, answer: str, group: str, label: Any) -> Row:
    found = {"paragraph": re.sub(r"<[^>]+>", " ", passage), "question_answer": f"{question} {answer}", "group": group}
    return found if label is None or label == -1 else {**found, "label": int(label)}


def _record(row: Row) -> Iterator[Row]:
    """Each name in the passage is a row, put in the place of @placeholder; those of a query have the same `group`."""
    passage = row["passage"]
    if isinstance(passage, dict):
        text = passage["text"]
        names = dict.fromkeys(text[span["start"] : span["end"] + 1] for span in passage["entities"])
        for query in row["qas"]:
            answers = [answer["text"] for answer in query.get("answers", ())]
            yield from _filled(text, query["query"], names, answers, str(query["idx"]))
    elif "group" in row:
        yield row
    else:
        group = f"{row['idx']['passage']}-{row['idx']['query']}"
        yield from _filled(passage, row["query"], dict.fromkeys(row["entities"]), row.get("answers") or [], group)


def _filled(passage: str, query: str, names: dict[str, None], answers: list[str], group: str) -> Iterator[Row]:
    text = passage.replace("\n@highlight\n", ". ")
    for name in names:
        found = {"passage": text, "statement": query.replace("@placeholder", name), "group": group, "name": name}
        yield {**found, "answers": answers, "label": int(name in answers)} if answers else found


_VIEWS: dict[str, Callable[[Row], Iterator[Row]]] = {
    "wic": _wic,
    "wsc": _wsc,
    "multirc": _multirc,
    "record": _record,
}
