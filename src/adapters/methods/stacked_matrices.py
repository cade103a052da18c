"""Adapters of one matrix for the rows of a batch, each row by its own: y′ = v ⊙ y + s · B A x in one product for all.

LoRA and its relatives differ in what A, B and v are made of, and IA³ has v alone; so they can be mixed freely.

Letters: I inputs and O outputs of the matrix, r the largest rank, S adapters, G groups of consecutive rows of the same
adapter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import AdapterModule, Chooser, LinearMap
from .targets import AdaptedMatrix


class RowMatrix(AdaptedMatrix, ABC):
    """A module whose effect is y′ = v ⊙ y + s · B A x."""

    dropout: float
    has_product: bool
    """Whether A and B are not zero."""
    has_scale: bool
    """Whether v is not one."""

    @abstractmethod
    def terms(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """A, s · Bᵀ and v, where they are not zero or one. Shapes: (r, I), (r, O), (O,)."""

    @property
    @abstractmethod
    def all_sources(self) -> list[Tensor]:
        """The tensors that these are made of."""

    def stack_key(self) -> Hashable:
        """See `AdapterModule.stack_key`: ranks and kinds may differ. Gates read x by themselves."""
        first = self.all_sources[0]
        return None if self.gate is not None else (RowMatrix, self.dropout, first.dtype, first.device)

    @classmethod
    def stacked(cls, modules: Sequence[Any], choose: Chooser) -> AdapterModule:
        """See `AdapterModule.stacked`."""
        return StackedMatrices(modules, choose)


class StackedMatrices(LinearMap):
    """Several adapters of a matrix. Lower ranks are filled up with zeros.

    Args:
        modules: The adapters.
        choose: Says which of them each row goes through.
    """

    def __init__(self, modules: Sequence[RowMatrix], choose: Chooser) -> None:
        super().__init__()
        self._adapters = tuple(modules)  # in a tuple they are no modules of this one
        self._choose = choose
        self._dropout = modules[0].dropout
        self._has_product = any(module.has_product for module in modules)
        self._has_scale = any(module.has_scale for module in modules)

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """See `LinearMap.after`."""
        # Nobody else has seen the output yet, so without gradients it is changed in place.
        return self._changed(inputs[0], output, in_place=not torch.is_grad_enabled() and output.is_contiguous())

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """See `LinearMap.adapt`. Shapes: (R, ..., I), (R, ..., O) to (R, ..., O)."""
        return self._changed(x, y, in_place=False)

    def _changed(self, x: Tensor, y: Tensor, in_place: bool) -> Tensor:
        chosen = iter(self._choose(x, self._sources, self._stacks))
        if not self._has_product:
            v = next(chosen)
            grouped = y.reshape(v.shape[0], -1, y.shape[-1])
            if in_place and v.dtype is y.dtype:
                grouped.mul_(v)
                return y
            return (grouped * v).view(y.shape).to(y.dtype)
        a, b = next(chosen), next(chosen)
        grouped, u = y.reshape(a.shape[0], -1, y.shape[-1]), x.reshape(a.shape[0], -1, x.shape[-1])
        in_place = in_place and y.dtype is a.dtype
        if u.dtype is not a.dtype or y.dtype is not a.dtype:
            grouped, u = grouped.to(a.dtype), u.to(a.dtype)
        if self._has_scale:
            grouped = grouped.mul_(next(chosen)) if in_place else grouped * next(chosen)
        if self._dropout and self._adapters[0].training:
            u = torch.nn.functional.dropout(u, self._dropout)
        h = torch.bmm(u, a)
        if in_place:
            grouped.baddbmm_(h, b)
            return y
        result = torch.baddbmm(grouped, h, b).view(y.shape)
        return result if result.dtype is y.dtype else result.to(y.dtype)

    def _sources(self) -> list[Tensor]:
        return [source for module in self._adapters for source in module.all_sources]

    def _stacks(self) -> list[Tensor]:
        """Aᵀ, s · Bᵀ and v, as far as there are any. Shapes: (S, I, r), (S, r, O), (S, 1, O)."""
        terms = [module.terms() for module in self._adapters]
        like = next(term for one in terms for term in one if term is not None)
        inputs, outputs = self._adapters[0].in_features, self._adapters[0].out_features
        found = []
        if self._has_product:
            rank = max([one[0].shape[0] for one in terms if one[0] is not None])
            found.append(torch.stack([_filled(one[0], rank, inputs, like) for one in terms]).mT.contiguous())
            found.append(torch.stack([_filled(one[1], rank, outputs, like) for one in terms]))
        if self._has_scale:
            v = [like.new_ones(outputs) if one[2] is None else one[2] for one in terms]
            found.append(torch.stack(v)[:, None])
        return found


def _filled(x: Tensor | None, rank: int, size: int, like: Tensor) -> Tensor:
    """With rows of zeros, up to a rank. Shape: (r, size)."""
    if x is None:
        return like.new_zeros(rank, size)
    return x if len(x) == rank else torch.cat([x, x.new_zeros(rank - len(x), size)])
