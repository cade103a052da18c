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
from transformers import AutoConfig

from adapters.commands.following import followed
from adapters.commands.output import show_facts
from adapters.runs import RunConfig, RunError
from adapters.runs.fitting import train


def main(
    casing: Annotated[str, typer.Option("--casing", help="The model.")] = "bert-base-uncased",
    bottleneck_size: Annotated[int, typer.Option("--bottleneck_size", min=1, help="Units of each adapter.")] = 64,
    non_linearity: Annotated[str, typer.Option("--non_linearity", help="relu, gelu, swish …")] = "gelu",
    task: Annotated[str, typer.Option("--task", help="A task of GLUE.")] = "mrpc",
    batch_size: Annotated[int, typer.Option("--batch_size", help="Rows in a step.")] = 32,
    epochs: Annotated[float, typer.Option("--epochs", help="Rounds over the training file.")] = 10,
    max_seq_length: Annotated[int, typer.Option("--max_seq_length", help="Tokens of a text.")] = 128,
    learning_rate: Annotated[float, typer.Option("--learning_rate", help="The highest learning rate.")] = 3e-4,
    warmup_ratio: Annotated[float, typer.Option("--warmup_ratio", help="Share of steps in which it rises.")] = 0.1,
    saved_models_dir: Annotated[Path, typer.Option("--saved_models_dir", help="Output.")] = Path("saved_models"),
    data_dir: Annotated[Path | None, typer.Option("--data_dir", help="A folder with the files of the task.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove a former run.")] = False,
) -> None:
    """Train two adapters in each layer of a model."""
    size = AutoConfig.from_pretrained(casing).hidden_size
    if size % bottleneck_size:
        raise RunError(f"--bottleneck_size {bottleneck_size} is no divisor of the hidden size {size}.")
    config = {
        "model": casing,
        "task.name": task.lower(),
        "task.data_dir": None if data_dir is None else str(data_dir),
        "task.max_length": max_seq_length,
        "adapter.config": f"double_seq_bn[reduction_factor={size // bottleneck_size},non_linearity={non_linearity}]",
        "training.batch_size": batch_size,
        "training.epochs": epochs,
        "training.learning_rate": learning_rate,
        "training.warmup_ratio": warmup_ratio,
        "output": str(saved_models_dir / task.lower()),
    }
    with followed(quiet=False) as watch:
        outcome = train(RunConfig.read(None, config), watch, resume, overwrite)
    show_facts(outcome.metrics, as_json=False)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (RunError, OSError) as error:
        raise SystemExit(f"Error: {error}") from None
