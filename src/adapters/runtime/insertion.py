"""How P columns are put into each row of a tensor, before a column of its own.

Shapes: B rows, T columns, P columns that are put in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Insertion:
    """Where columns are put in.

    >>> Insertion(2, 1).insert(torch.tensor([[5, 6, 7]]), 0)
    tensor([[5, 0, 0, 6, 7]])

    Args:
        length: Their number P.
        column: The column k that they come before: of all rows, or of each. Shape: (B, 1).
        offset: How far k is behind the first token of a row.
    """

    length: int
    column: int | Tensor
    offset: int = 0

    def insert(self, x: Tensor, value: int | None) -> Tensor:
        """A number for each column put in, or that of the first token of the row. Shape: (..., T) to (..., P + T)."""
        flat = x.reshape(-1, x.shape[-1])
        filler = self._first(flat) if value is None else flat.new_full((1, 1), value)
        return self.put(flat, filler.expand(flat.shape[0], self.length)).view(*x.shape[:-1], -1)

    def pairs(self, mask: Tensor) -> Tensor:
        """Which columns see each other: those of tokens, and each with those put in. Shape: (B, T) to (B, S, S)."""
        is_token, is_own = self.insert(mask, 0) != 0, self.insert(torch.zeros_like(mask), 1) != 0
        both = (is_token[:, :, None] & is_token[:, None]) | is_own[:, :, None] | is_own[:, None]
        return both.to(mask.dtype)

    def positions(self, x: Tensor) -> Tensor:
        """Positions: those of text behind the prompt are P further on. Shape: (..., T) to (..., P + T)."""
        flat = x.reshape(-1, x.shape[-1])
        rows = 1 if isinstance(self.column, int) else len(self.column)
        if len(flat) < rows:  # the same for all rows, until now
            flat = flat.expand(rows, -1)
        columns = torch.arange(flat.shape[1], device=x.device)
        own = self._first(flat) + self.offset + torch.arange(self.length, device=x.device)
        moved = torch.where(columns >= self._column(flat), flat + self.length, flat)
        shape = x.shape[:-1] if len(flat) == x[..., 0].numel() else flat.shape[:1]
        return self.put(moved, own).view(*shape, -1)

    def moved(self, columns: Tensor) -> Tensor:
        """The numbers of columns of text, one or more for each row, as they are afterwards. Shape: (B, ...), kept."""
        k = self.column if isinstance(self.column, int) else self.column.view(-1, *[1] * (columns.ndim - 1))
        return torch.where(columns >= k, columns + self.length, columns)

    def put(self, x: Tensor, own: Tensor) -> Tensor:
        """Columns of their own. Shapes: (B, T, ...), (P, ...) or (B, P, ...) to (B, P + T, ...)."""
        own = own.expand(x.shape[0], *own.shape[own.ndim - x.ndim + 1 :])
        k = self._column(x)
        if isinstance(k, int):
            return torch.cat((own, x) if k == 0 else (x[:, :k], own, x[:, k:]), 1)
        column = torch.arange(self.length + x.shape[1], device=x.device)
        source = torch.where(
            column < k, column + self.length, torch.where(column < k + self.length, column - k, column)
        )
        return torch.cat((own, x), 1).gather(1, _spread(source, x))

    def replace(self, x: Tensor, own: Tensor) -> Tensor:
        """Columns of their own in the place of those put in before.

        Shapes: (B, P + T, E), and (P, E) or (B, P, E), to (B, P + T, E).
        """
        k = self._column(x)
        if isinstance(k, int):
            return torch.cat((x[:, :k], own.expand(x.shape[0], -1, -1), x[:, k + self.length :]), 1)
        column = torch.arange(x.shape[1], device=x.device)
        is_own = (column >= k) & (column < k + self.length)
        source = (column - k).clamp(0, self.length - 1)
        chosen = own[source] if own.ndim == 2 else own.gather(1, _spread(source.expand(len(x), -1), x))
        return torch.where(is_own[..., None], chosen, x)

    def _column(self, x: Tensor) -> int | Tensor:
        """k for the rows of a tensor, which may have them several times over (three kinds of positions)."""
        k = self.column
        return k if isinstance(k, int) or len(k) == len(x) else k.repeat(len(x) // len(k), 1)

    def _first(self, x: Tensor) -> Tensor:
        """What is at the first token of each row. Shape: (B, T) to (B, 1)."""
        k = self._column(x)
        if isinstance(k, int):
            first = k - self.offset
            return x[:, first : first + 1]
        return x.gather(1, k - self.offset)


def _spread(index: Tensor, x: Tensor) -> Tensor:
    """(B, S) to (B, S, ...)."""
    return index.view(*index.shape, *[1] * (x.ndim - 2)).expand(*index.shape, *x.shape[2:])


def insertion(mask: Tensor | None, length: int, follows_first: bool) -> Insertion:
    """Before the first token of each row, or behind it.

    Args:
        mask: The attention mask; without one there is no padding. Shape: (..., T).
        length: Number of columns P.
        follows_first: Whether behind it.
    """
    offset = int(follows_first)
    if mask is None:
        return Insertion(length, offset, offset)
    seen = mask.reshape(-1, mask.shape[-1]) != 0
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(seen[:, 0].all()):
        return Insertion(length, offset, offset)  # without padding on the left all rows are alike
    return Insertion(length, seen.int().argmax(1, keepdim=True) + offset, offset)
