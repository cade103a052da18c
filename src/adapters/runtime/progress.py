"""What is known of the calls of models that are going on: for each thread its own.

A layer that is recomputed in the backward pass (gradient checkpointing) must know the call that it belonged to, which
is over by then: `calls_in_progress` gives all that is known, and `resumed` makes it known again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch


class Ongoing:
    """What is known of one call while it goes on, in this thread.

    While a graph is compiled, a plain attribute does: it is set and taken back within that graph.
    """

    def __init__(self) -> None:
        self._traced: Any = None

    def get(self) -> Any:
        """What is known, or None."""
        return self._traced if torch.compiler.is_dynamo_compiling() else _PROGRESS.calls.get(self)

    def put(self, value: Any) -> None:
        """Know this."""
        if torch.compiler.is_dynamo_compiling():
            self._traced = value
        else:
            _PROGRESS.calls[self] = value

    def clear(self) -> None:
        """The call is over."""
        if torch.compiler.is_dynamo_compiling():
            self._traced = None
        else:
            _PROGRESS.calls.pop(self, None)


class _Progress(threading.local):
    def __init__(self) -> None:
        self.calls: dict[Ongoing, Any] = {}


_PROGRESS = _Progress()


def calls_in_progress() -> dict[Ongoing, Any]:
    """What is known of the calls that are going on in this thread."""
    return {} if torch.compiler.is_dynamo_compiling() else dict(_PROGRESS.calls)


@contextlib.contextmanager
def resumed(calls: dict[Ongoing, Any]) -> Iterator[None]:
    """Within the block, what was known of other calls is known again in this thread."""
    current, _PROGRESS.calls = _PROGRESS.calls, dict(calls)
    try:
        yield
    finally:
        _PROGRESS.calls = current
