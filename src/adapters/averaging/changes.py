"""Adapters that are changes ΔW of weights, combined as such: the result is a plain LoRA.

ΔW is all that an adapter does to a weight, with its scaling. A matrix that an adapter leaves alone has ΔW = 0 there, so
that adapters of different matrices, ranks, scalings and kinds can be combined.

Letters: O outputs, I inputs of a matrix; R rows of it that are taken as one matrix, k rank of a change; n adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from ..anatomy.parts import Matrix
from ..configuration import AdapterConfig, ConfigUnion, LoRAConfig
from ..methods.base import Placement
from ..methods.embedding_lora import EmbeddingLoRA
from ..methods.ia3 import IA3
from ..methods.lora import LoRA
from ..methods.low_rank import LowRank
from ..methods.targets import AdaptedMatrix
from ..methods.weights import dense_weight
from ..registry import Adapter, AdapterRegistry
from .strategies import Elementwise, Options, Strategy, WeightedSum


@dataclass(frozen=True)
class Change:
    """ΔW = B A. Shapes: `a` (k, I), `b` (R, k).

    Args:
        a: A.
        b: B, with the scaling.
        rank: The rank of the adapter there.
        is_low_rank: Whether it came as such a product, and not as a whole matrix.
    """

    a: Tensor
    b: Tensor
    rank: int
    is_low_rank: bool = True


@dataclass(frozen=True)
class Combined:
    """What becomes of the changes of one matrix: B A, and how far it is from what was meant.

    Args:
        a: A. Shape: (k, I).
        b: B. Shape: (R, k).
        error: Squared norm of the difference.
        size: Squared norm of what was meant.
    """

    a: Tensor
    b: Tensor
    error: float = 0.0
    size: float = 0.0


def are_changes(adapters: Sequence[Adapter]) -> bool:
    """Whether all that these adapters do is to change weights, and they are not all scalings (IA³)."""
    acting = [p.module for adapter in adapters for p in adapter.placements if p.point is not None]
    kinds = (AdaptedMatrix, EmbeddingLoRA)
    return all(isinstance(m, kinds) for m in acting) and not all(isinstance(m, IA3) for m in acting)


@torch.no_grad()
def combine_changes(
    registry: AdapterRegistry, name: str, adapters: Sequence[Adapter], strategy: Strategy, options: Options
) -> tuple[Adapter, dict[str, float]]:
    """The combination of adapters that are changes of weights, as a LoRA, not yet added.

    Args:
        registry: The adapters of the model.
        name: The name of the new one.
        adapters: What is combined.
        strategy: How.
        options: The strategy's name and rank.

    Returns:
        The new adapter; and for each matrix by its path, ‖ΔW − B A‖ / ‖ΔW‖.

    Raises:
        ValueError: the adapters are no changes of weights, or none that can be combined so.
    """
    _check(adapters, options)
    # The places are found with ranks that do not matter; then the ranks are known, and it is built once more.
    config = _common_config(adapters)
    places = _places(registry.build(name, config, is_filled=True))
    found = {
        path: [_combined(registry, adapters, placement, rows, strategy, options) for rows in _rows(placement)]
        for path, placement in places.items()
    }
    ranks = {path: max(1, *(part.a.shape[0] for part in parts)) for path, parts in found.items()}
    adapter = registry.build(name, _with_ranks(config, ranks, options), is_filled=True)
    for path, placement in _places(adapter).items():
        _fill(placement.module, found[path])
        placement.module.dtype = _common_dtype(adapters, path)
    errors = {path: _relative(parts) for path, parts in found.items()}
    return adapter, errors


def _check(adapters: Sequence[Adapter], options: Options) -> None:
    for adapter in adapters:
        for placement in adapter.placements:
            module = placement.module
            if isinstance(module, AdaptedMatrix) and module.gate is not None:
                raise ValueError(
                    f"Adapter {adapter.name!r} has gates (use_gating=True): what it changes depends on the input, and "
                    f"is no ΔW, which combine_strategy={options.combine_strategy!r} is defined on. Use 'linear'."
                )


def _places(adapter: Adapter) -> dict[str, Placement]:
    """The modules of a LoRA by the paths of their matrices."""
    return {p.point.name: p for p in adapter.placements if isinstance(p.point, Matrix)}


# -- configurations -------------------------------------------------------------------------------------------------


def _common_config(adapters: Sequence[Adapter]) -> LoRAConfig:
    """A plain LoRA of all matrices that any of the adapters has."""
    configs = [part for adapter in adapters for part in _lora_configs(adapter.config)]
    first = configs[0]
    kept = {"dropout": first.dropout}
    if all(config.dtype == first.dtype for config in configs):
        kept["dtype"] = first.dtype  # type: ignore[assignment]
    if any(config.target_modules is not None for config in configs):
        paths = dict.fromkeys(path for adapter in adapters for path in _places(adapter))
        return LoRAConfig(target_modules="|".join(map(re.escape, paths)), **kept)  # type: ignore[arg-type]
    matrices = dict.fromkeys(role for config in configs if config.selfattn_lora for role in config.attn_matrices)
    left_out = [set(config.leave_out) for config in configs]
    return LoRAConfig(
        selfattn_lora=any(config.selfattn_lora for config in configs),
        intermediate_lora=any(config.intermediate_lora for config in configs),
        output_lora=any(config.output_lora for config in configs),
        leave_out=sorted(set.intersection(*left_out)),
        attn_matrices=list(matrices) or first.attn_matrices,
        **kept,  # type: ignore[arg-type]
    )


def _lora_configs(config: AdapterConfig) -> list[LoRAConfig]:
    parts = config.configs if isinstance(config, ConfigUnion) else (config,)
    return [cast(LoRAConfig, part) for part in parts]


def _with_ranks(config: LoRAConfig, ranks: Mapping[str, int], options: Options) -> LoRAConfig:
    """With these ranks, and a scaling of one: patterns only where the ranks differ, for other libraries' sake."""
    values = list(ranks.values())
    rank = max(set(values), key=values.count)
    pattern = dict(ranks) if len(set(values)) > 1 else {}
    changed = config.replace(r=rank, alpha=rank, rank_pattern=pattern, alpha_pattern=dict(pattern))
    return cast(LoRAConfig, changed)


def _common_dtype(adapters: Sequence[Adapter], path: str) -> torch.dtype | None:
    """The type of numbers that all adapters have at a matrix, if it is one."""
    types = {p.dtype for a in adapters if (place := _places(a).get(path)) for p in place.module.parameters()}
    return types.pop() if len(types) == 1 else None


# -- one matrix -----------------------------------------------------------------------------------------------------


def _rows(placement: Placement) -> list[Tensor]:
    """The rows of each part of the matrix of a new module that is a LoRA of its own. Shape: (R,) each."""
    module, matrix = placement.module, placement.point
    assert isinstance(matrix, Matrix)
    if not isinstance(module, LowRank):
        return [torch.arange(matrix.out_features)]
    rows = torch.arange(matrix.out_features) if module.rows is None else module.rows.cpu()
    return list(torch.split(rows, module.sizes))


def _combined(
    registry: AdapterRegistry,
    adapters: Sequence[Adapter],
    placement: Placement,
    rows: Tensor,
    strategy: Strategy,
    options: Options,
) -> Combined:
    """What becomes of the changes of these rows of a matrix."""
    matrix = cast(Matrix, placement.point)
    changes = [_change(registry, adapter, matrix, rows) for adapter in adapters]
    present = [change for change in changes if change is not None]
    rank = options.svd_rank or max((change.rank for change in present), default=1)
    if isinstance(strategy, Elementwise):
        dense = [(c.b @ c.a).flatten() if c is not None else None for c in changes]
        like = next((d for d in dense if d is not None), torch.zeros(len(rows) * matrix.in_features))
        mixed = strategy.mixed([torch.zeros_like(like) if d is None else d for d in dense])
        return truncated(*_as_product(mixed.view(len(rows), matrix.in_features)), rank)
    assert isinstance(strategy, WeightedSum)
    weights = strategy.coefficients(_products(changes) if strategy.needs_products else torch.empty(0))
    if not present:
        return Combined(torch.empty(0, matrix.in_features), torch.empty(len(rows), 0))
    a = torch.cat([change.a for change in present])
    b = torch.cat([w * change.b for w, change in zip(weights, changes, strict=True) if change is not None], dim=1)
    if options.svd_rank is None and all(change.is_low_rank for change in present):
        return Combined(a, b)
    if options.combine_strategy == "lora_concat":
        kinds = ", ".join(a.name for a, c in zip(adapters, changes, strict=True) if c and not c.is_low_rank)
        raise ValueError(
            f"combine_strategy='lora_concat' is for changes of low rank, which is not what {kinds} does to "
            f"{matrix.name}; use 'lora_svd' with svd_rank=…, which comes near it."
        )
    return truncated(a, b, rank)


def _change(registry: AdapterRegistry, adapter: Adapter, matrix: Matrix, rows: Tensor) -> Change | None:
    """What an adapter does to some rows of a matrix; None if nothing.

    Raises:
        ValueError: it changes the bias too, which a LoRA cannot.
    """
    placement = _places(adapter).get(matrix.name)
    if placement is None:
        return None
    module = placement.module
    if isinstance(module, EmbeddingLoRA):
        a, b = _wide(module.lora_embedding_A), module.scaling * _wide(module.lora_embedding_B)
        return Change(a, b, a.shape[0])
    assert isinstance(module, AdaptedMatrix)
    if isinstance(module, LowRank) and module.m is None:
        columns = _columns(module, rows)
        a, b = module.factors()
        if not columns:
            return None
        rows = rows.to(b.device)
        return Change(_wide(a)[columns], module.scaling * _wide(b)[rows][:, columns], len(columns))
    weight = _wide(dense_weight(registry.base, matrix))
    host = registry.base.get_submodule(matrix.path)
    bias = host._parameters.get("bias")
    if bias is not None and not torch.equal(module.merged_bias(wide := _wide(bias)), wide):
        raise ValueError(
            f"Adapter {adapter.name!r} ({type(adapter.config).__name__}) changes the bias of {matrix.path} too, which "
            "a LoRA cannot: its ΔW alone is not what it does. Use combine_strategy='linear', for adapters of its kind."
        )
    changed = _wide(module.merged(weight)) - weight
    a, b = _as_product(changed[rows.to(changed.device)])
    return Change(a, b, module.rank if isinstance(module, LowRank) else 1, is_low_rank=False)


def _columns(module: LowRank, rows: Tensor) -> list[int]:
    """The columns of B that may do something to some rows of the matrix."""
    if len(module.sizes) == 1 and module.rows is None:
        width = module.factors()[0].shape[0]
        return list(range(width))
    wanted = set(rows.tolist())
    own = torch.arange(sum(module.sizes)) if module.rows is None else module.rows.cpu()
    parts = torch.split(own, module.sizes)
    acting = [i for i, part in enumerate(parts) if wanted & set(part.tolist())]
    width = module.factors()[0].shape[0]
    return [column for column in range(width) if column // module.rank % len(parts) in acting]


def _products(changes: Sequence[Change | None]) -> Tensor:
    """The inner products ⟨B A, B′ A′⟩ = Σ (BᵀB′ ⊙ A A′ᵀ) of all changes. Shape: (n, n)."""
    found = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for i, first in enumerate(changes):
        for j, second in enumerate(changes):
            if first is not None and second is not None:
                found[i, j] = ((first.b.T @ second.b) * (first.a @ second.a.T)).sum()
    return found


def _as_product(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A whole matrix as a product A, B with the identity. Shape: (R, I) to (k, I) and (R, k)."""
    if matrix.shape[0] <= matrix.shape[1]:
        return matrix, torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    return torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device), matrix


def truncated(a: Tensor, b: Tensor, rank: int) -> Combined:
    """The best approximation of B A by a product of some rank, by its singular values.

    Args:
        a: A. Shape: (k, I).
        b: B. Shape: (R, k).
        rank: The rank.
    """
    if a.shape[0] < min(a.shape[1], b.shape[0]):
        # B A = Q (S Tᵀ) Pᵀ, of which only S Tᵀ, of size k × k, needs singular values.
        (q, s), (p, t) = torch.linalg.qr(b), torch.linalg.qr(a.T)
        u, values, v = torch.linalg.svd(s @ t.T)
        u, v = q @ u, v @ p.T
    else:
        u, values, v = torch.linalg.svd(b @ a, full_matrices=False)
    root = values[:rank].sqrt()
    squares = values.double().square()
    return Combined(root[:, None] * v[:rank], u[:, :rank] * root, float(squares[rank:].sum()), float(squares.sum()))


def _relative(parts: Sequence[Combined]) -> float:
    size = sum(part.size for part in parts)
    return float((sum(part.error for part in parts) / size) ** 0.5) if size else 0.0


def _fill(module: nn.Module, parts: Sequence[Combined]) -> None:
    """Write products into a new LoRA. Where its rank is higher than theirs, B gets zeros, and A is left as it is."""
    is_embedding = isinstance(module, EmbeddingLoRA)
    names = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A", "lora_B")
    a, b = (module.get_parameter(name) for name in names)
    rank = b.shape[1]
    b.zero_()
    first = 0
    for i, part in enumerate(parts):
        k, size = part.a.shape[0], part.b.shape[0]
        a[i * rank : i * rank + k] = part.a.to(a)
        b[first : first + size, :k] = part.b.to(b)
        first += size


def _wide(value: Tensor) -> Tensor:
    """Half types are too short for sums and singular values."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


# -- as AdapterHub's adapters 1.3 -----------------------------------------------------------------------------------


@torch.no_grad()
def combine_unscaled(
    registry: AdapterRegistry, name: str, adapters: Sequence[Adapter], weights: Sequence[float], rank: int
) -> tuple[Adapter, dict[str, float]]:
    """What 1.3 calls `lora_delta_w_svd`: Σ wᵢ Bᵢ Aᵢ at another rank, with the same alpha. See `combine_changes`.

    Raises:
        ValueError: the adapters are no plain LoRA.
    """
    config = adapters[0].config
    is_plain = type(config) is LoRAConfig and not config.rank_pattern and not config.use_rslora
    modules = [place.module for adapter in adapters for place in _places(adapter).values()]
    is_plain &= all(isinstance(m, LoRA) and m.gate is None and m.m is None for m in modules)
    if not is_plain:
        raise ValueError(
            f"combine_strategy='lora_delta_w_svd' is for plain LoRA with one rank, and {adapters[0].name!r} is "
            f"{config!r}; use 'lora_svd', which goes by what adapters do to the weights."
        )
    adapter = registry.build(name, config.replace(r=rank), is_filled=True)
    unscaled = WeightedSum(tuple(weights))
    found: dict[str, list[Combined]] = {}
    options = Options("lora_svd", rank)
    for path, placement in _places(adapter).items():
        scaling = cast(LoRA, _places(adapters[0])[path].module).scaling
        parts = [_combined(registry, adapters, placement, rows, unscaled, options) for rows in _rows(placement)]
        found[path] = [replace(part, b=part.b / scaling) for part in parts]
        _fill(placement.module, found[path])
        placement.module.dtype = _common_dtype(adapters, path)
    return adapter, {path: _relative(parts) for path, parts in found.items()}
