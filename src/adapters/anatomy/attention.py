"""Where attention is computed of queries, keys and values, and of which sizes these are.

Nearly all attention modules of transformers 5 call the function of `ALL_ATTENTION_FUNCTIONS`; of the others, which
compute attention themselves, a table says what cannot be seen from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from .parts import Anatomy, AttentionCore, Layer, Sublayer

INTERFACE = "ALL_ATTENTION_FUNCTIONS"
"""The name by which modelling files know transformers' table of attention functions."""

# How attention modules call the size of a head (where there are several, keys have the first), and how many there are.
_HEAD_SIZES = ("qk_head_dim", "head_dim", "attention_head_size", "key_value_proj_dim", "head_size", "dim_head")
_HEADS = ("num_heads", "num_attention_heads", "n_heads")
_PROJECTIONS = ("q", "qkv", "k", "kv", "v", "o")


def attention_core(anatomy: Anatomy, base: nn.Module, layer: Layer, sublayer: Sublayer) -> AttentionCore:
    """Where the attention of a sublayer is computed.

    Args:
        anatomy: Where the parts of the model are.
        base: The base model.
        layer: The layer.
        sublayer: One of its sublayers, of the kind `attention` or `cross_attention`.

    Raises:
        ValueError: attention is not computed in a way that is known, or its sizes are not.
    """
    path = _computing_module(base, layer, sublayer)
    if path is None:
        holder = _candidates(layer, sublayer)[0]
        raise ValueError(
            f"{type(base.get_submodule(holder)).__name__} ({holder} of this {anatomy.model_class}) computes attention "
            "in a way of its own, not by the attention functions of transformers, so no keys and values can be put in "
            f"front of its own. Leave layer {layer.number} out (leave_out), or use another method."
        )
    module = base.get_submodule(path)
    facts = vars(module)
    key_size = _first(facts, _HEAD_SIZES)
    value_size = facts["v_head_dim"] if "qk_head_dim" in facts else key_size
    heads = _first(facts, _HEADS) or _in_features(base, sublayer.projections.get("o", ())) // max(value_size, 1)
    if not (key_size and heads):
        raise ValueError(
            f"The sizes of keys and values are not known for {type(module).__name__} ({path} of this "
            f"{anatomy.model_class}). Leave layer {layer.number} out (leave_out), or use another method."
        )
    heads //= facts.get("num_key_value_groups", 1)  # within attention functions, heads of keys are repeated so often
    scale = None if calls_interface(module) else WRITTEN_OUT[_name(module)](module)
    biased_by = _biased_by(base, anatomy, layer, path) if sublayer.kind == "attention" else None
    return AttentionCore(path, sublayer.kind, layer.index, heads, key_size, value_size, scale, biased_by)


def calls_interface(module: nn.Module) -> bool:
    """Whether a module computes attention by the attention functions of transformers."""
    return INTERFACE in cast(Any, type(module).forward).__code__.co_names


def _computing_module(base: nn.Module, layer: Layer, sublayer: Sublayer) -> str | None:
    for path in _candidates(layer, sublayer):
        module = base.get_submodule(path)
        if calls_interface(module) or _name(module) in WRITTEN_OUT:
            return path
    return None


def _candidates(layer: Layer, sublayer: Sublayer) -> list[str]:
    """The modules that the first projection is in, from the innermost to the layer."""
    first = next(paths[0] for role in _PROJECTIONS if (paths := sublayer.projections.get(role)))
    parts = first.split(".")
    depths = range(len(parts) - 1, len(layer.path.split(".")) - 1, -1)
    return [".".join(parts[:depth]) for depth in depths]


def _biased_by(base: nn.Module, anatomy: Anatomy, layer: Layer, path: str) -> str | None:
    """T5's first layer of a tower has the biases for all of them."""
    if _name(base.get_submodule(path)) not in BIASED:
        return None
    tower = next(tower for tower in anatomy.towers if layer in tower.layers)
    return tower.layers[0].path + path.removeprefix(layer.path)


def _first(facts: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first of some attributes that is a number, or 0."""
    return next((facts[name] for name in names if isinstance(facts.get(name), int)), 0)


def _in_features(base: nn.Module, paths: tuple[str, ...]) -> int:
    """Inputs of a projection, or 0; GPT-2's `Conv1D` has its weight the other way round."""
    module = base.get_submodule(paths[0]) if paths else None
    if isinstance(module, nn.Linear):
        return module.in_features
    return int(cast(Any, module).weight.shape[0]) if type(module).__name__ == "Conv1D" else 0


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__.rpartition('.')[2]}.{type(module).__name__}"


def _scaled_before(module: Any) -> float:
    return 1.0


def _scaled_after(module: Any) -> float:
    return float(module.attention_head_size**-0.5)


def _deberta(module: Any) -> float:
    if module.talking_head:
        raise ValueError("DeBERTa's talking_head mixes the heads of attention, so prefixes cannot be put in front.")
    return 1.0


def _deberta_v2(module: Any) -> float:
    terms = 1 + sum(term in module.pos_att_type for term in ("c2p", "p2c"))
    return float((module.attention_head_size * terms) ** -0.5)


def _gptj(module: Any) -> float:
    return float(1 / module.scale_attn)


def _bloom(module: Any) -> float:
    return float(module.inv_norm_factor)


# Attention modules that compute attention themselves, as softmax(s · q kᵀ + …) v by two products of batches of matrices
# and a softmax; and s, what the first product is multiplied with. Some did so in earlier releases of transformers only.
WRITTEN_OUT: dict[str, Callable[[Any], float]] = {
    "modeling_bloom.BloomAttention": _bloom,
    "modeling_codegen.CodeGenAttention": _gptj,
    "modeling_deberta.DisentangledSelfAttention": _deberta,
    "modeling_deberta_v2.DisentangledSelfAttention": _deberta_v2,
    "modeling_donut_swin.DonutSwinSelfAttention": _scaled_after,
    "modeling_flaubert.MultiHeadAttention": _scaled_before,
    "modeling_git.GitSelfAttention": _scaled_after,
    "modeling_gpt_neo.GPTNeoSelfAttention": _scaled_before,
    "modeling_gptj.GPTJAttention": _gptj,
    "modeling_megatron_bert.MegatronBertSelfAttention": _scaled_after,
    "modeling_mobilevit.MobileViTSelfAttention": _scaled_after,
    "modeling_mpnet.MPNetSelfAttention": _scaled_after,
    "modeling_mt5.MT5Attention": _scaled_before,
    "modeling_mvp.MvpAttention": _scaled_before,
    "modeling_rembert.RemBertSelfAttention": _scaled_after,
    "modeling_roformer.RoFormerSelfAttention": _scaled_after,
    "modeling_t5.T5Attention": _scaled_before,
    "modeling_tapas.TapasSelfAttention": _scaled_after,
    "modeling_trocr.TrOCRAttention": _scaled_before,
    "modeling_xglm.XGLMAttention": _scaled_before,
    "modeling_xlm.MultiHeadAttention": _scaled_before,
}

# Where prefixes have biases of relative positions: see `AttentionCore.biased_by`.
BIASED = frozenset({"modeling_t5.T5Attention", "modeling_mt5.MT5Attention"})
