"""BitFit (Ben Zaken et al. 2022, arXiv:2106.10199): y = W x + b becomes y + Δb, with Δb = 0 at first.

The biases of the linear layers and of the norms within the layers are meant, if these add them themselves. In files Δb
is named `<module>.bitfit.<adapter>.bias`.

Shapes: I inputs, O outputs of a linear layer; both are D for a norm.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.matrices import matrix_at
from ..anatomy.parts import Anatomy, Layer, Matrix, WholeModule
from ..configuration import BitFitConfig
from .base import AdapterModule, Chooser, LinearMap, Method, Placement, WeightMap
from .copies import is_vector_norm, owners_in_layer, read_by_parent


class BiasShift(WeightMap):
    """What is added to the bias of a module: a difference, so that several adapters add up, and zero is no change.

    Args:
        size: The number of outputs O.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """y + Δb. Shapes: (..., I), (..., O) to (..., O)."""
        return y + self.bias.to(y.dtype)

    def stack_key(self) -> Hashable:
        """See `AdapterModule.stack_key`."""
        return (BiasShift, self.bias.dtype, self.bias.device)

    @classmethod
    def stacked(cls, modules: Sequence[Any], choose: Chooser) -> AdapterModule:
        """See `AdapterModule.stacked`."""
        return StackedShifts(modules, choose)

    def merged(self, weight: Tensor) -> Tensor:
        """The weight, unchanged. Shape: (O, I), kept."""
        return weight

    def merged_bias(self, bias: Tensor) -> Tensor:
        """b + Δb. Shape: (O,), kept."""
        return bias + self.bias.to(bias.dtype)


class StackedShifts(LinearMap):
    """Several shifts, of which each row of a batch gets its own.

    Args:
        modules: The shifts.
        choose: Says which of them each row gets.
    """

    def __init__(self, modules: Sequence[BiasShift], choose: Chooser) -> None:
        super().__init__()
        self._shifts = tuple(modules)  # in a tuple they are no modules of this one
        self._choose = choose

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """y + Δb. Shapes: (R, ..., I), (R, ..., O) to (R, ..., O)."""
        (shifts,) = self._choose(y, self._sources, self._stacks)
        return (y.reshape(shifts.shape[0], -1, y.shape[-1]) + shifts.to(y.dtype)).view(y.shape)

    def _sources(self) -> list[Tensor]:
        return [module.bias for module in self._shifts]

    def _stacks(self) -> list[Tensor]:
        return [torch.stack([module.bias for module in self._shifts])[:, None]]


class BitFitMethod(Method):
    """A difference for every bias of the layers."""

    def place(self, config: BitFitConfig, anatomy: Anatomy, base: nn.Module) -> list[Placement]:
        """See `Method.place`."""
        placements = list(_placements(config, anatomy, base))
        if not placements:
            raise ValueError(
                f"There is no bias to train: with leave_out={config.leave_out}, none of the linear layers and norms in "
                f"the {len(anatomy.layers)} layers of this {anatomy.model_class} has one. LayerNormTuningConfig trains "
                "the weights of norms, LoRAConfig adds to those of linear layers."
            )
        return placements


def _placements(config: BitFitConfig, anatomy: Anatomy, base: nn.Module) -> Iterator[Placement]:
    seen: set[int] = set()  # a module may be part of several layers
    for layer in anatomy.layers:
        if layer.number in config.leave_out:
            continue
        for path, module in owners_in_layer(layer, base).items():
            bias = module._parameters.get("bias")
            point = _point(module, path, layer, base)
            is_read = "bias" in read_by_parent(path, base)  # what is added after the module would be no change of it
            if bias is not None and bias.ndim == 1 and point is not None and not is_read and id(module) not in seen:
                seen.add(id(module))
                location = f"{path.removeprefix(f'{layer.path}.')}.bitfit"
                yield Placement(path, "bitfit", location, layer.index, BiasShift(len(bias)), point)


def _point(module: nn.Module, path: str, layer: Layer, base: nn.Module) -> Matrix | WholeModule | None:
    """Where to add to a bias. A norm changes as a whole: bottlenecks ask it what it makes of other inputs."""
    if is_vector_norm(module, path):
        is_last = not isinstance(module, nn.GroupNorm)  # its channels are not the last dimension
        return WholeModule(path) if is_last else None
    return matrix_at(base, path, layer=layer.index)
