"""What one call of a model is made with: a setup, the adapters of its rows, and what it is asked to show."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from .anatomy.parts import Sublayer
from .context import AdapterSetup
from .methods.observed import Observation
from .registry import AdapterRegistry
from .runtime.hooks import Routing
from .runtime.lanes import RowsOfCall
from .runtime.repeating import repeated

_FUSIONS, _GATES = "output_adapter_fusion_attentions", "output_adapter_gating_scores"


@dataclass(frozen=True)
class Options:
    """The arguments of a call that are meant for adapters.

    Args:
        adapter_names: For each row of the batch the adapter that it goes through.
        task_ids: For each row of the batch the number, or the name, of a child of the `MultiTask` in the setup.
        shows_fusions: Whether the output gets the attentions of fusions.
        shows_gates: Whether the output gets what gates have let through.
    """

    adapter_names: Sequence[Any] | None = None
    task_ids: Any = None
    shows_fusions: bool = False
    shows_gates: bool = False


OPTIONS = frozenset({"adapter_names", "task_ids", _FUSIONS, _GATES})
"""The names of these arguments."""


def taken_from(arguments: dict[str, Any]) -> Options:
    """Take the options out of the arguments of a call."""
    take = arguments.pop
    return Options(
        take("adapter_names", None), take("task_ids", None), bool(take(_FUSIONS, False)), bool(take(_GATES, False))
    )


@dataclass(frozen=True)
class Use:
    """What a call is made with.

    Args:
        registry: The adapters of the model.
        routing: The routing; None for the model's active one.
        task_ids: For each row the number of its task.
        tasks: The same as a tensor: a compiled graph takes it as an input, and is not made anew for others.
    """

    registry: AdapterRegistry
    routing: Routing | None
    task_ids: Sequence[int] | Tensor | None
    tasks: Tensor | None

    def borrowed(self) -> contextlib.AbstractContextManager[None]:
        """To be around the call, outside of what is compiled."""
        if self.routing is None:
            return contextlib.nullcontext()
        return self.registry.table.borrowed(self.routing)

    def called(
        self,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        is_repeated: bool = False,
        with_beams: bool = False,
    ) -> Any:
        """Call a function, which may be compiled, with this.

        Args:
            function: What to call.
            args: Its arguments.
            kwargs: Its arguments by name.
            is_repeated: Whether the batch in these is repeated already.
            with_beams: Whether rows may get copies of their own.
        """
        table = self.registry.table
        lanes = (self.routing or table.active).lanes
        is_traced = torch.compiler.is_dynamo_compiling()
        task_ids = self.tasks if is_traced else self.task_ids
        if task_ids is None and not is_repeated and not with_beams:
            lanes = None
        if lanes is not None and lanes.ongoing.get() is not None:
            lanes = None  # within `generate`, which knows more of the rows
        if lanes is not None:
            lanes.ongoing.put(RowsOfCall(task_ids, is_repeated, with_beams))
        if is_traced:
            table.traced = self.routing
        try:
            return function(*args, **kwargs)
        finally:
            if lanes is not None:
                lanes.ongoing.clear()
            if is_traced:
                table.traced = None

    def repeated(self, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any], bool]:
        """The arguments of `generate` with the batch repeated, and whether it is: texts go on differently."""
        lanes = (self.routing or self.registry.table.active).lanes
        if lanes is None or lanes.plan.channels == 1:
            return args, dict(kwargs), False
        batch = {"inputs": args[0] if args else None, **kwargs}
        sizes = [len(batch[n]) for n in (*_INPUTS, *batch) if isinstance(batch.get(n), Tensor) and batch[n].ndim]
        if not sizes:
            raise ValueError(f"generate needs inputs to repeat for {lanes.plan.setup!r}; give input_ids.")
        found = {name: repeated(value, sizes[0], lanes.plan.channels, name) for name, value in batch.items()}
        inputs = found.pop("inputs") if args or "inputs" not in kwargs else None
        return ((inputs, *args[1:]) if args else ()), found, True


_INPUTS = ("inputs", "input_ids", "inputs_embeds", "input_features", "pixel_values")


def use(registry: AdapterRegistry, options: Options) -> Use:
    """What a call is made with: its own adapters, else the `AdapterSetup` that it is in, else the active setup.

    Raises:
        ValueError: what is asked for contradicts itself, or is not known.
    """
    context = AdapterSetup.get_context()
    names = options.adapter_names
    if names is None and context is not None:
        names = context.adapter_names
    if registry.peft.trained and (context is not None or names is not None or options.task_ids is not None):
        raise ValueError("AdapterSetup is for adapters of this library; those of peft are active for all threads.")
    if names is not None:
        if options.task_ids is not None:
            raise ValueError("adapter_names and task_ids both say which adapter each row goes through; give one.")
        return _use(registry, *registry.of_rows(names))
    routing: Routing | None = None
    if context is not None:
        routing = registry.compile(context.adapter_setup, registry.skip_layers)
    if options.task_ids is None:
        return _use(registry, routing, None)
    lanes = (routing or registry.table.active).lanes
    if lanes is None:
        raise ValueError("task_ids is for setups with MultiTask, and no adapter is active.")
    return _use(registry, routing, lanes.numbers(options.task_ids))


def _use(registry: AdapterRegistry, routing: Routing | None, task_ids: Any) -> Use:
    tasks = torch.tensor(task_ids) if isinstance(task_ids, (list, tuple)) else task_ids
    return Use(registry, routing, task_ids, tasks)


class BegunCall:
    """A call of a model that is not made with its active setup alone, until it ends.

    What is looked up here (context variables, names of adapters) is looked up outside of what is compiled.

    Args:
        registry: The adapters of the model.
        arguments: The arguments of the call by name; those that are meant for adapters are taken out.

    Raises:
        ValueError: what is asked for contradicts itself, or is not known.
    """

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __init__(self, registry: AdapterRegistry, arguments: dict[str, Any]) -> None:
        self.registry = registry
        self.options = taken_from(arguments)
        self.use = use(registry, self.options)
        self._open = contextlib.ExitStack()
        self._open.enter_context(self.use.borrowed())
        self._observation: Observation | None = None
        if self.options.shows_fusions or self.options.shows_gates:
            self._observation = self._open.enter_context(Observation())

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def end(self) -> None:
        """The call is over."""
        self._open.close()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def shown(self, output: Any) -> Any:
        """The output, with what the call was asked to show."""
        if self._observation is None:
            return output
        found: dict[str, Any] = {}
        if self.options.shows_fusions:
            placed = {name: fusion.placements for name, fusion in self.registry.fusions.items()}
            found["adapter_fusion_attentions"] = _by_place(placed, self._observation, lambda weights: weights[-1])
        if self.options.shows_gates:
            placed = {name: adapter.placements for name, adapter in self.registry.adapters.items()}
            found["adapter_gating_scores"] = _by_place(placed, self._observation, _together)
        return _extended(output, found)


def _by_place(
    placements: Mapping[str, Any], observation: Observation, joined: Callable[[list[np.ndarray]], np.ndarray]
) -> dict[str, dict[int, dict[str, Any]]]:
    """What modules have shown: by name, layer and location, as arrays.

    Args:
        placements: The modules by the names of their adapters or fusions.
        observation: What they have shown.
        joined: What is made of all that is of one location.
    """
    shown: dict[str, dict[int, dict[str, list[np.ndarray]]]] = {}
    for name, placed in placements.items():
        for p in placed:
            if p.module in observation.seen:
                is_cross = isinstance(p.point, Sublayer) and p.point.kind == "cross_attention"
                location = "cross_adapter" if is_cross else p.location
                value = observation.seen[p.module].detach().float().cpu().numpy()
                shown.setdefault(name, {}).setdefault(p.layer, {}).setdefault(location, []).append(value)
    return {
        name: {layer: {key: joined(values) for key, values in places.items()} for layer, places in layers.items()}
        for name, layers in shown.items()
    }


def _together(values: list[np.ndarray]) -> np.ndarray:
    """The gates of a location. Shape: several of (R, n), to (R, N), or to (R,) where there is one only."""
    found = np.concatenate(values, -1)
    return found.squeeze(-1) if found.shape[-1] == 1 else found


def _extended(output: Any, found: Mapping[str, Any]) -> Any:
    if isinstance(output, ModelOutput):
        for key, value in found.items():
            output[key] = value
        return output
    return (*output, *found.values()) if isinstance(output, tuple) else output
