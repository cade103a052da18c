"""Learned mixtures of adapters: making, naming and training them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from .composition import AdapterCompositionBlock, Fuse, Gate, Setup
from .configuration import FusionConfig
from .configuration.fusion import AdapterFusionConfig
from .methods.fusion import Fusion, FusionModule, fusion_container, fusion_placements
from .registry import Adapter, AdapterRegistry, UnknownAdapterError, unknown_name

FusionLike: TypeAlias = "Fuse | Sequence[Setup] | str"
"""How users name a fusion: by its block, by its adapters, or by its name."""


def fusion_name(adapter_names: FusionLike) -> str:
    """The name of a fusion: that of its block, or those of its adapters with commas between them."""
    if isinstance(adapter_names, str):
        return adapter_names
    return (adapter_names if isinstance(adapter_names, Fuse) else Fuse(*adapter_names)).name


def fused_names(adapter_names: FusionLike) -> tuple[str | None, ...]:
    """The adapters of a fusion in their order: of stacks the last one, and None for the bare model.

    Raises:
        TypeError: neither adapters nor a name were given.
    """
    if isinstance(adapter_names, str):
        return tuple(adapter_names.split(","))
    if isinstance(adapter_names, AdapterCompositionBlock) and not isinstance(adapter_names, Fuse):
        raise TypeError(f"A fusion is named by a Fuse block, a list of adapters or its name, not by {adapter_names!r}.")
    children = adapter_names if isinstance(adapter_names, Fuse) else Fuse(*adapter_names)
    return tuple(child.last() if isinstance(child, AdapterCompositionBlock) else child for child in children)


def build(
    registry: AdapterRegistry,
    adapter_names: FusionLike,
    config: str | Mapping[str, Any] | FusionConfig | None,
    name: str | None = None,
    adapters: Mapping[str, Adapter] | None = None,
) -> Fusion:
    """Make a fusion without adding it: nothing of the model changes.

    Args:
        registry: The adapters of the model.
        adapter_names: What is fused.
        config: The configuration; by default `"dynamic"`, and `"gate"` for a `Gate`.
        name: Its name, if it is to have another.
        adapters: The adapters to choose from; by default those of the model.

    Raises:
        UnknownAdapterError: an adapter is not there.
        ValueError: these adapters cannot be fused.
    """
    found = dict(registry.adapters if adapters is None else adapters)
    names = fused_names(adapter_names)
    if not names:
        raise ValueError("A fusion needs adapters, such as Fuse('a', 'b').")
    for adapter in names:
        if adapter is not None and adapter not in found:
            raise UnknownAdapterError(
                f"{unknown_name(adapter, found)} A fusion is of adapters that are there: add or load them before it."
            )
    default = "gate" if isinstance(adapter_names, Gate) else "dynamic"
    loaded = AdapterFusionConfig.load(default if config is None else config)
    placements = {adapter: found[adapter].placements for adapter in names if adapter is not None}
    return Fusion(
        name or fusion_name(adapter_names), loaded, names, fusion_placements(loaded, placements, names.count(None))
    )


def fusion_of(registry: AdapterRegistry, adapter_names: FusionLike) -> Fusion:
    """The fusion that is named.

    Raises:
        UnknownAdapterError: there is none.
    """
    name = fusion_name(adapter_names)
    if name not in registry.fusions:
        raise UnknownAdapterError(unknown_name(name, registry.fusions, "fusion"))
    return registry.fusions[name]


def fusions_in(registry: AdapterRegistry, setup: AdapterCompositionBlock) -> list[Fusion]:
    """The fusions of all blocks in a setup.

    Raises:
        UnknownAdapterError: one is not there.
    """
    return [fusion_of(registry, block) for block in setup.blocks() if isinstance(block, Fuse)]


def pruned(registry: AdapterRegistry, fusion: Fusion, keep: Sequence[str]) -> Fusion:
    """A fusion of some of the adapters of another, with its weights: not yet added.

    Raises:
        ValueError: an adapter to keep is not part of it.
    """
    wrong = [name for name in keep if name not in fusion.adapter_names]
    if wrong or not keep:
        raise ValueError(f"keep={list(keep)}: the fusion {fusion.name!r} is of {list(fusion.adapter_names)}.")
    kept = [name for name in fusion.adapter_names if name in keep]
    made = build(registry, kept, fusion.config)
    former = {(p.host, p.container): p.module for p in fusion.placements}
    for placement in made.placements:
        place = (placement.host, placement.container)
        source = former.get(place)
        assert isinstance(placement.module, FusionModule)
        if isinstance(source, FusionModule):
            present = [name for name in fusion.adapter_names if name is None or _is_at(registry, name, place)]
            placement.module.take(source, [present.index(name) for name in kept if name in present])
    return made


def _is_at(registry: AdapterRegistry, adapter: str, place: tuple[str, str]) -> bool:
    """Whether an adapter has a module where a fusion is."""
    return any((p.host, fusion_container(p.container)) == place for p in registry[adapter].placements)


def fuse_block(fusion: Fusion) -> Fuse:
    """The block that uses a fusion."""
    plain = Fuse(*fusion.adapter_names)
    return plain if plain.name == fusion.name else Fuse(*fusion.adapter_names, name=fusion.name)


def regularization_loss(registry: AdapterRegistry) -> Tensor | None:
    """The sum over all modules of all fusions; None if none has any."""
    losses = [module.regularization_loss() for fusion in registry.fusions.values() for module in fusion.modules()]
    found = [loss for loss in losses if loss is not None]
    return sum(found[1:], found[0]) if found else None


def set_trainable(fusion: Fusion, trainable: bool) -> None:
    """Freeze or unfreeze a fusion."""
    for parameter in fusion.parameters():
        parameter.requires_grad_(trainable)


def complete(registry: AdapterRegistry) -> list[Fusion]:
    """The fusions all of whose adapters are there and not merged: an adapter can be deleted before its fusions."""
    kept = [name for name in registry.adapters if name not in registry.merged]
    return [f for f in registry.fusions.values() if all(name is None or name in kept for name in f.adapter_names)]


def names_of_incomplete(model: nn.Module, registry: AdapterRegistry) -> set[str]:
    """The names that the tensors of all other fusions have in the `state_dict` of a model."""
    kept = complete(registry)
    modules = [module for fusion in registry.fusions.values() if fusion not in kept for module in fusion.modules()]
    own = {id(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return {key for key, t in model.state_dict(keep_vars=True).items() if id(t) in own} if own else set()
