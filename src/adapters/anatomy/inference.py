"""From a whole model to its anatomy: which modules are stacks of layers, and which embeddings feed them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from .dataflow import Graph, Value, read
from .hints import apply_hints
from .parts import Anatomy, Layer, Sublayer, Tap, Tower
from .sublayers import ATTENTION_NAME, MIXER_NAME, Reading, find_sublayers, is_norm


def anatomy(model: nn.Module) -> Anatomy:
    """Find the parts of any Transformer, from its modules and the source of their `forward`.

    >>> parts = anatomy(BertModel(config))
    >>> parts.layers[0].sublayers[0].projections["q"]
    ('attention.self.query',)

    Args:
        model: The base model (without prediction heads). Nothing of it is changed or run.

    Returns:
        The anatomy, with `missing` saying what could not be found. All paths start at `model`.
    """
    stacks = [stack for stack in _stacks(model, "") if any(reading.sublayers for _, reading in stack)]
    if not stacks and _has_attention(model):
        stacks = [stack for stack in [_unrolled(model)] if stack]
    towers: list[Tower] = []
    index = 0
    for stack, embeddings in zip(stacks, _embeddings(model, stacks), strict=True):
        layers = []
        for path, reading in stack:
            layers.append(Layer(path, index, index, reading.sublayers, reading.unread))
            index += 1
        path = _tower_path(stack[0][0])
        size = _size(layers)
        towers.append(Tower(path, tuple(layers), embeddings, _embedding_size(model, embeddings) or size, size))
    found = Anatomy(type(model).__name__, tuple(towers), notes=() if towers else _notes(model))
    return apply_hints(found, model)


_Stack = list[tuple[str, Reading]]


def _stacks(module: nn.Module, path: str) -> Iterator[_Stack]:
    """The outermost lists of modules whose items are layers. A list of stages or of groups is looked into."""
    children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
    # A layer may hold a list of its own sublayers (T5), and a stage a list of layers (Swin, ALBERT's groups):
    # the innermost list whose items have both attention and feed-forward is the stack.
    inner = [stack for child_path, child in children for stack in _stacks(child, child_path)]
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        yield from inner
    elif any(_is_complete(reading) for stack in inner for _, reading in stack) or _holds_lists(module):
        joined = [layer for stack in inner for layer in stack]
        yield from [joined] if joined else []
    elif isinstance(module, nn.ModuleList) and any(_has_attention(child) for _, child in children):
        yield [(child_path, _rooted(find_sublayers(child), child_path)) for child_path, child in children]
    else:
        yield from inner


def _unrolled(model: nn.Module) -> _Stack:
    """The layers of a model that holds its sublayers in several lists, and loops over them itself (XLM)."""
    sublayers: dict[str, list[Sublayer]] = {}
    for sublayer in find_sublayers(model).sublayers:
        item = re.match(r"(.*?\.(\d+))(\.|$)", sublayer.output.path)
        if item is not None and not sublayer.host:
            # The model performs all the additions: what adapters are attached to is the item.
            own = replace(sublayer, host=item[1], container="adapters")
            sublayers.setdefault(item[2], []).append(own)
    return [(found[0].host, Reading(tuple(found))) for found in sublayers.values()]


def _holds_lists(module: nn.Module) -> bool:
    return all(isinstance(child, (nn.ModuleList, nn.Sequential)) for child in module.children())


def _has_attention(module: nn.Module) -> bool:
    return any(ATTENTION_NAME.search(type(m).__name__) for m in module.modules())


def _is_complete(reading: Reading) -> bool:
    return {"attention", "ffn"} <= {s.kind for s in reading.sublayers}


def _rooted(reading: Reading, path: str) -> Reading:
    """What was read of a layer, with paths that start at the model instead of at the layer."""
    sublayers = tuple(_rooted_sublayer(sublayer, path) for sublayer in reading.sublayers)
    return Reading(sublayers, tuple(f"{path}.{name}" for name in reading.unread))


def _rooted_sublayer(sublayer: Sublayer, path: str) -> Sublayer:
    def join(inner: str) -> str:
        return f"{path}.{inner}" if inner else path

    def tap(t: Tap) -> Tap:
        return replace(t, path=join(t.path), armed_by=join(t.armed_by) if t.armed_by else None)

    return replace(
        sublayer,
        output=tap(sublayer.output),
        residual=tap(sublayer.residual) if sublayer.residual else None,
        norm=join(sublayer.norm) if sublayer.norm else None,
        pre_norm=join(sublayer.pre_norm) if sublayer.pre_norm else None,
        host=join(sublayer.host),
        projections={role: tuple(map(join, paths)) for role, paths in sublayer.projections.items()},
    )


def _size(layers: list[Layer]) -> int:
    return next((s.size for layer in layers for s in layer.sublayers if s.size), 0)


def _tower_path(layer_path: str) -> str:
    """The module that holds the list that holds the layer: 'encoder' for 'encoder.layer.0'."""
    parts = layer_path.split(".")
    while parts and not parts[-1].isdigit():
        parts.pop()
    return ".".join(parts[:-2])


def _embeddings(model: nn.Module, stacks: list[_Stack]) -> list[Tap | None]:
    """For each stack, where its embeddings can be seen: what enters the first layer, before any projection of it."""
    layers = [[model.get_submodule(path) for path, _ in stack] for stack in stacks]
    graph = read(model, frozenset(layer for stack in layers for layer in stack))
    paths = {path: n for n, stack in enumerate(stacks) for path, _ in stack}
    counts = Counter(call.name for call in graph.calls)
    taps: list[Tap | None] = [None] * len(stacks)
    for call in graph.calls:
        stack = paths.get(call.name)
        if stack is not None and taps[stack] is None and call.sources:
            taps[stack] = _entering(call.sources[0], model, graph, counts) or Tap(call.name, "input")
    return taps


def _entering(value: Value, model: nn.Module, graph: Graph, counts: Counter[str]) -> Tap | None:
    """The last module that made a tensor, leaving out projections: ALBERT's embeddings are projected to D."""
    while True:
        for path, index in graph.outputs_of.get(value, ()):
            return Tap(path, "output", index)
        module = model.get_submodule(value.name) if value.made_by == "module" else None
        if module is not None and not isinstance(module, nn.Linear) and counts[value.name] == 1:
            return Tap(value.name)
        if value.made_by not in ("module", "same") or not value.sources:
            return None
        value = value.sources[0]


def _embedding_size(model: nn.Module, tap: Tap | None) -> int | None:
    """The size of the embeddings: that of the norm or of the table that gives them."""
    parts = tap.path.split(".") if tap is not None and tap.side == "output" else []
    for depth in range(len(parts), 0, -1):  # a dropout tells nothing, but what it is part of does
        for module in reversed(list(model.get_submodule(".".join(parts[:depth])).modules())):
            if isinstance(module, nn.Embedding):
                return module.embedding_dim
            if is_norm(module, ".".join(parts[:depth])) and (vector := next(module.parameters(), None)) is not None:
                return int(vector.shape[0])
    return None


def _notes(model: nn.Module) -> tuple[str, ...]:
    """What a model without readable layers is, instead of a Transformer."""
    own = {type(m).__name__ for m in model.modules() if not type(m).__module__.startswith("torch.")}
    attention = sorted(name for name in own if ATTENTION_NAME.search(name))
    if attention:
        return (f"sums of (batch, tokens, features) around its attention ({', '.join(attention)})",)
    mixers = sorted(name for name in own if MIXER_NAME.search(name) and "Norm" not in name)
    if mixers:
        return (f"layers with attention: it is built of other mixers ({', '.join(mixers)})",)
    blocks = sorted(name for name in own if re.search(r"(Layer|Block|Stage)$", name))
    kind = "a convolution network" if any(isinstance(m, nn.Conv2d) for m in model.modules()) else "no Transformer"
    return (f"layers with attention: it is {kind} ({', '.join(blocks or sorted(own))})",)
