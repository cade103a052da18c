"""Adapters of a model published: on the Hugging Face Hub, or on a hub in a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.files import HEAD_CONFIG, read_json
from . import huggingface
from .contents import Contents, contents_of
from .download import is_url
from .errors import HubError
from .huggingface import Commit
from .identifiers import parsed
from .model_cards import CardText, Described, card_text, model_card
from .packing import Kind
from .reading import hub_in_use
from .resolve import HUGGING_FACE
from .writing import HubFolder


@dataclass(frozen=True)
class Publication:
    """What is published, and how.

    Args:
        repo_id: Its name: `<org>/<name>` on the Hugging Face Hub, `<task>/<subtask>@<org>` on a hub in a folder.
        kind: What it is.
        model_name: The name of its model.
        save: Writes its files to a folder.
        dataset: Its data set on the Hugging Face Hub.
        folder: Where its files are written; by default a folder that is removed again.
        overwrite_card: Whether a card that is there is replaced.
        text: What is to say of it, see `CardText`.
        commit: How it is published.
        hub: The hub: a folder, or "hf" for the Hugging Face Hub.
        version: Its version on a hub in a folder.
        overwrite: Whether a version that is there may be replaced.
    """

    repo_id: str
    kind: Kind
    model_name: str | None
    save: Callable[[Path], object]
    dataset: str | None = None
    folder: str | Path | None = None
    overwrite_card: bool = False
    text: Mapping[str, Any] | None = None
    commit: Commit = field(default_factory=Commit)
    hub: str | Path | None = None
    version: str | None = None


def publish(what: Publication) -> str:
    """Publish an adapter or a setup.

    Returns:
        The address of the repository, or for a hub in a folder the name that it is loaded by.

    Raises:
        HubError: it cannot be published there; the message says why.
    """
    text, hub = card_text(what.text), _hub_for(what)
    with _saved(what) as folder, contents_of(folder) as contents:
        if contents.kind is not what.kind:
            raise HubError(f"{folder} holds a {contents.kind.name}, from something else that was saved there.")
        if hub is None:
            if what.version is not None:
                raise HubError("version is for hubs in a folder; on the Hugging Face Hub give revision, a branch.")
            described = _described(what, contents, None)
            card = model_card(described, text)
            return huggingface.upload(what.repo_id, folder, what.kind, card, what.overwrite_card, what.commit)
        facts = _facts(what, text)
        return HubFolder(hub).add(folder, what.repo_id, what.model_name, what.version, facts).identifier


def _hub_for(what: Publication) -> Path | None:
    """The folder of the hub; None is the Hugging Face Hub."""
    name = parsed(what.repo_id)
    by_task = name is not None and name.file is None and name.org is not None
    hub = what.hub if what.hub is not None else (hub_in_use() if by_task else HUGGING_FACE)
    if hub is None:
        raise HubError(
            f"{what.repo_id!r} is a name on a hub in a folder; give it as hub, or name it in ADAPTERS_HUB. On the "
            "Hugging Face Hub it would be '<org>/<name>'."
        )
    if hub == HUGGING_FACE:
        return None
    if is_url(str(hub)):
        raise HubError(f"{hub} can only be read; publish to the folder that it serves.")
    given = ("description", "revision", "create_pr", "private")  # a token may be there for other reasons
    changed = [key for key in given if getattr(what.commit, key)]
    if changed:
        raise HubError(f"{', '.join(changed)}: only for the Hugging Face Hub, and this goes to {hub}.")
    return Path(hub)


@contextmanager
def _saved(what: Publication) -> Iterator[Path]:
    if what.folder is not None:
        folder = Path(what.folder).expanduser()
        what.save(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="adapters-") as temporary:
        folder = Path(temporary) / "files"
        what.save(folder)
        yield folder


def _described(what: Publication, contents: Contents, hub: str | None) -> Described:
    heads = [read_json(p).get("config") for p in sorted(contents.folder.rglob(HEAD_CONFIG))]
    return Described(
        name=what.repo_id,
        kind=what.kind,
        model_name=what.model_name or contents.model_name or "",
        model_type=contents.model_type,
        heads=[str(config["head_type"]) for config in heads if isinstance(config, dict) and "head_type" in config],
        config=contents.config,
        dataset=what.dataset,
        hub=hub,
    )


def _facts(what: Publication, text: CardText) -> dict[str, Any]:
    """What a card of a hub in a folder says of it."""
    results = text.results
    if isinstance(results, Mapping):
        results = ", ".join(f"{metric} {value}" for metric, value in results.items())
    language = text.language if isinstance(text.language, (str, type(None))) else ", ".join(text.language)
    return {
        "hf_datasets_id": what.dataset,
        "language": language,
        "license": text.license,
        "metric": ", ".join(text.metrics) or None,
        "citation": text.citation,
        "description": "\n\n".join(part for part in (text.summary, text.architecture_training) if part) or None,
        "score": results,
        "file_description": what.commit.message,
    }
