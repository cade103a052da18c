"""IA³ (Liu et al. 2022, arXiv:2205.05638): y = s · b ⊙ (W x), a learned scaling of what a layer computes.

Of the matrices that `scale_inputs_of` names, the inputs are scaled: y = s · W (b ⊙ x), with the bias as it is.

Letters: I inputs, O outputs of the adapted matrix, R its adapted rows, n matrices that are one in the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..configuration import AdapterConfigError, LoRAConfig
from .kept import flows
from .lora_inits import initialise
from .stacked_matrices import RowMatrix
from .targets import AdaptedMatrix, Target


class IA3(RowMatrix):
    """A scaling of the outputs of a layer, its bias included. Shape of the parameter: `lora_B` (R, 1).

    Args:
        config: The configuration.
        target: The matrix.
    """

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__(config, target)
        self.dropout = 0.0  # there is no product to leave inputs out of
        self.has_product, self.has_scale = False, True
        self.lora_B = nn.Parameter(torch.empty(sum(self.sizes), 1))
        self.is_plain = self.is_whole and self.gate is None and self.scaling == 1.0
        initialise(config.init_weights, self._parameters)  # type: ignore[arg-type]

    @property
    def all_sources(self) -> list[Tensor]:
        """See `RowMatrix.all_sources`."""
        return [self.lora_B]

    def terms(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """See `RowMatrix.terms`."""
        return None, None, self.scale()

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """See `LinearMap.after`. In small models calls of functions cost as much as the product, so it makes none."""
        b: Tensor = self._parameters["lora_B"]  # type: ignore[assignment]
        if self.is_plain and b.dtype is output.dtype:
            # Nobody else has seen the output yet, so without gradients it is changed in place.
            multiply = torch.mul if torch.is_grad_enabled() else Tensor.mul_
            return multiply(output, b.view(-1))
        return self.adapt(inputs[0], output)

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """See `LinearMap.adapt`."""
        if self.gate is not None:
            changed = y * self._gated_scale(x)
        else:
            changed = y * (self.scale() if flows([self.lora_B]) else self.kept.get([self.lora_B], self.scale))
        return changed if changed.dtype is y.dtype else changed.to(y.dtype)

    def scale(self) -> Tensor:
        """s · b, and 1 for rows that are not adapted. Shape: (O,)."""
        return self.spread(self.scaling * self.lora_B.view(-1), 1.0)

    def merged(self, weight: Tensor) -> Tensor:
        """See `WeightMap.merged`."""
        self.require_no_gate()
        return weight * self.scale()[:, None].to(weight.dtype)

    def merged_bias(self, bias: Tensor) -> Tensor:
        """See `WeightMap.merged_bias`."""
        return bias * self.scale().to(bias.dtype)

    def _gated_scale(self, x: Tensor) -> Tensor:
        """What y is multiplied by, with the gates in the place of s. Shape: (..., T, I) to (..., 1, O)."""
        gates = self.gates(x)
        parts = [gates[..., n : n + 1] * b for n, b in enumerate(torch.split(self.lora_B.view(-1), self.sizes))]
        return self.spread(torch.cat(parts, dim=-1), 1.0, dim=-1)


class InputScaling(AdaptedMatrix):
    """A scaling of the inputs of a layer. Shape of the parameter: `lora_A` (1, I).

    Args:
        config: The configuration.
        target: The matrix.

    Raises:
        AdapterConfigError: the matrix is an embedding, which has no inputs to scale.
    """

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__(config, target)
        if isinstance(target.module, nn.Embedding):
            raise AdapterConfigError(
                f"scale_inputs_of names {target.matrix.path}, an embedding, whose inputs are tokens."
            )
        self._module = (target.module,)  # in a tuple it is no module of the adapter
        self.lora_A = nn.Parameter(torch.empty(1, self.in_features))
        initialise(config.init_weights, self._parameters)  # type: ignore[arg-type]

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """See `LinearMap.adapt`: y + W ((s · b − 1) ⊙ x), so that what others have added stays."""
        change = (self.scaling * self.lora_A.view(-1) - 1).to(x.dtype)
        added: Tensor = self._module[0].forward(x * change)
        bias = self._module[0]._parameters.get("bias")
        changed = y + (added if bias is None else added - bias)
        return changed if changed.dtype is y.dtype else changed.to(y.dtype)

    def merged(self, weight: Tensor) -> Tensor:
        """See `WeightMap.merged`."""
        return weight * (self.scaling * self.lora_A).to(weight.dtype)
