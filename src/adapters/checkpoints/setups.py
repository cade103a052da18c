"""Which setup a folder of adapters, fusions and heads is for: `adapter_setup.json`, in the layout of AdapterHub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..composition import AdapterCompositionBlock, parse_composition
from .files import SETUP_CONFIG, AdapterFileError, read_json, write_json

HeadSetup: TypeAlias = AdapterCompositionBlock | Sequence[Any] | str | bool | None
"""Heads: a name, names, or a block of names. True is the active one; None and False are none."""


def write(folder: Path, setup: AdapterCompositionBlock, heads: HeadSetup, version: str) -> None:
    """Write the setup of a folder."""
    plain = heads.to_dict() if isinstance(heads, AdapterCompositionBlock) else heads
    write_json(folder / SETUP_CONFIG, {"adapter_setup": setup.to_dict(), "head_setup": plain, "version": version})


def read(folder: Path) -> tuple[AdapterCompositionBlock, HeadSetup]:
    """Read the setup of a folder.

    Raises:
        AdapterFileError: the file is missing, cut off, or holds no setup.
    """
    data = read_json(folder / SETUP_CONFIG)
    heads = data.get("head_setup")
    try:
        setup = parse_composition(AdapterCompositionBlock.from_dict(data["adapter_setup"]))
        if isinstance(heads, Mapping):
            heads = AdapterCompositionBlock.from_dict(dict(heads))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise AdapterFileError(f"{folder / SETUP_CONFIG} holds no setup of adapters: {error!r}.") from None
    if setup is None or not setup.flatten():
        raise AdapterFileError(f"{folder / SETUP_CONFIG} holds a setup without adapters.")
    is_list = isinstance(heads, list) and all(isinstance(name, str) for name in heads)
    if heads is not None and not is_list and not isinstance(heads, (bool, str, AdapterCompositionBlock)):
        raise AdapterFileError(f"{folder / SETUP_CONFIG}: head_setup is {heads!r}; it should name heads.")
    return setup, heads


def head_names(heads: HeadSetup) -> list[str]:
    """The names of heads, each once and in order."""
    if isinstance(heads, str):
        return [heads]
    if isinstance(heads, AdapterCompositionBlock):
        return sorted(heads.flatten())
    if isinstance(heads, Sequence):
        return list(dict.fromkeys(name for inner in heads for name in head_names(inner)))
    return []
