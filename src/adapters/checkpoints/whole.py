"""Files of one moment, read with all their differences from a model noted, or none allowed."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from .errors import LoadReport
from .transactions import consistently

logger = logging.getLogger(__name__)

T = TypeVar("T")


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Python's collector looks at all modules again and again while new ones are made, for a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_with_report(
    folder: Path, strict: bool, report: LoadReport | None, read: Callable[[LoadReport | None], T]
) -> T:
    """What is read from a folder, whose files are all of one moment.

    Args:
        folder: The folder.
        strict: Whether files that do not fit are an error.
        report: If not, where a user wants to see what of them does not; it is logged too.
        read: Reads the folder. It may be called again, if somebody writes to it in the meantime.

    Raises:
        ValueError: a report is wanted where there is nothing to report.
    """
    if strict:
        if report is not None:
            raise ValueError("report= says what strict=False has passed over; without that, differences are an error.")
        with _without_collecting():
            return consistently(folder, lambda: read(None))

    def noting() -> tuple[T, LoadReport]:
        found = LoadReport()
        return read(found), found

    with _without_collecting():
        result, found = consistently(folder, noting)
    if found:
        logger.warning("%s does not fit this model; what fits was loaded.\n%s", folder, found)
    if report is not None:
        report.add(found)
    return result
