"""How a batch is repeated for `Parallel`, and what is seen of its rows where a model is called.

The batch is repeated at the first layer whose adapters differ, so that the layers below run once. What later layers are
called with for each row (masks, positions, what an encoder gives) is repeated there too. Where the embeddings or the
first layer differ already, or where rows cannot be told from other things, the call of the model itself is repeated.

Shapes: B rows of the batch, N channels, R = N·B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.parts import Anatomy, Tower
from .hooks import HookPoint, Step
from .lanes import Lanes, RowsOfCall
from .signatures import Signature

_INPUTS = (
    *("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "input_features", "input_values"),
    *("pixel_values", "hidden_states"),
)
# Where what follows the layers, or is beside them, goes by the number of rows that the model was called with.
_COUNT_ROWS = frozenset(
    {
        *(
            "flaubert",
            "gemma3n",
            "gemma3n_text",
            "gpt_bigcode",
            "imagegpt",
            "inkling2_text",
            "mobilevit",
            "openai-gpt",
            "prophetnet",
        ),
        *("pvt", "pvt_v2", "xlm", "xmod"),
    }
)
# Where layers, or attention in them, compute (tokens, rows, …).
_TOKENS_FIRST = frozenset({"fsmt", "led", "longformer", "xlnet"})
_NOT_OF_ROWS = frozenset({"cache_position", "head_mask", "decoder_head_mask", "cross_attn_head_mask"})


@dataclass
class BeginRows:
    """At the call of the model, or of a tower of it: see how many rows there are, and repeat them if that is due.

    Args:
        lanes: The lanes.
        signature: That of the module.
        repeats: Whether the batch is repeated here.
    """

    lanes: Lanes
    signature: Signature
    repeats: bool

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        outer: RowsOfCall | None = self.lanes.ongoing.get()
        if outer is not None and outer.rows is not None:
            return None  # within a call of the model
        count = self.lanes.plan.channels
        given = self.signature.named(inputs, arguments)
        rows = _rows_of(given)
        is_repeated = outer is not None and outer.is_repeated
        task_ids = None if outer is None else outer.task_ids
        with_beams = outer is not None and outer.with_beams
        call = RowsOfCall(task_ids, is_repeated, with_beams, rows, module, outer)
        if not (torch.compiler.is_compiling() or torch.is_grad_enabled()):
            call.state_of_weights = self.lanes.look()
        self.lanes.ongoing.put(call)
        if count == 1 or is_repeated:
            return None
        call.rows, call.is_repeated = rows * count, self.repeats
        if not self.repeats:
            return None
        return (), {name: repeated(value, rows, count, name) for name, value in given.items()}


@dataclass
class EndRows:
    """After that call, also if it has failed: forget it."""

    lanes: Lanes

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call: RowsOfCall | None = self.lanes.ongoing.get()
        if call is None or call.owner is not module:
            return
        if call.outer is None:
            self.lanes.ongoing.clear()
        else:
            self.lanes.ongoing.put(call.outer)


@dataclass
class RepeatForLayer:
    """At the call of a layer from the first one on whose adapters differ: its rows are those of all channels.

    Args:
        lanes: The lanes.
        is_first: Whether its hidden states are still those of the batch.
    """

    lanes: Lanes
    is_first: bool

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call: RowsOfCall | None = self.lanes.ongoing.get()
        if call is not None and call.is_repeated:
            return None
        hidden: Tensor = inputs[0] if inputs else arguments["hidden_states"]
        count = self.lanes.plan.channels
        rows = hidden.shape[0] if self.is_first else hidden.shape[0] // count
        once = _once(call.repeated if call is not None else {})
        changed = {
            name: value if value is hidden else once(value, rows, count, name, hidden.shape[1])
            for name, value in arguments.items()
        }
        positional = [value if value is hidden else once(value, rows, count, "", hidden.shape[1]) for value in inputs]
        if self.is_first:
            longer = repeated(hidden, rows, count)
            if inputs:
                positional[0] = longer
            else:
                changed["hidden_states"] = longer
        return tuple(positional), changed


@dataclass
class RepeatLabels:
    """At the call of a model whose base model repeats the batch: what is not for the base model is repeated.

    Args:
        lanes: The lanes.
        signature: That of the model.
        names: What the base model takes.
    """

    lanes: Lanes
    signature: Signature
    names: frozenset[str]

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = self.signature.named(inputs, arguments)
        rows, count = _rows_of(given), self.lanes.plan.channels
        return (), {n: v if n in self.names else repeated(v, rows, count, n) for n, v in given.items()}


@dataclass
class RepeatForReader:
    """At the call of a decoder whose encoder has repeated the batch: all else is repeated too."""

    lanes: Lanes
    signature: Signature

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call: RowsOfCall | None = self.lanes.ongoing.get()
        given = self.signature.named(inputs, arguments)
        memory = given.get("encoder_hidden_states")
        if (call is not None and call.is_repeated) or memory is None:
            return None
        count = self.lanes.plan.channels
        rows = memory.shape[0] // count
        return (), {
            name: value if value is memory else repeated(value, rows, count, name) for name, value in given.items()
        }


def _rows_of(given: Mapping[str, Any]) -> int:
    """The number of rows that a model or a tower is called with."""
    named = [given[name] for name in _INPUTS if isinstance(given.get(name), Tensor)]
    found = named or [value for value in given.values() if isinstance(value, Tensor) and value.ndim > 1]
    if not found:
        raise ValueError(
            f"The number of rows is not known: none of {', '.join(_INPUTS)} was given, but {', '.join(given) or '-'}."
        )
    return int(found[0].shape[0])


def repeated(value: Any, rows: int, count: int, name: str = "", tokens: int | None = None) -> Any:
    """What belongs to the rows of a batch, repeated; all else as it is.

    Args:
        value: A tensor, or something that holds tensors. Shape: (B, ...) to (N·B, ...).
        rows: B.
        count: N.
        name: The name of the argument.
        tokens: T, at the call of a layer: a table of positions may have as many rows as the batch.
    """
    if isinstance(value, Tensor):
        dim = _row_dim(value, rows, name, tokens)
        return value if dim is None else torch.cat([value] * count, dim)
    if isinstance(value, Mapping) and name not in _NOT_OF_ROWS:
        found = {key: repeated(inner, rows, count, str(key), tokens) for key, inner in value.items()}
        return type(value)(found) if type(value) is not dict else found  # type: ignore[call-arg]
    if type(value) in (tuple, list) and name not in _NOT_OF_ROWS:
        return type(value)(repeated(inner, rows, count, name, tokens) for inner in value)
    return value


def _row_dim(value: Tensor, rows: int, name: str, tokens: int | None) -> int | None:
    """The dimension of a tensor that counts rows, if there is one."""
    if name in _NOT_OF_ROWS or value.ndim == 0:
        return None
    if name == "alibi" and value.shape[0] % rows == 0:
        return 0  # rows and heads in one
    if value.ndim == 3 and name == "position_ids" and value.shape[1] == rows:
        return 1  # three kinds of positions
    if value.shape[0] != rows:
        return None
    if tokens is None:
        return 0
    is_table = value.ndim == 2 and value.is_floating_point() and rows == tokens and "mask" not in name
    return None if value.ndim == 1 or is_table else 0


def _once(known: dict[int, tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    """`repeated`, but that a tensor which all layers are called with is repeated once."""

    def found(value: Any, rows: int, count: int, name: str, tokens: int) -> Any:
        if not isinstance(value, Tensor) or torch.compiler.is_compiling():
            return repeated(value, rows, count, name, tokens)
        if id(value) not in known:
            known[id(value)] = (value, repeated(value, rows, count, name, tokens))
        return known[id(value)][1]

    return found


def has_tokens_first(base: nn.Module) -> bool:
    """Whether there are places in a model where rows are behind tokens."""
    return _model_type(base) in _TOKENS_FIRST


def _model_type(base: nn.Module) -> str:
    return str(getattr(vars(base).get("config"), "model_type", ""))


def row_steps(
    base: nn.Module, model: nn.Module, anatomy: Anatomy, lanes: Lanes, differing: Sequence[int], is_early: bool
) -> Iterator[tuple[HookPoint, Step]]:
    """The steps that see rows, and repeat them.

    Args:
        base: The base model.
        model: The model that it is part of, if its `forward` takes the labels of rows; else the base model.
        anatomy: Where its layers are.
        lanes: The lanes.
        differing: The layers in which not all lanes do the same.
        is_early: Whether they differ before or besides the layers too.
    """
    if len(lanes) == 1 and lanes.plan.channels == 1:
        return
    counts_rows = Signature(base).is_open or _model_type(base) in _COUNT_ROWS
    trunks = None if lanes.plan.channels == 1 or is_early or counts_rows else _trunks(anatomy, differing)
    called = [base.get_submodule(tower.path) for tower in anatomy.towers]
    called = [base, *called] if lanes.plan.channels == 1 or trunks is not None else [model, base, *called]
    for module in dict.fromkeys(called):
        signature = Signature(module)
        if not signature.is_open:
            yield (module, "call"), BeginRows(lanes, signature, repeats=trunks is None)
            yield (module, "finally"), EndRows(lanes)
    if trunks is not None and model is not base:
        yield (model, "call"), RepeatLabels(lanes, Signature(model), frozenset(Signature(base).names))
    for tower, first in trunks or ():
        if first is None:
            reader = base.get_submodule(tower.path)
            yield (reader, "call"), RepeatForReader(lanes, Signature(reader))
            continue
        for layer in tower.layers:
            if layer.index >= first:
                yield (base.get_submodule(layer.path), "call"), RepeatForLayer(lanes, layer.index == first)


def _trunks(anatomy: Anatomy, differing: Sequence[int]) -> list[tuple[Tower, int | None]] | None:
    """For each tower that repeats the batch by itself, the first layer that does so, or None if all do.

    None instead of a list: the call of the model has to be repeated.
    """
    firsts = {tower.path: min((i for i in differing if _holds(tower, i)), default=None) for tower in anatomy.towers}
    own = [tower for tower in anatomy.towers if firsts[tower.path] is not None]
    if not own or any(firsts[tower.path] == tower.layers[0].index for tower in own):
        return None
    last = anatomy.towers[-1]
    if own == [last]:
        return [(last, firsts[last.path])]
    readers = [t for t in anatomy.towers if any(s.kind == "cross_attention" for la in t.layers for s in la.sublayers)]
    if len(anatomy.towers) == 2 and readers == [last]:
        return [(own[0], firsts[own[0].path]), (last, None)]
    return None


def _holds(tower: Tower, index: int) -> bool:
    return any(layer.index == index for layer in tower.layers)
