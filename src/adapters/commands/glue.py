"""`adapters glue`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import Json, Quiet, note, write_json
from .train import Changes, assignments


def glue_command(
    model: Annotated[str, typer.Option("--model", "-m", help="A folder, or a name on the Hub.")],
    data_dir: Annotated[Path, typer.Option("--data-dir", help="A folder with a folder for each task.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")],
    task: Annotated[list[str] | None, typer.Option("--task", help="Only this one; can be given several times.")] = None,
    adapter: Annotated[str | None, typer.Option("--adapter", "-a", help='Such as "double_seq_bn".')] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Rounds over the training files.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="The highest learning rate.")] = None,
    changes: Changes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train and measure all tasks of GLUE that have data. When stopped, it goes on where it was."""
    from ..runs.glue import COLUMNS, run_glue
    from .following import followed

    settings: dict[str, Any] = {
        "model": model,
        "adapter.config": adapter,
        "training.epochs": epochs,
        "training.learning_rate": learning_rate,
        **assignments(changes),
    }
    with ExitStack() as stack:

        def watch(name: str) -> Any:
            stack.pop_all().close()  # the bar of the former task
            note(name, quiet)
            return stack.enter_context(followed(quiet))

        result = run_glue(settings, data_dir, output, task, watch)
    for name in result.missing:
        note(f"{name} has no data in {data_dir}: left out.", quiet)
    row = {**result.scores, "Total": result.total}
    if json:
        write_json(
            {
                "scores": row,
                "beside": result.beside,
                "missing": result.missing,
                "files": [str(path) for path in result.files],
            }
        )
        return
    typer.echo(markdown(row))
    for name, value in result.beside.items():
        note(f"{name} is no column of the table: {value:.1f}", quiet)
    measured = sum(value is not None for value in result.scores.values())
    if measured < len(COLUMNS):
        note(f"Total is the mean of {measured} of {len(COLUMNS)} columns.", quiet)
    if result.files:
        note(f"{len(result.files)} files for a submission in {result.files[0].parent}", quiet)


def markdown(row: Mapping[str, float | None]) -> str:
    """A table with one row, as it is put into a README."""
    values = ["–" if value is None else f"{value:.1f}" for value in row.values()]
    lines = (list(row), [":---:"] * len(row), values)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
