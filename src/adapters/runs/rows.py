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
            if name not in row:
                raise RunError(f"{self.where(number)} has no column {name!r}{_instead(name, row, self.path)}.")
            if row[name] is None:
                raise RunError(f"{self.where(number)} has nothing in column {name!r}.")
            found.append(row[name])
        return found

    def texts(self, name: str) -> list[str]:
        """The values of a column that holds texts."""
        found = self.column(name)
        for number, value in enumerate(found):
            if isinstance(value, (list, dict)):
                raise RunError(f"{self.where(number)}: {name} is {value!r:.60}; it should be a text.")
        return [value if isinstance(value, str) else str(value) for value in found]

    def labels(self, name: str) -> list[str | int]:
        """The values of a column that holds labels: texts, whole numbers, true and false (which Python counts as such).

        Raises:
            RunError: a value is none of these, or empty.
        """
        found: list[str | int] = []
        for number, value in enumerate(self.column(name)):
            if isinstance(value, float) and value.is_integer():
                found.append(int(value))
            elif isinstance(value, (str, int)) and value != "":
                found.append(value)
            else:
                hint = "; numbers with a fraction are learned with task.kind regression" * isinstance(value, float)
                raise RunError(f"{self.where(number)}: {name} is {value!r:.60}; it should be one label{hint}.")
        return found

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
    if path.is_dir():
        raise RunError(f"{path} is a folder; give a file in it.")
    if not path.is_file():
        raise RunError(f"There is no file {path}{_neighbours(path)}.")
    if path.suffix.lower() not in _READERS:
        raise RunError(f"{path} ends with {path.suffix!r}; read are {', '.join(_READERS)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return parsed(file, path)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None


def parsed(file: TextIO, path: Path) -> Rows:
    """The rows of an open file.

    Args:
        file: The file.
        path: Its name, whose suffix says what it is.

    Raises:
        RunError: it is none that can be read, or has no rows.
    """
    try:
        found = list(_READERS[path.suffix.lower()](file, path))
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x}"
        raise RunError(f"{path} is no text in UTF-8 ({byte}); iconv -t utf-8 makes it one.") from None
    except csv.Error as error:
        raise RunError(f"{path} cannot be read: {error}.") from None
    if not found:
        header = " but for its first line, the names of columns" if path.suffix.lower() in (".csv", ".tsv") else ""
        raise RunError(f"{path} is empty{header}.")
    return Rows(path, [row for _, row in found], [line for line, _ in found])


def read_fields(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a table with tabs between its columns, with their numbers, whatever the first one says.

    Raises:
        RunError: it has no lines, or cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, dialect=_Tabs)
            found = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}.") from None
    if not found:
        raise RunError(f"{path} is empty.")
    return found


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, or None.

    Raises:
        RunError: there is no such folder, or no such split.
    """
    if split not in _STEMS:
        raise RunError(f"There is no split {split!r}; there are {', '.join(_STEMS)}.")
    if folder.is_file():
        raise RunError(f"{folder} is a file; give its folder, or give the files one by one.")
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}{_neighbours(folder)}.")
    for stem in _STEMS[split]:
        for suffix in _READERS:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    return None


def split_folder(folder: Path, split: str) -> Path | None:
    """The folder of a split in a folder, as of images, or None."""
    return next((folder / stem for stem in _STEMS.get(split, ()) if (folder / stem).is_dir()), None)


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
            row = json.loads(line, parse_constant=_no_number)
        except (json.JSONDecodeError, RecursionError) as error:
            at = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
            raise RunError(f"{path}, line {number} is no JSON: {at}.") from None
        except RunError as error:
            raise RunError(f"{path}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise RunError(f"{path}, line {number} holds {type(row).__name__} instead of an object with columns.")
        yield number, row


def _no_number(name: str) -> Any:
    raise RunError(f"{name} is no number; leave such rows out.")


def _json(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = json.load(file, parse_constant=_no_number)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RunError(f"{path} is no JSON: {error}.") from None
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    if isinstance(rows, dict):  # SQuAD has its version beside them
        rows = rows.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RunError(f"{path} should hold a list of objects with columns, or one such list named data.")
    yield from enumerate(rows, start=1)


_LONGEST = 1 << 24  # characters in a field


class _Commas(csv.excel):
    """Tables whose quotation marks must end, so that none takes in all rows below it."""

    strict = True


class _Tabs(csv.excel_tab):
    """Tables of GLUE: tabs between columns, and quotation marks are what they are."""

    quoting = csv.QUOTE_NONE


def _table(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(_LONGEST)
    reader = csv.DictReader(file, dialect=_Tabs if path.suffix.lower() == ".tsv" else _Commas)
    names = reader.fieldnames or ()
    if len(set(names)) < len(names):
        raise RunError(f"{path} has two columns of one name: {', '.join(names)}.")
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


def _instead(name: str, row: Row, path: Path) -> str:
    there = ", ".join(map(str, row)) or "none"
    is_table = path.suffix.lower() in (".csv", ".tsv")
    if is_table and len(row) == 1:
        return f"; its first line names {there:.200} alone; between columns there are commas in .csv and tabs in .tsv"
    near = difflib.get_close_matches(name, row, n=1)
    if near:
        return f"; it has {there} (did you mean {near[0]!r}?)"
    return f"; its first line names {there:.200}" if is_table else f"; it has {there}"


def _neighbours(path: Path) -> str:
    parent = path.absolute().parent
    if not parent.is_dir():
        return f": {parent} does not exist"
    names = sorted(p.name for p in parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f"; {parent} holds {', '.join(names[:12]) or 'nothing'}{' …' if len(names) > 12 else ''}"
