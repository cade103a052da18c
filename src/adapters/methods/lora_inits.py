"""Initial weights of LoRA and its relatives, one function for each name that `init_weights` may have.

Letters: I inputs, O outputs of the adapted matrix, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

Initialise = Callable[[Mapping[str, nn.Parameter], Tensor | None], None]
"""Fills the parameters that a module has, by their names; the weight W (O, I) is read by some, and never changed."""


def lora(parameters: Mapping[str, nn.Parameter], weight: Tensor | None) -> None:
    """A Kaiming uniform, B zero."""
    _fill(parameters, lambda a: nn.init.kaiming_uniform_(a, a=math.sqrt(5)), nn.init.zeros_)


def bert(parameters: Mapping[str, nn.Parameter], weight: Tensor | None) -> None:
    """Both normal with deviation 0.02, so that something changes from the start."""
    _fill(parameters, lambda a: nn.init.normal_(a, std=0.02), lambda b: nn.init.normal_(b, std=0.02))


def ia3(parameters: Mapping[str, nn.Parameter], weight: Tensor | None) -> None:
    """All ones."""
    _fill(parameters, nn.init.ones_, nn.init.ones_)


def vera(parameters: Mapping[str, nn.Parameter], weight: Tensor | None) -> None:
    """Both Kaiming uniform: what is shared by all layers, and frozen."""
    _fill(parameters, nn.init.kaiming_uniform_, nn.init.kaiming_uniform_)


def orthogonal(parameters: Mapping[str, nn.Parameter], weight: Tensor | None) -> None:
    """The rows of A orthonormal, B zero."""
    _fill(parameters, nn.init.orthogonal_, nn.init.zeros_)


# That of "eva" is found later, by `adapters.initialise_with_data`.
INITS: dict[str, Initialise] = {
    "lora": lora,
    "bert": bert,
    "ia3": ia3,
    "vera": vera,
    "orthogonal": orthogonal,
    "eva": lora,
}


def pissa(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """The principal singular values and vectors of W (Meng et al. 2024, arXiv:2404.02948): s · B A is its best part.

    Args:
        weight: W, (O, I).
        rank: r.
        scaling: s.

    Returns:
        A and B. Shapes: (r, I), (O, r).
    """
    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    root = (values[:rank] / scaling).sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def olora(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """The first columns of Q and rows of R, of W = Q R (Büyükakyüz 2024, arXiv:2406.01775): B is orthonormal.

    Args:
        weight: W, (O, I).
        rank: r.
        scaling: s, which does not matter.

    Returns:
        A and B. Shapes: (r, I), (O, r).
    """
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


DECOMPOSITIONS: dict[str, Callable[[Tensor, int, float], tuple[Tensor, Tensor]]] = {"pissa": pissa, "olora": olora}


class Directions:
    """The principal directions of vectors that come in batches, and of which only a sketch is kept.

    >>> directions = Directions(rank=8)
    >>> directions.add(torch.randn(100, 768))
    >>> directions.principal().shape
    torch.Size([8, 768])

    Args:
        rank: How many are wanted. A few more are kept on the way.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._sketch: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Take in a batch. Shape: (N, I)."""
        vectors = vectors.float()
        if self._sketch is not None:
            vectors = torch.cat([self._sketch, vectors])
        _, values, directions = torch.linalg.svd(vectors, full_matrices=False)
        kept = 2 * self.rank + 8
        self._sketch = values[:kept, None] * directions[:kept]

    def principal(self) -> Tensor:
        """The directions with the largest sums of squares, as orthonormal rows. Shape: (r, I).

        Raises:
            ValueError: there were too few vectors.
        """
        found = 0 if self._sketch is None else len(self._sketch)
        if self._sketch is None or found < self.rank:
            raise ValueError(f"{found} directions were seen, and r={self.rank} are needed; give more batches.")
        _, _, directions = torch.linalg.svd(self._sketch, full_matrices=False)
        return cast(Tensor, directions[: self.rank])


def initialise(kind: str, parameters: Mapping[str, nn.Parameter], weight: Tensor | None = None) -> None:
    """Fill the parameters `lora_A` and `lora_B`, those of them that are there.

    Args:
        kind: A key of `INITS`.
        parameters: The parameters by name.
        weight: The adapted weight.

    Raises:
        ValueError: there is no such way.
    """
    if kind not in INITS:
        raise ValueError(f"init_weights={kind!r} is not known; there are {', '.join(map(repr, INITS))}.")
    INITS[kind](parameters, weight)


def _fill(parameters: Mapping[str, nn.Parameter], a: Callable[[Tensor], object], b: Callable[[Tensor], object]) -> None:
    if "lora_A" in parameters:
        a(parameters["lora_A"])
    if "lora_B" in parameters:
        b(parameters["lora_B"])
