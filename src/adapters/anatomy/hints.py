"""What inference cannot know: where AdapterHub's `adapters` put its modules in a few architectures, in its own way.

A row names the model type of the configuration, and what to change of each sublayer that was found. Without a row an
architecture works; the rows keep the files that were written by AdapterHub's `adapters` valid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from .parts import CONTAINERS, Anatomy, Layer, Sublayer, Tap, Tower

SublayerHint = Callable[[Sublayer, Layer], Sublayer]


def _albert(sublayer: Sublayer, layer: Layer) -> Sublayer:
    """The adapters of the attention module have a container of their own."""
    return replace(sublayer, container=CONTAINERS["attention"]) if sublayer.kind == "attention" else sublayer


def _modernbert(sublayer: Sublayer, layer: Layer) -> Sublayer:
    """The residual that adapters see is the normed input of a sublayer, and attention's norm is that of the ffn."""
    if sublayer.kind == "attention":
        residual, norm = Tap(f"{layer.path}.attn", "input"), f"{layer.path}.mlp_norm"
        return replace(sublayer, upstream_residual=residual, upstream_norm=norm)
    return replace(sublayer, upstream_residual=Tap(f"{layer.path}.mlp", "input"))


SUBLAYER_HINTS: dict[str, SublayerHint] = {"albert": _albert, "modernbert": _modernbert}

# Models whose halves are models of their own: what layers share is shared within a half.
SHARES_BY_TOWER = frozenset({"encoder-decoder"})


def apply_hints(anatomy: Anatomy, model: nn.Module) -> Anatomy:
    """The anatomy with the row of the model's type applied, if there is one."""
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    found = replace(anatomy, shares_by_tower=model_type in SHARES_BY_TOWER)
    hint = SUBLAYER_HINTS.get(model_type)
    if hint is None:
        return found
    return replace(found, towers=tuple(_hinted(tower, hint) for tower in found.towers))


def _hinted(tower: Tower, hint: Any) -> Tower:
    layers = tuple(
        replace(layer, sublayers=tuple(hint(sublayer, layer) for sublayer in layer.sublayers)) for layer in tower.layers
    )
    return replace(tower, layers=layers)
