"""PyTorch hooks, registered only where the routing in use has something to do, and shared by all routings.

A *routing* is a compiled setup: for each hook point the steps that run there. One routing is the model's active one;
others are borrowed for the time of a call (`AdapterSetup`, the replay of a checkpointed layer) by one thread or task,
while other threads go on with theirs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .lanes import Lanes
from .passes import pass_values, values_of_pass
from .progress import calls_in_progress, resumed

When = Literal["before", "call", "instead", "after", "finally"]

HookPoint = tuple[nn.Module, When]
"""A module, and when the hook runs: before its forward (without or with the keyword arguments), instead, or after."""

Step = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""What runs at a hook point, by its kind:

- `before`: (module, inputs, None) to what replaces the inputs, or None to leave them.
- `call`: (module, inputs, keyword arguments) to what replaces both, as a pair, or None to leave them.
- `instead`: (module, inputs, keyword arguments) to the output.
- `after`: (module, inputs, output) to what replaces the output, or None to leave it.
- `finally`: as `after`, but also with the output None if the call has failed.
"""


@dataclass(eq=False)
class Routing:
    """A compiled setup.

    Args:
        steps: What runs at each hook point.
        lanes: Which rows go through which adapters; None without any.
    """

    steps: Mapping[HookPoint, Step] = field(default_factory=dict)
    lanes: Lanes | None = None


class _Borrowed:
    """How many routings are borrowed right now, in all threads and models: hooks look for one only if there are any."""

    count = 0


_REGISTRATION = threading.Lock()
"""Held while hooks are registered or removed: threads borrow routings of one model at the same time."""

_BORROWED_ROUTINGS: ContextVar[tuple[tuple[HookTable, Routing], ...]] = ContextVar("borrowed_routings", default=())


class _Hook:
    """What is registered at one hook point. It runs the step of the routing that is in use when it is called."""

    def __init__(self, table: HookTable, point: HookPoint) -> None:
        self.table = table
        self.point = point
        self.step: Step | None = None
        self.uses: list[tuple[Routing, Step]] = []
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> Any:
        step = self.step
        if _Borrowed.count:
            step = self.borrowed()
        return None if step is None else step(module, inputs, output)

    def borrowed(self) -> Step | None:
        """The step of the routing that is in use here and now."""
        if not torch.compiler.is_dynamo_compiling():
            return self.table.routing.steps.get(self.point)
        found = self.step  # neither context variables nor hook points as keys can be compiled
        for routing, step in self.uses:
            if routing is self.table.traced:
                found = step
        return found

    def register(self) -> None:
        """Put the hook into its module."""
        module, when = self.point
        if when == "before":
            self.handle = module.register_forward_pre_hook(self)
        elif when == "call":
            self.handle = module.register_forward_pre_hook(self, with_kwargs=True)
        elif when in ("after", "finally"):
            self.handle = module.register_forward_hook(self, always_call=when == "finally")
        else:
            module.__dict__["forward"] = _Forward(self, module.__dict__.get("forward"))

    def remove(self) -> None:
        """Take the hook out of its module."""
        module = self.point[0]
        if self.handle is not None:
            self.handle.remove()
            return
        own = module.__dict__.pop("forward").own
        if own is not None:
            module.__dict__["forward"] = own


class _Forward:
    """Takes the place of a module's `forward`, for torch has no hook that runs instead of it.

    Args:
        hook: What to run.
        own: The `forward` that was set on the module itself, if there was one.
    """

    def __init__(self, hook: _Hook, own: Any) -> None:
        self.hook = hook
        self.own = own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hook, module = self.hook, self.hook.point[0]
        step = hook.step
        if _Borrowed.count:
            step = hook.borrowed()
        if step is not None:
            return step(module, args, kwargs)
        return self.original(*args, **kwargs)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes by itself."""
        module = self.hook.point[0]
        return self.own(*args, **kwargs) if self.own is not None else type(module).forward(module, *args, **kwargs)


def own_forward(module: nn.Module) -> Any:
    """The `forward` that others have set on a module itself, or None."""
    forward = module.__dict__.get("forward")
    return forward.own if isinstance(forward, _Forward) else forward


class HookTable:
    """The hooks of one model."""

    def __init__(self) -> None:
        self.active = Routing()
        self.traced: Routing | None = None
        """The routing that is borrowed, while a graph is compiled: it is set and taken back within that graph."""
        self.is_in_use = False
        """Whether any hook is registered. Compiled graphs guard it: torch by itself overlooks a model's first hooks."""
        self._hooks: dict[HookPoint, _Hook] = {}
        self._kept: Routing | None = None

    @property
    def routing(self) -> Routing:
        """The routing in use here and now: the one borrowed last by this thread or task, else the active one."""
        for table, routing in reversed(_BORROWED_ROUTINGS.get()):
            if table is self:
                return routing
        return self.active

    def activate(self, routing: Routing) -> None:
        """Make a routing the model's active one."""
        self._acquire(routing)
        previous, self.active = self.active, routing
        for point, hook in self._hooks.items():
            hook.step = routing.steps.get(point)
        self._release(previous)

    @contextlib.contextmanager
    def borrowed(self, routing: Routing) -> Iterator[None]:
        """Use a routing in this thread or task, until the end of the block."""
        self._acquire(routing)
        _Borrowed.count += 1
        token = _BORROWED_ROUTINGS.set((*_BORROWED_ROUTINGS.get(), (self, routing)))
        try:
            yield
        finally:
            _BORROWED_ROUTINGS.reset(token)
            _Borrowed.count -= 1
            self._release(routing)

    def keep(self, routing: Routing | None) -> None:
        """Keep the hooks of a routing that is borrowed again and again, and none of the one that was kept before."""
        if routing is self._kept:
            return
        if routing is not None:
            self._acquire(routing)
        kept, self._kept = self._kept, routing
        if kept is not None:
            self._release(kept)

    def _acquire(self, routing: Routing) -> None:
        with _REGISTRATION:
            for point, step in routing.steps.items():
                hook = self._hooks.get(point)
                if hook is None:
                    hook = self._hooks[point] = _Hook(self, point)
                    hook.register()
                hook.uses.append((routing, step))
            self.is_in_use = bool(self._hooks)

    def _release(self, routing: Routing) -> None:
        with _REGISTRATION:
            for point in routing.steps:
                hook = self._hooks[point]
                hook.uses.remove(next(use for use in hook.uses if use[0] is routing))
                if not hook.uses:
                    hook.remove()
                    del self._hooks[point]
            self.is_in_use = bool(self._hooks)


class ReplayedCheckpoint:
    """A checkpointing function that recomputes with the routing that its forward pass was run with.

    Without it, adapters switched between forward and backward give gradients of the wrong adapter, silently.

    Args:
        checkpoint: The function to be called, as `torch.utils.checkpoint.checkpoint`.
        table: The hooks of the model.
    """

    def __init__(self, checkpoint: Callable[..., Any], table: HookTable) -> None:
        self.checkpoint = checkpoint
        self.table = table

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        table, routing = self.table, self.table.routing
        values, calls = values_of_pass(), calls_in_progress()
        tensors = [tensor for value in values.values() for tensor in value]

        def replayed(*inner_args: Any, **inner_kwargs: Any) -> Any:
            own = iter(inner_args[: len(tensors)])
            of_pass = {key: tuple(islice(own, len(values[key]))) for key in values}
            with table.borrowed(routing), pass_values(of_pass), resumed(calls):
                return function(*inner_args[len(tensors) :], **inner_kwargs)

        return self.checkpoint(replayed, *tensors, *args, **kwargs)
