"""`adapters pull`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .output import Json, Place, Quiet, Token, examples, note, without_progress, write_json

EXAMPLES = examples(
    "adapters pull paraphrase/mrpc@me mrpc --hub my-hub --model bert-base-uncased",
    "adapters predict mrpc --model bert-base-uncased --columns a,b -t … -t …",
)


def pull_command(
    adapter: Annotated[str, typer.Argument(help="A repository <org>/<name>, a name on a hub, or an address.")],
    to: Annotated[
        Path | None, typer.Argument(help="A new folder for the files; by default they stay in the cache.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model that it is for.")] = None,
    config: Annotated[str | None, typer.Option("--config", "-c", help="Its configuration, such as lora.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Its version.")] = None,
    kind: Annotated[str, typer.Option("--kind", help="adapter, fusion, head or setup.")] = "adapter",
    checksum: Annotated[str | None, typer.Option("--checksum", help="Of an archive: its SHA-256 or SHA-1.")] = None,
    hub: Place = None,
    token: Token = None,
    force: Annotated[bool, typer.Option("--force", help="Download again what is in the cache.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch an adapter, and write the folder where it is."""
    import shutil

    from ..checkpoints.transactions import together, write
    from ..hub import HubError
    from ..hub.huggingface import Access
    from ..hub.packing import KINDS, files_of, kind_of
    from ..hub.resolve import Source, Wanted, resolve

    kinds = {known.name: known for known in KINDS}
    if kind not in kinds:
        raise HubError(f"There is no kind {kind!r}; there are {', '.join(sorted(kinds))}.")
    if to is not None and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise HubError(f"{to} is there already; give a new folder.")
    without_progress(quiet or json)
    wanted = Wanted(kinds[kind], model, config, version)
    folder = resolve(adapter, wanted, Source(hub, Access(token, force_download=force), checksum)).folder
    held = kind_of(folder)
    if held is not kinds[kind]:
        raise HubError(f"{adapter!r} is a {held.name}; give --kind {held.name}.")
    if to is not None:
        with together(to):
            for path in files_of(folder, held):
                write(to / path.relative_to(folder), partial(shutil.copyfile, path))
        folder = to
    if json:
        write_json({"adapter": adapter, "folder": str(folder), "kind": held.name})
        return
    note(f"{adapter} is in", quiet)
    typer.echo(str(folder))
