"""Changes of a weight by a product of two small matrices: y = W x + b + s · B A x. What A and B are is in other files.

Letters: I inputs, O outputs of the adapted matrix, R its adapted rows, n matrices that are one in the model, r rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from ..configuration import LoRAConfig
from .dora import Magnitude
from .kept import flows
from .stacked_matrices import RowMatrix
from .targets import Target

Operands = tuple[Tensor, Tensor, Tensor | None, float]
"""A, Bᵀ, what y is multiplied by, and what Bᵀ is multiplied by. Shapes: (n·r, I), (n·r, O), (O,)."""


class LowRank(RowMatrix, ABC):
    """A change of a weight by s · B A, of the weight itself or of its directions alone (DoRA).

    Where n matrices are one in the model, A holds n blocks of r rows, and B is block-diagonal: one product for all.

    Args:
        config: The configuration.
        target: The matrix.
    """

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__(config, target)
        self.rank, self.inner = target.rank, target.rank * len(self.sizes)
        self.dropout = config.dropout
        self.is_square = self.is_whole and self.in_features == self.out_features
        self.m = Magnitude(target) if config.use_dora else None
        # A bias that the magnitudes leave alone is taken out before they scale, and put in again.
        self._biased = (target.module,) if self.m is not None and not config.scale_bias else ()
        self.has_product, self.has_scale = True, self.m is not None

    def start(self, base: nn.Module) -> None:
        """See `AdapterModule.start`."""
        if self.m is not None:
            self.m.start()

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B. Shapes: (n·r, I), (O, n·r)."""

    @property
    @abstractmethod
    def sources(self) -> list[Tensor]:
        """The tensors that A and B are made of."""

    @property
    def all_sources(self) -> list[Tensor]:
        """See `RowMatrix.all_sources`."""
        return self.sources if self.m is None else [*self.sources, *self.m.sources]

    def stack_key(self) -> Hashable:
        """See `AdapterModule.stack_key`."""
        return None if self.kept_bias is not None else super().stack_key()

    @property
    def kept_bias(self) -> Tensor | None:
        """The bias of the layer, if there is one and it stays while all else is scaled. Shape: (O,)."""
        return self._biased[0]._parameters.get("bias") if self._biased else None

    def terms(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """See `RowMatrix.terms`."""
        a, b, scale, s = self._computed()
        return a, s * b, scale

    def adapt(self, x: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """See `LinearMap.adapt`.

        Args:
            x: The input of the layer.
            y: Its output.
            u: What A is applied to, if not to x.
        """
        sources = self.all_sources
        if flows(sources):
            return self._changed(x, y, u, self._computed())
        operands = self.kept.get(sources, self._folded)
        a, b, scale, _ = operands
        is_plain = self.gate is None and not (self.training and self.dropout) and not torch.is_grad_enabled()
        is_plain = is_plain and self.kept_bias is None
        if not is_plain or x.dtype is not a.dtype or y.dtype is not a.dtype or not y.is_contiguous():
            return self._changed(x, y, u, operands)
        # Nobody else has seen y yet, so without gradients it is changed in place.
        if scale is not None:
            y.mul_(scale)
        y.view(-1, self.out_features).addmm_(linear(x if u is None else u, a).view(-1, self.inner), b)
        return y

    def increment(self, u: Tensor, x: Tensor) -> Tensor:
        """s · B A u, with gates that read x. Shapes: (..., I), (..., I) to (..., O)."""
        a, b = self.factors()
        return self.scaling * linear(self._reduced(u, x, a), b)

    def merged(self, weight: Tensor) -> Tensor:
        """See `WeightMap.merged`."""
        self.require_no_gate()
        a, b = self.factors()
        changed = weight + (self.scaling * (b @ a)).to(weight.dtype)
        return changed if self.m is None else changed * self.m.scale(a, b, weight)[:, None].to(weight.dtype)

    def merged_bias(self, bias: Tensor) -> Tensor:
        """See `WeightMap.merged_bias`."""
        if self.m is None or self._biased:
            return bias
        return bias * self.m.scale(*self.factors()).to(bias.dtype)

    def spread_blocks(self, blocks: Tensor) -> Tensor:
        """The matrices of all parts as one block-diagonal matrix. Shape: (R, r) to (O, n·r)."""
        if len(self.sizes) > 1:
            blocks = torch.block_diag(*torch.split(blocks, self.sizes))  # type: ignore[no-untyped-call]
        return self.spread(blocks, 0.0)

    def _changed(self, x: Tensor, y: Tensor, u: Tensor | None, operands: Operands) -> Tensor:
        a, b, scale, s = operands
        dtype = y.dtype
        h = self._reduced(x if u is None else u, x, a)
        if scale is not None:
            bias = self.kept_bias
            y = y * scale if bias is None else (y - bias) * scale + bias
        changed = torch.add(y, torch.matmul(h, b), alpha=s)
        return changed if changed.dtype is dtype else changed.to(dtype)

    def _computed(self) -> Operands:
        a, b = self.factors()
        if self.m is None:
            return a, b.t(), None, self.scaling
        scale = self.m.scale(a, b)
        return a, (b * scale[:, None]).t(), scale, self.scaling

    def _folded(self) -> Operands:
        a, b, scale, s = self._computed()
        return a, (s * b).contiguous(), scale, 1.0

    def _reduced(self, u: Tensor, x: Tensor, a: Tensor) -> Tensor:
        """A u, gated by x. Shapes: (..., I), (..., I), (n·r, I) to (..., n·r)."""
        if u.dtype is not a.dtype:
            u = u.to(a.dtype)
        h = linear(dropout(u, self.dropout) if self.training and self.dropout else u, a)
        if self.gate is not None:
            gates = self.gates(x)
            h = h * (gates if len(self.sizes) == 1 else gates.repeat_interleave(self.rank, dim=-1))
        return h
