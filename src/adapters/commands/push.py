"""`adapters push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .output import Json, Place, Quiet, Token, adapter_in, examples, note, without_progress, write_json

EXAMPLES = examples(
    "adapters push runs/mrpc paraphrase/mrpc@me --hub my-hub",
    "adapters push runs/mrpc me/bert-mrpc --license apache-2.0",
)


def push_command(
    folder: Annotated[
        Path,
        typer.Argument(help="The folder or archive of an adapter, a fusion, a head or a setup, or that of a run."),
    ],
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
    """Publish an adapter from its folder. What a run has measured is said in its card."""
    import shutil

    from ..checkpoints.archives import as_folder
    from ..hub.huggingface import Commit
    from ..hub.packing import files_of, kind_of
    from ..hub.publishing import Publication, publish

    without_progress(quiet or json)
    of_run, known_dataset = _said_by_run(folder)
    with as_folder(Path(adapter_in(str(folder)))) as source:
        kind = kind_of(source)

        def copy(target: Path) -> None:
            for path in files_of(source, kind):
                (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / path.relative_to(source))

        given: dict[str, Any] = {"language": language, "license": license, "task": task, "summary": summary}
        given |= {"tags": tag or None, "results": _numbers(result or [])}
        said = of_run | {key: value for key, value in given.items() if value is not None}
        address = publish(
            Publication(
                repo_id=name,
                kind=kind,
                model_name=model,
                save=copy,
                dataset=dataset or known_dataset,
                overwrite_card=overwrite_card,
                text=said,
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


def _said_by_run(folder: Path) -> tuple[dict[str, Any], str | None]:
    """What the run that an adapter comes from has to say in a card, and its data set."""
    from ..runs.cards import dataset_of, said_of
    from ..runs.folder import RunFolder

    for place in (folder, folder.parent):
        run = RunFolder(place)
        if (place / "run.yaml").is_file() and run.is_finished:
            config = run.config()
            return said_of(config, run.metrics()), dataset_of(config)
    return {}, None


def _numbers(results: list[str]) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for result in results:
        metric, _, value = result.partition("=")
        try:
            found[metric] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{result!r} is no result; write it like accuracy=0.93.") from None
    return found or None
