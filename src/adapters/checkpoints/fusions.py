"""Fusions in the layout of AdapterHub: `adapter_fusion_config.json` with their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..fusions import build
from ..methods.fusion import CONTAINER, Fusion
from ..registry import Adapter, AdapterRegistry
from .files import FUSION_CONFIG, FUSION_WEIGHTS, AdapterFileError, read_json, read_tensors, write_json, write_tensors
from .keys import aliases, matched
from .native import fill, in_todays_form, named_modules, named_tensors


def save(fusion: Fusion, folder: Path, base_path: str, facts: Mapping[str, Any], use_safetensors: bool = True) -> None:
    """Write a fusion to a folder, which is made if it is not there. The arguments are those of `native.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, FUSION_WEIGHTS, named_tensors(fusion, base_path), use_safetensors)
    entries = {"config": fusion.config.to_dict(), "name": fusion.name, "adapter_names": list(fusion.adapter_names)}
    write_json(folder / FUSION_CONFIG, {**facts, **entries})


def load(
    registry: AdapterRegistry,
    folder: Path,
    model_type: str,
    name: str | None = None,
    safetensors_only: bool = False,
    adapters: Mapping[str, Adapter] | None = None,
) -> Fusion:
    """Read a fusion, built and filled but not yet added to the model.

    Args:
        registry: The adapters of the model, which stay as they are.
        folder: The folder.
        model_type: The type of the model, for renamed paths.
        name: The name to give; by default the one in the file.
        safetensors_only: Whether files in PyTorch's format are refused.
        adapters: The adapters to choose from; by default those of the model.

    Raises:
        UnknownAdapterError: an adapter that is fused is not there.
        AdapterFileError: a file is missing, cut off or of another kind.
        AdapterMismatchError: tensors are missing, unexpected or of another shape.
    """
    data = read_json(folder / FUSION_CONFIG)
    saved_name, config = data.get("name"), data.get("config")
    if not isinstance(config, (dict, str)) or not isinstance(saved_name, str):
        raise AdapterFileError(f"{folder / FUSION_CONFIG} has no 'config' and 'name'.")
    if isinstance(config, dict) and "architecture" not in config:
        config = {"dropout_prob": None, **config}  # an early release did not have it
    tensors = read_tensors(folder, FUSION_WEIGHTS, safetensors_only)
    names = data.get("adapter_names") or saved_name.split(",")
    fusion = build(registry, names, config, name or saved_name, adapters)
    modules = named_modules(fusion, saved_name)
    tensors = in_todays_form(modules, matched(tensors, aliases(modules), model_type))
    fill(modules, tensors, str(folder), _never_used(registry, saved_name) - {f"{prefix}." for prefix in modules})
    return fusion


def _never_used(registry: AdapterRegistry, name: str) -> set[str]:
    """The prefixes of a fusion's tensors at all sublayers: 1.3 had them also where adapters leave a layer out."""
    found = set()
    for _, sublayer in registry.anatomy.sublayers():
        outer = sublayer.container.rpartition(".")[0]
        found.add(".".join(part for part in (sublayer.host, outer, CONTAINER, name) if part) + ".")
    return found
