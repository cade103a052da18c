"""Linear layers of hypercomplex multiplication (PHM; Zhang et al. 2021), as Compacter uses them (arXiv:2106.04647).

Shapes: n algebra dimensions, F inputs, G outputs, k rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..configuration import BnConfig
from .base import SharedParameters


class HypercomplexLinear(nn.Module):
    """y = x H + b with H = Σᵢ Aᵢ ⊗ Wᵢ: the rule A (n, n, n) is shared, the weights W (n, F/n, G/n) have rank k.

    >>> HypercomplexLinear(768, 24, config, shared=None)(torch.zeros(1, 16, 768)).shape
    torch.Size([1, 16, 24])

    Args:
        in_features: F; a multiple of `phm_dim`.
        out_features: G; a multiple of `phm_dim`.
        config: The fields `phm_*`, `factorized_phm_*`, `learn_phm` and `hypercomplex_nonlinearity`.
        position: `down` or `up`, by which shared weights are named.
        shared: Parameters that are not the layer's own; None if all are.

    Raises:
        ValueError: a size is not a multiple of `phm_dim`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        config: BnConfig,
        position: str,
        shared: SharedParameters | None = None,
    ) -> None:
        super().__init__()
        n = config.phm_dim
        if in_features % n or out_features % n:
            raise ValueError(
                f"phm_dim={n} must divide both sizes of a hypercomplex layer, here {in_features} and {out_features}; "
                "choose another phm_dim or reduction_factor."
            )
        rule = {"phm_rule", "phm_rule_left", "phm_rule_right"}
        weight = {f"W_{position}{part}" for part in ("", "_left", "_right")}
        names = set(shared) if shared is not None else set()
        if not names & rule:
            for name, parameter in rule_parameters(config):
                self.register_parameter(name, parameter)
        if not names & weight:
            for name, parameter in weight_parameters(config, in_features, out_features):
                self.register_parameter(f"W{name}", parameter)
        self.b = nn.Parameter(torch.zeros(out_features)) if config.phm_bias else None
        # Where each factor is: a module, and the name it has there. Looked up at every call, because parameters can be
        # exchanged; found here once, because names cost time.
        own = self._parameters
        of_layers = sorted(names)
        self._own_rule = tuple(n for n in own if n in rule)
        self._own_weight = tuple(n for n in own if n.startswith("W"))
        self._shared_rule = tuple(n for n in of_layers if n in rule)
        self._shared_weight = tuple(n for n in of_layers if n in weight)
        self._shared = (shared,)  # a tuple, because the parameters belong to the adapter and not to this layer
        self._built: tuple[list[tuple[int, int]], Tensor] | None = None

    def weight(self) -> Tensor:
        """H, transposed. Shape: (G, F). Built once while it cannot get a gradient, and again when a factor changed."""
        rule, weight = self._factors()
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _kronecker_sum(_product(rule), _product(weight))
        # The address tells of a move to another device or type of numbers, the version of a change in place.
        state = [(p.data_ptr(), p._version) for p in (*rule, *weight)]  # type: ignore[union-attr]
        if self._built is None or self._built[0] != state:
            self._built = (state, _kronecker_sum(_product(rule), _product(weight)))
        return self._built[1]

    def sources(self) -> list[Tensor]:
        """The tensors that the weight is made of, and the bias."""
        rule, weight = self._factors()
        return [p for p in (*rule, *weight, self.b) if p is not None]

    def _factors(self) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The factors of rule and weight, left one first: the layer's own, or else the shared ones."""
        own, (shared,) = self._parameters, self._shared
        of_layers = shared._parameters if shared is not None else own
        return (
            [own[n] for n in self._own_rule] or [of_layers[n] for n in self._shared_rule],
            [own[n] for n in self._own_weight] or [of_layers[n] for n in self._shared_weight],
        )

    def set_to_zero(self) -> None:
        """Make a new layer give zero, by its last own or shared factor, so that it can still be trained."""
        factor = self._factors()[1][-1]
        assert factor is not None
        with torch.no_grad():
            factor.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., F) to (..., G)."""
        return nn.functional.linear(x, self.weight(), self.b)

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles build their own weight."""
        return {**self.__dict__, "_built": None}


def _product(factors: list[Tensor | None]) -> Tensor:
    """A parameter (n, a, b), or the product of its two factors (n, a, k) and (n, k, b)."""
    left, right = factors[0], factors[-1]
    assert left is not None and right is not None
    return left if len(factors) == 1 else left @ right


def _kronecker_sum(rule: Tensor, weight: Tensor) -> Tensor:
    """(Σᵢ Aᵢ ⊗ Wᵢ)ᵀ. Shapes: (n, n, n), (n, F/n, G/n) to (G, F)."""
    n, rows, columns = weight.shape
    return torch.einsum("iab,icd->bdac", rule, weight).reshape(n * columns, n * rows)


def rule_parameters(config: BnConfig) -> Iterator[tuple[str, nn.Parameter]]:
    """The algebra's rule A (n, n, n), or its two factors (n, n, 1) and (n, 1, n)."""
    n, spread = config.phm_dim, config.phm_init_range or 0.0
    shapes = (
        {"phm_rule_left": (n, n, 1), "phm_rule_right": (n, 1, n)}
        if config.factorized_phm_rule
        else {"phm_rule": (n, n, n)}
    )
    for name, shape in shapes.items():
        rule = torch.empty(shape)
        if config.phm_c_init == "uniform":
            rule.uniform_(-spread, spread)
        else:
            rule.normal_(std=spread)
        yield name, nn.Parameter(rule, requires_grad=bool(config.learn_phm))


def weight_parameters(config: BnConfig, in_features: int, out_features: int) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights W (n, F/n, G/n), or their two factors of rank k."""
    n, rank = config.phm_dim, config.phm_rank or 1
    rows, columns = in_features // n, out_features // n
    shapes = (
        {"_left": (n, rows, rank), "_right": (n, rank, columns)}
        if config.factorized_phm_W
        else {"": (n, rows, columns)}
    )
    for name, shape in shapes.items():
        yield name, nn.Parameter(_initial_weight(config.hypercomplex_nonlinearity or "", shape))


def _initial_weight(kind: str, shape: tuple[int, int, int]) -> Tensor:
    weight = torch.empty(shape)
    if kind == "normal":
        return weight.normal_(std=0.01)
    if kind == "phm":
        return _quaternion_weight(weight)
    for matrix in weight:
        initialise = nn.init.xavier_uniform_ if kind == "glorot-uniform" else nn.init.xavier_normal_
        initialise(matrix)
    return weight


def _quaternion_weight(weight: Tensor) -> Tensor:
    """Random unit imaginary parts times a random magnitude and phase (Gaudet & Maida 2018), for any n."""
    n, rows, columns = weight.shape
    magnitude = torch.empty(rows, columns).normal_(std=1.0 / math.sqrt(2 * (rows + columns)))
    phase = torch.empty(rows, columns).uniform_(-math.pi, math.pi)
    imaginary = torch.randn(n - 1, rows, columns)
    imaginary = imaginary / imaginary.norm(dim=0, keepdim=True).clamp_min(1e-4)
    weight[0] = magnitude * torch.cos(phase)
    weight[1:] = magnitude * imaginary * torch.sin(phase)
    return weight
