"""How commands say things: in tables on a terminal, in plain lines elsewhere, as JSON if asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Write only what was asked for, and no progress.")]
Place = Annotated[
    str | None,
    typer.Option("--hub", help='The folder or address of a hub, or "hf". By default $ADAPTERS_HUB.', metavar="HUB"),
]
Token = Annotated[str | None, typer.Option("--token", help="A token for the Hugging Face Hub.", envvar="HF_TOKEN")]


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Write a table: on a terminal with lines around it, elsewhere one row per line with tabs between.

    Args:
        rows: The rows.
        columns: The keys that tables show, in order. JSON has all keys.
        as_json: Whether to write JSON.
    """
    if as_json:
        write_json(list(rows))
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns)
        for row in rows:
            table.add_row(*(_text(row.get(column)) for column in columns))
        Console().print(table)
    else:
        for row in rows:
            typer.echo("\t".join(_text(row.get(column)) for column in columns))


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Write what is known of one thing, one line for each key."""
    if as_json:
        write_json(facts)
        return
    width = max(map(len, facts), default=0)
    for key, value in facts.items():
        if value is not None:
            shown = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else _text(value)
            typer.echo(f"{key:<{width}}  {shown}")


def write_json(data: Any) -> None:
    """Write JSON."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def note(text: str, quiet: bool) -> None:
    """Say something beside what was asked for. It goes where it is in nobody's way."""
    if not quiet:
        typer.echo(text, err=True)


def without_loading(quiet: bool) -> None:
    """Switch transformers' bars for weights off, and those of downloads where there is no terminal."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not quiet and sys.stderr.isatty():
        enable_progress_bars()


def examples(*lines: str) -> str:
    """The end of a help page: calls, one for each line."""
    return "\n\n".join(("Examples:", *lines))


def adapter_in(folder: str) -> str:
    """The adapter in the output of `adapters train`; another folder or name as it is."""
    path = Path(folder)
    return str(path / "adapter") if (path / "run.yaml").is_file() and (path / "adapter").is_dir() else folder


def without_progress(quiet: bool) -> None:
    """Switch the bars of downloads off."""
    if quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()


def _text(value: Any) -> str:
    return "" if value is None else str(value)
