"""How several vectors become one: what the strategies of `average_adapter` do, of whatever the vectors are made.

Shapes: n adapters, N numbers of a vector.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Strategy(ABC):
    """A way to combine adapters.

    Args:
        weights: The weight wᵢ of each adapter.
    """

    weights: tuple[float, ...]


@dataclass(frozen=True)
class WeightedSum(Strategy):
    """v = Σ wᵢ vᵢ."""

    def coefficients(self, products: Tensor) -> list[float]:
        """What each vector is multiplied by.

        Args:
            products: The inner products of all vectors with each other. Shape: (n, n).
        """
        return list(self.weights)

    needs_products: ClassVar[bool] = False
    """Whether the coefficients depend on them."""


@dataclass(frozen=True)
class Slerp(WeightedSum):
    """The point of the arc between two vectors (Shoemake 1985), at t = w₂ / (w₁ + w₂) of its angle Ω.

    v = sin((1 − t) Ω) / sin Ω · v₁ + sin(t Ω) / sin Ω · v₂; for vectors of one direction that is (1 − t) v₁ + t v₂.
    """

    needs_products: ClassVar[bool] = True

    def coefficients(self, products: Tensor) -> list[float]:
        """See `WeightedSum.coefficients`."""
        t = self.weights[1] / sum(self.weights)
        norms = float(products[0, 0] * products[1, 1]) ** 0.5
        cosine = float(products[0, 1]) / norms if norms else 1.0
        if abs(cosine) > 1 - 1e-6:  # no arc, or one of any direction
            return [1 - t, t]
        angle = math.acos(cosine)
        return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


@dataclass(frozen=True)
class Elementwise(Strategy):
    """A way that looks at the numbers of the vectors one by one."""

    @abstractmethod
    def mixed(self, vectors: Sequence[Tensor]) -> Tensor:
        """The vector that becomes of them. Shape: (N,) each, to (N,)."""


@dataclass(frozen=True)
class Ties(Elementwise):
    """TIES (Yadav et al. 2023, arXiv:2306.01708): trim vectors, elect a sign for each number, mean those that agree.

    Where all agree it is Σ wᵢ vᵢ.

    Args:
        density: The share of the numbers of a vector that are kept: those of largest magnitude.
    """

    density: float

    def mixed(self, vectors: Sequence[Tensor]) -> Tensor:
        """See `Elementwise.mixed`."""
        return agreed([trimmed(vector, self.density) for vector in vectors], self.weights)


@dataclass(frozen=True)
class Dare(Elementwise):
    """DARE (Yu et al. 2024, arXiv:2311.03099): drop numbers by chance, multiply the others by 1 / density, combine.

    Args:
        density: The probability with which a number is kept.
        generator: Draws what is kept; None for the global one.
        elects: Whether signs are elected then, as in TIES; else it is Σ wᵢ vᵢ.
    """

    density: float
    generator: torch.Generator | None
    elects: bool

    def mixed(self, vectors: Sequence[Tensor]) -> Tensor:
        """See `Elementwise.mixed`."""
        kept = [self._dropped(vector) for vector in vectors]
        if self.elects:
            return agreed(kept, self.weights)
        return torch.stack([w * vector for w, vector in zip(self.weights, kept, strict=True)]).sum(dim=0)

    def _dropped(self, vector: Tensor) -> Tensor:
        kept = torch.rand(vector.shape, generator=self.generator) < self.density
        return vector * kept.to(vector.device) / self.density


def trimmed(vector: Tensor, density: float) -> Tensor:
    """The vector with zeros in the place of all but its numbers of largest magnitude. Shape: (N,), kept."""
    kept = max(1, round(density * vector.numel()))
    places = vector.abs().topk(kept).indices
    return torch.zeros_like(vector).index_copy(0, places, vector[places])


def agreed(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """For each number, the weighted mean over those vectors that have the sign of Σ wᵢ vᵢ there, times Σ |wᵢ|.

    Zeros do not count for the mean. Shape: (N,) each, to (N,).
    """
    weighted = torch.stack([w * vector for w, vector in zip(weights, vectors, strict=True)])
    sizes = weighted.new_tensor([abs(w) for w in weights])
    agrees = (weighted.sign() == weighted.sum(dim=0).sign()) & (weighted != 0)
    counted = (agrees * sizes[:, None]).sum(dim=0)
    return (weighted * agrees).sum(dim=0) * sizes.sum() / counted.clamp_min(torch.finfo(sizes.dtype).tiny)


@dataclass(frozen=True)
class Options:
    """What `average_adapter` is called with besides the adapters.

    Args:
        combine_strategy: The name of the strategy.
        svd_rank: The rank of what comes out, for changes of weights.
        density: The share of numbers that are kept, for those strategies that drop some.
        seed: What is drawn, for those that draw.
    """

    combine_strategy: str
    svd_rank: int | None = None
    density: float | None = None
    seed: int | None = None


OF_RELEASE_1 = ("linear", "lora_linear_only_negate_b", "lora_delta_w_svd")
"""The strategies of AdapterHub's `adapters` 1.3, which are defined on parameters."""
_SUMS = ("lora_concat", "lora_svd", "task_arithmetic")
_DROPPING = ("ties", "dare_linear", "dare_ties")
STRATEGIES = (*OF_RELEASE_1, *_SUMS, *_DROPPING, "slerp")


def strategy_of(options: Options, weights: tuple[float, ...]) -> Strategy:
    """The strategy that a call names.

    Raises:
        ValueError: there is no such strategy, or it does not go with the other options or the number of adapters.
    """
    name = options.combine_strategy
    _check(options)
    if name == "slerp":
        if len(weights) != 2 or min(weights) < 0:
            raise ValueError(
                f"combine_strategy='slerp' is the arc between two adapters, with weights from 0 on; there are "
                f"{len(weights)} adapters with weights {list(weights)}."
            )
        return Slerp(weights)
    if options.density is None:
        return WeightedSum(weights)
    if name == "ties":
        return Ties(weights, options.density)
    generator = None if options.seed is None else torch.Generator().manual_seed(options.seed)
    return Dare(weights, options.density, generator, elects=name == "dare_ties")


def _check(options: Options) -> None:
    name, density = options.combine_strategy, options.density
    if name not in STRATEGIES:
        raise ValueError(f"combine_strategy={name!r} is not known; there are {', '.join(map(repr, STRATEGIES))}.")
    if name in _DROPPING and (density is None or not 0 < density <= 1):
        raise ValueError(
            f"combine_strategy={name!r} needs density=…, the share of numbers that are kept, above 0 and at most 1 "
            f"(0.2 in the paper of TIES, 0.1 in that of DARE); given: {density!r}."
        )
    rank = options.svd_rank
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
        raise ValueError(f"svd_rank={rank!r} is no rank: give a whole number above 0.")
    wrong: list[tuple[str, object, Callable[[], bool]]] = [
        ("density", density, lambda: name not in _DROPPING),
        ("seed", options.seed, lambda: not name.startswith("dare")),
        ("svd_rank", rank, lambda: name in ("linear", "lora_linear_only_negate_b", "lora_concat")),
    ]
    for option, value, is_wrong in wrong:
        if value is not None and is_wrong():
            raise ValueError(f"{option}={value!r} does not go with combine_strategy={name!r}, which has no use for it.")
    if name in ("lora_delta_w_svd", "lora_svd") and rank is None:
        raise ValueError(f"combine_strategy={name!r} needs svd_rank=…, the rank of the new adapter.")
