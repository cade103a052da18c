"""The forward pass of a model with adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch._dynamo.eval_frame import skip_code

from ..calling import OPTIONS, BegunCall, Use
from ..context import OpenSetups
from ..methods.base import AdapterModule
from ..methods.kept import Kept
from ..runtime.hooks import ReplayedCheckpoint
from .base import HoldsAdapters


class CallsAdapters(HoldsAdapters):
    """How a model is called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; see `forward` of its own class.

        >>> model(**batch, adapter_names=["a", None, "b", "a"])

        Besides the model's own arguments there are:

            adapter_names: For each row of the batch the adapter (or the block) that it goes through, or None.
            task_ids: For each row the number, or the name, of a child of the active `MultiTask`.
            output_adapter_fusion_attentions: Whether the output gets `adapter_fusion_attentions`: by fusion, layer and
                location arrays of shape (batch, tokens, adapters).
            output_adapter_gating_scores: Whether the output gets `adapter_gating_scores`, by adapter, layer, location.
        """
        if self._adapter_registry.hooks_seen != AdapterModule.hooks_registered:
            self._adapter_registry.compile_anew()
        if not OpenSetups.count and OPTIONS.isdisjoint(kwargs):
            return self._called(None, args, kwargs)
        begun = BegunCall(self._adapter_registry, kwargs)
        try:
            return begun.shown(self._called(begun.use, args, kwargs))
        finally:
            begun.end()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Called by `to`, `half` and so on: what was made of the weights of several adapters is made anew."""
        Kept.epoch += 1
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Any:
        """See `nn.Module.train`."""
        Kept.epoch += 1
        return super().train(mode)

    def _called(self, called: Use | None, args: Any, kwargs: Any) -> Any:
        """The part of a call that is compiled."""
        if called is not None:
            return called.called(super().__call__, args, kwargs)
        # Both ways are the same: asked for is only that a graph made without any hook is not used with some.
        if self._adapter_registry.table.is_in_use:
            return super().__call__(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by transformers to switch checkpointing on and off; see `ReplayedCheckpoint`."""
        function = gradient_checkpointing_func or torch.utils.checkpoint.checkpoint
        replayed = ReplayedCheckpoint(function, self._adapter_registry.table)
        cast(Any, super())._set_gradient_checkpointing(enable=enable, gradient_checkpointing_func=replayed, **kwargs)


# `torch.compile` begins behind this function: in it context variables and names of adapters are looked up, which cannot
# be compiled, or would make a new graph for each.
skip_code(CallsAdapters.__call__.__code__)
