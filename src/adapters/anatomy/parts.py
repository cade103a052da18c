"""What an anatomy is made of: plain data, naming real sub-modules of a model by their paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    """

    path: str
    side: Side = "output"
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.side} of {self.path}" + ("" if self.index is None else f"[{self.index}]")


@dataclass(frozen=True)
class Site:
    """Where and what an adapter of a sublayer sees.

    Args:
        output: Where x is, which it changes.
        residual: Where r is; None if it could not be found.
        norm: The norm of norm(x + r), or None.
        norm_follows: Whether the model really applies that norm to x + r.
    """

    output: Tap
    residual: Tap | None
    norm: str | None
    norm_follows: bool


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
        upstream_residual: What AdapterHub's adapters took for r, where that is another place (see `hints.py`).
        upstream_norm: What they took for the norm, likewise.
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
    upstream_residual: Tap | None = None
    upstream_norm: str | None = None

    def site(self, model_continues: bool) -> Site:
        """Where an adapter acts.

        Args:
            model_continues: Whether what the model does after the sublayer (its norm, the residual) follows the
                adapter. If not, and the model norms the branch, the adapter acts after that norm.
        """
        if model_continues:
            norm = self.upstream_norm or self.norm
            follows = norm is not None and not self.norm_on_branch and self.upstream_norm is None
            return Site(self.output, self.upstream_residual or self.residual, norm, follows)
        if self.norm_on_branch and self.norm is not None:
            return Site(Tap(self.norm), self.residual, None, False)
        return Site(self.output, self.residual, self.norm, self.norm is not None)

    @property
    def missing(self) -> list[str]:
        """What could not be found, in words."""
        found, lacks = self.projections, []
        if self.kind in ("attention", "cross_attention"):
            fused = "qkv" in found or ("q" in found and "kv" in found)
            lacks += [f"{role} projection" for role in ("q", "k", "v") if role not in found and not fused]
            lacks += [] if "o" in found else ["output projection"]
        if self.kind == "ffn":
            lacks += [f"{r} projection" for r in ("up", "down") if r not in found and "experts" not in found]
        if self.kind == "mixer":
            lacks += ["attention (it is a state-space, convolution or other mixer)"]
        lacks += [] if self.residual else ["residual"]
        lacks += [] if self.norm or self.pre_norm else ["norm"]
        return lacks


@dataclass(frozen=True)
class Layer:
    """One layer of a tower.

    Args:
        path: The module.
        index: Its number, counted over all towers.
        sublayers: Its branches, in order of execution.
    """

    path: str
    index: int
    sublayers: tuple[Sublayer, ...]

    @property
    def missing(self) -> list[str]:
        """What could not be found, in words."""
        kinds = {s.kind for s in self.sublayers}
        lacks = [f"{s.kind}: {what}" for s in self.sublayers for what in s.missing]
        if not kinds & {"attention", "mixer"}:
            lacks.append("attention")
        if "ffn" not in kinds:
            lacks.append("feed-forward sublayer")
        return lacks


@dataclass(frozen=True)
class Tower:
    """A stack of layers: the encoder, the decoder, the vision model …

    Args:
        path: The module that holds the layers ("" for the model itself).
        layers: The layers.
        embeddings: The module whose output enters the first layer; None if there is none of the tower's own.
        embedding_size: Size of the embeddings, where it is not D (ALBERT); 0 if there are none.
        size: Hidden size D.
    """

    path: str
    layers: tuple[Layer, ...]
    embeddings: str | None
    embedding_size: int
    size: int


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a model are.

    Args:
        model_class: The name of the class that was read.
        towers: Its stacks of layers; encoders come before decoders.
        shares_by_tower: Whether parameters shared among layers are shared only within a tower, and attached to it.
        notes: What is to be said of a model without layers.
    """

    model_class: str
    towers: tuple[Tower, ...]
    shares_by_tower: bool = False
    notes: tuple[str, ...] = ()

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

    @property
    def invertible_host(self) -> str:
        """Path of the module that invertible adapters are attached to in the state dict.

        It is the model itself, unless there are several towers: then it is the one that holds the embeddings.
        """
        tower = self.embedding_tower
        return (tower.embeddings or "").rpartition(".")[0] if tower and len(self.towers) > 1 else ""

    def shared_host(self, layer: Layer) -> str:
        """Path of the module that parameters shared with this layer are attached to in the state dict."""
        if not self.shares_by_tower:
            return ""
        return next((t.embeddings or "").rpartition(".")[0] for t in self.towers if layer in t.layers)

    @property
    def missing(self) -> list[str]:
        """What could not be found, in words; empty if the model was found whole."""
        if not self.layers:
            return [*self.notes, "a stack of layers"]
        lacks: dict[str, list[int]] = {}
        for layer in self.layers:
            for what in layer.missing:
                lacks.setdefault(what, []).append(layer.index)
        return [f"{what} (layers {', '.join(map(str, layers))})" for what, layers in lacks.items()]

    @property
    def is_whole(self) -> bool:
        """Whether attention, feed-forward, their projections, residuals and norms were found in every layer."""
        return not self.missing
