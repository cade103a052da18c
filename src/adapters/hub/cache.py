"""Where downloads are kept: `~/.cache/adapters`, or the folder that the environment variable ADAPTERS_CACHE names.

`archives/<sha256>/` are unpacked archives: what is there is whole, and never changes. `documents/` are small files by
their address, with what the server said of them. `parts/` are downloads that have not ended yet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import DownloadError

_LOCK_SECONDS = 600.0


def cache_home() -> Path:
    """The folder of the cache, whether it is there or not."""
    if chosen := os.environ.get("ADAPTERS_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "adapters"


@contextlib.contextmanager
def locked(path: Path, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Keep other threads and processes out, by a lock file that stays where it is.

    Raises:
        DownloadError: another process has held the lock for too long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=seconds):
            yield
    except Timeout:
        raise DownloadError(f"Another process has held {path} for {seconds:.0f} seconds; try again later.") from None


ADAPTER_CACHE = str(cache_home())
"""The folder of the cache when this module was imported."""
