"""What is known of the calls of models that are going on: for each thread its own.

A layer that is recomputed in the backward pass (gradient checkpointing) must know the call that it belonged to, which is
over by then: `calls_in_progress` gives all that is known, and `resumed` makes it known again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any


class _Progress(threading.local):
    def __init__(self) -> None:
        self.calls: dict[Any, Any] = {}


PROGRESS = _Progress()


def calls_in_progress() -> dict[Any, Any]:
    """What is known of the calls that are going on in this thread."""
    return dict(PROGRESS.calls)


@contextlib.contextmanager
def resumed(calls: dict[Any, Any]) -> Iterator[None]:
    """Within the block, what was known of other calls is known again in this thread."""
    current, PROGRESS.calls = PROGRESS.calls, dict(calls)
    try:
        yield
    finally:
        PROGRESS.calls = current
