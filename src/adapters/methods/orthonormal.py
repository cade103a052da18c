"""Matrices that are stored and saved as their rows, and of which the rows may be kept orthonormal.

Shapes: r rows, D columns.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .kept import Kept


def without_autocast(compute: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """Let a method of a module compute in the types of numbers that it asks for, also within `torch.autocast`."""

    @functools.wraps(compute)
    def computed(self: Rows) -> Tensor:
        with torch.autocast(self.trained().device.type, enabled=False):
            return compute(self).contiguous()  # how numbers lie in memory decides how products are rounded

    return computed


class Rows(nn.Module, ABC):
    """A matrix of r rows. Whatever it is made of, a state dict holds its rows, as `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = Kept()

    @abstractmethod
    def trained(self) -> nn.Parameter:
        """What is trained."""

    @abstractmethod
    def compute(self) -> Tensor:
        """The rows. Shape: (r, D)."""

    def forward(self) -> Tensor:
        """The rows; in evaluation they are computed once, until they change. Shape: (r, D)."""
        parameter = self.trained()
        has_gradient = torch.is_grad_enabled() and parameter.requires_grad
        if self.training or has_gradient or torch.compiler.is_compiling():
            return self.compute()
        return self._kept.get([parameter], self.compute)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Rows:
        """See `nn.Module.train`."""
        self._kept.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rows:
        self._kept.forget()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        with torch.no_grad():
            trained = self.trained()
            has_numbers = not trained.is_meta  # transformers asks for the names of a model that is still to be loaded
            destination[f"{prefix}weight"] = self.compute().detach() if has_numbers and not keep_vars else trained


class FreeRows(Rows):
    """Rows without a constraint, drawn as `nn.Linear` draws its weight.

    Args:
        count: Number of rows r.
        size: Number of columns D.
    """

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def trained(self) -> nn.Parameter:
        """See `Rows.trained`."""
        return self.weight

    def compute(self) -> Tensor:
        """See `Rows.compute`."""
        return self.weight

    def forward(self) -> Tensor:
        """See `Rows.forward`."""
        return self.weight


class OrthonormalRows(Rows):
    """Orthonormal rows: those that Gram and Schmidt make of the parameter.

    >>> rows = OrthonormalRows(2, 768)()
    >>> torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-5)
    True

    Args:
        count: Number of rows r, at most D.
        size: Number of columns D.
    """

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, size))
        nn.init.orthogonal_(self.weight)

    def trained(self) -> nn.Parameter:
        """See `Rows.trained`."""
        return self.weight

    @without_autocast
    def compute(self) -> Tensor:
        """See `Rows.compute`. A parameter that is orthonormal, as saved ones are, is left as it is to the last bit."""
        given = self.weight
        rows = _orthonormalised(given.to(torch.promote_types(given.dtype, torch.float32)))
        exact = given.detach().to(rows.dtype)
        errors = exact @ exact.mT - torch.eye(exact.shape[0], dtype=rows.dtype, device=rows.device)
        tolerance = 2 * torch.finfo(given.dtype).eps + 64 * torch.finfo(rows.dtype).eps
        # Where the value is the parameter's own, the gradient is still that of the orthonormalised one.
        own = exact + (rows - rows.detach())
        return torch.where(errors.abs().amax() < tolerance, own, rows).to(given.dtype)


class HouseholderRows(Rows):
    """Orthonormal rows in the form in which AdapterHub's `adapters` 1.3 trains and saves them, to go on with it.

    It is that of `torch.nn.utils.parametrizations.orthogonal`: the first r columns of B H₁ … Hᵣ, transposed. B is fixed
    and orthogonal, and Hᵢ is the Householder reflection whose vector is column i of the transposed parameter, below the
    diagonal, with a one on it.

    Args:
        original: The parameter; on its diagonal are signs for the rows. Shape: (r, D).
        base: B. Shape: (D, D).
    """

    base: Tensor
    signs: Tensor

    def __init__(self, original: Tensor, base: Tensor) -> None:
        super().__init__()
        self.parametrizations = nn.Module()
        self.parametrizations.weight = nn.Module()
        self.parametrizations.weight.original = nn.Parameter(original.clone())
        self.register_buffer("base", base.clone(), persistent=False)
        self.register_buffer("signs", original.diagonal().trunc(), persistent=False)

    def trained(self) -> nn.Parameter:
        """See `Rows.trained`."""
        return self.parametrizations.weight.original  # type: ignore[union-attr,return-value]

    @without_autocast
    def compute(self) -> Tensor:
        """See `Rows.compute`."""
        original = self.trained()
        dtype = torch.promote_types(original.dtype, torch.float32)
        vectors = original.to(dtype).mT.tril(-1)
        scales = 2 / (1 + vectors.square().sum(0))
        columns = torch.linalg.householder_product(vectors, scales) * self.signs.to(dtype)
        rows: Tensor = (self.base.to(dtype) @ columns).mT
        return rows.to(original.dtype)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Only the rows."""
        destination = kwargs.get("destination")
        destination = {} if destination is None else destination
        self._save_to_state_dict(destination, kwargs.get("prefix", ""), kwargs.get("keep_vars", False))
        return destination

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """From rows: B gets them as its first columns, and the reflections leave those as they are."""
        rows = state_dict.pop(f"{prefix}weight", None)
        if rows is None:
            missing_keys.append(f"{prefix}weight")
            return
        columns = rows.to(torch.promote_types(rows.dtype, torch.float32)).mT
        others = torch.linalg.qr(columns, mode="complete")[0][:, columns.shape[1] :]
        original = torch.zeros_like(self.trained()).fill_diagonal_(-1)
        with torch.no_grad():
            self.base.copy_(torch.cat((columns, others), 1))
            self.signs.fill_(-1)
        self._kept.forget()
        state_dict[f"{prefix}parametrizations.weight.original"] = original  # what the children read follows


def _orthonormalised(matrix: Tensor) -> Tensor:
    """The orthonormal rows that span, first by first, what those of a matrix span. Shape: (r, D), kept."""
    q, r = torch.linalg.qr(matrix.mT)
    rows: Tensor = (q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)).mT
    return rows
