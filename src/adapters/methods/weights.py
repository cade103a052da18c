"""The weights of a model's layers as dense matrices, also where they are quantised or stored transposed.

Shapes: O outputs, I inputs; E experts, whose matrices are fused in one parameter of shape (E, O, I).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..anatomy.parts import Matrix

_DENSE_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_AT_ONCE = 1024


def is_dense(weight: Tensor | None) -> bool:
    """Whether a parameter holds the numbers of its matrix as they are; those of quantised layers do not."""
    # Quantised weights may say that they are of a floating type, so the class counts too.
    return type(weight) in (nn.Parameter, Tensor) and weight is not None and weight.dtype in _DENSE_TYPES


def dense_weight(base: nn.Module, matrix: Matrix) -> Tensor:
    """The weight W of a layer, of y = W x + b.

    A quantised layer of any library is asked what it makes of unit vectors, for that is what its weight is. So the
    result has the rounding that the layer itself has.

    >>> dense_weight(base, Matrix("layers.0.mlp.up_proj", "up", 0, 768, 3072)).shape
    torch.Size([3072, 768])

    Args:
        base: The base model.
        matrix: Which matrix.

    Returns:
        W, or the fused matrices of experts. Shape: (O, I) or (E, O, I). It shares memory with a dense parameter.

    Raises:
        ValueError: the numbers cannot be read.
    """
    module = base.get_submodule(matrix.path)
    weight = module._parameters.get(matrix.parameter)
    if weight is not None and weight.is_meta:
        raise ValueError(
            f"The weight of {matrix.path} has no numbers (it is on the meta device), and this configuration needs "
            "them; load the weights of the model first."
        )
    if is_dense(weight):
        assert weight is not None
        return weight.detach().mT if matrix.is_transposed else weight.detach()
    if matrix.parameter != "weight":
        raise ValueError(
            f"{matrix.path}.{matrix.parameter} is quantised ({type(weight).__name__}), and how is not known; this "
            "configuration needs its numbers: load the model without quantisation."
        )
    return _probed(module, matrix.in_features)


@torch.no_grad()
def _probed(module: nn.Module, in_features: int) -> Tensor:
    """The weight of a linear layer, from its outputs for unit vectors. Shape: (O, I)."""
    stored = next((t for t in (*module.parameters(), *module.buffers())), None)
    device = stored.device if stored is not None else None
    dtype = _input_type(module)
    bias = module._parameters.get("bias")
    columns = []
    for start in range(0, in_features, _AT_ONCE):
        size = min(_AT_ONCE, in_features - start)
        units = torch.zeros(size, in_features, device=device, dtype=dtype)
        units[range(size), range(start, start + size)] = 1
        # Without gradients, bitsandbytes packs weights on the CPU so that nothing can be trained through them any more.
        y = module.forward(units.requires_grad_())
        columns.append(y if bias is None else y - bias.to(y.dtype))
    return torch.cat(columns).mT.contiguous()


def _input_type(module: nn.Module) -> torch.dtype:
    """The type of numbers that a quantised layer takes without a change."""
    weight = module._parameters.get("weight")
    if type(weight).__name__ == "Int8Params":  # of bitsandbytes: it computes in half precision
        return torch.float16
    compute = getattr(module, "compute_dtype", None)  # of bitsandbytes, 4 bits
    if isinstance(compute, torch.dtype):
        return compute
    is_floating = weight is not None and weight.dtype in _DENSE_TYPES  # of torchao
    return weight.dtype if is_floating and weight is not None else torch.float32
