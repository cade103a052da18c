"""The index of a hub, in AdapterHub's v2 layout, and how an identifier is looked up in it.

`{task: {subtask: {"default": path, <hash of configuration>: {"default": path, "versions": {org: path}}}}}`, where a
path is that of an entry, `adapters/<org>/<file>.json`; the defaults may be missing.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..configuration import DEFAULT_ADAPTER_CONFIG, AdapterConfig
from ..configuration.hashing import get_adapter_config_hash
from .errors import AdapterNotFoundError, AmbiguousAdapterError, HubError
from .identifiers import Identifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An adapter in an index.

    Args:
        task: Its task.
        subtask: Its subtask.
        config_id: The hash of its configuration.
        org: Who published it.
        path: Path of its entry, `adapters/<org>/<file>.json`.
    """

    task: str
    subtask: str
    config_id: str
    org: str
    path: str

    def __str__(self) -> str:
        return f"{self.task}/{self.subtask}@{self.org} (configuration {self.config_id}: {direct_name(self.path)})"


def direct_name(path: str) -> str:
    """The name that leads to an entry without the index: `@<org>/<file>`."""
    return "@" + path.removeprefix("adapters/").removesuffix(".json")


def config_id_of(config: str | Mapping[str, Any]) -> str:
    """The hash of a configuration, as indices have it."""
    return get_adapter_config_hash(AdapterConfig.load(config).to_dict())  # without what AdapterHub does not know


def candidates(index: Mapping[str, Any]) -> list[Candidate]:
    """All adapters of an index.

    Raises:
        HubError: it is no index.
    """
    try:
        return list(_candidates(index))
    except (AttributeError, TypeError, KeyError) as error:
        raise HubError(f"This is no index of adapters ({error!r}).") from None


def _candidates(index: Mapping[str, Any]) -> Iterator[Candidate]:
    for task, subtasks in index.items():
        for subtask, configs in subtasks.items():
            for config_id, entry in configs.items():
                if config_id != "default":
                    for org, path in entry["versions"].items():
                        yield Candidate(task, subtask, config_id, str(org), str(path))


def find(index: Mapping[str, Any], name: Identifier, config_id: str | None = None, strict: bool = True) -> str:
    """Look an identifier up.

    Without a configuration it is the default that counts, or `seq_bn` (which AdapterHub calls pfeiffer), or the only
    one there is.

    Args:
        index: The index of a model.
        name: The identifier, by task.
        config_id: The hash of the configuration wanted.
        strict: Whether it is an error if there is no adapter of this configuration; otherwise another one is taken.

    Returns:
        The path of the entry.

    Raises:
        AdapterNotFoundError: there is none; the message suggests names that are alike.
        AmbiguousAdapterError: there are several.
        HubError: it is no index.
    """
    everything = candidates(index)
    meant = [c for c in everything if name.parts in ((c.task, c.subtask), (c.task,), (c.subtask,))]
    of_org = [c for c in meant if name.org in (None, c.org)]
    if not of_org:
        # Indices of old have defaults without versions.
        alone = _lonely_defaults(index, name) if not meant else []
        if len(alone) == 1 and name.org is None:
            return alone[0]
        raise AdapterNotFoundError(_not_found(name, everything, meant))
    groups = sorted({(c.task, c.subtask) for c in of_org})
    if len(groups) > 1:
        org = f"@{name.org}" if name.org else ""
        raise AmbiguousAdapterError(
            f"{str(name)!r} is the name of several adapters.", [f"{task}/{subtask}{org}" for task, subtask in groups]
        )
    defaults: Mapping[str, Any] = index[groups[0][0]][groups[0][1]]
    found = of_org
    if config_id is not None:
        found = [c for c in of_org if c.config_id == config_id]
        if not found:
            message = f"There is no {str(name)!r} of the configuration {config_id}; there are {_listed(of_org)}."
            if strict:
                raise AdapterNotFoundError(message)
            logger.warning("%s The default is taken.", message)
            found = of_org
    return _chosen(name, found, defaults)


def _chosen(name: Identifier, found: list[Candidate], defaults: Mapping[str, Any]) -> str:
    config_ids = {c.config_id for c in found}
    if len(found) == 1:
        return found[0].path
    if len(config_ids) == 1 and name.org is None:
        default = defaults[found[0].config_id].get("default")
        if default is not None:
            return str(default)
    default = defaults.get("default")
    if default is not None and (name.org is None or default in [c.path for c in found]) and len(config_ids) > 1:
        return str(default)
    if default in [c.path for c in found]:
        return str(default)
    standard = [c for c in found if c.config_id == config_id_of(DEFAULT_ADAPTER_CONFIG)]
    if len(standard) == 1 and len(config_ids) > 1:
        return standard[0].path
    raise AmbiguousAdapterError(f"{str(name)!r} is the name of several adapters.", [str(c) for c in found])


def _lonely_defaults(index: Mapping[str, Any], name: Identifier) -> list[str]:
    return [
        str(configs["default"])
        for task, subtasks in index.items()
        for subtask, configs in subtasks.items()
        if name.parts in ((task, subtask), (task,), (subtask,)) and "default" in configs
    ]


def _not_found(name: Identifier, everything: list[Candidate], meant: list[Candidate]) -> str:
    if meant:
        return f"{name.org!r} has published no {'/'.join(name.parts)!r}; there are {_listed(meant)}."
    near = suggestions(str(name), everything)
    if near:
        return f"There is no {str(name)!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"There is no {str(name)!r} among its {len(everything)} adapters of this model."


def suggestions(text: str, everything: Iterable[Candidate]) -> list[str]:
    """Names that are like what was typed, the nearest first."""
    org = "@" in text
    by_lower: dict[str, str] = {}
    for c in everything:
        ending = f"@{c.org}" if org else ""
        names = (f"{c.task}/{c.subtask}{ending}",) if "/" in text else (f"{c.subtask}{ending}", f"{c.task}{ending}")
        for full in (*names, direct_name(c.path)):
            by_lower.setdefault(full.lower(), full)
    near = difflib.get_close_matches(text.lower(), by_lower, n=3, cutoff=0.6)
    return [by_lower[lower] for lower in near]


def _listed(found: list[Candidate]) -> str:
    shown = sorted({str(c) for c in found})
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
