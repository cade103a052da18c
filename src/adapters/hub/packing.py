"""Archives of adapters to publish: the files that belong to them and nothing else, always the same bytes."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FUSION_CONFIG,
    FUSION_WEIGHTS,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    INTERFACE_CONFIG,
    SETUP_CONFIG,
)
from .errors import HubError

_TIME = (1980, 1, 1, 0, 0, 0)
_OF_PEFT = ("adapter_model.safetensors", "adapter_model.bin")
_OF_FOLDER = (
    *(ADAPTER_CONFIG, *ADAPTER_WEIGHTS, HEAD_CONFIG, *HEAD_WEIGHTS, FUSION_CONFIG, *FUSION_WEIGHTS),
    INTERFACE_CONFIG,
)
README = "README.md"


@dataclass(frozen=True)
class Kind:
    """What a folder can hold.

    Args:
        name: What it is called.
        config: The file by which it is recognised.
        patterns: The files that are needed to load it.
        load: The method that loads it.
    """

    name: str
    config: str
    patterns: tuple[str, ...]
    load: str


_WITH_HEAD = (HEAD_CONFIG, *HEAD_WEIGHTS)
ADAPTER = Kind("adapter", ADAPTER_CONFIG, (ADAPTER_CONFIG, *ADAPTER_WEIGHTS, *_OF_PEFT, *_WITH_HEAD), "load_adapter")
FUSION = Kind("fusion", FUSION_CONFIG, (FUSION_CONFIG, *FUSION_WEIGHTS, *_WITH_HEAD), "load_adapter_fusion")
HEAD = Kind("head", HEAD_CONFIG, _WITH_HEAD, "load_head")
SETUP = Kind(
    "setup", SETUP_CONFIG, (SETUP_CONFIG, *_OF_FOLDER, *(f"*/{name}" for name in _OF_FOLDER)), "load_adapter_setup"
)
KINDS = (SETUP, ADAPTER, FUSION, HEAD)


def kind_of(folder: Path) -> Kind:
    """What a folder holds.

    Raises:
        HubError: nothing that can be published.
    """
    for kind in KINDS:
        if (folder / kind.config).is_file():
            return kind
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) if folder.is_dir() else ""
    raise HubError(
        f"{folder} holds no adapter, fusion, head or setup: "
        + (f"there is {there or 'nothing'} in it." if folder.is_dir() else "there is no such folder.")
    )


def files_of(folder: Path, kind: Kind) -> list[Path]:
    """The files that belong to what a folder holds, in order."""
    found = {path for pattern in kind.patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def pack(folder: Path, target: Path) -> None:
    """Write what a folder holds to a zip archive. The same files always give the same bytes.

    Raises:
        HubError: it holds nothing that can be published.
    """
    files = files_of(folder, kind_of(folder))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _TIME)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as packed:
                while block := source.read(1 << 20):
                    packed.write(block)
