"""`adapters push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import Json, Place, Quiet, Token, note, without_progress, write_json


def push_command(
    folder: Annotated[Path, typer.Argument(help="The folder or archive of an adapter, a fusion, a head or a setup.")],
    name: Annotated[
        str, typer.Argument(help="<org>/<name> on the Hugging Face Hub, <task>/<subtask>@<org> on others.")
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model, if its files do not say it.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Its version, on a hub in a folder.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="What is new.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its data set on the Hugging Face Hub.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="Its language.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="Its licence, such as apache-2.0.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="<task>/<subtask>, on the Hugging Face Hub.")] = None,
    summary: Annotated[str | None, typer.Option("--summary", help="What it does, in a sentence.")] = None,
    result: Annotated[list[str] | None, typer.Option("--result", help="As accuracy=0.93; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="The branch to publish to.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Only propose it.")] = False,
    overwrite_card: Annotated[bool, typer.Option("--overwrite-card", help="Replace the card that is there.")] = False,
    hub: Place = None,
    token: Token = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish an adapter from its folder."""
    import shutil

    from ..checkpoints.archives import as_folder
    from ..hub.huggingface import Commit
    from ..hub.packing import files_of, kind_of
    from ..hub.publishing import Publication, publish

    without_progress(quiet or json)
    with as_folder(folder) as source:
        kind = kind_of(source)

        def copy(target: Path) -> None:
            for path in files_of(source, kind):
                (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / path.relative_to(source))

        said = {"language": language, "license": license, "task": task, "summary": summary, "tags": tag or None}
        address = publish(
            Publication(
                repo_id=name,
                kind=kind,
                model_name=model,
                save=copy,
                dataset=dataset,
                overwrite_card=overwrite_card,
                text={**said, "results": _numbers(result or [])},
                commit=Commit(message, None, revision, create_pr, private or None, token),
                hub=hub,
                version=version,
            )
        )
    if json:
        write_json({"folder": str(folder), "published": address})
        return
    note("Published as", quiet)
    typer.echo(address)


def _numbers(results: list[str]) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for result in results:
        metric, _, value = result.partition("=")
        try:
            found[metric] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{result!r} is no result; write it like accuracy=0.93.") from None
    return found or None
