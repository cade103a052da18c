"""Prefix tuning: softmax(q [p_k; k]ᵀ) [p_v; v], with trained keys p_k and values p_v for each attention.

Li & Liang 2021 (arXiv:2101.00190); gates: UniPELT, Mao et al. 2022 (arXiv:2110.07577).

Shapes: B rows, T tokens, D hidden size, P positions of a prefix, K heads of keys and values, d size of a head, W sum of
the sizes of keys and values, over heads and layers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..anatomy.attention import attention_core
from ..anatomy.parts import Anatomy, AttentionCore, Layer, Sublayer, Tower
from ..configuration import AdapterConfig, ConfigUnion, PrefixTuningConfig
from .base import AdapterModule, Method, Placement, PrefixMap, SharedModule
from .kept import Keeper, flows
from .layers import Activation, seeded
from .observed import Observation, show


class PrefixGroup(nn.Module):
    """The prefixes of one kind of attention, in all layers: p = W₂ act(W₁ e), or p itself if it is flat.

    The modules have the names that they have in files of AdapterHub, and p is (P, W): for each position the keys of the
    first attention, its values, the keys of the next one …

    Args:
        config: Which of the variants.
        size: Hidden size D.
        cores: The attentions.
    """

    def __init__(self, config: PrefixTuningConfig, size: int, cores: Sequence[AttentionCore]) -> None:
        super().__init__()
        self.length = config.prefix_length
        self.dropout = config.dropout
        self.sizes = [(core.heads, d) for core in cores for d in (core.key_size, core.value_size)]
        self.widths = [heads * d for heads, d in self.sizes]
        width = sum(self.widths)
        if config.flat:
            self.control_trans: nn.Module | nn.Parameter = nn.Parameter(torch.randn(self.length * width))
            return
        self.wte = nn.Embedding(self.length, size)
        self.control_trans = nn.Sequential(
            nn.Linear(size, config.bottleneck_size),
            Activation(config.non_linearity),
            nn.Linear(config.bottleneck_size, width),
        )

    @property
    def is_flat(self) -> bool:
        """Whether the prefixes are parameters themselves."""
        return "wte" not in self._modules

    def prefixes(self) -> Tensor:
        """p, before dropout. Shape: (P, W)."""
        if self.is_flat:
            return cast(Tensor, self.control_trans).view(self.length, -1)
        return cast(Tensor, cast(nn.Module, self.control_trans)(self.wte.weight))

    def shares(self) -> Iterator[Tensor]:
        """Keys and values of each attention. Shape: (1, K, P, d) each."""
        p = nn.functional.dropout(self.prefixes(), self.dropout, self.training and self.dropout > 0)
        for (heads, d), share in zip(self.sizes, torch.split(p, self.widths, dim=1), strict=True):
            yield share.view(self.length, heads, d).transpose(0, 1).unsqueeze(0)

    def eject(self) -> None:
        """Make it flat, with equal prefixes."""
        trained = self.wte.weight.requires_grad
        with torch.no_grad():
            flat = nn.Parameter(self.prefixes().flatten(), requires_grad=trained)
        del self.wte, self.control_trans
        self.control_trans = flat


class PrefixPool(SharedModule, Keeper):
    """All prefixes of a model, in groups.

    Args:
        groups: The groups by their names in files.
    """

    def __init__(self, groups: dict[str, PrefixGroup]) -> None:
        super().__init__()
        for name, group in groups.items():
            self.add_module(name, group)

    @property
    def groups(self) -> list[PrefixGroup]:
        """The groups, in the order of `shares`."""
        return cast("list[PrefixGroup]", list(self._modules.values()))

    def shares(self) -> tuple[Tensor, ...]:
        """Keys and values of each attention of each group. Shape: (1, K, P, d) each."""
        parameters: list[Tensor] = list(self.parameters())
        if self.training or flows(parameters):
            return self._shares()
        return cast("tuple[Tensor, ...]", self.kept.get(parameters, self._lasting_shares))

    def _shares(self) -> tuple[Tensor, ...]:
        return tuple(itertools.chain.from_iterable(group.shares() for group in self.groups))

    def _lasting_shares(self) -> tuple[Tensor, ...]:
        """What is kept: in memory as keys are, so that it is quick to copy, and of the type of the weights."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            return tuple(s.transpose(1, 2).contiguous().transpose(1, 2) for s in self._shares())

    def shown(self) -> nn.Module | None:
        """See `AdapterModule.shown`: each group is shown at the first of its attentions."""
        return None

    def group_from(self, number: int) -> PrefixGroup | None:
        """The group whose first keys have this number in `shares`."""
        ends = itertools.accumulate((len(group.sizes) for group in self.groups), initial=0)
        return next((group for group, begin in zip(self.groups, ends, strict=False) if begin == number), None)

    def eject(self) -> None:
        """Make all groups flat, with equal prefixes."""
        for group in self.groups:
            if not group.is_flat:
                group.eject()


class Prefix(PrefixMap):
    """The prefix of one attention, with its gate: p_k g_k and p_v g_v, for g = sigmoid(W h + b) averaged over tokens.

    Args:
        config: Whether there is a gate, and how many.
        size: Hidden size D of what the attention reads.
        pool: What holds the prefixes.
        number: Where the keys are in what the pool gives; the values are next to them.
    """

    def __init__(self, config: PrefixTuningConfig, size: int, pool: PrefixPool, number: int) -> None:
        super().__init__()
        self._pool = (pool,)  # a tuple keeps it from being named a second time
        self.number = number
        self.length = config.prefix_length
        self.reads_hidden = config.use_gating
        self.counts_positions = config.counts_positions
        if config.use_gating:
            gates = 1 if config.shared_gating else 2
            self.weight = nn.Parameter(torch.randn(gates, size) * 0.02)
            self.bias = nn.Parameter(torch.empty(gates).uniform_(-(size**-0.5), size**-0.5))

    @property
    def pool(self) -> PrefixPool:
        """See `PrefixMap.pool`."""
        return self._pool[0]

    def shown(self) -> nn.Module | None:
        """See `AdapterModule.shown`: the group that begins here, and what has the weights of the gate."""
        group = self.pool.group_from(self.number)
        parts = {"prefix": group, "gate": self if self.reads_hidden else None}
        found = {name: part for name, part in parts.items() if part is not None}
        return nn.ModuleDict(found) if found else None

    def prefix(self, shares: tuple[Tensor, ...], hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `PrefixMap.prefix`."""
        keys, values = shares[self.number : self.number + 2]
        if hidden is None or not self.reads_hidden:
            return keys, values
        gate = torch.sigmoid(nn.functional.linear(hidden, self.weight, self.bias)).mean(dim=1)
        if Observation.count:
            show(self, gate)
        gate = gate[:, :, None, None, None]  # (B, 1 or 2, 1, 1, 1)
        return keys * gate[:, 0], values * gate[:, -1]


class PrefixTuningMethod(Method):
    """Which attentions get prefixes, and in which groups."""

    def place(self, config: PrefixTuningConfig, anatomy: Anatomy, base: nn.Module) -> Iterable[Placement]:
        """See `Method.place`."""
        hosts: dict[str, dict[str, list[_Attention]]] = {}
        for tower in anatomy.towers:
            host = anatomy.tower_host(tower) if anatomy.shares_by_tower else ""
            is_encoder = _is_encoder(anatomy, base, tower)
            for layer, sublayer in _attentions(tower):
                is_cross = sublayer.kind == "cross_attention"
                wanted = config.cross_prefix if is_cross else config.encoder_prefix or not is_encoder
                if not wanted or layer.number in config.leave_out:
                    continue
                core = attention_core(anatomy, base, layer, sublayer)
                is_half = anatomy.shares_by_tower
                name = "cross_prefix" if is_cross else _group_name(base, tower, is_encoder and not is_half)
                hosts.setdefault(host, {}).setdefault(name, []).append((layer, sublayer, core))
        if not hosts:
            raise ValueError(
                f"The configuration places nothing: with leave_out={config.leave_out}, this {anatomy.model_class} with "
                f"{len(anatomy.layers)} layers has no attention for prefixes."
            )
        with seeded(config.init_weights_seed):
            return [p for host, groups in hosts.items() for p in _placements(config, host, groups)]

    def updated(self, config: PrefixTuningConfig, version: str | None, names: Collection[str]) -> AdapterConfig:
        """See `Method.updated`. Files of adapters 1.3 do not say that a prefix was ejected, and that the first half of
        an encoder-decoder of two models had a prefix whatever `encoder_prefix` was."""
        tensors = [name for name in names if ".prefix_tunings." in name]
        changes: dict[str, Any] = {}
        if tensors and not any(name.endswith(".wte.weight") for name in tensors):
            changes["flat"] = True
        if any(re.search(r"(^|\.)encoder\.prefix_tuning\.prefix_tunings\.", name) for name in tensors):
            changes["encoder_prefix"] = True
        return config.replace(**changes)


def eject(config: AdapterConfig, modules: Iterable[AdapterModule]) -> AdapterConfig:
    """Make the prefixes of an adapter flat, with equal outputs, and give its new configuration.

    Raises:
        ValueError: it has none that are not flat.
    """
    parts = config.configs if isinstance(config, ConfigUnion) else (config,)
    if not any(isinstance(part, PrefixTuningConfig) and not part.flat for part in parts):
        raise ValueError(f"There is no prefix to eject: this is {config!r}, without a prefix that is not flat.")
    for module in modules:
        if isinstance(module, PrefixPool):
            module.eject()
    flat = [part.replace(flat=True) if isinstance(part, PrefixTuningConfig) else part for part in parts]
    return ConfigUnion(*flat) if isinstance(config, ConfigUnion) else flat[0]


_Attention = tuple[Layer, Sublayer, AttentionCore]


def _attentions(tower: Tower) -> Iterator[tuple[Layer, Sublayer]]:
    for layer in tower.layers:
        yield from ((layer, s) for s in layer.sublayers if s.kind in ("attention", "cross_attention"))


def _is_encoder(anatomy: Anatomy, base: nn.Module, tower: Tower) -> bool:
    """Whether a tower is what another one attends to, or would if it were there."""

    def attends_across(tower: Tower) -> bool:
        return any(sublayer.kind == "cross_attention" for _, sublayer in _attentions(tower))

    has_decoder = any(map(attends_across, anatomy.towers)) or _model_type(base, tower) in _ENCODER_DECODERS
    return has_decoder and not attends_across(tower)


def _group_name(base: nn.Module, tower: Tower, is_encoder: bool) -> str:
    """The name of a group of self-attentions, in files of AdapterHub."""
    return "encoder_prefix" if is_encoder else _GROUPS_OF_TYPES.get(_model_type(base, tower), "self_prefix")


_GROUPS_OF_TYPES = {
    "distilbert": "self",
    "clip_text_model": "clip_text_model_self_prefix",
    "clip_vision_model": "clip_vision_model_self_prefix",
}
_ENCODER_DECODERS = frozenset({"bart", "mbart", "mt5", "plbart", "t5", "whisper"})


def _model_type(base: nn.Module, tower: Tower) -> str:
    """The type of the innermost model that a tower is in."""
    parts = tower.path.split(".") if tower.path else []
    for depth in range(len(parts), -1, -1):
        config = vars(base.get_submodule(".".join(parts[:depth]))).get("config")
        if config is not None:
            return str(config.model_type)
    return ""


def _placements(config: PrefixTuningConfig, host: str, groups: dict[str, list[_Attention]]) -> Iterator[Placement]:
    """The pool of a model, or of a half of it, and the prefixes of its attentions."""
    pool = PrefixPool(
        {
            name: PrefixGroup(config, places[0][1].size, [core for _, _, core in places])
            for name, places in groups.items()
        }
    )
    yield Placement(host, "prefix_tuning.prefix_tunings", "prefix_tuning", -1, pool)
    attentions = [(name, *place) for name, places in groups.items() for place in places]
    for number, (name, layer, sublayer, core) in enumerate(attentions):
        prefix = Prefix(config, sublayer.size, pool, 2 * number)
        yield Placement(core.path, "prefix_tuning.prefix_gates", name, layer.index, prefix, core)
