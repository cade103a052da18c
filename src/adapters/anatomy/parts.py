"""What an anatomy is made of: plain data, naming real sub-modules of a model by their paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["attention", "cross_attention", "ffn", "mixer"]
Side = Literal["input", "output"]

# The switch of the bottleneck configuration that governs a sublayer, and the container of its adapters in files.
LOCATIONS: dict[str, str] = {
    "attention": "mh_adapter",
    "cross_attention": "cross_adapter",
    "ffn": "output_adapter",
    "mixer": "mh_adapter",
}
CONTAINERS: dict[str, str] = {
    "attention": "attention_adapters.adapters",
    "cross_attention": "cross_attention_adapters.adapters",
    "ffn": "output_adapters.adapters",
    "mixer": "attention_adapters.adapters",
}


@dataclass(frozen=True)
class Tap:
    """A place where a tensor can be seen and changed: the first input, or the output, of a module.

    Args:
        path: The module.
        side: `input` or `output`.
        index: Where the tensor is in a tuple output; None if the output is the tensor.
        armed_by: For a module that a layer calls several times: the one whose call comes just before the call meant.
    """

    path: str
    side: Side = "output"
    index: int | None = None
    armed_by: str | None = None

    def __str__(self) -> str:
        return f"{self.side} of {self.path}" + ("" if self.index is None else f"[{self.index}]")


@dataclass(frozen=True)
class Site:
    """Where and what an adapter of a sublayer sees.

    Args:
        output: Where x is, which it changes.
        residual: Where the summands of r are; empty if it could not be found.
        norm: The norm of norm(x + r), or None.
        norm_follows: Whether the model really applies that norm to x + r.
        ignores_residual: Whether adapters read x where they should read x + r.
        is_swapped: Whether adapters take x for r, and r for x.
        is_flat: Whether x is to be brought into the shape of r.
    """

    output: Tap
    residual: tuple[Tap, ...]
    norm: str | None
    norm_follows: bool
    ignores_residual: bool = False
    is_swapped: bool = False
    is_flat: bool = False


@dataclass(frozen=True)
class Sublayer:
    """A branch of the residual stream: x = sublayer(r), then x + r.

    Args:
        kind: `attention`, `cross_attention`, `ffn`, or `mixer` (a state-space or convolution branch).
        output: Where x is.
        residual: Where r is; None if it could not be found.
        norm: The norm that reads x + r (post-norm blocks), or x alone if `norm_on_branch`.
        norm_on_branch: Whether `norm` is applied to x before the residual is added (Gemma's sandwich norms).
        pre_norm: The norm that the sublayer begins with (pre-norm blocks).
        host: The module that performs the addition: what adapters are attached to in the state dict.
        container: Under which name.
        location: Which switch of a bottleneck configuration governs it.
        projections: Role (`q`, `k`, `v`, `qkv`, `kv`, `o`, `up`, `gate`, `down`, `experts`, `router`) to paths.
        size: Hidden size D of x.
        performed_by: The class of the module that performs it, to be named in messages.
        borrows_keys: Whether its keys and values are those of another layer, by design.
        upstream_residual: What AdapterHub's adapters took for r, where that is not r: the sum of these (`hints.py`).
        upstream_norm: What they took for the norm, likewise.
        upstream_swaps: Whether they took x for r, and r for x.
        is_flat: Whether x has its tokens in one row, (B·T, D), where it can be seen; r has (B, T, D).
    """

    kind: Kind
    output: Tap
    residual: Tap | None
    norm: str | None
    norm_on_branch: bool
    pre_norm: str | None
    host: str
    container: str
    location: str
    projections: dict[str, tuple[str, ...]]
    size: int
    performed_by: str = ""
    borrows_keys: bool = False
    upstream_residual: tuple[Tap, ...] | None = None
    upstream_norm: str | None = None
    upstream_swaps: bool = False
    is_flat: bool = False

    def site(self, model_continues: bool, is_parallel: bool) -> Site:
        """Where an adapter acts.

        Args:
            model_continues: Whether what the model does after the sublayer (its norm, the residual) follows the
                adapter. If not, and the model norms the branch, the adapter acts after that norm.
            is_parallel: Whether an adapter reads r alone.
        """
        own_residual = () if self.residual is None else (self.residual,)
        if model_continues:
            is_own = self.upstream_residual is None or (is_parallel and not self.upstream_residual)
            residual = own_residual if is_own else self.upstream_residual or ()
            norm = self.upstream_norm or self.norm
            follows = norm is not None and not self.norm_on_branch and self.upstream_norm is None
            ignores = self.upstream_residual == () and not is_parallel
            return Site(self.output, residual, norm, follows, ignores, self.upstream_swaps, self.is_flat)
        if self.norm_on_branch and self.norm is not None:
            return Site(Tap(self.norm), own_residual, None, False)
        return Site(self.output, own_residual, self.norm, self.norm is not None, is_flat=self.is_flat)

    @property
    def missing(self) -> list[str]:
        """What could not be found, in words."""
        found, lacks = self.projections, []
        if self.kind in ("attention", "cross_attention"):
            fused = "qkv" in found or ("q" in found and "kv" in found) or self.borrows_keys
            lacks += [f"{role} projection" for role in ("q", "k", "v") if role not in found and not fused]
            lacks += [] if "o" in found else ["output projection"]
        if self.kind == "ffn":
            lacks += [f"{r} projection" for r in ("up", "down") if r not in found and "experts" not in found]
        lacks += [] if self.residual else ["residual (no module sees it in the shape of the output)"]
        lacks += [] if self.norm or self.pre_norm else ["norm"]
        return lacks


@dataclass(frozen=True)
class Layer:
    """One layer of a tower.

    Args:
        path: The module.
        index: Its number, counted over all towers.
        number: Its number for configurations (`leave_out`, `reduction_factor`): the same, unless `hints.py` says so.
        sublayers: Its branches, in order of execution.
        unread: Modules with matrices that are on none of its branches.
    """

    path: str
    index: int
    number: int
    sublayers: tuple[Sublayer, ...]
    unread: tuple[str, ...] = ()

    @property
    def has_attention(self) -> bool:
        """Whether it attends, to its own tokens or to those of an encoder."""
        return any(s.kind in ("attention", "cross_attention") for s in self.sublayers)

    @property
    def has_ffn(self) -> bool:
        """Whether it has a feed-forward sublayer."""
        return any(s.kind == "ffn" for s in self.sublayers)

    def missing(self, others_attend: bool, others_feed_forward: bool) -> list[str]:
        """What could not be found, in words.

        A layer all of whose matrices were read lacks nothing: it is made to hold one sublayer only, if there are layers
        that hold the other.

        Args:
            others_attend: Whether there is attention in the model.
            others_feed_forward: Whether there is a feed-forward sublayer in the model.
        """
        lacks = [f"{s.kind}: {what}" for s in self.sublayers for what in s.missing]
        mixers = [s.performed_by for s in self.sublayers if s.kind == "mixer"]
        if mixers and not self.has_attention:
            lacks.append(f"state-space, convolution or other mixer ({', '.join(mixers)}) instead of attention")
        is_read = bool(self.sublayers) and not self.unread
        if not mixers and not self.has_attention and not (is_read and others_attend):
            lacks.append("attention")
        if not self.has_ffn and not (is_read and others_feed_forward):
            lacks.append("feed-forward sublayer")
        if self.unread and lacks and lacks[-1] in ("attention", "feed-forward sublayer"):
            names = [path.removeprefix(f"{self.path}.") for path in self.unread]
            lacks[-1] += f" (not read: {', '.join(names[:4])}{' …' if len(names) > 4 else ''})"
        return lacks


@dataclass(frozen=True)
class Tower:
    """A stack of layers: the encoder, the decoder, the vision model …

    Args:
        path: The module that holds the layers ("" for the model itself).
        layers: The layers.
        embeddings: Where its embeddings are: what enters the first layer, or is projected to enter it.
        embedding_size: Size of the embeddings: D, but in ALBERT and ELECTRA.
        size: Hidden size D.
    """

    path: str
    layers: tuple[Layer, ...]
    embeddings: Tap | None
    embedding_size: int
    size: int


@dataclass(frozen=True)
class Matrix:
    """A matrix of the model: that of a linear layer y = W x + b, of an embedding, or the fused ones of experts.

    Args:
        path: The module that holds it.
        role: What it is to its sublayer (`q`, `qkv`, `up` …), or "" if it was found by its name.
        layer: Index of its layer, or -1.
        in_features: Size I of x; of an embedding, the number of its vectors.
        out_features: Size O of y.
        is_transposed: Whether W is stored as (I, O).
        parameter: The name of W in the module.
        rows: Where the matrices that are fused in it are: for each role the first and the last row (exclusive) of its
            pieces; empty if it is one matrix.
    """

    path: str
    role: str
    layer: int
    in_features: int
    out_features: int
    is_transposed: bool = False
    parameter: str = "weight"
    rows: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its path, and the name of its parameter if the module holds several."""
        return self.path if self.parameter == "weight" else f"{self.path}.{self.parameter}"


@dataclass(frozen=True)
class Experts:
    """A module that holds the matrices of its experts fused: each is a parameter of shape (E, O, I), or (E, I, O).

    Args:
        path: The module.
        layer: Index of its layer.
        matrices: Its matrices: `up` (also with a gate, in one) reads the hidden states, `down` gives them.
    """

    path: str
    layer: int
    matrices: tuple[Matrix, ...]


@dataclass(frozen=True)
class AttentionCore:
    """Where attention itself is computed, of queries, keys and values.

    Args:
        path: The attention module.
        kind: `attention` or `cross_attention`.
        layer: Index of its layer.
        heads: Number of heads of keys and values.
        key_size: Size of one head of the keys.
        value_size: Size of one head of the values.
        scale: What the module multiplies its products of queries and keys with, if it computes attention itself; None
            if it calls the attention function of transformers.
        biased_by: The module with the biases of relative positions, if AdapterHub's adapters gave them to prefixes too:
            keys were counted from the first position of the prefix, and queries from the first token.
    """

    path: str
    kind: Kind
    layer: int
    heads: int
    key_size: int
    value_size: int
    scale: float | None = None
    biased_by: str | None = None


@dataclass(frozen=True)
class LayerOutput:
    """The residual stream behind a layer.

    Args:
        path: The layer.
        layer: Its index.
        size: Hidden size D.
        caller: The module that is called with the attention mask of the tokens: the tower with its embeddings.
    """

    path: str
    layer: int
    size: int
    caller: str


@dataclass(frozen=True)
class InputEmbeddings:
    """The embeddings of the input, where positions can be put in front of them.

    Args:
        tap: Where they are.
        size: Their size.
        caller: The module that is called with the attention mask of the tokens.
        are_tokens: Whether they are those of tokens alone, so that all that the model makes of the tokens (positions,
            masks, the place of the last one) is to be made of longer inputs. If not, positions are in them already.
        takes_tokens: Whether the input is one of tokens, and not an image or a sound.
        readers: Modules that attend to what becomes of them, and are called with their attention mask: decoders.
        upstream_sees_padding: Whether padding and prompts saw each other in AdapterHub's adapters.
    """

    tap: Tap
    size: int
    caller: str
    are_tokens: bool = False
    takes_tokens: bool = True
    readers: tuple[str, ...] = ()
    upstream_sees_padding: bool = False


@dataclass(frozen=True)
class WholeModule:
    """A module that another one takes the place of.

    Args:
        path: The module.
    """

    path: str


Point = Sublayer | Matrix | Experts | AttentionCore | LayerOutput | InputEmbeddings | WholeModule
"""Where a module of an adapter acts."""


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a model are.

    Args:
        model_class: The name of the class that was read.
        towers: Its stacks of layers; encoders come before decoders.
        shares_by_tower: Whether parameters shared among layers are attached to each tower, instead of the model.
        inverts_at_head: Whether the head of a static class undoes an invertible adapter before its embeddings.
        notes: What is to be said of a model without layers.
        methods: The methods that an interface allows; None for all.
    """

    model_class: str
    towers: tuple[Tower, ...]
    shares_by_tower: bool = False
    inverts_at_head: bool = True
    notes: tuple[str, ...] = ()
    methods: tuple[str, ...] | None = None

    @property
    def layers(self) -> list[Layer]:
        """The layers of all towers, in the order of their numbers."""
        return [layer for tower in self.towers for layer in tower.layers]

    def sublayers(self) -> Iterator[tuple[Layer, Sublayer]]:
        """Every sublayer with its layer."""
        for layer in self.layers:
            for sublayer in layer.sublayers:
                yield layer, sublayer

    @property
    def embedding_tower(self) -> Tower | None:
        """The tower whose embeddings an invertible adapter changes: the first that has any."""
        return next((t for t in self.towers if t.embeddings), None)

    def tower_host(self, tower: Tower) -> str:
        """Path of the module that is a tower with its embeddings: what they and the layers have in common."""
        if len(self.towers) == 1 or tower.embeddings is None:
            return "" if len(self.towers) == 1 else tower.path
        parts = zip(tower.embeddings.path.split("."), tower.path.split("."), strict=False)
        common = list(itertools.takewhile(lambda pair: pair[0] == pair[1], parts))
        return ".".join(part for part, _ in common)

    @property
    def shared_hosts(self) -> list[str]:
        """Paths of the modules that parameters shared among layers are attached to in the state dict."""
        return [self.tower_host(t) for t in self.towers] if self.shares_by_tower else [""]

    @property
    def missing(self) -> list[str]:
        """What could not be found, in words; empty if the model was found whole."""
        if not self.layers:
            return list(self.notes) or ["layers with attention"]
        attend = any(layer.has_attention for layer in self.layers)
        feed_forward = any(layer.has_ffn for layer in self.layers)
        lacks: dict[str, list[int]] = {}
        for layer in self.layers:
            for what in dict.fromkeys(layer.missing(attend, feed_forward)):
                lacks.setdefault(what, []).append(layer.index)
        return [
            f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}: {what}"
            for what, layers in lacks.items()
        ]

    @property
    def is_whole(self) -> bool:
        """Whether attention, feed-forward, their projections, residuals and norms were found in every layer."""
        return not self.missing
