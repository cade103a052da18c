"""Bottleneck adapters: f(h) = s · up(act(down(h))), at the output of a sublayer.

Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2005.00052), He et al. 2022 (arXiv:2110.04366),
Compacter (arXiv:2106.04647), Adapter+ (Steitz & Roth 2024).

Shapes: B rows, T tokens, D hidden size, d bottleneck size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from ..anatomy.parts import Anatomy
from ..configuration import BnConfig
from .base import Method, Placement, SharedParameters, SublayerMap
from .hypercomplex import HypercomplexLinear, rule_parameters, weight_parameters
from .invertible import COUPLINGS
from .layers import Activation, Projection, drop_rows, seeded


class Bottleneck(SublayerMap):
    """One bottleneck, as a map of the output x of a sublayer, given its residual r and the norm of the block.

    The modules have the names that they have in files of AdapterHub.

    Args:
        config: Which of the variants.
        size: Hidden size D.
        layer: Number of the layer, for reduction factors per layer.
        shared: Hypercomplex parameters that all layers share.
    """

    def __init__(self, config: BnConfig, size: int, layer: int, shared: SharedParameters | None = None) -> None:
        super().__init__()
        inner = bottleneck_size(config, size, layer)
        if config.ln_before:
            self.adapter_norm_before = nn.LayerNorm(size)
        down = _projection(config, size, inner, "down", shared)
        # Files hold the norm before under both of its names.
        norms = [self.adapter_norm_before] if config.ln_before else []
        self.adapter_down = nn.Sequential(*norms, down, Activation(config.non_linearity))
        self.adapter_up = _projection(config, inner, size, "up", shared)
        if config.ln_after:
            self.adapter_norm_after = nn.LayerNorm(size)
        if config.scaling == "learned":
            self.scaling = nn.Parameter(torch.ones(1))
        elif config.scaling == "channel":
            self.scaling = nn.Parameter(torch.ones(size))
        if config.use_gating:
            self.gate = Projection(size, 1, "bert")
        self.config = config
        self.fixed = _fixed(config)
        self._is_scaled = bool(config.scaling != 1.0 or config.dropout or config.stochastic_depth or config.use_gating)
        # On small models the calls of five modules cost as much as what they compute, so `project` calls the functions.
        # A tuple keeps the two layers from being named a second time; their parameters can be exchanged.
        is_plain = not (config.phm_layer or config.ln_before)
        self._linears = (down, self.adapter_up) if is_plain else None
        self._activation = cast(Activation, self.adapter_down[-1]).f.forward
        self.increments_norm = (
            not config.is_parallel
            and config.original_ln_before
            and config.original_ln_after
            and config.residual_before_ln is True
            and not (config.ln_after and config.adapter_residual_before_ln)
        )
        self.is_parallel = config.is_parallel
        self.replaces_norm = not config.original_ln_after
        self.needs_residual = config.is_parallel or config.original_ln_before or self.replaces_norm

    def project(self, h: Tensor) -> Tensor:
        """f(h): down, activation, up, scaling, dropout, gate. Shape: (B, T, D) to (B, T, D)."""
        if self._linears is None:
            y = self.adapter_up(self.adapter_down(h))
        else:
            down, up = self._linears[0]._parameters, self._linears[1]._parameters
            y = nn.functional.linear(h, down["weight"], down["bias"])  # type: ignore[arg-type]
            y = nn.functional.linear(self._activation(y), up["weight"], up["bias"])  # type: ignore[arg-type]
        return self._scaled(h, y) if self._is_scaled else y

    def _scaled(self, h: Tensor, y: Tensor) -> Tensor:
        """What is done to the output y of the two layers. Shapes: (B, T, D), (B, T, D) to (B, T, D)."""
        config = self.config
        if isinstance(config.scaling, str):
            y = y * self.scaling
        elif config.scaling != 1.0:
            y = y * config.scaling
        if self.training and config.dropout:
            y = nn.functional.dropout(y, config.dropout)
        if self.training and config.stochastic_depth:
            y = drop_rows(y, config.stochastic_depth)
        if config.use_gating:
            y = y * torch.sigmoid(self.gate(h)).mean(dim=1).unsqueeze(-1)
        return y

    def increment(self, h: Tensor) -> Tensor:
        """f(h), normed if `ln_after`: what is added to a residual. Shape: (B, T, D) to (B, T, D)."""
        y = self.project(h)
        return self.adapter_norm_after(y) if self.config.ln_after else y

    def with_residual(self, h: Tensor, residual: Tensor) -> Tensor:
        """f(h) and the bottleneck's own residual. Shapes: (B, T, D), (B, T, D) to (B, T, D)."""
        if self.config.ln_after and self.config.adapter_residual_before_ln:
            return self.adapter_norm_after(self.project(h) + residual)  # type: ignore[no-any-return]
        return self.increment(h) + residual

    def reads(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """h: r, norm(x + r) or x. Shapes: (B, T, D), (B, T, D) to (B, T, D)."""
        if self.config.is_parallel:
            assert r is not None
            return r
        if self.config.original_ln_before:
            s = x if r is None else x + r
            # The norm's own hooks are not for this call, so its `forward` is called.
            return s if norm is None else norm.forward(s)
        return x

    def adapt(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """x′, of which the model, or the next adapter of a stack, makes the rest. Shapes: (B, T, D) to (B, T, D)."""
        h = self.reads(x, r, norm)
        return self.with_residual(h, self._residual(h, x, r))

    def _residual(self, h: Tensor, x: Tensor, r: Tensor | None) -> Tensor:
        if self.config.is_parallel or self.config.residual_before_ln is True:
            return x
        return h if self.config.residual_before_ln is False or r is None else x + r

    def finish(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """The block's result without its own residual and norm, if `original_ln_after` is off.

        For a pre-norm block (norm None) it is given less r, which the model adds. The bottleneck's own residual often
        holds that r: then it is left out instead of being subtracted, so that an adapter with zero effect changes no
        bit. Shapes: (B, T, D) to (B, T, D).
        """
        if norm is not None:
            return self.adapt(x, r, norm)
        config = self.config
        is_sum = config.original_ln_before and config.residual_before_ln is not True and not config.is_parallel
        if is_sum and not (config.ln_after and config.adapter_residual_before_ln):
            return self.increment(self.reads(x, r, None)) + x
        return self.adapt(x, r, None) - r  # type: ignore[operator]


class BottleneckMethod(Method):
    """Which sublayers get a bottleneck, and the invertible adapter if the configuration has one."""

    def place(self, config: BnConfig, anatomy: Anatomy, base: nn.Module) -> Iterable[Placement]:
        """See `Method.place`."""
        with seeded(config.init_weights_seed):
            placements = list(self._bottlenecks(config, anatomy))
            if config.inv_adapter is not None:
                placements.append(self._invertible(config, anatomy))
        if not placements:
            wanted = [n for n in ("mh_adapter", "cross_adapter", "output_adapter") if config[n]]
            raise ValueError(
                f"The configuration places nothing: of {', '.join(wanted) or 'no location'} with "
                f"leave_out={config.leave_out}, this {anatomy.model_class} with {len(anatomy.layers)} layers has none."
            )
        return placements

    def _bottlenecks(self, config: BnConfig, anatomy: Anatomy) -> Iterator[Placement]:
        shared: SharedParameters | None = None
        for layer, sublayer in anatomy.sublayers():
            if not config[sublayer.location] or layer.number in config.leave_out:
                continue
            if not sublayer.size:
                raise ValueError(
                    f"The hidden size of {layer.path} is not known; pass an AdapterModelInterface to init."
                )
            if config.phm_layer and (config.shared_phm_rule or config.shared_W_phm) and shared is None:
                shared = _shared_parameters(config, sublayer.size, layer.number)
            module = Bottleneck(config, sublayer.size, layer.number, shared)
            yield Placement(sublayer.host, sublayer.container, sublayer.location, layer.index, module, sublayer)
        if shared is not None:
            for host in anatomy.shared_hosts:
                yield Placement(host, "shared_parameters", "shared", -1, shared)

    def _invertible(self, config: BnConfig, anatomy: Anatomy) -> Placement:
        tower = anatomy.embedding_tower
        if tower is None:
            raise ValueError(
                f"No embeddings were found in this {anatomy.model_class} for the configuration's invertible adapter."
            )
        coupling = COUPLINGS[config.inv_adapter or "nice"]
        factor = config.inv_adapter_reduction_factor
        assert factor is not None
        block = coupling(tower.embedding_size, config.non_linearity, factor)
        return Placement(anatomy.tower_host(tower), "invertible_adapters", "invertible", -1, block)


def bottleneck_size(config: BnConfig, size: int, layer: int) -> int:
    """d: hidden size over reduction factor, at least one."""
    return max(1, int(size // config.reduction_factor_at(layer)))


def _fixed(config: BnConfig) -> frozenset[str]:
    is_fixed = config.phm_layer and not config.learn_phm
    return frozenset({"phm_rule", "phm_rule_left", "phm_rule_right"}) if is_fixed else frozenset()


def _projection(
    config: BnConfig, in_features: int, out_features: int, position: str, shared: SharedParameters | None
) -> nn.Module:
    if config.phm_layer:
        layer = HypercomplexLinear(in_features, out_features, config, position, shared)
        if config.init_weights == "mam_adapter" and position == "up":
            layer.set_to_zero()
        return layer
    return Projection(in_features, out_features, config.init_weights, is_last=position == "up")


def _shared_parameters(config: BnConfig, size: int, layer: int) -> SharedParameters:
    shared = SharedParameters()
    shared.fixed = _fixed(config)
    if config.shared_W_phm:
        inner = bottleneck_size(config, size, layer)
        for position, shape in (("down", (size, inner)), ("up", (inner, size))):
            for name, parameter in weight_parameters(config, *shape):
                shared[f"W_{position}{name}"] = parameter
    if config.shared_phm_rule:
        for name, parameter in rule_parameters(config):
            shared[name] = parameter
    return shared
