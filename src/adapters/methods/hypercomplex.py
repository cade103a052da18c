"""Linear layers of hypercomplex multiplication (PHM; Zhang et al. 2021), as Compacter uses them (arXiv:2106.04647).

Shapes: n algebra dimensions, F inputs, G outputs, k rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..configuration import BnConfig


class SharedParameters(nn.ParameterDict):
    """Parameters that all layers of one adapter use: the algebra's rule, and the weights if `shared_W_phm`."""


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
        # The layer that owns a shared parameter is the adapter; a tuple hides it from this module's own parameters.
        self._shared = (shared,)
        self._prefix = f"W_{position}"
        self._built: tuple[tuple[tuple[int, int], ...], Tensor] | None = None
        if not (shared and "phm_rule" in shared) and not (shared and "phm_rule_left" in shared):
            for name, parameter in rule_parameters(config):
                self.register_parameter(name, parameter)
        if not (shared and any(key.startswith(self._prefix) for key in shared)):
            for name, parameter in weight_parameters(config, in_features, out_features):
                self.register_parameter(f"W{name}", parameter)
        self.b = nn.Parameter(torch.zeros(out_features)) if config.phm_bias else None

    def _find(self, own: str, shared: str) -> Tensor | None:
        """A parameter of the layer, or the one of that name that is shared."""
        if own in self._parameters:
            return self._parameters[own]
        (parameters,) = self._shared
        return parameters[shared] if parameters is not None and shared in parameters else None

    def _factors(self) -> tuple[Tensor, ...]:
        names = [("phm_rule", "phm_rule"), ("phm_rule_left", "phm_rule_left"), ("phm_rule_right", "phm_rule_right")]
        names += [(f"W{part}", f"{self._prefix}{part}") for part in ("", "_left", "_right")]
        return tuple(p for own, shared in names if (p := self._find(own, shared)) is not None)

    def weight(self) -> Tensor:
        """H. Shape: (F, G). Built once while it cannot get a gradient, and again when a parameter has changed."""
        factors = self._factors()
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._build()
        key = tuple((id(p), p._version) for p in factors)
        if self._built is None or self._built[0] != key:
            self._built = (key, self._build())
        return self._built[1]

    def _build(self) -> Tensor:
        rule = self._find("phm_rule", "phm_rule")
        if rule is None:
            left, right = self._find("phm_rule_left", "phm_rule_left"), self._find("phm_rule_right", "phm_rule_right")
            assert left is not None and right is not None
            rule = left @ right
        weight = self._find("W", self._prefix)
        if weight is None:
            left, right = (self._find(f"W_{side}", f"{self._prefix}_{side}") for side in ("left", "right"))
            assert left is not None and right is not None
            weight = left @ right
        n, (_, rows, columns) = rule.shape[0], weight.shape
        return torch.einsum("iab,icd->acbd", rule, weight).reshape(n * rows, n * columns)

    def set_to_zero(self) -> None:
        """Make a new layer give zero, by its last own or shared factor, so that it can still be trained."""
        weight = self._find("W_right", f"{self._prefix}_right")
        weight = self._find("W", self._prefix) if weight is None else weight
        assert weight is not None
        with torch.no_grad():
            weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., F) to (..., G)."""
        y = torch.matmul(x, self.weight())
        return y if self.b is None else y + self.b

    def __deepcopy__(self, memo: dict[int, object]) -> HypercomplexLinear:
        copy = self.__class__.__new__(self.__class__)
        memo[id(self)] = copy
        copy.__dict__.update({k: None if k == "_built" else deepcopy(v, memo) for k, v in self.__dict__.items()})
        return copy


def rule_parameters(config: BnConfig) -> Iterator[tuple[str, nn.Parameter]]:
    """The algebra's rule A (n, n, n), or its two factors (n, n, 1) and (n, 1, n)."""
    n, spread = config.phm_dim, config.phm_init_range or 0.0
    shapes = {"phm_rule_left": (n, n, 1), "phm_rule_right": (n, 1, n)} if config.factorized_phm_rule else {
        "phm_rule": (n, n, n)
    }
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
    shapes = {"_left": (n, rows, rank), "_right": (n, rank, columns)} if config.factorized_phm_W else {
        "": (n, rows, columns)
    }
    for name, shape in shapes.items():
        yield name, nn.Parameter(_initial_weight(config.hypercomplex_nonlinearity or "", shape))


def _initial_weight(kind: str, shape: tuple[int, int, int]) -> Tensor:
    n, rows, columns = shape
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
