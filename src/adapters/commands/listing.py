"""`adapters list`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .output import Json, Place, Quiet, Token, examples, note, show

EXAMPLES = examples("adapters list --hub my-hub", "adapters list --hub my-hub --model bert-base-uncased --json")

_COLUMNS = ("adapter_id", "task", "subtask", "username", "model_name")


def list_command(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only those for this model.")] = None,
    hub: Place = None,
    token: Token = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the adapters of a hub."""
    from ..hub import list_adapters

    found = [asdict(info) for info in list_adapters(model, hub=hub, token=token)]
    show(found, _COLUMNS[:1] if quiet else _COLUMNS, json)
    note(f"{len(found)} adapters", quiet or json)
