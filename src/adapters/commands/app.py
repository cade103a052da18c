"""The program `adapters`, with all its commands. A new command is a file beside this one, and a line here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from . import config_schema, evaluate, glue, hub, info, listing, of_models, predict, pull, push, train

# What is not read by a person gets no colours and no frames.
_MARKUP = "rich" if sys.stdout.isatty() and sys.stderr.isatty() else None

app = typer.Typer(
    name="adapters",
    help="Small trainable modules for pretrained Transformers: train them, use them, share them.",
    no_args_is_help=True,
    rich_markup_mode=_MARKUP,  # type: ignore[arg-type]
    pretty_exceptions_enable=False,
)
app.command("train")(train.train_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("predict")(predict.predict_command)
app.command("glue")(glue.glue_command)
app.command("config-schema")(config_schema.config_schema_command)
app.command("inspect")(of_models.inspect_command)
app.command("summary")(of_models.summary_command)
app.command("merge")(of_models.merge_command)
app.command("convert")(of_models.convert_command)
app.command("export")(of_models.export_command)
app.command("demo")(of_models.demo_command)
app.command("list")(listing.list_command)
app.command("info")(info.info_command)
app.command("pull")(pull.pull_command)
app.command("push")(push.push_command)
app.add_typer(hub.app, name="hub")


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the program, and end the process: with 0, with 1 if what was asked has failed, with 2 for a wrong input.

    Args:
        arguments: What stands behind the name of the program; by default what the process was called with.

    Raises:
        SystemExit: always.
    """
    _without_bars_elsewhere()
    try:
        app(arguments)
    except (ValueError, OSError, NotImplementedError, ImportError) as error:
        if os.environ.get("ADAPTERS_TRACEBACK"):
            raise
        typer.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None


def _without_bars_elsewhere() -> None:
    """Bars are for terminals. transformers and huggingface_hub look at these variables when they are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
