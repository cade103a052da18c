"""The names of adapters on a hub: `sentiment/sst-2@ukp`, `sst-2`, `sentiment`, `@ukp/file`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import HubError

GRAMMAR = "<task>/<subtask>@<org>, <task>/<subtask>, <subtask>, <task> or @<org>/<file>"
_NAME = r"[\w.+-]+(?: [\w.+-]+)*"
_BY_TASK = re.compile(rf"(?P<first>{_NAME})(?:/(?P<second>{_NAME}))?(?:@(?P<org>{_NAME}))?")
_BY_FILE = re.compile(rf"@(?P<org>{_NAME})/(?P<file>{_NAME})")


@dataclass(frozen=True)
class Identifier:
    """A name taken apart.

    Args:
        parts: Task and subtask, or the one of them that was given. Empty for `@<org>/<file>`.
        org: The organisation.
        file: The name of the adapter's card, for `@<org>/<file>`.
    """

    parts: tuple[str, ...]
    org: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        if self.file is not None:
            return f"@{self.org}/{self.file}"
        return "/".join(self.parts) + (f"@{self.org}" if self.org else "")


def parse(text: str) -> Identifier:
    """Take a name apart.

    >>> parse("sentiment/sst-2@ukp")
    Identifier(parts=('sentiment', 'sst-2'), org='ukp', file=None)

    Raises:
        HubError: it is no such name.
    """
    found = parsed(text)
    if found is None:
        raise HubError(f"{text!r} is no name of an adapter on a hub; write {GRAMMAR}, e.g. 'sentiment/sst-2@ukp'.")
    return found


def parsed(text: str) -> Identifier | None:
    """Take a name apart; None if it is none."""
    if any(is_unsafe(part) for part in re.split(r"[/@]", text) if part):
        return None
    if match := _BY_FILE.fullmatch(text):
        return Identifier((), match["org"], match["file"])
    if match := _BY_TASK.fullmatch(text):
        return Identifier(tuple(part for part in (match["first"], match["second"]) if part), match["org"])
    return None


def is_unsafe(name: str) -> bool:
    """Whether a part of a name cannot be the name of a file everywhere."""
    return name in (".", "..") or name.startswith((".", " ")) or name.endswith((" ", ".")) or len(name) > 200


def check_part(role: str, name: str) -> str:
    """A part of a name, for those who publish.

    Raises:
        HubError: it would be no part of a name.
    """
    if not re.fullmatch(_NAME, name) or is_unsafe(name):
        raise HubError(f"{name!r} cannot be the {role}: use letters, digits, '-', '_', '.' and '+'.")
    return name
