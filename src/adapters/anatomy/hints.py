"""What inference cannot know, above all where AdapterHub's `adapters` put its modules in its own way.

A row names the model type of the configuration, and what to change of each sublayer that was found. Without a row an
architecture works; the rows keep the files that were written by AdapterHub's `adapters` valid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from .parts import CONTAINERS, Anatomy, Layer, Sublayer, Tap, Tower

SublayerHint = Callable[[Sublayer, Layer, Tower], Sublayer]


def _albert(sublayer: Sublayer, layer: Layer, tower: Tower) -> Sublayer:
    """Adapters of attention have a container of their own; x and r were swapped where they are called."""
    if sublayer.kind != "attention":
        return sublayer
    return replace(sublayer, container=CONTAINERS["attention"], upstream_swaps=True)


def _modernbert(sublayer: Sublayer, layer: Layer, tower: Tower) -> Sublayer:
    """The residual that adapters see is the normed input of a sublayer, and attention's norm the last layer's ffn's."""
    if sublayer.kind == "attention":
        residual, norm = Tap(f"{layer.path}.attn", "input"), f"{tower.layers[-1].path}.mlp_norm"
        return replace(sublayer, upstream_residual=(residual,), upstream_norm=norm)
    return replace(sublayer, upstream_residual=(Tap(f"{layer.path}.mlp", "input"),))


def _gptj(sublayer: Sublayer, layer: Layer, tower: Tower) -> Sublayer:
    """The residual of the feed-forward has the attention's (adapted) output in it, though they are parallel."""
    attention = next(s for s in layer.sublayers if s.kind == "attention")
    if sublayer.kind != "ffn" or sublayer.residual is None:
        return sublayer
    return replace(sublayer, upstream_residual=(sublayer.residual, attention.output))


def _phi(sublayer: Sublayer, layer: Layer, tower: Tower) -> Sublayer:
    """The feed-forward sublayer has no norm of its own, so no residual was seen."""
    return replace(sublayer, upstream_residual=()) if sublayer.kind == "ffn" else sublayer


def _gemma(sublayer: Sublayer, layer: Layer, tower: Tower) -> Sublayer:
    """Adapters in all layers read through the norm of the last one."""
    if sublayer.norm is None:
        return sublayer
    return replace(sublayer, upstream_norm=tower.layers[-1].path + sublayer.norm.removeprefix(layer.path))


def _llama4(sublayer: Sublayer, layer: Layer, tower: Tower) -> Sublayer:
    """The experts give all tokens in one row, which are brought into the shape of the residual to be added to it."""
    if sublayer.kind != "ffn":
        return sublayer
    return replace(sublayer, residual=Tap(f"{layer.path}.post_attention_layernorm", "input"), is_flat=True)


SUBLAYER_HINTS: dict[str, SublayerHint] = {
    "albert": _albert,
    "gemma2": _gemma,
    "gemma3_text": _gemma,
    "modernbert": _modernbert,
    "gptj": _gptj,
    "phi": _phi,
    "llama4_text": _llama4,
}

# Where invertible adapters of the first tower act, if not on its embeddings.
EMBEDDING_HINTS: dict[str, Tap] = {"whisper": Tap("encoder.layer_norm")}

# Static classes of these do not undo an invertible adapter before their output embeddings, all others do.
WITHOUT_INVERSE = frozenset(
    "albert bart beit bert bert-generation clip deberta deberta-v2 distilbert electra encoder-decoder gpt2 gptj llama "  # noqa: SIM905
    "mbart mistral mt5 plbart roberta t5 vit whisper xlm-roberta xmod".split()
)

# Models whose halves are models of their own: what layers share is shared within a half, and the numbers of layers in
# configurations begin anew in the decoder.
MODELS_OF_MODELS = frozenset({"encoder-decoder"})


def apply_hints(anatomy: Anatomy, model: nn.Module) -> Anatomy:
    """The anatomy with the row of the model's type applied, if there is one."""
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    anatomy = replace(anatomy, inverts_at_head=model_type not in WITHOUT_INVERSE)
    tap = EMBEDDING_HINTS.get(model_type)
    if tap is not None and anatomy.towers and tap.path.startswith(f"{anatomy.towers[0].path}."):
        anatomy = replace(anatomy, towers=(replace(anatomy.towers[0], embeddings=tap), *anatomy.towers[1:]))
    if model_type in MODELS_OF_MODELS:
        return replace(anatomy, shares_by_tower=True, towers=tuple(map(_numbered_anew, anatomy.towers)))
    hint = SUBLAYER_HINTS.get(model_type)
    return anatomy if hint is None else replace(anatomy, towers=tuple(_hinted(t, hint) for t in anatomy.towers))


def _numbered_anew(tower: Tower) -> Tower:
    return replace(tower, layers=tuple(replace(layer, number=n) for n, layer in enumerate(tower.layers)))


def _hinted(tower: Tower, hint: SublayerHint) -> Tower:
    layers = tuple(
        replace(layer, sublayers=tuple(hint(sublayer, layer, tower) for sublayer in layer.sublayers))
        for layer in tower.layers
    )
    return replace(tower, layers=layers)
