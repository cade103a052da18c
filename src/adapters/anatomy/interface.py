"""`AdapterModelInterface`: the parts of a model by name, for modules that cannot be read, or not as wished."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from .parts import CONTAINERS, LOCATIONS, Anatomy, Kind, Layer, Sublayer, Tap, Tower
from .sublayers import find_sublayers, output_size


@dataclass
class AdapterModelInterface:
    """Where the parts of a model are. Names of layer parts start at a layer, of attention parts at the attention.

    >>> interface = AdapterModelInterface(
    ...     adapter_methods=["bottleneck"], model_embeddings="embed", model_layers="blocks", layer_self_attn="attn",
    ...     layer_cross_attn=None, attn_q_proj="q", attn_k_proj="k", attn_v_proj="v", attn_o_proj="o",
    ...     layer_intermediate_proj="mlp.up", layer_output_proj="mlp.down", layer_pre_self_attn="norm1",
    ...     layer_pre_ffn="norm2")
    >>> adapters.init(model, interface=interface)

    Args:
        adapter_methods: The methods that the model is meant for, others are refused: `bottleneck`, `lora` (and its
            relatives), `reft`, `invertible` … (see `AdapterMethod`).
        model_embeddings: The module that embeds the inputs.
        model_layers: The list of layers.
        layer_self_attn: Self-attention. Its output, or the first of them, is what adapters change.
        layer_cross_attn: Cross-attention, if there is any.
        attn_o_proj: Output projection of the attention.
        layer_intermediate_proj: First projection of the feed-forward sublayer.
        layer_output_proj: Last projection of the feed-forward sublayer: its output is what adapters change.
        attn_k_proj: Key projection.
        attn_q_proj: Query projection.
        attn_v_proj: Value projection.
        attn_qkv_proj: Fused projection of queries, keys and values.
        layer_pre_self_attn: The module whose first input is the residual of self-attention.
        layer_pre_cross_attn: The module whose first input is the residual of cross-attention.
        layer_pre_ffn: The module whose first input is the residual of the feed-forward sublayer.
        layer_ln_1: The norm that follows attention.
        layer_ln_2: The norm that follows the feed-forward sublayer.
        base_model: Where the base model is in the model; all other names start there.
    """

    adapter_methods: list[str]
    model_embeddings: str
    model_layers: str
    layer_self_attn: str | None
    layer_cross_attn: str | None
    attn_o_proj: str | None
    layer_intermediate_proj: str | None
    layer_output_proj: str | None
    attn_k_proj: str | None = None
    attn_q_proj: str | None = None
    attn_v_proj: str | None = None
    attn_qkv_proj: str | None = None
    layer_pre_self_attn: str | None = None
    layer_pre_cross_attn: str | None = None
    layer_pre_ffn: str | None = None
    layer_ln_1: str | None = None
    layer_ln_2: str | None = None
    base_model: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields, as `adapter_interface.json` holds them."""
        return asdict(self)


def anatomy_from_interface(base: nn.Module, interface: AdapterModelInterface) -> Anatomy:
    """The anatomy that an interface describes.

    Raises:
        ValueError: the interface names a module that is not there; the message says which there are.
    """
    submodule(base, interface.model_embeddings, "model_embeddings")
    items = submodule(base, interface.model_layers, "model_layers")
    layers = []
    for index, (name, layer) in enumerate(items.named_children()):
        path = f"{interface.model_layers}.{name}"
        layers.append(Layer(path, index, index, tuple(_sublayers(layer, path, interface))))
    if not layers:
        raise ValueError(f"model_layers={interface.model_layers!r} holds no modules.")
    if not layers[0].sublayers:
        raise ValueError("The interface describes no sublayer: name layer_self_attn or layer_output_proj.")
    size = layers[0].sublayers[0].size
    embeddings = base.get_submodule(interface.model_embeddings)
    token_sizes = [m.embedding_dim for m in embeddings.modules() if isinstance(m, nn.Embedding)]
    parent = interface.model_layers.rpartition(".")[0]
    tower = Tower(parent, tuple(layers), Tap(interface.model_embeddings), token_sizes[0] if token_sizes else size, size)
    return Anatomy(type(base).__name__, (tower,), methods=tuple(interface.adapter_methods))


def _sublayers(layer: nn.Module, path: str, interface: AdapterModelInterface) -> Iterator[Sublayer]:
    projections = {
        "q": "attn_q_proj",
        "k": "attn_k_proj",
        "v": "attn_v_proj",
        "qkv": "attn_qkv_proj",
        "o": "attn_o_proj",
    }
    named = {role: getattr(interface, field) for role, field in projections.items()}
    for kind, attention, before in (
        ("attention", interface.layer_self_attn, interface.layer_pre_self_attn),
        ("cross_attention", interface.layer_cross_attn, interface.layer_pre_cross_attn),
    ):
        if attention is not None:
            # Attention modules return their output with weights; the output projection alone returns just that.
            output = f"{attention}.{interface.attn_o_proj}" if interface.attn_o_proj else attention
            found = {role: f"{attention}.{name}" for role, name in named.items() if name}
            yield _sublayer(layer, path, kind, output, before, interface.layer_ln_1, found)  # type: ignore[arg-type]
    if interface.layer_output_proj is not None:
        found = {"down": interface.layer_output_proj}
        if interface.layer_intermediate_proj:
            found["up"] = interface.layer_intermediate_proj
        output, before = interface.layer_output_proj, interface.layer_pre_ffn
        yield _sublayer(layer, path, "ffn", output, before, interface.layer_ln_2, found)


def _sublayer(
    layer: nn.Module, path: str, kind: Kind, output: str, before: str | None, norm: str | None, found: dict[str, str]
) -> Sublayer:
    for name in (*found.values(), output, before, norm):
        if name is not None:
            submodule(layer, name, "layer")
    # An interface says which norm there is, but not whether it follows the addition: that is read, where it can be.
    last = found.get("o" if kind != "ffn" else "down", output)
    ends = [s for s in find_sublayers(layer).sublayers if any(last in paths for paths in s.projections.values())]
    read = next((s for s in ends if s.norm == norm), None)
    return Sublayer(
        kind=kind,
        output=Tap(f"{path}.{output}"),
        residual=Tap(f"{path}.{before}", "input") if before else None,
        norm=f"{path}.{norm}" if norm else None,
        norm_on_branch=norm is not None and (read is None or read.norm_on_branch),
        pre_norm=None,
        host=path,
        container=CONTAINERS[kind],
        location=LOCATIONS[kind],
        projections={role: (f"{path}.{name}",) for role, name in found.items()},
        size=output_size(layer.get_submodule(last)) or 0,
    )


def submodule(module: nn.Module, path: str, field: str) -> nn.Module:
    """A module by its path.

    Raises:
        ValueError: there is none; the message names the field of the interface, and near paths.
    """
    try:
        return module.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in module.named_modules() if name]
        near = difflib.get_close_matches(path, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(names[:12])}."
        raise ValueError(
            f"The interface's {field} names {path!r}, which {type(module).__name__} has not; {hint}"
        ) from None
