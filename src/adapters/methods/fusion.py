"""Learned mixtures of what several adapters add at the same point.

AdapterFusion (Pfeiffer et al. 2021, arXiv:2005.00247), and gates that do not depend on the input.

Shapes: N adapters, M rows and tokens (… where they are several dimensions), D hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.parts import LayerOutput, Matrix, Sublayer
from ..configuration import AdapterFusionConfig, FusionConfig, GateFusionConfig
from .base import AdapterModule, Placement
from .kept import Kept, flows
from .layers import Projection

CONTAINER = "adapter_fusion_layer"
FIRST_TEMPERATURE, COOLING, LAST_TEMPERATURE = 50.0, 0.05, 1.0


class FusionModule(AdapterModule, ABC):
    """A module that mixes what several adapters add at one point."""

    acts_by = "attend"
    reads_query_before_norm: bool
    """Whether the query is the output of the sublayer itself, and not what the adapters read."""
    reads_residual_in_values: bool
    """Whether the residual is mixed with the values, so that it is not simply added."""

    @abstractmethod
    def attend(self, query: Tensor, values: Sequence[Tensor] | Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The residual with the mixture of the values.

        Args:
            query: What the weights may depend on. Shape: (…, D).
            values: What each adapter adds: N tensors of shape (…, D), or one of shape (N, …, D), which saves a copy.
            residual: What they are added to. Shape: (…, D).

        Returns:
            The sum, of shape (…, D), and the weights, of shape (…, N).
        """

    def regularization_loss(self) -> Tensor | None:
        """What training adds to the loss; None if nothing."""
        return None

    def take(self, source: nn.Module, adapters: Sequence[int]) -> None:
        """Take on the weights of a module that mixes more adapters.

        Args:
            source: That module, of the same kind.
            adapters: Which of its adapters are mixed here.
        """
        self.load_state_dict(source.state_dict())


class AttentionFusion(FusionModule):
    """AdapterFusion: Σᵢ pᵢ V zᵢ + r, with p the softmax over i of (Q q + b) · (K zᵢ + c).

    However many adapters there are, three products with matrices are enough: keys are only multiplied with the query,
    (Q q + b) · K zᵢ = Kᵀ(Q q + b) · zᵢ, where what c adds is the same for all i, so that the softmax does not see it;
    and values are linear, Σᵢ pᵢ V zᵢ = V Σᵢ pᵢ zᵢ. Without gradients, KᵀQ is kept, and two products are left.

    Args:
        config: The configuration.
        size: Hidden size D.
    """

    passes: Tensor

    def __init__(self, config: AdapterFusionConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.reads_query_before_norm = config.query_before_ln
        self.reads_residual_in_values = config.residual_before
        self.query = Projection(size, size, "bert") if config.query else None
        self.key = Projection(size, size, "bert") if config.key else None
        self.value = _value(size, str(config.value_initialized) == "True") if config.value else None
        if config.temperature:
            # How often it was trained. A whole number, which no change of the type of numbers rounds.
            self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self._kept = Kept()

    def attend(self, query: Tensor, values: Sequence[Tensor] | Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """See `FusionModule.attend`."""
        shape, config = query.shape, self.config
        z = stacked(values)
        r = residual.reshape(-1, shape[-1])
        asked, shift = self._asked(query.reshape(-1, shape[-1]), r)
        if config.temperature:
            scale = self._temperature().reciprocal().to(asked.dtype)
            asked, shift = asked * scale, None if shift is None else shift * scale
        if shift is None:
            mixed, weights = mixture(asked, z)
        else:
            mixed, weights = self._with_dropout(asked, shift, z)
        if config.temperature and self.training:
            self._count(mixed)
        return self._result(mixed, r).view(shape), weights.view(*shape[:-1], -1)

    def _asked(self, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the zᵢ are multiplied with for their scores, and, for dropout, what is added to them.

        Shapes: (M, D), (M, D) to (M, D), (M, 1).
        """
        query, key = self.query, self.key
        with_shift = self.training and bool(self.config.dropout_prob)
        if query is not None and key is not None and not with_shift:
            parameters = [query.weight, query.bias, key.weight]
            if not flows(parameters):
                return nn.functional.linear(q, *self._kept.get(parameters, self._composed)), None
        full = q if query is None else nn.functional.linear(q, query.weight, query.bias)
        # The bias of the keys changes nothing; but what is trained has a gradient, be it zero.
        asked = full if key is None else nn.functional.linear(full, key.weight.t(), key.bias * 0.0)
        if not with_shift:
            return asked, None
        shift = asked.new_zeros(asked.shape[0]) if key is None else torch.mv(full, key.bias.to(full.dtype))
        if self.config.residual_before:
            shift = shift + (asked * r).sum(-1)
        return asked, shift.unsqueeze(-1)

    def _composed(self) -> tuple[Tensor, Tensor]:
        """KᵀQ and Kᵀb. Shapes: (D, D), (D,)."""
        assert self.query is not None and self.key is not None
        own = self.key.weight.dtype
        exact = torch.float32 if self.key.weight.device.type == "mps" else torch.float64
        key = self.key.weight.to(exact).t()
        return (key @ self.query.weight.to(exact)).to(own), (key @ self.query.bias.to(exact)).to(own)

    def _with_dropout(self, asked: Tensor, shift: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `mixture`, with dropout of the scores: it tells a score of zero from the others, so all of it counts."""
        scores = torch.bmm(asked.unsqueeze(1), z.permute(1, 2, 0)).squeeze(1) + shift
        weights = nn.functional.dropout(scores, self.config.dropout_prob or 0.0).softmax(-1)
        return torch.bmm(weights.unsqueeze(1), z.transpose(0, 1)).squeeze(1), weights

    def _result(self, mixed: Tensor, r: Tensor) -> Tensor:
        """The mixture as values, with the residual. Shapes: (M, D), (M, D) to (M, D)."""
        value = self.value
        if value is None:
            return mixed + r
        if self.config.residual_before:
            return nn.functional.linear(mixed + r, value.weight)
        return torch.addmm(r, mixed, value.weight.t())

    def _temperature(self) -> Tensor:
        return (FIRST_TEMPERATURE - COOLING * self.passes).clamp(min=LAST_TEMPERATURE)

    def _count(self, mixed: Tensor) -> None:
        """Count a pass of training, when its gradient comes: gradient checkpointing computes each pass twice.

        Within a compiled graph there is no such moment, and no need: what is recomputed there counts nothing.
        """
        if torch.compiler.is_compiling():
            self.passes.add_(1)
        elif mixed.requires_grad:
            mixed.register_hook(self._add_pass)  # type: ignore[no-untyped-call]

    def _add_pass(self, gradient: Tensor) -> None:
        self.passes.add_(1)

    def read(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `AdapterModule.read`: the number of passes is no parameter. 1.3 did not save it."""
        if self.config.temperature:
            self.passes.copy_(tensors.get("passes", torch.zeros_like(self.passes)))
        return {name: tensor for name, tensor in tensors.items() if name != "passes"}

    def regularization_loss(self) -> Tensor | None:
        """0.01 · ‖V − I‖², which keeps the values near what the adapters add."""
        if self.value is None or not self.config.regularization:
            return None
        weight = self.value.weight
        return 0.01 * (weight - torch.eye(len(weight), dtype=weight.dtype, device=weight.device)).square().sum()


class GateFusion(FusionModule):
    """Σᵢ pᵢ zᵢ + r, with p the softmax of one number per adapter: at first, the mean.

    Args:
        size: Number of adapters N.
    """

    reads_query_before_norm = False
    reads_residual_in_values = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(size))

    def take(self, source: nn.Module, adapters: Sequence[int]) -> None:
        """See `FusionModule.take`."""
        assert isinstance(source, GateFusion)
        with torch.no_grad():
            self.logits.copy_(source.logits[list(adapters)])

    def attend(self, query: Tensor, values: Sequence[Tensor] | Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """See `FusionModule.attend`."""
        if len(values) != len(self.logits):
            raise ValueError(f"This gate was made for {len(self.logits)} adapters, and {len(values)} are used with it.")
        z = stacked(values)
        weights = self.logits.softmax(0).to(z.dtype)
        mixed = torch.addmm(residual.reshape(1, -1), weights.unsqueeze(0), z.flatten(1))
        return mixed.view(residual.shape), weights.expand(*residual.shape[:-1], -1)


def stacked(values: Sequence[Tensor] | Tensor) -> Tensor:
    """Values in one tensor. Shape: N times (…, D), or (N, …, D), to (N, M, D)."""
    z = values if isinstance(values, Tensor) else torch.stack(tuple(values))
    return z.reshape(z.shape[0], -1, z.shape[-1])


def mixture(asked: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Σᵢ pᵢ zᵢ and p, the softmax over i of asked · zᵢ.

    Shapes: (M, D), (N, M, D) to (M, D), (M, N).
    """
    asked = asked.to(z.dtype)
    if torch.is_grad_enabled() and (asked.requires_grad or z.requires_grad):
        mixed, weights = _Mixture.apply(asked, z)  # type: ignore[no-untyped-call]
        return mixed, weights
    return _mixture(asked, z)


def _mixture(asked: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.bmm(asked.unsqueeze(1), z.permute(1, 2, 0)).softmax(-1)
    mixed = torch.bmm(weights.to(z.dtype), z.transpose(0, 1))
    return mixed.squeeze(1).to(z.dtype), weights.squeeze(1).to(z.dtype)  # autocast may have changed the types


class _Mixture(torch.autograd.Function):
    """`_mixture` with its gradient: each zᵢ is in two products, whose gradients are here written at once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(asked: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return _mixture(asked, z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor | None]:
        """Shapes: (M, D), (M, N) to (M, D), (N, M, D)."""
        asked, z, weights = ctx.saved_tensors
        of_mixed, of_weights = gradients
        of_weights = of_weights + torch.bmm(of_mixed.unsqueeze(1), z.permute(1, 2, 0)).squeeze(1)
        of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True))
        of_asked = of_z = None
        if ctx.needs_input_grad[0]:
            of_asked = torch.bmm(of_scores.unsqueeze(1), z.transpose(0, 1)).squeeze(1)
        if ctx.needs_input_grad[1]:
            factors, vectors = torch.stack([weights, of_scores], -1), torch.stack([of_mixed, asked], 1)
            of_z = torch.bmm(factors, vectors).transpose(0, 1)
        return of_asked, of_z


def _value(size: int, is_identity: bool) -> nn.Linear:
    """V, as the identity with a little beside the diagonal, or drawn."""
    value = nn.Linear(size, size, bias=False)
    with torch.no_grad():
        if is_identity:
            value.weight.fill_(1e-6).fill_diagonal_(1.0)
        else:
            value.weight.normal_(std=0.02)
    return value


# -- where they are ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fusion:
    """A learned mixture of some adapters of a model.

    Args:
        name: Its name.
        config: Its configuration.
        adapter_names: The adapters, in their order; None for the bare model, which adds nothing.
        placements: Its modules, and where they are.
    """

    name: str
    config: FusionConfig
    adapter_names: tuple[str | None, ...]
    placements: tuple[Placement, ...]

    def modules(self) -> Iterator[FusionModule]:
        """Its modules."""
        for placement in self.placements:
            assert isinstance(placement.module, FusionModule)
            yield placement.module

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters."""
        return (parameter for module in self.modules() for parameter in module.parameters())


def fusion_placements(
    config: FusionConfig, adapters: Mapping[str, Sequence[Placement]], others: int = 0
) -> tuple[Placement, ...]:
    """The modules of a new fusion: one at each point where any of its adapters adds something.

    Args:
        config: The configuration.
        adapters: The adapters by their names, with their modules.
        others: How often the bare model is among what is fused.

    Raises:
        ValueError: an adapter acts where nothing is added that could be mixed, or none acts anywhere.
    """
    found: dict[tuple[str, str], tuple[Placement, set[str]]] = {}
    for name, placements in adapters.items():
        for placement in placements:
            if placement.point is None:
                continue
            if not isinstance(placement.point, (Sublayer, Matrix, LayerOutput)):
                raise ValueError(
                    f"Fuse is not defined for adapter {name!r}: its {placement.location} in "
                    f"{placement.host or 'the model'} adds nothing that could be mixed with what others add. "
                    "Bottleneck adapters, LoRA and ReFT can be fused; for all else there are Average, Split and "
                    "Parallel."
                )
            place = (placement.host, fusion_container(placement.container))
            found.setdefault(place, (placement, set()))[1].add(name)
    if not found:
        raise ValueError(f"There is nothing to fuse: {', '.join(map(repr, adapters)) or 'no adapter'} has no modules.")
    return tuple(
        Placement(host, container, p.location, p.layer, _module(config, p, len(names) + others), p.point)
        for (host, container), (p, names) in found.items()
    )


def fusion_container(container: str) -> str:
    """The dictionary of fusions that is beside one of adapters."""
    outer = container.rpartition(".")[0]
    return f"{outer}.{CONTAINER}" if outer else CONTAINER


def _module(config: FusionConfig, placement: Placement, adapters: int) -> FusionModule:
    if isinstance(config, GateFusionConfig):
        return GateFusion(adapters)
    assert isinstance(config, AdapterFusionConfig)
    point = placement.point
    assert isinstance(point, (Sublayer, Matrix, LayerOutput))
    return AttentionFusion(config, point.out_features if isinstance(point, Matrix) else point.size)
