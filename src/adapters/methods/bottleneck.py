"""Bottleneck adapters: f(h) = s · up(act(down(h))), at the output of a sublayer.

Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2005.00052), He et al. 2022 (arXiv:2110.04366),
Compacter (arXiv:2106.04647), Adapter+ (Steitz & Roth 2024).

Shapes: B rows, T tokens, D hidden size, d bottleneck size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..anatomy.parts import Anatomy
from ..configuration import BnConfig
from .base import AdapterModule, Chooser, Method, Placement, SharedParameters, SublayerMap
from .hypercomplex import HypercomplexLinear, rule_parameters, weight_parameters
from .invertible import COUPLINGS
from .layers import Activation, Projection, drop_rows, seeded
from .observed import Observation, show


class BottleneckMap(SublayerMap, ABC):
    """What becomes of f(h) in each of the variants.

    Args:
        config: Which of the variants.
    """

    acts_by = "project"

    def __init__(self, config: BnConfig) -> None:
        super().__init__()
        self.config = config
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

    @abstractmethod
    def project(self, h: Tensor) -> Tensor:
        """f(h): down, activation, up, scaling, dropout, gate. Shape: (B, T, D) to (B, T, D)."""

    @abstractmethod
    def normed(self, y: Tensor) -> Tensor:
        """The norm of `ln_after`. Shape: (B, T, D) to (B, T, D)."""

    def increment(self, h: Tensor) -> Tensor:
        """f(h), normed if `ln_after`: what is added to a residual. Shape: (B, T, D) to (B, T, D)."""
        y = self.project(h)
        return self.normed(y) if self.config.ln_after else y

    def with_residual(self, h: Tensor, residual: Tensor) -> Tensor:
        """f(h) and the bottleneck's own residual. Shapes: (B, T, D), (B, T, D) to (B, T, D)."""
        if self.config.ln_after and self.config.adapter_residual_before_ln:
            return self.normed(self.project(h) + residual)
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
        return self.with_residual(h, self.residual(h, x, r))

    def residual(self, h: Tensor, x: Tensor, r: Tensor | None) -> Tensor:
        """The bottleneck's own residual: x, h, or x + r. Shapes: (B, T, D) to (B, T, D)."""
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


class Bottleneck(BottleneckMap):
    """One bottleneck, as a map of the output x of a sublayer, given its residual r and the norm of the block.

    The modules have the names that they have in files of AdapterHub.

    Args:
        config: Which of the variants.
        size: Hidden size D.
        layer: Number of the layer, for reduction factors per layer.
        shared: Hypercomplex parameters that all layers share.
    """

    def __init__(self, config: BnConfig, size: int, layer: int, shared: SharedParameters | None = None) -> None:
        super().__init__(config)
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
        self.fixed = _fixed(config)
        self._is_scaled = bool(config.scaling != 1.0 or config.dropout or config.stochastic_depth or config.use_gating)
        # On small models the calls of five modules cost as much as what they compute, so `project` calls the functions.
        # A tuple keeps the two layers from being named a second time; their parameters can be exchanged.
        is_plain = not (config.phm_layer or config.ln_before)
        self._linears = (down, self.adapter_up) if is_plain else None
        self._activation = cast(Activation, self.adapter_down[-1]).f.forward

    def project(self, h: Tensor) -> Tensor:
        """See `BottleneckMap.project`."""
        if self._linears is None:
            y = self.adapter_up(self.adapter_down(h))
        else:
            down, up = self._linears[0]._parameters, self._linears[1]._parameters
            y = nn.functional.linear(h, down["weight"], down["bias"])  # type: ignore[arg-type]
            y = nn.functional.linear(self._activation(y), up["weight"], up["bias"])  # type: ignore[arg-type]
        return self._scaled(h, y) if self._is_scaled else y

    def normed(self, y: Tensor) -> Tensor:
        """See `BottleneckMap.normed`."""
        return self.adapter_norm_after(y)  # type: ignore[no-any-return]

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
            gate = torch.sigmoid(self.gate(h)).mean(dim=1)  # (B, 1)
            if Observation.count:
                show(self, gate)
            y = y * gate.unsqueeze(-1)
        return y

    @property
    def depends_on_rows(self) -> bool:
        """Whether what is done to a token depends on the row that it is in."""
        return bool(self.config.use_gating or self.config.stochastic_depth)

    def stack_key(self) -> Hashable:
        """See `AdapterModule.stack_key`: sizes may differ. Gates read the rows of their adapter by themselves."""
        config = self.config
        if config.use_gating:
            return None
        same = tuple(config[name] for name in _STACKED_ALIKE)
        scaling = config.scaling if isinstance(config.scaling, str) else "number"
        like = next(self.parameters())
        return (Bottleneck, same, scaling, config.non_linearity.lower(), like.dtype, like.device)

    @classmethod
    def stacked(cls, modules: Sequence[Any], choose: Chooser) -> AdapterModule:
        """See `AdapterModule.stacked`."""
        return StackedBottleneck(modules, choose)


# What bottlenecks must agree in, to be computed together: the order of their operations.
_STACKED_ALIKE = (
    *("original_ln_before", "original_ln_after", "ln_before", "ln_after", "is_parallel", "residual_before_ln"),
    *("adapter_residual_before_ln", "dropout", "stochastic_depth"),
)


class StackedBottleneck(BottleneckMap):
    """Several bottlenecks, of which each row of a batch goes through its own: two batched products for all.

    Smaller ones are filled up with zeros. Shapes: S bottlenecks, G groups of consecutive rows with the same one, d the
    largest bottleneck size.

    Args:
        modules: The bottlenecks, which agree in all but their sizes and weights.
        choose: Says which of them each row goes through.
    """

    def __init__(self, modules: Sequence[Bottleneck], choose: Chooser) -> None:
        super().__init__(modules[0].config)
        self.count = len(modules)
        self._bottlenecks = tuple(modules)  # in a tuple they are no modules of this one
        self._choose = choose
        self._activation = modules[0]._activation
        config = modules[0].config
        self._has_factors = any(m.config.scaling != 1.0 for m in modules)
        self._is_plain = not (self._has_factors or config.ln_before or config.dropout or config.stochastic_depth)
        # Where the parameters are: they can be exchanged.
        inner = [part for module in modules for part in module.modules()]
        self._holders: list[tuple[dict[str, Tensor], str]] = [
            (cast("dict[str, Tensor]", part._parameters), name)
            for part in inner
            for name, parameter in part._parameters.items()
            if parameter is not None
        ]
        self._products = [part for part in inner if isinstance(part, HypercomplexLinear)]

    def project(self, h: Tensor) -> Tensor:
        """See `BottleneckMap.project`."""
        down, down_bias, up, up_bias, *others = self._choose(h, self._sources, self._stacks)
        x = h.reshape(down.shape[0], -1, h.shape[-1])  # (G, rows and tokens of a group, D)
        if self._is_plain:
            y = torch.baddbmm(up_bias, self._activation(torch.baddbmm(down_bias, x, down)), up)
        else:
            y = self._with_others(h, x, down, down_bias, up, up_bias, others)
        return y.view(h.shape)

    def _with_others(
        self,
        h: Tensor,
        x: Tensor,
        down: Tensor,
        down_bias: Tensor,
        up: Tensor,
        up_bias: Tensor,
        others: Sequence[Tensor],
    ) -> Tensor:
        """The same with norms, scaling and dropout."""
        config, further = self.config, iter(others)
        z = nn.functional.layer_norm(x, x.shape[-1:]) * next(further) + next(further) if config.ln_before else x
        y = torch.baddbmm(up_bias, self._activation(torch.baddbmm(down_bias, z, down)), up)
        if self._has_factors:
            y = y * next(further)
        training = self._bottlenecks[0].training
        if training and config.dropout:
            y = nn.functional.dropout(y, config.dropout)
        if training and config.stochastic_depth:
            y = drop_rows(y.view(h.shape), config.stochastic_depth).view(y.shape)
        return y

    def normed(self, y: Tensor) -> Tensor:
        """See `BottleneckMap.normed`."""
        *_, weight, bias = self._choose(y, self._sources, self._stacks)
        normed = nn.functional.layer_norm(y, y.shape[-1:]).view(weight.shape[0], -1, y.shape[-1])
        return (normed * weight + bias).view(y.shape)

    def _sources(self) -> list[Tensor]:
        found = [holder[name] for holder, name in self._holders]
        for layer in self._products:
            found += layer.sources()
        return found

    def _stacks(self) -> list[Tensor]:
        """Weights as (S, D, d) and (S, d, D), biases as (S, 1, d) and (S, 1, D), then what further steps need."""
        config, modules = self.config, self._bottlenecks
        downs = [_dense(m.adapter_down[-2]) for m in modules]
        ups = [_dense(m.adapter_up) for m in modules]
        size = max(weight.shape[0] for weight, _ in downs)
        found = [
            torch.stack([_filled(weight, size, 0).t() for weight, _ in downs]),
            torch.stack([_filled(bias, size, 0)[None] for _, bias in downs]),
            torch.stack([_filled(weight, size, 1).t() for weight, _ in ups]),
            _rows([bias for _, bias in ups]),
        ]
        if config.ln_before:
            found += [_rows([m.adapter_norm_before.weight for m in modules])]
            found += [_rows([m.adapter_norm_before.bias for m in modules])]
        if isinstance(config.scaling, str):
            found.append(_rows([m.scaling for m in modules]))
        elif self._has_factors:
            found.append(found[0].new_tensor([[[m.config.scaling]] for m in modules]))
        if config.ln_after:
            found += [_rows([m.adapter_norm_after.weight for m in modules])]
            found += [_rows([m.adapter_norm_after.bias for m in modules])]
        return found


def _rows(vectors: Sequence[Tensor]) -> Tensor:
    """Shape: S times (D,) to (S, 1, D)."""
    return torch.stack(list(vectors))[:, None]


def _filled(x: Tensor, size: int, dim: int) -> Tensor:
    """With zeros up to a size in one dimension."""
    lacking = size - x.shape[dim]
    return x if not lacking else torch.cat([x, x.new_zeros([*x.shape[:dim], lacking, *x.shape[dim + 1 :]])], dim)


def _dense(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """The weight and the bias of a linear layer, also of a hypercomplex one. Shapes: (O, I), (O,)."""
    if isinstance(layer, HypercomplexLinear):
        weight, bias = layer.weight(), layer.b
        return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias
    return cast(Tensor, layer.weight), cast(Tensor, layer.bias)


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
