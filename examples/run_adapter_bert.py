"""Adapters in the layers of BERT for a task of GLUE (Houlsby et al. 2019, arXiv:1902.00751).

    python examples/run_adapter_bert.py \\
        --casing bert-base-uncased --bottleneck_size 32 --non_linearity gelu --task mrpc --batch_size 32 --epochs 10 \\
        --max_seq_length 128 --learning_rate 3e-4 --warmup_ratio 0.1 --saved_models_dir saved_models

`--casing` is a name on the Hugging Face Hub or a local folder; `--data_dir` a folder with the files of the task, which
come from the Hub without it. All that `adapters train` writes is in `<saved_models_dir>/<task>`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub.utils.logging import set_verbosity_error
from transformers import AutoConfig

from adapters.commands.following import followed
from adapters.commands.output import show_facts
from adapters.runs import RunConfig, RunError
from adapters.runs.fitting import train


def main(
    casing: Annotated[str, typer.Option("--casing", help="The model: a name or a folder.")] = "bert-base-uncased",
    bottleneck_size: Annotated[int, typer.Option("--bottleneck_size", min=1, help="Units of each adapter.")] = 32,
    non_linearity: Annotated[str, typer.Option("--non_linearity", help="gelu, relu, swish …")] = "gelu",
    task: Annotated[str, typer.Option("--task", help="A task of GLUE or SuperGLUE.")] = "mrpc",
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Rows in a step.")] = 32,
    epochs: Annotated[float, typer.Option("--epochs", help="Rounds over the training file.")] = 10,
    max_seq_length: Annotated[int, typer.Option("--max_seq_length", help="Tokens of a text.")] = 128,
    learning_rate: Annotated[float, typer.Option("--learning_rate", help="The highest learning rate.")] = 3e-4,
    warmup_ratio: Annotated[float, typer.Option("--warmup_ratio", help="Share of steps in which it rises.")] = 0.1,
    saved_models_dir: Annotated[Path, typer.Option("--saved_models_dir", help="Output.")] = Path("saved_models"),
    data_dir: Annotated[Path | None, typer.Option("--data_dir", help="A folder with the files of the task.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 42,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove a former run.")] = False,
) -> None:
    """Train two adapters in each layer of a model."""
    set_verbosity_error()  # where there is no network, one line says so
    config = {
        "model": casing,
        "task.name": task.lower(),
        "task.data_dir": None if data_dir is None else str(data_dir),
        "task.max_length": max_seq_length,
        "adapter.config": f"double_seq_bn[reduction_factor={reduction(casing, bottleneck_size)},"
        f"non_linearity={non_linearity}]",
        "training.batch_size": batch_size,
        "training.epochs": epochs,
        "training.learning_rate": learning_rate,
        "training.warmup_ratio": warmup_ratio,
        "seed": seed,
        "output": str(saved_models_dir / task.lower()),
    }
    with followed(quiet=False) as watch:
        outcome = train(RunConfig.read(None, config), watch, resume, overwrite)
    show_facts(outcome.metrics, as_json=False)


def reduction(casing: str, bottleneck_size: int) -> int:
    """The hidden size of a model, divided by that of its adapters."""
    try:
        size = int(AutoConfig.from_pretrained(casing).hidden_size)
    except (OSError, ValueError):
        raise RunError(
            f"--casing {casing} is no folder with a model, and cannot be fetched from the Hugging Face Hub. Give a "
            "folder that from_pretrained reads, with --data_dir for the files of the task."
        ) from None
    if size % bottleneck_size:
        fitting = [str(each) for each in range(8, size) if size % each == 0]
        raise RunError(
            f"--bottleneck_size {bottleneck_size} is no divisor of the hidden size {size}; divisors are "
            f"{', '.join(fitting)}."
        )
    return size // bottleneck_size


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
