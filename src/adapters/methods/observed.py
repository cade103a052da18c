"""What modules let see of what they compute: gates, and the weights of fusions, if someone asks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar, Token
from types import TracebackType

from torch import Tensor, nn


class Observation:
    """Within this block, what modules show is kept, in this thread or task.

    >>> with Observation() as observation:
    ...     model(**batch)
    >>> observation.seen[module]
    """

    count = 0
    """How many are going on in all threads: modules show something only if there are any."""

    def __init__(self) -> None:
        self.seen: dict[nn.Module, Tensor] = {}
        self.rows: Tensor | None = None
        self._token: Token[Observation | None] | None = None

    def __enter__(self) -> Observation:
        Observation.count += 1
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._token is not None
        _CURRENT.reset(self._token)
        Observation.count -= 1


_CURRENT: ContextVar[Observation | None] = ContextVar("observation", default=None)


def show(module: nn.Module, value: Tensor) -> None:
    """Let see what a module has computed. To be called only if `Observation.count` is not zero."""
    observation = _CURRENT.get()
    if observation is not None:
        observation.seen[module] = value if observation.rows is None else value[observation.rows]


@contextlib.contextmanager
def shown_for(rows: Tensor) -> Iterator[None]:
    """Within this block modules compute more rows than those that are theirs. Shape: (R,), true for theirs."""
    observation = _CURRENT.get()
    if observation is None:
        yield
        return
    observation.rows, former = rows, observation.rows
    try:
        yield
    finally:
        observation.rows = former
