"""`adapters train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import completing
from .output import Json, Quiet, examples, note, show_facts, without_loading

EXAMPLES = examples(
    "adapters train -m bert-base-uncased --task mrpc --data-dir mrpc -o runs/mrpc",
    "adapters train run.yaml --epochs 5 --set training.early_stopping=2",
    "adapters train --resume -o runs/mrpc",
)

Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of the configuration, such as training.warmup_ratio=0.1.",
        autocompletion=completing.keys,
    ),
]
_Config = Annotated[Path | None, typer.Argument(help="A YAML file with the run; flags change what it says.")]
_Text = Annotated[str | None, typer.Option("--text", help="The columns to read, with commas between them.")]


def train_command(
    config: _Config = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A folder, or a name on the Hub.")] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="A task of GLUE or SuperGLUE, such as mrpc.", autocompletion=completing.tasks),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", help="classification, regression, tagging, causal_lm …", autocompletion=completing.kinds
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="A folder with train, validation and test files.")
    ] = None,
    train: Annotated[Path | None, typer.Option("--train", help="The training file.")] = None,
    validation: Annotated[Path | None, typer.Option("--validation", help="The development file.")] = None,
    text: _Text = None,
    label: Annotated[str | None, typer.Option("--label", help="The column to learn.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Tokens at which texts are cut off.")] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter", "-a", help='Such as "seq_bn" or "lora[r=16]".', autocompletion=completing.configurations
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The name of the adapter.")] = None,
    under: Annotated[list[str] | None, typer.Option("--under", help="An adapter to stack below it.")] = None,
    fuse: Annotated[list[str] | None, typer.Option("--fuse", help="An adapter to fuse with others.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Rounds over the training file.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Rows in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="The highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder to write everything to.")] = None,
    changes: Changes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run has stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, and remove a former run.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an adapter from a data file."""
    from ..runs import RunConfig, RunError
    from .following import followed

    flags: dict[str, Any] = {
        "model": model,
        "task.name": task,
        "task.kind": kind,
        "task.data_dir": _text(data_dir),
        "task.train": _text(train),
        "task.validation": _text(validation),
        "task.text": None if text is None else [column.strip() for column in text.split(",")],
        "task.label": label,
        "task.max_length": max_length,
        "adapter.config": adapter,
        "adapter.name": name,
        "adapter.under": under or None,
        "adapter.fuse": fuse or None,
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "seed": seed,
        "output": _text(output),
    }
    given = flags | assignments(changes)
    if resume and config is None and output is not None and (output / "run.yaml").is_file():
        config = output / "run.yaml"  # all that was said before need not be said again
    if resume and config is None and model is None:
        raise RunError(f"{output or 'The output'} holds no run to go on with (no run.yaml).")
    read = RunConfig.read(config, given)
    try:
        with followed(quiet) as watch:
            from ..runs.fitting import train as run

            without_loading(quiet)
            outcome = run(read, watch, resume, overwrite)
    except KeyboardInterrupt:
        note(f"Interrupted. It goes on with: adapters train --resume --output {read.output}", quiet)
        raise typer.Exit(130) from None
    show_facts(outcome.metrics, json)
    texts = " --text …" * len(outcome.config.task.text or ())
    again = "" if json else f" Try it: adapters predict {read.output}{texts}"
    note(f"Written to {outcome.path}.{again}", quiet)


def assignments(changes: list[str] | None) -> dict[str, Any]:
    """What `--set key=value` says; values are read as YAML.

    Raises:
        RunError: there is no "=", or what is behind it cannot be read.
    """
    import yaml

    from ..runs import RunError
    from ..runs.config import NULL, yaml_problem

    found = {}
    for change in changes or ():
        key, separator, value = change.partition("=")
        if not separator:
            raise RunError(f"--set {change}: give a key and a value, such as --set training.epochs=5.")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RunError(f"--set {change}: the value is no YAML ({yaml_problem(error)}).") from None
        found[key.strip()] = NULL if read is None else read
    return found


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
