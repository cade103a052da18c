"""`adapters hub …`: a hub in a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .output import Json, Quiet, examples, note, show, write_json

app = typer.Typer(help="Keep a hub in a folder, which anyone can put on the web.", no_args_is_help=True)

Root = Annotated[Path, typer.Argument(help="The folder of the hub.", metavar="HUB")]


@app.command(
    "init",
    epilog=examples(
        "adapters hub init my-hub",
        "adapters hub init my-hub --address https://me.example/hub",
    ),
)
def init_command(
    hub: Root,
    address: Annotated[
        str | None, typer.Option("--address", help="Where it will be on the web, for readers of AdapterHub's files.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a hub in a folder."""
    from ..hub.writing import HubFolder

    HubFolder.init(hub, address)
    note(f"{hub} is a hub. Add to it: adapters hub add {hub} FOLDER TASK/SUBTASK@ORG", quiet)


@app.command(
    "add",
    epilog=examples(
        "adapters hub add my-hub runs/mrpc/adapter paraphrase/mrpc@me",
        "adapters hub add my-hub mrpc.zip paraphrase/mrpc@me --version 2 --score 86.1 --metric accuracy",
    ),
)
def add_command(
    hub: Root,
    source: Annotated[Path, typer.Argument(help="The folder or archive of an adapter, a fusion, a head or a setup.")],
    name: Annotated[str, typer.Argument(help="<task>/<subtask>@<org>")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model, if its files do not say it.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Its version; by default the next number.")] = None,
    author: Annotated[str | None, typer.Option("--author", help="Who trained it; by default <org>.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it does.")] = None,
    score: Annotated[str | None, typer.Option("--score", help="What this version reached.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="In which metric.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its data set on the Hugging Face Hub.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="Its language.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="Its licence, such as apache-2.0.")] = None,
    citation: Annotated[str | None, typer.Option("--citation", help="How to cite it.")] = None,
    file: Annotated[str | None, typer.Option("--file", help="The name of its card.")] = None,
    no_default: Annotated[
        bool, typer.Option("--no-default", help="Keep the version that is loaded by default.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a version that is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish an adapter on a hub, or a new version of one."""
    from ..hub.writing import HubFolder

    facts = {
        "author": author,
        "description": description,
        "score": score,
        "metric": metric,
        "hf_datasets_id": dataset,
        "language": language,
        "license": license,
        "citation": citation,
    }
    new = HubFolder(hub).add(source, name, model, version, facts, file, not no_default, overwrite)
    if json:
        write_json({**asdict(new), "card": str(new.card)})
        return
    note(f"Version {new.version}, sha256 {new.sha256}, card {new.card}", quiet)
    typer.echo(new.direct)


@app.command(
    "remove",
    epilog=examples(
        "adapters hub remove my-hub paraphrase/mrpc@me",
        "adapters hub remove my-hub paraphrase/mrpc@me --version 1",
    ),
)
def remove_command(
    hub: Root,
    name: Annotated[str, typer.Argument(help="<task>/<subtask>@<org> or @<org>/<file>")],
    version: Annotated[str | None, typer.Option("--version", help="Only this version.")] = None,
    quiet: Quiet = False,
) -> None:
    """Take an adapter off a hub."""
    from ..hub.writing import HubFolder

    for gone in HubFolder(hub).remove(name, version):
        note(f"Removed {gone}" + (f", version {version}" if version else ""), quiet)


@app.command("add-config", epilog=examples("adapters hub add-config my-hub tiny 'seq_bn[reduction_factor=64]'"))
def add_config_command(
    hub: Root,
    name: Annotated[str, typer.Argument(help="The name of the configuration.")],
    config: Annotated[str, typer.Argument(help="The configuration, such as 'seq_bn[reduction_factor=64]'.")],
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace one of this name.")] = False,
    quiet: Quiet = False,
) -> None:
    """Give a configuration a name: add_adapter("x", config="NAME@HUB")."""
    from ..hub.writing import HubFolder

    HubFolder(hub).add_architecture(name, config, description, overwrite)
    note(f'Use it as add_adapter("…", config="{name}@{hub}")', quiet)


@app.command("reindex", epilog=examples("adapters hub reindex my-hub"))
def reindex_command(hub: Root, quiet: Quiet = False) -> None:
    """Make the index of a hub anew from its cards."""
    from ..hub.writing import HubFolder

    note(f"{HubFolder(hub).reindex()} files have changed", quiet)


@app.command("verify", epilog=examples("adapters hub verify my-hub --json"))
def verify_command(hub: Root, json: Json = False, quiet: Quiet = False) -> None:
    """Look for everything that is wrong in a hub. Ends with 1 if there is something."""
    from ..hub.verifying import verify
    from ..hub.writing import HubFolder

    problems = [asdict(problem) for problem in verify(HubFolder(hub))]
    show(problems, ("place", "what"), json)
    note(f"{len(problems)} problems" if problems else "Nothing is wrong", quiet or json)
    if problems:
        raise typer.Exit(1)


@app.command("serve", epilog=examples("adapters hub serve my-hub --port 8000"))
def serve_command(
    hub: Root,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at; 0.0.0.0 lets others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="The port.")] = 8000,
    quiet: Quiet = False,
) -> None:
    """Put a hub on the web, to be read."""
    from ..hub.serving import application, serve

    served = application(hub)
    note(f"Load from it with hub='http://{host}:{port}'", quiet)
    serve(served, host, port, quiet)
