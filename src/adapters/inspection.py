"""`inspect`: the anatomy of a model as a tree, and what a configuration would add to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from torch import nn

from .anatomy import Anatomy, Layer, Sublayer
from .anatomy.inference import anatomy
from .configuration import AdapterConfig
from .methods import Placement, placements_of
from .model import ModelAdaptersMixin


def inspect(model: nn.Module, config: str | Mapping[str, Any] | None = None) -> str:
    """The parts of a model as a tree; with a configuration, also what it would add where. Nothing is added.

    >>> print(adapters.inspect(model, config="seq_bn"))

    Args:
        model: Any model, with or without adapters.
        config: A configuration, as for `add_adapter`.

    Raises:
        ValueError: the configuration cannot be met by this model.
    """
    if isinstance(model, ModelAdaptersMixin):
        base, parts = model._adapter_registry.base, model._adapter_registry.anatomy
    else:
        base = getattr(model, "base_model", model)
        parts = anatomy(base)
    placements: list[Placement] = []
    if config is not None:
        placements = placements_of(AdapterConfig.load(config), parts, base)
    return "\n".join(_tree(parts, placements, base))


def _tree(parts: Anatomy, placements: list[Placement], base: nn.Module) -> Iterator[str]:
    found = "found whole" if parts.is_whole else f"not found: {'; '.join(parts.missing)}"
    yield f"{parts.model_class}: {found}"
    for tower in parts.towers:
        yield f"├─ {tower.path or 'layers'} ({len(tower.layers)} layers, hidden size {tower.size})"
        if tower.embeddings is not None:
            yield f"│  embeddings: {tower.embeddings}"
        for _, alike in groupby(tower.layers, key=lambda layer: _described(layer, placements)):
            layers = list(alike)
            first, last = layers[0].index, layers[-1].index
            yield f"│  ├─ layer {first}" if first == last else f"│  ├─ layers {first} to {last}, like {first}:"
            yield from (f"│  │  {line}" for line in _described(layers[0], placements))
    yield from (f"├─ {line}" for line in _elsewhere(placements))
    if placements:
        added = sum(p.numel() for p in dict.fromkeys(q for place in placements for q in place.module.parameters()))
        total = sum(p.numel() for p in base.parameters())
        yield f"└─ would add {added:,} parameters: {100 * added / max(total, 1):.2f} % of {total:,}"


def _described(layer: Layer, placements: list[Placement]) -> tuple[str, ...]:
    lines: list[str] = []
    for sublayer in layer.sublayers:
        lines += _sublayer_lines(layer, sublayer)
        lines += [f"   {_added(p)}" for p in placements if p.point is sublayer]
    others = [p for p in placements if p.layer == layer.index and not isinstance(p.point, Sublayer)]
    lines += [f"{_added(p)} at {p.host.removeprefix(f'{layer.path}.')}" for p in others]
    return tuple(lines)


def _added(placement: Placement) -> str:
    size = sum(p.numel() for p in placement.module.parameters())
    return f"+ {type(placement.module).__name__} ({placement.location}): {size:,} parameters"


def _sublayer_lines(layer: Layer, sublayer: Sublayer) -> Iterator[str]:
    def short(path: str) -> str:
        return path.removeprefix(f"{layer.path}.")

    norm = "no norm"
    if sublayer.norm and not sublayer.norm_on_branch:
        norm = f"post-norm {short(sublayer.norm)}"
    elif sublayer.pre_norm:
        norm = f"pre-norm {short(sublayer.pre_norm)}"
    if sublayer.norm and sublayer.norm_on_branch:
        norm += f", branch norm {short(sublayer.norm)}"
    residual = f"{sublayer.residual.side} of {short(sublayer.residual.path)}" if sublayer.residual else "not found"
    yield f"{sublayer.kind}: {norm}; output of {short(sublayer.output.path)}, residual {residual}"
    roles = [f"{role} {', '.join(map(short, paths))}" for role, paths in sublayer.projections.items()]
    yield f"   {'; '.join(roles)}"


def _elsewhere(placements: list[Placement]) -> Iterator[str]:
    for placement in placements:
        if placement.layer < 0:
            yield _added(placement)
