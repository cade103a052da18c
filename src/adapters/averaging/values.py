"""Adapters of one configuration, combined parameter by parameter.

A vector is one parameter of one module. For what starts as something other than zero the vector is the difference from
there, where it is known: 1 for the scalings of IA³, the model's own values for copies of its modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..configuration import AdapterConfig, ConfigUnion, ReftConfig
from ..methods.base import AdapterModule
from ..methods.copies import ModuleCopy
from ..methods.experts import ExpertsAdapter, FusedScaling
from ..methods.ia3 import IA3
from ..methods.orthonormal import HouseholderRows
from ..registry import Adapter, AdapterRegistry
from .strategies import Elementwise, Strategy, WeightedSum

# What matters for training only, and may differ. The new adapter has it from the first one.
_OF_TRAINING = ("dropout", "init_weights", "init_weights_seed")
_Place = tuple[str, str]


def differences(first: Adapter, second: Adapter) -> list[str]:
    """What two adapters differ in that keeps them from being combined parameter by parameter, in words."""
    one, other = _said(first.config), _said(second.config)
    fields = [field for field in {**one, **other} if one.get(field) != other.get(field)]
    if fields:
        return [f"{field} is {one.get(field)!r} and {other.get(field)!r}" for field in fields]
    shapes, others = _shapes(first), _shapes(second)
    return [
        f"the parameters at {'.'.join(part for part in place if part)} are {shapes.get(place)} and {others.get(place)}"
        for place in {**shapes, **others}
        if shapes.get(place) != others.get(place)
    ]


def _said(config: AdapterConfig, prefix: str = "") -> dict[str, object]:
    if isinstance(config, ConfigUnion):
        parts = enumerate(config.configs)
        return {name: value for i, part in parts for name, value in _said(part, f"{prefix}{i}.").items()}
    said: dict[str, object] = {f"{prefix}method": config.architecture or "bottleneck"}
    return said | {f"{prefix}{name}": value for name, value in config.items() if name not in _OF_TRAINING}


def _shapes(adapter: Adapter) -> dict[_Place, dict[str, tuple[int, ...]]]:
    return {
        (p.host, p.container): {name: tuple(value.shape) for name, value in _values([p.module])[0].items()}
        for p in adapter.placements
    }


@torch.no_grad()
def combine_values(
    registry: AdapterRegistry,
    name: str,
    adapters: Sequence[Adapter],
    strategy: Strategy,
    of_a: Strategy | None,
    is_linear: bool,
) -> Adapter:
    """The combination of adapters of one configuration, not yet added.

    Args:
        registry: The adapters of the model.
        name: The name of the new one.
        adapters: What is combined.
        strategy: How.
        of_a: How those parameters are combined that are named `lora_A`, if otherwise.
        is_linear: Whether it is that of 1.3, where vectors are parameters as they are.
    """
    by_place = [{(p.host, p.container): p.module for p in adapter.placements} for adapter in adapters]
    config = _result_config(adapters, by_place) if is_linear else adapters[0].config
    adapter = registry.build(name, config, is_filled=True)
    for placement in adapter.placements:
        modules = [places[placement.host, placement.container] for places in by_place]
        values = _values(modules)
        origins = _origins(placement.module, is_linear)
        combined = {
            key: _combined([value[key] for value in values], origins.get(key), _of(key, strategy, of_a))
            for key in values[0]
        }
        combined |= _householder_rows(modules, strategy) if is_linear else {}
        fill(placement.module, combined)
        types = {p.dtype for module in modules for p in module.parameters()}
        placement.module.dtype = types.pop() if len(types) == 1 else placement.module.dtype
    return adapter


def _of(key: str, strategy: Strategy, of_a: Strategy | None) -> Strategy:
    return of_a if of_a is not None and key.rpartition(".")[2] == "lora_A" else strategy


def _values(modules: Sequence[AdapterModule]) -> list[dict[str, Tensor]]:
    """The parameters of modules as files have them, by their names."""
    return [{name: value.detach() for name, value in module.state_dict().items()} for module in modules]


def _origins(fresh: AdapterModule, is_linear: bool) -> Mapping[str, Tensor]:
    """What parameters start as, where that is known and not zero."""
    if isinstance(fresh, ModuleCopy):
        return {name: value.detach().clone() for name, value in fresh.named_parameters()}
    if is_linear:
        return {}
    if isinstance(fresh, IA3):
        return {"lora_B": torch.full_like(fresh.lora_B, 1 / fresh.scaling)}
    if isinstance(fresh, ExpertsAdapter):
        scalings = [(name, inner) for name, inner in fresh.named_children() if isinstance(inner, FusedScaling)]
        return {f"{name}.lora_B": torch.full_like(inner.lora_B, 1 / inner.scaling) for name, inner in scalings}
    return {}


def _combined(values: Sequence[Tensor], origin: Tensor | None, strategy: Strategy) -> Tensor:
    shape = values[0].shape
    vectors = [value.to(torch.promote_types(value.dtype, torch.float32)).flatten() for value in values]
    start = torch.zeros_like(vectors[0]) if origin is None else origin.to(vectors[0]).flatten()
    vectors = [vector - start for vector in vectors] if origin is not None else vectors
    if isinstance(strategy, Elementwise):
        return (start + strategy.mixed(vectors)).view(shape)
    assert isinstance(strategy, WeightedSum)
    stacked = torch.stack(vectors)
    products = stacked.double() @ stacked.double().T if strategy.needs_products else torch.empty(0)
    for weight, vector in zip(strategy.coefficients(products), vectors, strict=True):
        start = start + weight * vector
    return start.view(shape)


def fill(module: AdapterModule, values: Mapping[str, Tensor]) -> None:
    """Copy values into a new module, which takes on the form that they have."""
    found = module.read(values)
    for name, parameter in module.named_parameters():
        parameter.copy_(found[name])


# -- LoReFT of 1.3 --------------------------------------------------------------------------------------------------


def _result_config(adapters: Sequence[Adapter], by_place: Sequence[Mapping[_Place, AdapterModule]]) -> AdapterConfig:
    """The configuration of the new adapter: that of the first one.

    1.3 averages what makes the rows of LoReFT orthonormal, also where that is no rotation any more; the result then has
    free rows.
    """
    config = adapters[0].config
    modules = [[places[place] for places in by_place] for place in by_place[0]]
    if not any(map(_all_householder, modules)):
        return config
    if isinstance(config, ConfigUnion):
        return ConfigUnion(*map(_with_free_rows, config.configs))
    return _with_free_rows(config)


def _with_free_rows(config: AdapterConfig) -> AdapterConfig:
    return config.replace(orthogonality=False) if isinstance(config, ReftConfig) else config


def _all_householder(modules: Sequence[nn.Module]) -> list[str]:
    """The paths within modules of the rows that have the form of 1.3 in all of them."""
    paths = [name for name, inner in modules[0].named_modules() if isinstance(inner, HouseholderRows)]
    return [path for path in paths if all(isinstance(m.get_submodule(path), HouseholderRows) for m in modules)]


def _householder_rows(modules: Sequence[nn.Module], strategy: Strategy) -> dict[str, Tensor]:
    """The rows that the combined reflections make, by the names that they have in files."""
    found = {}
    for path in _all_householder(modules):
        rows = [cast(HouseholderRows, module.get_submodule(path)) for module in modules]
        original = _combined([row.trained().detach() for row in rows], None, strategy)
        original.diagonal().copy_(torch.stack([row.signs for row in rows]).sum(dim=0).sign())
        base = _combined([row.base for row in rows], None, strategy)
        found[f"{path}.weight"] = HouseholderRows(original, base).compute()
    return found
