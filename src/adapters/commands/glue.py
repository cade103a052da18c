"""`adapters glue`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from . import completing
from .output import Json, Quiet, examples, note, write_json
from .train import Changes, assignments

EXAMPLES = examples(
    "adapters glue -m bert-base-uncased --data-dir glue -o runs/glue",
    'adapters glue -m model --data-dir glue -o runs/glue --task mrpc --task rte -a "double_seq_bn" --epochs 10',
    "adapters glue -m model --data-dir glue -o runs/glue --set training.batch_size=16 --set seed=1",
)


def glue_command(
    model: Annotated[str, typer.Option("--model", "-m", help="A folder, or a name on the Hub.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")],
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="A folder with a folder for each task; by default all come from the Hub."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Only this one; can be given several times.", autocompletion=completing.tasks),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", help='Such as "double_seq_bn".', autocompletion=completing.configurations),
    ] = None,
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
