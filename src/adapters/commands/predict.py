"""`adapters predict`."""

from __future__ import annotations

import csv
import io
import json as jsonlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .evaluate import BaseModel, Batch, Columns, Longest, Run
from .output import Json, Place, Quiet, examples, note, write_json

EXAMPLES = examples(
    'adapters predict runs/mrpc --text "He left." --text "He went away."',
    "adapters predict runs/mrpc --file mine.csv --output answers.csv",
    "cat lines.txt | adapters predict runs/reviews --file -",
)


def predict_command(
    run: Run,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="A text; for pairs of texts, the option twice. Lists of words: with spaces."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Rows without labels; - for the standard input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file for the answers: .jsonl, .json, .csv or .tsv.")
    ] = None,
    model: BaseModel = None,
    columns: Columns = None,
    max_length: Longest = None,
    hub: Place = None,
    batch_size: Batch = 64,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer with a trained adapter: for texts of your own, or for a file."""
    from ..checkpoints.files import atomically
    from ..runs import RunError
    from .bars import bar
    from .trained import Loading, rows_in, trained_in

    if bool(text) == (file is not None):
        raise RunError("Give either --text (once for each column) or --file.")
    if output is not None and output.suffix.lower() not in _WRITERS:
        raise RunError(f"{output} ends with {output.suffix!r}; written are {', '.join(_WRITERS)}.")
    if output is not None and output.is_dir():
        raise RunError(f"{output} is a folder; give a file in it.")
    trained = trained_in(run, Loading(model, columns, hub, max_length), quiet)
    rows = trained.rows_of_texts(text) if text else rows_in(trained, file, "test")
    with bar("predicting", len(rows), quiet or bool(text)) as watch:
        answers = trained.predict(rows, batch_size, watch)
    if output is not None:
        written = _WRITERS[output.suffix.lower()](answers)
        atomically(output, lambda temporary: temporary.write_text(written, encoding="utf-8", newline=""))
        note(f"{len(answers)} answers in {output}", quiet)
        if json:
            write_json({"rows": len(answers), "output": str(output)})
    elif json:
        write_json(answers)
    else:
        for answer in answers:
            typer.echo(_line(answer))


def _json(answers: Sequence[Mapping[str, Any]]) -> str:
    return jsonlib.dumps(answers, ensure_ascii=False, indent=2) + "\n"


def _json_lines(answers: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{_dumps(answer)}\n" for answer in answers)


def _commas(answers: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(answers[0])
    table.writerows(map(_cell, answer.values()) for answer in answers)
    return file.getvalue()


def _tabs(answers: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{line}\n" for line in ("\t".join(answers[0]), *map(_line, answers)))


def _line(answer: Mapping[str, Any]) -> str:
    """An answer in one line, with tabs between its columns; what would take several lines is written as JSON."""
    cells = map(_cell, answer.values())
    return "\t".join(_dumps(cell) if set(cell) & set("\t\n\r") else cell for cell in cells)


def _cell(value: Any) -> str:
    """A value in one cell: lists as JSON."""
    return _dumps(value) if isinstance(value, (list, dict)) else str(value)


def _dumps(value: Any) -> str:
    return jsonlib.dumps(value, ensure_ascii=False)


_WRITERS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _commas,
    ".tsv": _tabs,
}
