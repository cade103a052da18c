"""How large files from elsewhere may be before they are refused."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

FREE_BYTES = 64 << 20
"""What is no larger than this is never too much larger than its file."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes above which a file is refused. They are far above what adapters need.

    >>> with file_limits(json_bytes=1 << 30):
    ...     model.load_adapter("adapter_with_a_huge_label_list")

    Args:
        json_bytes: Size of a configuration file.
        header_bytes: Size of the part of a safetensors file that lists its tensors.
        tensors: How many tensors a file may hold.
        weight_bytes: Size of a file of weights, and of its tensors together.
        archive_files: How many files an archive may hold.
        archive_bytes: Size of all files in an archive together.
        archive_ratio: How many times larger than its file may be what is unpacked from it, where this exceeds 64 MiB.
    """

    json_bytes: int = 32 << 20
    header_bytes: int = 64 << 20
    tensors: int = 500_000
    weight_bytes: int = 64 << 30
    archive_files: int = 10_000
    archive_bytes: int = 64 << 30
    archive_ratio: int = 100


_LIMITS: contextvars.ContextVar[Limits] = contextvars.ContextVar("adapter_file_limits", default=Limits())  # noqa: B039


def current_limits() -> Limits:
    """The limits of this thread or task."""
    return _LIMITS.get()


@contextlib.contextmanager
def file_limits(**changes: int) -> Iterator[Limits]:
    """Other limits for what is read within a `with` block, in this thread or task.

    Args:
        **changes: Fields of `Limits`.
    """
    token = _LIMITS.set(dataclasses.replace(current_limits(), **changes))
    try:
        yield current_limits()
    finally:
        _LIMITS.reset(token)
