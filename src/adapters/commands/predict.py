"""`adapters predict`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from .output import Json, Quiet, note


def predict_command(
    run: Annotated[Path, typer.Argument(help="The output of `adapters train`.")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="A text; for pairs of texts, the option twice. Lists of words: with spaces."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Rows without labels.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file for the answers (JSON lines).")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows in a batch.")] = 64,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer with a trained adapter: for texts of your own, or for a file."""
    from ..checkpoints.files import atomically
    from ..runs import RunError
    from ..runs.using import Trained
    from .bars import bar

    if bool(text) == (file is not None):
        raise RunError("Give either --text (once for each column) or --file.")
    trained = Trained.load(run)
    rows = trained.rows_of_texts(text) if text else trained.rows(file, "test")
    with bar("predicting", len(rows), quiet or bool(text)) as watch:
        answers = trained.predict(rows, batch_size, watch)
    lines = [jsonlib.dumps(answer, ensure_ascii=False) for answer in answers]
    if output is not None:
        written = "".join(f"{line}\n" for line in lines)
        atomically(output, lambda temporary: temporary.write_text(written, encoding="utf-8"))
        note(f"{len(lines)} answers in {output}", quiet)
    elif json:
        typer.echo(jsonlib.dumps(answers, ensure_ascii=False, indent=2))
    else:
        for answer in answers:
            typer.echo("\t".join(map(str, answer.values())))
