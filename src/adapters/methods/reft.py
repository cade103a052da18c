"""Representation finetuning: ReFT (Wu et al. 2024, arXiv:2404.03592).

Behind a layer, the hidden state h at a few positions of each row becomes h + Rᵀ(f(W h + b) − R h). In LoReFT the rows
of R are orthonormal, in NoReFT they are free, and in DiReFT R h is not subtracted.

Shapes: B rows, N positions, D hidden size, r rank.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..anatomy.parts import Anatomy
from ..anatomy.streams import layer_outputs
from ..configuration import ReftConfig
from .base import AdapterModule, Chooser, Method, Placement, PositionsMap
from .layers import Activation, seeded
from .orthonormal import FreeRows, HouseholderRows, OrthonormalRows, Rows


class _NoPosition(torch.autograd.Function):
    """Parameters that no position needs: their gradient is zero, and costs next to nothing."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(parameter) for parameter in ctx.parameters)


class Intervention(nn.Module):
    """Rᵀ(f(W h + b) − R h).

    Args:
        config: The configuration.
        size: Hidden size D.
    """

    projection: Rows

    def __init__(self, config: ReftConfig, size: int) -> None:
        super().__init__()
        self.learned_source = nn.Linear(size, config.r)
        self.projection = OrthonormalRows(config.r, size) if config.orthogonality else FreeRows(config.r, size)
        self.f = Activation(config.non_linearity) if config.non_linearity is not None else None
        self.dropout = config.dropout
        self.subtracts = config.subtract_projection

    def forward(self, h: Tensor) -> Tensor:
        """What is added to h. Shape: (B, N, D), kept."""
        source = self.learned_source
        if not h.shape[1]:
            unused = (source.weight, source.bias, self.projection.trained())
            return cast(Tensor, _NoPosition.apply(h, *unused))  # type: ignore[no-untyped-call]
        rows = self.projection()
        own = h.to(rows.dtype)
        z = source(own)
        if self.f is not None:
            z = self.f(z)
        if self.subtracts:
            z = z - nn.functional.linear(own, rows)
        return nn.functional.dropout(z @ rows, self.dropout, self.training).to(h.dtype)


class Reft(PositionsMap):
    """The interventions behind one layer: one for the first positions, one for the last, or one for both.

    Args:
        config: The configuration.
        size: Hidden size D.
    """

    def __init__(self, config: ReftConfig, size: int) -> None:
        super().__init__()
        self.size = size
        self.prefix_positions, self.suffix_positions = config.prefix_positions, config.suffix_positions
        self.dtype = getattr(torch, config.dtype) if config.dtype else None
        count = 1 if config.tied_weights else 2
        self.units = nn.ModuleList([Intervention(config, size) for _ in range(count)])

    def increment(self, h: Tensor, is_suffix: bool) -> Tensor:
        """See `PositionsMap.increment`."""
        return self.units[-1 if is_suffix else 0](h)  # type: ignore[no-any-return]

    def stack_key(self) -> Hashable:
        """See `AdapterModule.stack_key`: the ranks may differ, and what makes the rows of R orthonormal."""
        unit = cast(Intervention, self.units[0])
        weight = unit.learned_source.weight
        kind = (type(unit.f.f) if unit.f is not None else None, unit.dropout, unit.subtracts, len(self.units))
        return (Reft, self.prefix_positions, self.suffix_positions, kind, weight.dtype, weight.device)

    @classmethod
    def stacked(cls, modules: Sequence[Any], choose: Chooser) -> AdapterModule:
        """See `AdapterModule.stacked`."""
        return StackedRefts(modules, choose)

    def read(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `AdapterModule.read`. 1.3 saved how orthonormal rows are made, and goes on training in that form."""
        found = dict(tensors)
        for i, unit in enumerate(self.units):
            prefix = f"units.{i}.projection.parametrizations.weight"
            original, base = found.get(f"{prefix}.original"), found.get(f"{prefix}.0.base")
            if original is None or base is None or not isinstance(unit.projection, OrthonormalRows):
                continue
            if original.shape == unit.projection.weight.shape and base.shape == (original.shape[1],) * 2:
                unit.projection = HouseholderRows(original, base)
                del found[f"{prefix}.0.base"]
        return found


class StackedRefts(PositionsMap):
    """Several of them, of which each row of a batch goes through its own. Lower ranks are filled up with zeros.

    Shapes: S adapters, G groups of consecutive rows with the same one, r the largest rank.

    Args:
        modules: The adapters, which agree in their positions.
        choose: Says which of them each row goes through.
    """

    def __init__(self, modules: Sequence[Reft], choose: Chooser) -> None:
        super().__init__()
        self._refts = tuple(modules)  # in a tuple they are no modules of this one
        self._choose = choose
        self.size = modules[0].size
        self.prefix_positions, self.suffix_positions = modules[0].prefix_positions, modules[0].suffix_positions

    def increment(self, h: Tensor, is_suffix: bool) -> Tensor:
        """See `PositionsMap.increment`."""
        stacks = self._choose(h, self._sources, self._stacks)
        w, b, r = stacks[3:] if is_suffix else stacks[:3]
        own = h.reshape(w.shape[0], -1, h.shape[-1]).to(w.dtype)
        z = torch.baddbmm(b, own, w.mT)
        first = cast(Intervention, self._refts[0].units[0])
        if first.f is not None:
            z = first.f(z)
        if first.subtracts:
            z = z - torch.bmm(own, r.mT)
        added = nn.functional.dropout(torch.bmm(z, r), first.dropout, first.training)
        return added.view(h.shape).to(h.dtype)

    def _sources(self) -> list[Tensor]:
        return [parameter for module in self._refts for parameter in module.parameters()]

    def _stacks(self) -> list[Tensor]:
        """W, b and R at the first positions, and at the last ones. Shapes: (S, r, D), (S, 1, r), (S, r, D)."""
        found: list[Tensor] = []
        for end in (0, -1):
            units = [cast(Intervention, m.units[end]) for m in self._refts]
            rank = max(unit.learned_source.out_features for unit in units)
            found += map(torch.stack, zip(*(_terms(unit, rank) for unit in units), strict=True))
        return found


def _terms(unit: Intervention, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """W, b and R of one, with rows of zeros up to a rank. Shapes: (r, D), (1, r), (r, D)."""
    source = unit.learned_source
    lacking = rank - source.out_features
    pad = nn.functional.pad
    return (
        pad(source.weight, (0, 0, 0, lacking)),
        pad(source.bias, (0, lacking))[None],
        pad(unit.projection(), (0, 0, 0, lacking)),
    )


class ReftMethod(Method):
    """Interventions behind the layers that the configuration names."""

    def place(self, config: ReftConfig, anatomy: Anatomy, base: nn.Module) -> Iterable[Placement]:
        """See `Method.place`."""
        numbers = {layer.number for layer in anatomy.layers}
        unknown = sorted(set() if config.layers == "all" else {int(n) for n in config.layers} - numbers)
        if unknown:
            raise ValueError(
                f"layers={config.layers}: this {anatomy.model_class} has layers 0 to {max(numbers)}; there is no layer "
                f"{', '.join(map(str, unknown))}."
            )
        placements = []
        with seeded(config.init_weights_seed):
            for layer, point in layer_outputs(anatomy, base):
                if config.layers != "all" and layer.number not in config.layers:
                    continue
                if config.orthogonality and config.r > point.size:
                    raise ValueError(
                        f"r={config.r}: there are no more than {point.size} orthonormal rows in the hidden size of "
                        f"{layer.path}; use a smaller r, or orthogonality=False."
                    )
                module = Reft(config, point.size)
                placements.append(Placement(layer.path, "reft_layer.refts", "output_reft", layer.index, module, point))
        if not placements:
            raise ValueError(f"layers={config.layers}: the configuration places nothing; name a layer, or 'all'.")
        return placements
