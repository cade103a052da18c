"""New versions of adapters: how their cards come about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..configuration.hashing import get_adapter_config_hash
from .cards import AdapterCard, CardFile, checked, full_config
from .contents import Contents
from .errors import HubError
from .identifiers import Identifier, check_part
from .model_names import file_name, published_name

Configs = Mapping[str, Mapping[str, Any]]
"""Configurations with a name."""


@dataclass(frozen=True)
class Release:
    """An adapter to publish, or a new version of one.

    Args:
        name: Its name, by task, subtask and organisation.
        model_name: The name of its model; by default the one that it was saved with.
        version: Its version; by default the next number.
        facts: Further keys of its card, and of the version: `score`, `file_description`.
        file: The name of its card; by default made of model, task, subtask and configuration.
        is_default: Whether this version is the one that is loaded if none is asked for.
        overwrite: Whether a version that is there may be replaced.
    """

    name: Identifier
    model_name: str | None = None
    version: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    is_default: bool = True
    overwrite: bool = False

    def model(self, contents: Contents) -> str:
        """The name of its model, as it is published.

        Raises:
            HubError: nothing says it.
        """
        given = self.model_name or contents.model_name
        if not given or not given.strip("./"):
            raise HubError("The adapter does not say which model it is for; give model_name.")
        return published_name(given)

    def stem(self, contents: Contents, configs: Configs) -> str:
        """The name of its card."""
        config = contents.named_config(configs)
        kind = str(config["using"]) if len(config) == 1 else contents.config_id
        return check_part(
            "name of a file", self.file or "_".join((file_name(self.model(contents)), *self.name.parts, kind))
        )


def next_card(
    old: AdapterCard | None, release: Release, contents: Contents, configs: Configs, url: str, sums: Mapping[str, str]
) -> tuple[AdapterCard, str]:
    """The card of an adapter with one more version, and that version.

    Args:
        old: Its card so far.
        release: What is published.
        contents: Its files.
        configs: The configurations with a name.
        url: Where its archive is.
        sums: The checksums of that.

    Raises:
        HubError: the card is that of another adapter, or the version is there already.
        CardError: it would be no card.
    """
    before = old.files if old else []
    numbers = [int(file.version) for file in before if file.version.isdigit()]
    version = release.version or str(max(numbers, default=0) + 1)
    others = [file for file in before if file.version != version]
    if old is not None:
        _check_same(old, release, contents, configs)
        if len(others) < len(before) and not release.overwrite:
            raise HubError(f"{release.name} has a version {version!r} already; choose another one, or overwrite it.")
    facts = {key: value for key, value in release.facts.items() if value is not None}
    of_file = {"score": facts.pop("score", None), "description": facts.pop("file_description", None)}
    file = checked({"version": version, "url": url, **sums, **of_file}, CardFile, f"Version {version}")
    data = {
        **(old.model_dump(exclude_none=True) if old else {"author": release.name.org, **contents.facts()}),
        "task": release.name.parts[0],
        "subtask": release.name.parts[1],
        "model_name": release.model(contents),
        "config": contents.named_config(configs) if old is None else old.config,
        **facts,
        "default_version": version if release.is_default or old is None else old.default_version,
        "files": [f.model_dump() for f in (*others, file)],
    }
    return checked(data, AdapterCard, f"The card of {release.name}"), version


def _check_same(old: AdapterCard, release: Release, contents: Contents, configs: Configs) -> None:
    """Raise if a new version is not one of the adapter whose card is there."""
    config_id = get_adapter_config_hash(full_config(old, configs))
    there = (old.task, old.subtask, old.model_name, old.kind, config_id)
    given = (*release.name.parts, release.model(contents), contents.facts().get("kind"), contents.config_id)
    names = ("task", "subtask", "model", "kind", "configuration")
    wrong = [name for name, a, b in zip(names, there, given, strict=True) if a != b]
    if wrong:
        raise HubError(f"There is another adapter under this file name; it has another {', '.join(wrong)}. Give file.")
