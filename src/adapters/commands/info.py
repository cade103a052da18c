"""`adapters info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .output import Json, Place, Token, examples, show_facts

EXAMPLES = examples(
    "adapters info paraphrase/mrpc@me --hub my-hub",
    "adapters info AdapterHub/bert-base-uncased-pf-mrpc --json",
)


def info_command(
    adapter: Annotated[str, typer.Argument(help="A repository <org>/<name>, or a name on a hub.")],
    hub: Place = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Say what a hub knows of an adapter."""
    from ..hub import AdapterNotFoundError, get_adapter_info

    found = get_adapter_info(adapter, hub=hub, token=token)
    if found is None:
        raise AdapterNotFoundError(f"There is no adapter {adapter!r}.")
    show_facts(asdict(found), json)
