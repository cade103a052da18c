"""`adapters evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Json, Quiet, show_facts


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="The output of `adapters train`.")],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Labelled rows; by default the split's own.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "validation",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows in a batch.")] = 64,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a trained adapter on a labelled file."""
    from ..runs.using import Trained
    from .bars import bar

    trained = Trained.load(run)
    rows = trained.rows(file, split)
    with bar("evaluating", len(rows), quiet) as watch:
        found = trained.evaluate(rows, batch_size, watch)
    show_facts(found, json)
