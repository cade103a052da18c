"""`AdapterSetup`: a setup for the calls within a block, in this thread or task only."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from .composition import AdapterCompositionBlock, Setup, SetupLike, parse_composition

_SETUPS: ContextVar[tuple[AdapterSetup, ...]] = ContextVar("adapter_setups", default=())


class OpenSetups:
    """How many setups are in use in all threads and tasks: a forward pass looks for its own only if there are any.

    A number, because `torch.compile` can read it, and cannot read context variables.
    """

    count = 0


class AdapterSetup:
    """Use a setup instead of a model's active one, for all calls of models within the block.

    >>> with AdapterSetup("task"):
    ...     outputs = model(**batch)

    Other threads and tasks are not affected, so a server can use one setup per request without a lock. It is the call
    of the model itself that looks for a setup: call `model(...)` or `model.generate(...)`, not its base model.

    Args:
        adapter_setup: A name, a block, a list of names (a `Stack`), or None for the bare model.
        head_setup: The prediction head to use; by default the head with the name of the (last) adapter.
        ignore_empty: Taken for compatibility: None is always legal.
        adapter_names: Instead of a setup for all rows, one for each row of the batch.
    """

    def __init__(
        self,
        adapter_setup: SetupLike = None,
        head_setup: Any = None,
        ignore_empty: bool = False,
        *,
        adapter_names: Sequence[Setup] | None = None,
    ) -> None:
        if adapter_setup is not None and adapter_names is not None:
            raise ValueError("adapter_setup is for all rows and adapter_names for each row; give one of them.")
        self.adapter_setup: AdapterCompositionBlock | None = parse_composition(adapter_setup)
        self.head_setup = head_setup
        self.adapter_names = None if adapter_names is None else list(adapter_names)
        self._tokens: list[Token[tuple[AdapterSetup, ...]]] = []

    def __enter__(self) -> AdapterSetup:
        OpenSetups.count += 1
        self._tokens.append(_SETUPS.set((*_SETUPS.get(), self)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _SETUPS.reset(self._tokens.pop())
        OpenSetups.count -= 1

    @staticmethod
    def get_contexts() -> tuple[AdapterSetup, ...]:
        """The setups whose blocks this thread or task is in, outermost first."""
        return _SETUPS.get()

    @staticmethod
    def get_context() -> AdapterSetup | None:
        """The setup in use here, or None."""
        setups = _SETUPS.get()
        return setups[-1] if setups else None

    @staticmethod
    def get_context_adapter_setup() -> AdapterCompositionBlock | None:
        """The adapters of the setup in use here."""
        context = AdapterSetup.get_context()
        return context.adapter_setup if context is not None else None

    @staticmethod
    def get_context_head_setup() -> Any:
        """The head that the setup in use here names, or None."""
        context = AdapterSetup.get_context()
        return context.head_setup if context is not None else None
