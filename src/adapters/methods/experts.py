"""Adapters of experts whose matrices are fused in one parameter: W′ = W + s · B A (LoRA), or W′ = s · b ⊙ W (IA³).

The experts' own code then runs with W′ in the place of W, for that call and nobody else. The first dimension of every
tensor is that of the experts, whichever way the model stores W.

Letters: E experts, I inputs, O outputs of a matrix, r rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..anatomy.matrices import ends_with
from ..anatomy.parts import Experts, Matrix
from ..configuration import AdapterConfigError, LoRAConfig
from .base import AdapterModule, Placement

if TYPE_CHECKING:
    from .targets import Target


class FusedMap(nn.Module, ABC):
    """A change of the matrices that are fused in one parameter."""

    changes_bias: bool
    """Whether biases are changed too."""

    @abstractmethod
    def merged(self, weight: Tensor) -> Tensor:
        """The changed matrices. Shape: (E, O, I), kept."""

    @abstractmethod
    def merged_bias(self, bias: Tensor) -> Tensor:
        """The changed biases. Shape: (E, O), kept."""


class FusedLoRA(FusedMap):
    """W′ = W + s · B A. Shapes of the parameters: `lora_A` (E, r, I), `lora_B` (E, O, r), which starts at zero,
    with `init_weights="bert"` near it.

    Args:
        config: The configuration.
        target: The matrices.
    """

    changes_bias = False

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__()
        matrix, count = target.matrix, target.experts
        self.scaling = target.scaling
        self.lora_A = nn.Parameter(torch.empty(count, target.rank, matrix.in_features))
        self.lora_B = nn.Parameter(torch.zeros(count, matrix.out_features, target.rank))
        if config.init_weights == "bert":
            nn.init.normal_(self.lora_A, std=0.02)
            nn.init.normal_(self.lora_B, std=0.02)
        else:
            bound = 1 / math.sqrt(matrix.in_features)  # that of Kaiming for each expert's own A
            nn.init.uniform_(self.lora_A, -bound, bound)

    def merged(self, weight: Tensor) -> Tensor:
        """See `FusedMap.merged`."""
        return weight + self.scaling * (self.lora_B @ self.lora_A).to(weight.dtype)

    def merged_bias(self, bias: Tensor) -> Tensor:
        """See `FusedMap.merged_bias`."""
        return bias


class FusedScaling(FusedMap):
    """W′ = s · b ⊙ W. Shape of the parameter: `lora_B` (E, O, 1), which starts at one with `init_weights="ia3"`.

    Args:
        config: The configuration.
        target: The matrices.
    """

    changes_bias = True

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__()
        self.scaling = target.scaling
        self.lora_B = nn.Parameter(torch.ones(target.experts, target.matrix.out_features, 1))
        if config.init_weights != "ia3":
            nn.init.zeros_(self.lora_B)

    def merged(self, weight: Tensor) -> Tensor:
        """See `FusedMap.merged`."""
        return weight * (self.scaling * self.lora_B).to(weight.dtype)

    def merged_bias(self, bias: Tensor) -> Tensor:
        """See `FusedMap.merged_bias`."""
        return bias * (self.scaling * self.lora_B[..., 0]).to(bias.dtype)


class ExpertsAdapter(AdapterModule):
    """The changes of all matrices that a module of experts holds, each under the name of its parameter.

    Args:
        config: The configuration.
        targets: The matrices.
    """

    def __init__(self, config: LoRAConfig, targets: Sequence[Target]) -> None:
        super().__init__()
        self.dtype = None if config.dtype is None else getattr(torch, config.dtype)
        self.matrices = {target.matrix.parameter: target.matrix for target in targets}
        kind = FusedScaling if config.composition_mode == "scale" else FusedLoRA
        for target in targets:
            self.add_module(target.matrix.parameter, kind(config, target))

    def changed(self, parameters: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """What becomes of the parameters of the experts, those that stay left out.

        Args:
            parameters: All of them by name, as the model stores them.
        """
        return {name: value for name, value in self._changes(parameters) if value is not None}

    def _changes(self, parameters: Mapping[str, Tensor | None]) -> Iterator[tuple[str, Tensor | None]]:
        for name, matrix in self.matrices.items():
            change, weight, bias = self._modules[name], parameters[name], parameters.get(_bias_of(matrix))
            assert isinstance(change, FusedMap) and weight is not None
            yield name, change.merged(weight.mT).mT if matrix.is_transposed else change.merged(weight)
            if change.changes_bias and bias is not None:
                yield _bias_of(matrix), change.merged_bias(bias)


def experts_placements(config: LoRAConfig, targets: Sequence[Target], container: str) -> Iterator[Placement]:
    """One module for each module of experts.

    Raises:
        AdapterConfigError: the configuration has options that there are not for experts.
    """
    for path, group in groupby(targets, lambda target: target.matrix.path):
        found = list(group)
        _check(config, path)
        inputs = [n for n in config.scale_inputs_of if any(ends_with(target.matrix.name, n) for target in found)]
        if inputs:
            raise AdapterConfigError(
                f"scale_inputs_of names {inputs[0]!r}: of the experts in {path}, only outputs are scaled."
            )
        location = found[0].location if len(found) == 1 else "experts_lora"
        layer, matrices = found[0].matrix.layer, tuple(target.matrix for target in found)
        yield Placement(path, container, location, layer, ExpertsAdapter(config, found), Experts(path, layer, matrices))


def _bias_of(matrix: Matrix) -> str:
    return f"{matrix.parameter}_bias"


def _check(config: LoRAConfig, path: str) -> None:
    unset = {"use_dora": False, "use_gating": False, "vera_d": None, "dropout": 0.0}
    given = [f"{name}={config[name]!r}" for name, value in unset.items() if config[name] != value]
    given += [] if config.architecture == "lora" else [f"architecture={config.architecture!r}"]
    given += [f"init_weights={config.init_weights!r}"] if config.init_weights not in ("lora", "bert", "ia3") else []
    if given:
        raise AdapterConfigError(
            f"{path} holds the matrices of its experts in one parameter: these can have a plain LoRA without dropout, "
            f"or a scaling; given: {', '.join(given)}. Leave experts out (intermediate_lora=False, output_lora=False, "
            "or other target_modules), or add them by a second configuration in a ConfigUnion."
        )
