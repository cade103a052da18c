"""Rows of data files: JSON lines, JSON, CSV, TSV, CoNLL-U and plain text."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .errors import RunError

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows of one file.

    Args:
        path: The file.
        rows: Its rows.
        lines: The number of the line on which each begins.
    """

    path: Path
    rows: Sequence[Row]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, number: int) -> str:
        """Where a row is, for messages."""
        return f"{self.path}, line {self.lines[number]}"

    def first(self, count: int | None) -> Rows:
        """The first rows; all if there is no count."""
        return self if count is None else Rows(self.path, self.rows[:count], self.lines[:count])

    def column(self, name: str) -> list[Any]:
        """The values of a column.

        Raises:
            RunError: a row has no such column, or nothing in it.
        """
        found = []
        for number, row in enumerate(self.rows):
            if row.get(name) is None:
                raise RunError(f"{self.where(number)} has no column {name!r}{_instead(name, row)}.")
            found.append(row[name])
        return found

    def texts(self, name: str) -> list[str]:
        """The values of a column that holds texts."""
        return [value if isinstance(value, str) else str(value) for value in self.column(name)]

    def lists(self, name: str) -> list[list[Any]]:
        """The values of a column that holds lists, as of tokens."""
        found = self.column(name)
        for number, value in enumerate(found):
            if not isinstance(value, list):
                raise RunError(f"{self.where(number)}: {name} is {value!r}; it should be a list.")
        return found


def read(path: Path) -> Rows:
    """The rows of a file. Its suffix says what it is: .jsonl, .json, .csv, .tsv, .conllu, .txt.

    Raises:
        RunError: it is not there, is none of these, has no rows, or cannot be read.
    """
    if not path.is_file():
        raise RunError(f"There is no file {path}{_neighbours(path)}.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise RunError(f"{path} ends with {path.suffix!r}; read are {', '.join(_READERS)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(reader(file, path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}.") from None
    if not found:
        raise RunError(f"{path} is empty.")
    return Rows(path, [row for _, row in found], [line for line, _ in found])


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, or None.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}{_neighbours(folder)}.")
    for stem in _STEMS[split]:
        for suffix in _READERS:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    return None


_STEMS = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val", "eval", "validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test", "test_matched"),
    "test_mismatched": ("test_mismatched",),
}


def _json_lines(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RunError(f"{path}, line {number} is no JSON: {error}.") from None
        if not isinstance(row, dict):
            raise RunError(f"{path}, line {number} holds {type(row).__name__} instead of an object with columns.")
        yield number, row


def _json(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = json.load(file)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RunError(f"{path} is no JSON: {error}.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RunError(f"{path} should hold a list of objects with columns.")
    yield from enumerate(rows, start=1)


class _Tabs(csv.excel_tab):
    """Tables of GLUE: tabs between columns, and quotation marks are what they are."""

    quoting = csv.QUOTE_NONE


def _table(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(file, dialect=_Tabs if path.suffix.lower() == ".tsv" else csv.excel)
    for row in reader:
        if None in row or None in row.values():
            raise RunError(
                f"{path}, line {reader.line_num} has another number of columns than the first line "
                f"({', '.join(reader.fieldnames or ())})."
            )
        yield reader.line_num, dict(row)


def _conllu(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    words: list[list[str]] = []
    start = 1
    for number, line in enumerate([*file, "\n"], start=1):
        fields = line.rstrip("\n").split("\t")
        if not line.strip():
            if words:
                yield start, _sentence(words, f"{path}, line {start}")
            words = []
        elif not line.startswith("#") and fields[0].isdigit():  # 3-4 and 3.1 are no words of the tree
            if len(fields) != 10:
                raise RunError(f"{path}, line {number} has {len(fields)} fields; CoNLL-U has 10.")
            start = start if words else number
            words.append(fields)


def _sentence(words: list[list[str]], where: str) -> Row:
    if not all(word[6].isdigit() for word in words):
        raise RunError(f"{where}: a word has no head (the seventh field).")
    columns = list(zip(*words, strict=True))
    heads = [int(head) for head in columns[6]]
    return {"tokens": list(columns[1]), "upos": list(columns[3]), "head": heads, "deprel": list(columns[7])}


def _lines(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    yield from ((number, {"text": line.rstrip("\n")}) for number, line in enumerate(file, start=1) if line.strip())


_READERS: dict[str, Callable[[TextIO, Path], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".conllu": _conllu,
    ".txt": _lines,
}


def _instead(name: str, row: Row) -> str:
    near = difflib.get_close_matches(name, row, n=1)
    return f"; it has {', '.join(map(str, row)) or 'none'}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f": {path.parent} does not exist"
    names = sorted(p.name for p in path.parent.iterdir())[:12]
    return f"; {path.parent} holds {', '.join(names) or 'nothing'}"
