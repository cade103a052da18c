"""`adapters evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Json, Place, Quiet, examples, show_facts

EXAMPLES = examples(
    "adapters evaluate runs/mrpc",
    "adapters evaluate runs/mrpc --split test",
    "adapters evaluate runs/mrpc --file mine.csv --json",
)
Run = Annotated[str, typer.Argument(help="The output of `adapters train`; or an adapter, with --model.")]
BaseModel = Annotated[
    str | None, typer.Option("--model", "-m", help="The model of an adapter; of a run, if it has moved.")
]
Columns = Annotated[
    str | None, typer.Option("--columns", help="For an adapter: the columns to read, with commas between them.")
]
Longest = Annotated[
    int | None, typer.Option("--max-length", min=4, help="For an adapter: tokens at which texts are cut off.")
]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Rows in a batch.")]


def evaluate_command(
    run: Run,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Labelled rows; by default the split's own.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="validation or test.")] = "validation",
    model: BaseModel = None,
    columns: Columns = None,
    max_length: Longest = None,
    hub: Place = None,
    batch_size: Batch = 64,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a trained adapter on a labelled file."""
    from .bars import bar
    from .trained import Loading, rows_in, trained_in

    trained = trained_in(run, Loading(model, columns, hub, max_length), quiet)
    rows = rows_in(trained, file, split)
    with bar("evaluating", len(rows), quiet) as watch:
        found = trained.evaluate(rows, batch_size, watch)
    show_facts(found, json)
