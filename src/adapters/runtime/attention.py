"""How prefixes become keys and values of an attention, without any attention being written anew.

The attention modules of transformers look up a function in the global `ALL_ATTENTION_FUNCTIONS` of their file, and call
it with queries, keys and values. Where prefixes are in use, the `forward` of such a module runs as it is written, but
with that one name bound to a table whose functions get longer keys, values and masks. Nothing of transformers changes,
and no other module, model or thread is concerned. The cache never holds a prefix: it is put in front in every call.

Shapes: B rows, T tokens, S keys, P positions of prefixes, K heads of keys and values, d size of a head.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..anatomy.attention import INTERFACE
from ..anatomy.parts import AttentionCore
from .calls import Calls
from .flows import Flow
from .hooks import HookPoint, Step
from .masks import biases_of_rows, causal_mask, check, is_causal_by_flag, with_prefix, with_unseen
from .prefixes import PrefixSource, counted_positions, prefix_source, read_hidden
from .scores import PrefixedScores
from .sublayers import Cell

AttentionFunction = Callable[..., Any]


class AttendWithPrefixes:
    """Instead of an attention module that calls a function of transformers: the same, with prefixes.

    Args:
        attention: The module's class.
        source: What gives the prefix.
        biased_by: The module that has the biases of relative positions, if prefixes have them too.
        reads_hidden: Whether that needs the hidden states.
        counts_positions: Whether prefixes are at the first positions; else they have the biases of the next ones.
    """

    def __init__(
        self,
        attention: type[nn.Module],
        source: PrefixSource,
        biased_by: Any = None,
        reads_hidden: bool = True,
        counts_positions: bool = False,
    ) -> None:
        self.attention = attention
        self.biased_by = biased_by
        self.counts_positions = counts_positions
        self.source = source
        self.first = first_parameter(attention)
        self.hidden = Cell() if reads_hidden else None
        self.forward = self._rebound()

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        if self.hidden is None:
            return self.forward(module, *inputs, **arguments)
        self.hidden.put(hidden_states(self.first, inputs, arguments))
        try:
            return self.forward(module, *inputs, **arguments)
        finally:
            self.hidden.take_if_any()

    def attend(
        self,
        function: AttentionFunction,
        implementation: str | None,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        **arguments: Any,
    ) -> Any:
        """What the module calls instead of an attention function. Shapes: (B, K, S, d) for keys and values."""
        check(implementation, attention_mask, arguments)
        hidden = self.hidden.see() if self.hidden is not None else None
        keys, values, seen = self.source.prefix(hidden)
        length = keys.shape[2]
        if arguments.get("position_bias") is not None:
            arguments["position_bias"] = self.extended(arguments["position_bias"], length, seen)
        if attention_mask is not None:
            attention_mask = with_prefix(attention_mask, length)
        elif query.shape[2] > 1 and is_causal_by_flag(implementation, module, arguments):
            attention_mask = causal_mask(query, key, length)
        if seen is not None:
            attention_mask = with_unseen(attention_mask, seen, query, key, implementation)
        key, value = torch.cat([fitted(keys, key), key], dim=2), torch.cat([fitted(values, value), value], dim=2)
        return function(module, query, key, value, attention_mask, **arguments)

    def extended(self, bias: Tensor, length: int, seen: Tensor | None) -> Tensor:
        """Biases of relative positions, also for prefixes. Shape: (1, H, T, S) to (1 or B, H, T, P + S)."""
        if self.biased_by is None:
            return nn.functional.pad(bias, (length, 0))
        tokens, keys = bias.shape[2:]
        if self.counts_positions:
            before = keys + length - tokens
            of_prefix = self.biased_by.compute_bias(tokens, keys + length, device=bias.device, past_seen_tokens=before)
            return torch.cat([of_prefix[..., :length], bias], dim=3)
        further = self.biased_by.compute_bias(tokens, keys + length, device=bias.device)
        biases = torch.cat([bias, further[..., keys:]], dim=3)
        return biases if seen is None else biases_of_rows(biases, seen)

    def _rebound(self) -> Callable[..., Any]:
        """The module's `forward` as it is written, with another table of attention functions."""
        forward = cast(types.FunctionType, self.attention.forward)
        names = {**forward.__globals__, INTERFACE: PrefixedInterface(forward.__globals__[INTERFACE], self.attend)}
        # By this name torch.compile would find the file's own globals.
        del names["__name__"]
        bound = types.FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
        bound.__kwdefaults__ = forward.__kwdefaults__
        return bound

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "forward"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forward = self._rebound()


@dataclass
class PrefixedInterface:
    """What an attention module sees as transformers' table of attention functions.

    Args:
        own: That table.
        attend: What is called with a function of it, its name, and what the module calls it with.
    """

    own: Any
    attend: AttentionFunction

    def get_interface(self, implementation: str | None, default: AttentionFunction) -> AttentionFunction:
        """The function of a name, or the default, with prefixes."""
        return functools.partial(self.attend, self.own.get_interface(implementation, default), implementation)

    def __getitem__(self, implementation: str) -> AttentionFunction:
        return functools.partial(self.attend, self.own[implementation], implementation)


@dataclass
class AttendWithScores:
    """Instead of an attention module that computes attention itself: the same, with prefixes.

    Args:
        attention: The module's class.
        core: The sizes and the scale of its attention.
        source: What gives the prefix.
        biased_by: The module that has the biases of relative positions, if prefixes have them too.
    """

    attention: type[nn.Module]
    core: AttentionCore
    source: PrefixSource
    biased_by: Any

    def __post_init__(self) -> None:
        self.first = first_parameter(self.attention)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        hidden = hidden_states(self.first, inputs, arguments)
        keys, values, seen = self.source.prefix(hidden)
        keys, values = fitted(keys, hidden), fitted(values, hidden)
        assert self.core.scale is not None
        biases = None
        if self.biased_by is not None:
            cache = arguments.get("past_key_values")
            # A static cache counts in a tensor, which the module changes: what it is now is meant.
            past = 0 if cache is None else cache.get_seq_length(cast(Any, module).layer_idx) + 0
            biases = functools.partial(self.biased_by.compute_bias, device=hidden.device, past_seen_tokens=past)
        with PrefixedScores(keys, values, self.core.scale, biases, seen):
            return self.attention.forward(module, *inputs, **arguments)


def attention_steps(base: nn.Module, core: AttentionCore, flow: Flow, calls: Calls) -> Iterator[tuple[HookPoint, Step]]:
    """The step of prefixes at one attention.

    Raises:
        ValueError: what is asked for has no meaning for prefixes.
    """
    module = base.get_submodule(core.path)
    source = prefix_source(flow, calls)
    counted = counted_positions(source.length, flow)
    biased_by = None if core.biased_by is None else base.get_submodule(core.biased_by)
    if core.scale is None:
        yield (module, "instead"), AttendWithPrefixes(type(module), source, biased_by, read_hidden(flow), counted > 0)
    elif counted and biased_by is not None:
        raise ValueError(
            f"counts_positions=True cannot be used with {type(module).__name__}, which writes attention with biases of "
            "relative positions out; use counts_positions=False."
        )
    else:
        yield (module, "instead"), AttendWithScores(type(module), core, source, biased_by)
    if counted:
        calls.shift(core.path, counted, has_biases=biased_by is not None)


def hidden_states(name: str, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Tensor:
    """What an attention module is called with first, which queries are made of. Shape: (B, T, D)."""
    return cast(Tensor, inputs[0] if inputs else arguments[name])


def first_parameter(attention: type[nn.Module]) -> str:
    """The name by which the hidden states may be given."""
    return list(inspect.signature(attention.forward).parameters)[1]


def fitted(prefix: Tensor, like: Tensor) -> Tensor:
    """With the rows, device and type of numbers of another tensor. Shape: (1 or B, K, P, d) to (B, K, P, d)."""
    if prefix.dtype != like.dtype or prefix.device != like.device:
        prefix = prefix.to(like.device, like.dtype)
    return prefix if prefix.shape[0] == like.shape[0] else prefix.expand(like.shape[0], -1, -1, -1)
