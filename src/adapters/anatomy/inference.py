"""From a whole model to its anatomy: which modules are stacks of layers, and which embeddings feed them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from .hints import apply_hints
from .parts import Anatomy, Layer, Sublayer, Tap, Tower
from .sublayers import ATTENTION_NAME, find_sublayers


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
    stacks = [stack for stack in _stacks(model, "") if any(sublayers for _, sublayers in stack)]
    towers: list[Tower] = []
    index = 0
    for stack in stacks:
        layers = []
        for path, sublayers in stack:
            layers.append(Layer(path, index, tuple(_rooted(s, path) for s in sublayers)))
            index += 1
        path = _tower_path(stack[0][0])
        embeddings = _embeddings(model, path)
        towers.append(Tower(path, tuple(layers), embeddings, _embedding_size(model, embeddings), _size(layers)))
    found = Anatomy(type(model).__name__, tuple(towers), notes=() if towers else _notes(model))
    return apply_hints(found, model)


_Stack = list[tuple[str, list[Sublayer]]]


def _stacks(module: nn.Module, prefix: str) -> Iterator[_Stack]:
    """The outermost lists of modules whose items are layers. A list of stages or of groups is looked into."""
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if not isinstance(child, (nn.ModuleList, nn.Sequential)) or len(child) == 0:
            yield from _stacks(child, path)
            continue
        # A layer may hold a list of its own sublayers (T5), and a stage a list of layers (Swin, ALBERT's groups):
        # the innermost list whose items have both attention and feed-forward is the stack.
        items = [(f"{path}.{i}", item) for i, item in enumerate(child)]
        inner = [stack for p, item in items for stack in _stacks(item, p)]
        if any(_is_complete(sublayers) for stack in inner for _, sublayers in stack):
            yield [layer for stack in inner for layer in stack]
        elif any(_has_attention(item) for _, item in items) and isinstance(child, nn.ModuleList):
            yield [(p, find_sublayers(item)) for p, item in items]
        else:
            yield from inner


def _has_attention(module: nn.Module) -> bool:
    return any(ATTENTION_NAME.search(type(m).__name__) for m in module.modules())


def _is_complete(sublayers: list[Sublayer]) -> bool:
    return {"attention", "ffn"} <= {s.kind for s in sublayers}


def _rooted(sublayer: Sublayer, path: str) -> Sublayer:
    """The sublayer with paths that start at the model instead of at its layer."""

    def join(inner: str) -> str:
        return f"{path}.{inner}" if inner else path

    def tap(t: Tap) -> Tap:
        return replace(t, path=join(t.path))

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


def _embeddings(model: nn.Module, tower: str) -> str | None:
    """The module whose output enters the tower: the sibling of the tower, or its own child, that embeds tokens.

    The search goes up from the tower to the first module with such a child, so that each tower of a multi-tower model
    finds its own, and a word embedding inside a larger embedding module (BERT's) gives the larger one.
    """
    parts = tower.split(".") if tower else []
    for depth in range(len(parts), -1, -1):
        path = ".".join(parts[:depth])
        for name, child in model.get_submodule(path).named_children():
            child_path = f"{path}.{name}" if path else name
            if tower == child_path or tower.startswith(f"{child_path}.") or isinstance(child, nn.ModuleList):
                continue
            tokens = [m for m in child.modules() if isinstance(m, nn.Embedding)]
            if tokens and "position" not in name and name not in ("wpe", "decoder", "encoder"):
                return child_path
    return None


def _embedding_size(model: nn.Module, path: str | None) -> int:
    """The size of what the embedding module returns: that of its tokens."""
    if path is None:
        return 0
    return next(m.embedding_dim for m in model.get_submodule(path).modules() if isinstance(m, nn.Embedding))


def _notes(model: nn.Module) -> tuple[str, ...]:
    names = {type(m).__name__ for m in model.modules() if "mixer" in type(m).__name__.lower() or "Mamba" in type(m).__name__}
    return tuple(f"it is built of {name}" for name in sorted(names))
