"""Adapters in the layout of AdapterHub: `adapter_config.json` with `adapter.safetensors` or `pytorch_adapter.bin`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..configuration import AdapterConfig, ConfigUnion
from ..methods import AdapterModule, updated
from ..methods.fusion import Fusion
from ..registry import Adapter, AdapterRegistry
from .building import check_size, to_be_filled
from .errors import AdapterMismatchError as AdapterMismatchError
from .errors import LoadReport, read_from
from .files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterFileError,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from .keys import aliases, matched, under_former_names
from .older import check_release, config_for_1_3, tensors_for_1_3
from .transactions import together

# Before files had a version, `gelu` meant today's `gelu_new`.
_RENAMED_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}

# Of the first release. What it said of fusions with an adapter means nothing for the adapter.
_RENAMED_FIELDS = {
    "LN_before": "ln_before",
    "LN_after": "ln_after",
    "MH_Adapter": "mh_adapter",
    "Output_Adapter": "output_adapter",
}
_OF_FUSION = {"attention_type", "new_attention_norm"}


def save(
    adapter: Adapter,
    folder: Path,
    base_path: str,
    facts: Mapping[str, Any],
    use_safetensors: bool = True,
    release: str | None = None,
) -> None:
    """Write an adapter to a folder, which is made if it is not there.

    Args:
        adapter: The adapter.
        folder: The folder.
        base_path: Path of the base model in the model, "" if they are one.
        facts: The further entries of `adapter_config.json`.
        use_safetensors: Whether to write safetensors, or PyTorch's format.
        release: "1.3" to write what that release of AdapterHub's library reads.

    Raises:
        ValueError: that release does not have such adapters.
    """
    config, tensors = adapter.config.to_dict(), named_tensors(adapter, base_path)
    check_release(release)
    if release is not None:
        model_type = str(facts.get("model_type"))
        config = config_for_1_3(adapter.config, model_type)
        prefix = f"{base_path}." if base_path else ""
        modules = {f"{prefix}{name}": module for name, module in named_modules(adapter, adapter.name).items()}
        tensors = under_former_names(tensors_for_1_3(modules, tensors), prefix, model_type)
    with together(folder):
        write_tensors(folder, ADAPTER_WEIGHTS, tensors, use_safetensors)
        write_json(folder / ADAPTER_CONFIG, {**facts, "config": config, "name": adapter.name})


def load(
    registry: AdapterRegistry,
    folder: Path,
    model_type: str,
    name: str | None = None,
    config: AdapterConfig | None = None,
    leave_out: list[int] | None = None,
    safetensors_only: bool = False,
    report: LoadReport | None = None,
) -> Adapter:
    """Read an adapter, built and filled but not yet added to the model.

    Args:
        registry: The adapters of the model, which stay as they are.
        folder: The folder.
        model_type: The type of the model, for renamed paths.
        name: The name to give; by default the one in the file.
        config: A configuration to use instead of the file's.
        leave_out: Further layers to leave out.
        safetensors_only: Whether files in PyTorch's format are refused.
        report: Where to note tensors that are missing, unexpected or of another shape, instead of raising an error.

    Raises:
        AdapterFileError: a file is missing, cut off or of another kind.
        AdapterMismatchError: tensors are missing, unexpected or of another shape.
    """
    path = folder / ADAPTER_CONFIG
    data = read_json(path)
    saved_name = data.get("name")
    if not isinstance(data.get("config"), (dict, str)) or not isinstance(saved_name, str):
        hint = (
            " It is a PEFT adapter, which needs that library: pip install adapters[peft]."
            if "peft_type" in data
            else ""
        )
        raise AdapterFileError(f"{path} has no 'config' and 'name'.{hint}")
    tensors = read_tensors(folder, ADAPTER_WEIGHTS, safetensors_only)
    version = data.get("version")
    if config is None:
        with read_from(path):
            config = AdapterConfig.parsed(updated_config(data["config"], version))
        added = registry.adapters.get(name or saved_name)
        if added is not None and not str(version).startswith("adapters.2"):
            config = _as_added(config, added.config)
    left_out = leave_out or []
    with read_from(path):
        config = whole = updated(config, version if isinstance(version, str) else None, tensors.keys())
    if left_out:
        config = config.without_layers(left_out, [layer.number for layer in registry.anatomy.layers])
    with read_from(path):
        with to_be_filled(wholly=True):
            check_size(path, data["config"], tensors, lambda: registry.build("x", whole, is_filled=True).parameters())
        with to_be_filled(wholly=report is None):
            adapter = registry.build(name or saved_name, config, is_filled=report is None)
    # Layers that are left out only now are in the file, and are no surprise there.
    optional = _names_of_layers(registry, saved_name, whole, left_out) if left_out else set()
    modules = named_modules(adapter, saved_name)
    with read_from(folder):
        tensors = in_todays_form(modules, matched(tensors, aliases(modules), model_type))
    fill(modules, tensors, str(folder), optional, report)
    return adapter


def updated_config(config: Mapping[str, Any] | str, version: str | None) -> Mapping[str, Any] | str:
    """A configuration as a file holds it, in today's words."""
    if isinstance(config, str):
        return config
    updated = {_RENAMED_FIELDS.get(name, name): value for name, value in config.items() if name not in _OF_FUSION}
    if "invertible_adapter" in updated:  # before release 2 of adapter-transformers
        invertible = updated.pop("invertible_adapter") or {}
        updated["inv_adapter"] = invertible.get("block_type")
        updated["inv_adapter_reduction_factor"] = invertible.get("reduction_factor")
    if (version is None or not version.startswith("adapters.")) and "non_linearity" in updated:
        activation = str(updated["non_linearity"])
        updated["non_linearity"] = _RENAMED_ACTIVATIONS.get(activation, activation)
    return updated


def _as_added(config: AdapterConfig, added: AdapterConfig) -> AdapterConfig:
    """The configuration with which an adapter of the same name was added, if a file of 1.3 says nothing against it.

    That release wrote DiReFT as NoReFT, so that whoever loads such a file adds the right one first.
    """
    if isinstance(config, ConfigUnion) and isinstance(added, ConfigUnion) and len(config.configs) == len(added.configs):
        return ConfigUnion(*map(_as_added, config.configs, added.configs))
    said = {f.name for f in dataclasses.fields(config) if "absent" not in f.metadata}
    is_same = type(config) in type(added).__mro__ and all(config[name] == added[name] for name in said)
    return added if is_same else config


def named_modules(adapter: Adapter | Fusion, name: str) -> dict[str, AdapterModule]:
    """The modules of an adapter or a fusion, by the prefix of their tensors in files, without the base model's path."""
    return {
        f"{p.host}.{p.container}.{name}" if p.host else f"{p.container}.{name}": p.module for p in adapter.placements
    }


def named_tensors(adapter: Adapter | Fusion, base_path: str) -> dict[str, Tensor]:
    """The tensors of an adapter or a fusion, by their names in files."""
    prefix = f"{base_path}." if base_path else ""
    return {
        f"{prefix}{name}.{key}": tensor
        for name, module in named_modules(adapter, adapter.name).items()
        for key, tensor in module.state_dict().items()
    }


def fill(
    modules: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    source: str,
    optional: Set[str] = frozenset(),
    report: LoadReport | None = None,
) -> None:
    """Copy tensors into modules, all or none.

    Args:
        modules: The modules, by the prefix of their tensors' names.
        tensors: The tensors of a file.
        source: The file, for messages.
        optional: Prefixes of tensors that may be there without a parameter.
        report: Where to note differences instead of raising an error. Those that fit are copied then.

    Raises:
        AdapterMismatchError: tensors are missing, unexpected or of another shape.
    """
    first_names = aliases(modules)
    parameters = {
        name: parameter
        for prefix, module in modules.items()
        for inner, parameter in module.named_parameters()
        if first_names[name := f"{prefix}.{inner}"] == name
    }
    by_first = {first_names[name]: tensor for name, tensor in tensors.items() if name in first_names}
    wrong = {
        name: _described(by_first[name], parameter)
        for name, parameter in parameters.items()
        if name in by_first and not fits(by_first[name], parameter)
    }
    found = LoadReport(
        missing=[name for name in parameters if name not in by_first],
        unexpected=[name for name in tensors if name not in first_names and not any(map(name.startswith, optional))],
        misshapen=[f"{name}: {text}" for name, text in wrong.items()],
    )
    if report is not None:
        report.add(found)
    elif found:
        raise AdapterMismatchError(f"{source} does not fit this model, which is left as it was.\n{found}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name in by_first and name not in wrong:
                parameter.copy_(by_first[name])


def fits(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor of a file can be copied into a parameter: the shapes agree, and both hold fractions, or neither.

    Shape: any.
    """
    return tensor.shape == parameter.shape and tensor.is_floating_point() == parameter.is_floating_point()


def _described(tensor: Tensor, parameter: Tensor) -> str:
    kinds = (f" of {tensor.dtype}", f" of {parameter.dtype}") if tensor.shape == parameter.shape else ("", "")
    return f"{tuple(tensor.shape)}{kinds[0]} in the file, {tuple(parameter.shape)}{kinds[1]} in the model"


def in_todays_form(modules: Mapping[str, AdapterModule], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, with each module's as it reads them."""
    by_module: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in modules}
    found: dict[str, Tensor] = {}
    prefixes = sorted(modules, key=len, reverse=True)
    for name, tensor in tensors.items():
        prefix = next((p for p in prefixes if name.startswith(f"{p}.")), None)
        if prefix is None:
            found[name] = tensor
        else:
            by_module[prefix][name.removeprefix(f"{prefix}.")] = tensor
    for prefix, inner in by_module.items():
        found |= {f"{prefix}.{name}": tensor for name, tensor in modules[prefix].read(inner).items()}
    return found


def _names_of_layers(registry: AdapterRegistry, name: str, whole: AdapterConfig, layers: list[int]) -> set[str]:
    """The prefixes of the tensors that an adapter has in some layers, if none are left out."""
    with to_be_filled(wholly=True):
        left = [p for p in registry.build(name, whole, is_filled=True).placements if p.layer in layers]
    return set(named_modules(Adapter(name, whole, tuple(left)), name))
