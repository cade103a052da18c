"""Adapters that are changes ΔW of weights, combined as such: the result is a plain LoRA.

ΔW is all that an adapter does to a weight, with its scaling. A matrix that an adapter leaves alone has ΔW = 0 there, so
that adapters of different matrices, ranks, scalings and kinds can be combined.

Letters: O outputs, I inputs of a matrix; R rows of it that are taken as one matrix, k rank of a change; n adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch

from ..configuration import AdapterConfig, ConfigUnion, LoRAConfig
from ..methods.lora import LoRA
from ..methods.targets import AdaptedMatrix
from ..registry import Adapter, AdapterRegistry
from .products import Combined, as_product, inner_products, relative_error, truncated
from .slots import Part, Slot, change_of, fill, parts_of, slots
from .strategies import Elementwise, Options, Strategy, WeightedSum


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
    sources = [slots(adapter) for adapter in adapters]
    # The places are found with ranks that do not matter; then the ranks are known, and it is built once more.
    config = common_config(adapters)
    found = {
        path: [_combined(registry, adapters, [s.get(path) for s in sources], part, strategy, options) for part in parts]
        for path, parts in parts_of(registry.build(name, config, is_filled=True)).items()
    }
    assert all(source.keys() <= found.keys() for source in sources), "a matrix would be lost"
    ranks = {path: max(1, *(part.a.shape[0] for part in parts)) for path, parts in found.items()}
    adapter = registry.build(name, with_ranks(config, ranks), is_filled=True)
    fill(adapter, found, sources)
    return adapter, {path: relative_error(parts) for path, parts in found.items()}


def _check(adapters: Sequence[Adapter], options: Options) -> None:
    for adapter in adapters:
        for placement in adapter.placements:
            module = placement.module
            if isinstance(module, AdaptedMatrix) and module.gate is not None:
                raise ValueError(
                    f"Adapter {adapter.name!r} has gates (use_gating=True): what it changes depends on the input, and "
                    f"is no ΔW, which combine_strategy={options.combine_strategy!r} is defined on. Use 'linear'."
                )


# -- configurations -------------------------------------------------------------------------------------------------


def common_config(adapters: Sequence[Adapter]) -> LoRAConfig:
    """A plain LoRA of all matrices that any of the adapters has."""
    configs = [part for adapter in adapters for part in _lora_configs(adapter.config)]
    first = configs[0]
    kept = {"dropout": first.dropout}
    if all(config.dtype == first.dtype for config in configs):
        kept["dtype"] = first.dtype  # type: ignore[assignment]
    if any(config.target_modules is not None for config in configs):
        paths = dict.fromkeys(path for adapter in adapters for path in slots(adapter))
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


def with_ranks(config: LoRAConfig, ranks: Mapping[str, int]) -> LoRAConfig:
    """With these ranks, and a scaling of one: patterns only where the ranks differ, for other libraries' sake."""
    values = list(ranks.values())
    rank = max(set(values), key=values.count)
    pattern = dict(ranks) if len(set(values)) > 1 else {}
    changed = config.replace(r=rank, alpha=rank, rank_pattern=pattern, alpha_pattern=dict(pattern))
    return cast(LoRAConfig, changed)


# -- one matrix -----------------------------------------------------------------------------------------------------


def _combined(
    registry: AdapterRegistry,
    adapters: Sequence[Adapter],
    sources: Sequence[Slot | None],
    part: Part,
    strategy: Strategy,
    options: Options,
) -> Combined:
    """What becomes of the changes of a part."""
    changes = [
        None if slot is None else change_of(registry, adapter, slot, part)
        for adapter, slot in zip(adapters, sources, strict=True)
    ]
    present = [change for change in changes if change is not None]
    rank = options.svd_rank or max((change.rank for change in present), default=1)
    shape = (len(part.rows), part.matrix.in_features)
    if isinstance(strategy, Elementwise):
        dense = [(c.b @ c.a).flatten() if c is not None else None for c in changes]
        like = next((d for d in dense if d is not None), torch.zeros(shape).flatten())
        mixed = strategy.mixed([torch.zeros_like(like) if d is None else d for d in dense])
        return truncated(*as_product(mixed.view(shape)), rank)
    assert isinstance(strategy, WeightedSum)
    weights = strategy.coefficients(inner_products(changes) if strategy.needs_products else torch.empty(0))
    if not present:
        return Combined(torch.empty(0, shape[1]), torch.empty(shape[0], 0))
    a = torch.cat([change.a for change in present])
    b = torch.cat([w * change.b for w, change in zip(weights, changes, strict=True) if change is not None], dim=1)
    if options.svd_rank is None and all(change.is_low_rank for change in present):
        return Combined(a, b)
    if options.combine_strategy == "lora_concat":
        names = [adapter.name for adapter, c in zip(adapters, changes, strict=True) if c and not c.is_low_rank]
        raise ValueError(
            f"combine_strategy='lora_concat' is for changes of low rank, which is not what {', '.join(names)} does to "
            f"{part.matrix.name}; use 'lora_svd' with svd_rank=…, which comes near it."
        )
    return truncated(a, b, rank)


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
    sources = [slots(adapter) for adapter in adapters]
    maps = [slot.map for source in sources for slot in source.values()]
    is_plain = type(config) is LoRAConfig and not config.rank_pattern and not config.use_rslora
    if not is_plain or not all(isinstance(m, LoRA) and m.gate is None and m.m is None for m in maps):
        raise ValueError(
            f"combine_strategy='lora_delta_w_svd' is for plain LoRA with one rank, and {adapters[0].name!r} is "
            f"{config!r}; use 'lora_svd', which goes by what adapters do to the weights."
        )
    adapter = registry.build(name, config.replace(r=rank), is_filled=True)
    options, strategy = Options("lora_svd", rank), WeightedSum(tuple(weights))
    found: dict[str, list[Combined]] = {}
    for path, parts in parts_of(adapter).items():
        own = [source[path] for source in sources]
        scaling = cast(LoRA, own[0].map).scaling
        scaled = [_combined(registry, adapters, own, part, strategy, options) for part in parts]
        found[path] = [replace(part, b=part.b / scaling) for part in scaled]
    fill(adapter, found, sources)
    return adapter, {path: relative_error(parts) for path, parts in found.items()}
