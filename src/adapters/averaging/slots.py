"""What adapters that are changes of weights have at each matrix, and what becomes of it in a new LoRA.

Letters: R rows, I columns of a matrix, k rank of a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..anatomy.parts import Matrix
from ..methods.base import AdapterModule
from ..methods.embedding_lora import EmbeddingLoRA
from ..methods.experts import ExpertsAdapter, FusedLoRA, FusedMap, FusedScaling
from ..methods.ia3 import IA3, InputScaling
from ..methods.low_rank import LowRank
from ..methods.targets import AdaptedMatrix
from ..methods.weights import dense_weight
from ..registry import Adapter, AdapterRegistry
from .products import Change, Combined, as_product


@dataclass(frozen=True)
class Slot:
    """What an adapter has at a matrix.

    Args:
        matrix: The matrix, or the matrices of experts in one parameter.
        map: What changes it.
        module: The module of the adapter that this is, or is a part of.
    """

    matrix: Matrix
    map: nn.Module
    module: AdapterModule


def slots(adapter: Adapter) -> dict[str, Slot]:
    """What an adapter has at matrices, by their paths."""
    found = {}
    for placement in adapter.placements:
        module = placement.module
        if isinstance(module, ExpertsAdapter):
            for parameter, matrix in module.matrices.items():
                found[matrix.name] = Slot(matrix, module.get_submodule(parameter), module)
        elif isinstance(placement.point, Matrix):
            found[placement.point.name] = Slot(placement.point, module, module)
    return found


def are_changes(adapters: Sequence[Adapter]) -> bool:
    """Whether all that these adapters do is to change weights, and they are not all scalings (IA³)."""
    acting = [p.module for adapter in adapters for p in adapter.placements if p.point is not None]
    kinds = (AdaptedMatrix, EmbeddingLoRA, ExpertsAdapter)
    maps = [slot.map for adapter in adapters for slot in slots(adapter).values()]
    scalings = (IA3, InputScaling, FusedScaling)
    return all(isinstance(m, kinds) for m in acting) and not all(isinstance(m, scalings) for m in maps)


@dataclass(frozen=True)
class Part:
    """What is a matrix of its own within those of a slot of a new LoRA.

    Args:
        matrix: The matrix that it is in.
        rows: Its rows. Shape: (R,).
        expert: Which expert's it is.
    """

    matrix: Matrix
    rows: Tensor
    expert: int = 0


def parts_of(adapter: Adapter) -> dict[str, list[Part]]:
    """The parts of a new LoRA that get A and B of their own, by the path of the matrix, in their order."""
    found = {}
    for path, slot in slots(adapter).items():
        rows = torch.arange(slot.matrix.out_features)
        if isinstance(slot.map, FusedLoRA):
            found[path] = [Part(slot.matrix, rows, i) for i in range(len(slot.map.lora_A))]
        elif isinstance(slot.map, LowRank):
            rows = rows if slot.map.rows is None else slot.map.rows.cpu()
            found[path] = [Part(slot.matrix, part) for part in torch.split(rows, slot.map.sizes)]
        else:
            found[path] = [Part(slot.matrix, rows)]
    return found


def change_of(
    registry: AdapterRegistry, adapter: Adapter, slot: Slot, part: Part, biases_too: bool = False
) -> Change | None:
    """What an adapter does to a part; None if nothing.

    Args:
        registry: The adapters of the model.
        adapter: The adapter.
        slot: What it has at the matrix.
        part: The part.
        biases_too: Whether it may change the bias besides, which somebody else looks after.

    Raises:
        ValueError: it changes the bias too, which a LoRA cannot.
    """
    found = slot.map
    if isinstance(found, EmbeddingLoRA):
        return _product(found.lora_embedding_A, found.lora_embedding_B, found.scaling)
    if isinstance(found, FusedLoRA):
        return _product(found.lora_A[part.expert], found.lora_B[part.expert], found.scaling)
    if isinstance(found, LowRank) and found.m is None:
        a, b = found.factors()
        columns = _columns(found, part.rows, a.shape[0])
        return _product(a[columns], b[part.rows.to(b.device)][:, columns], found.scaling) if columns else None
    if not biases_too and bias_change_of(registry, slot) is not None:
        matrix = slot.matrix
        raise ValueError(
            f"Adapter {adapter.name!r} ({type(adapter.config).__name__}) changes the bias of {matrix.path} too, which "
            "a LoRA cannot: its ΔW alone is not what it does. Use combine_strategy='linear', for adapters of its kind."
        )
    return _dense_change(registry, slot, part)


def bias_change_of(registry: AdapterRegistry, slot: Slot) -> Tensor | None:
    """What an adapter adds to the bias of a matrix; None if nothing. Shape: (O,)."""
    found, matrix = slot.map, slot.matrix
    name = "bias" if matrix.parameter == "weight" else f"{matrix.parameter}_bias"
    bias = registry.base.get_submodule(matrix.path)._parameters.get(name)
    if bias is None or not isinstance(found, (AdaptedMatrix, FusedMap)):
        return None
    change = found.merged_bias(wide := _wide(bias)) - wide
    return change if bool(change.any()) else None


def _dense_change(registry: AdapterRegistry, slot: Slot, part: Part) -> Change:
    """What an adapter does to a part that is no product of two small matrices."""
    found, matrix = slot.map, slot.matrix
    assert isinstance(found, (AdaptedMatrix, FusedMap))
    weight = _wide(dense_weight(registry.base, matrix))
    changed = _wide(found.merged(weight)) - weight
    changed = changed[part.expert] if isinstance(found, FusedMap) else changed
    a, b = as_product(changed[part.rows.to(changed.device)])
    return Change(a, b, found.rank if isinstance(found, LowRank) else 1, is_low_rank=False)


def _product(a: Tensor, b: Tensor, scaling: float) -> Change:
    return Change(_wide(a), scaling * _wide(b), a.shape[0])


def _columns(module: LowRank, rows: Tensor, count: int) -> list[int]:
    """The columns of B that may do something to some rows of the matrix.

    Args:
        module: What has B.
        rows: The rows.
        count: The number of columns: where n matrices are one, some blocks of n · r.
    """
    own = torch.arange(sum(module.sizes)) if module.rows is None else module.rows.cpu()
    parts = torch.split(own, module.sizes)
    acting = [bool(torch.isin(part, rows).any()) for part in parts]
    return [column for column in range(count) if acting[column // module.rank % len(parts)]]


def fill(adapter: Adapter, found: Mapping[str, Sequence[Combined]], sources: Sequence[Mapping[str, Slot]]) -> None:
    """Write products into a new LoRA, which gets the type of numbers of those that it is made of.

    Where its rank is higher than that of a part, B gets zeros, and A is left as it is.
    """
    for path, slot in slots(adapter).items():
        prefix = "lora_embedding" if isinstance(slot.map, EmbeddingLoRA) else "lora"
        a, b = (slot.map.get_parameter(f"{prefix}_{name}") for name in "AB")
        b.zero_()
        first = 0
        for i, part in enumerate(found[path]):
            k, size = part.a.shape[0], part.b.shape[0]
            if isinstance(slot.map, FusedLoRA):
                a[i, :k], b[i, :, :k] = part.a.to(a), part.b.to(b)
                continue
            a[i * b.shape[1] : i * b.shape[1] + k] = part.a.to(a)
            b[first : first + size, :k] = part.b.to(b)
            first += size
        own = [source[path].module for source in sources if path in source]
        types = {parameter.dtype for module in own for parameter in module.parameters()}
        slot.module.dtype = types.pop() if len(types) == 1 else slot.module.dtype


def _wide(value: Tensor) -> Tensor:
    """Half types are too short for sums and singular values."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))
