"""The program `adapters`, with all its commands. A new command is a file beside this one, and a line here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

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


def _version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"adapters {version('adapters')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version, and end.")
    ] = False,
) -> None:
    """Small trainable modules for pretrained Transformers: train them, use them, share them."""


app.command("train", epilog=train.EXAMPLES)(train.train_command)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate_command)
app.command("predict", epilog=predict.EXAMPLES)(predict.predict_command)
app.command("glue", epilog=glue.EXAMPLES)(glue.glue_command)
app.command("config-schema", epilog=config_schema.EXAMPLES)(config_schema.config_schema_command)
app.command("inspect", epilog=of_models.INSPECT)(of_models.inspect_command)
app.command("summary", epilog=of_models.SUMMARY)(of_models.summary_command)
app.command("merge", epilog=of_models.MERGE)(of_models.merge_command)
app.command("convert", epilog=of_models.CONVERT)(of_models.convert_command)
app.command("export", epilog=of_models.EXPORT)(of_models.export_command)
app.command("demo", epilog=of_models.DEMO)(of_models.demo_command)
app.command("list", epilog=listing.EXAMPLES)(listing.list_command)
app.command("info", epilog=info.EXAMPLES)(info.info_command)
app.command("pull", epilog=pull.EXAMPLES)(pull.pull_command)
app.command("push", epilog=push.EXAMPLES)(push.push_command)
app.add_typer(hub.app, name="hub")


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the program, and end the process: with 0, with 1 if what was asked has failed, with 2 for a wrong input.

    Args:
        arguments: What stands behind the name of the program; by default what the process was called with.

    Raises:
        SystemExit: always.
    """
    _without_bars_elsewhere()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app([*given, "--help"] if given in ([], ["hub"]) else given, "adapters", standalone_mode=False)
    except _UsageError as error:
        _end(error.format_message().strip(), error)
    except BrokenPipeError:  # whoever read it has enough, as in `adapters list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ValueError, OSError, NotImplementedError, ImportError) as error:
        _end(_message(error), error)
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("Interrupted.", err=True)
        raise SystemExit(130) from None
    except Exception as error:
        from ..runs.errors import is_disk_full

        if is_disk_full(error):
            _end("The disk is full; nothing was changed.", error)
        _end(f"{type(error).__name__}: {error} (unexpected: ADAPTERS_TRACEBACK=1 shows where)", error, code=1)
    raise SystemExit(code if isinstance(code, int) else 0)


_UsageError: Any = typer.BadParameter.__base__
"""What is raised for wrong arguments; typer names only this child of it."""


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _end(text: str, error: Exception, code: int = 2) -> NoReturn:
    """Say what is wrong in one line, and end."""
    if os.environ.get("ADAPTERS_TRACEBACK"):
        raise error
    typer.echo(f"Error: {' '.join(text.split())}", err=True)
    raise SystemExit(code) from None


def _without_bars_elsewhere() -> None:
    """Bars are for terminals. transformers and huggingface_hub look at these variables when they are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
