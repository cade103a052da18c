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
from torch import Tensor

from .base import AdapterModule, Chooser, LinearMap
from .kept import Kept, flows
from .targets import AdaptedMatrix


class RowMatrix(AdaptedMatrix, ABC):
    """A module whose effect is y′ = v ⊙ y + s · B A x."""

    dropout: float

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
        self._kept = Kept()
        self._dropout = modules[0].dropout

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """See `LinearMap.adapt`. Shapes: (R, ..., I), (R, ..., O) to (R, ..., O)."""
        sources = [source for module in self._adapters for source in module.all_sources]
        stacks = self._stacks() if flows(sources) else self._kept.get(sources, self._stacks)
        a, b, v = stacks
        chosen = iter(self._choose(x, [stack for stack in stacks if stack is not None]))
        result = y
        if a is not None and b is not None:
            a, b = next(chosen), next(chosen)
            grouped = y.reshape(a.shape[0], -1, y.shape[-1]).to(a.dtype)
            if v is not None:
                grouped = grouped * next(chosen)
            u = x.reshape(a.shape[0], -1, x.shape[-1]).to(a.dtype)
            if self._dropout and self._adapters[0].training:
                u = torch.nn.functional.dropout(u, self._dropout)
            result = torch.baddbmm(grouped, torch.bmm(u, a), b)
        elif v is not None:
            v = next(chosen)
            result = y.reshape(v.shape[0], -1, y.shape[-1]) * v
        return result.view(y.shape).to(y.dtype)

    def _stacks(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Aᵀ, s · Bᵀ and v. Shapes: (S, I, r), (S, r, O), (S, 1, O)."""
        terms = [module.terms() for module in self._adapters]
        like = next(term for one in terms for term in one if term is not None)
        inputs, outputs = self._adapters[0].in_features, self._adapters[0].out_features
        rank = max([0, *[one[0].shape[0] for one in terms if one[0] is not None]])
        a = b = v = None
        if rank:
            a = torch.stack([_filled(one[0], rank, inputs, like) for one in terms]).mT.contiguous()
            b = torch.stack([_filled(one[1], rank, outputs, like) for one in terms])
        if any(one[2] is not None for one in terms):
            v = torch.stack([like.new_ones(outputs) if one[2] is None else one[2] for one in terms])[:, None]
        return a, b, v


def _filled(x: Tensor | None, rank: int, size: int, like: Tensor) -> Tensor:
    """With rows of zeros, up to a rank. Shape: (r, size)."""
    if x is None:
        return like.new_zeros(rank, size)
    return x if len(x) == rank else torch.cat([x, x.new_zeros(rank - len(x), size)])
