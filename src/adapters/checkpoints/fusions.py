"""Fusions in the layout of AdapterHub: `adapter_fusion_config.json` with their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..configuration import AdapterFusionConfig
from ..fusions import build
from ..methods.fusion import CONTAINER, Fusion
from ..registry import Adapter, AdapterRegistry, UnknownAdapterError
from .building import to_be_filled
from .errors import LoadReport, read_from
from .files import FUSION_CONFIG, FUSION_WEIGHTS, AdapterFileError, read_json, read_tensors, write_json, write_tensors
from .keys import aliases, matched, under_former_names
from .native import fill, in_todays_form, named_modules, named_tensors
from .older import check_release
from .transactions import together


def save(
    fusion: Fusion,
    folder: Path,
    base_path: str,
    facts: Mapping[str, Any],
    use_safetensors: bool = True,
    release: str | None = None,
) -> None:
    """Write a fusion to a folder, which is made if it is not there. The arguments are those of `native.save`."""
    entries = {"config": fusion.config.to_dict(), "name": fusion.name, "adapter_names": list(fusion.adapter_names)}
    tensors = named_tensors(fusion, base_path)
    check_release(release)
    if release is not None:
        prefix = f"{base_path}." if base_path else ""
        tensors = under_former_names(tensors, prefix, str(facts.get("model_type")))
    with together(folder):
        write_tensors(folder, FUSION_WEIGHTS, tensors, use_safetensors)
        write_json(folder / FUSION_CONFIG, {**facts, **entries})


def load(
    registry: AdapterRegistry,
    folder: Path,
    model_type: str,
    name: str | None = None,
    safetensors_only: bool = False,
    adapters: Mapping[str, Adapter] | None = None,
    report: LoadReport | None = None,
) -> Fusion:
    """Read a fusion, built and filled but not yet added to the model.

    Args:
        registry: The adapters of the model, which stay as they are.
        folder: The folder.
        model_type: The type of the model, for renamed paths.
        name: The name to give; by default the one in the file.
        safetensors_only: Whether files in PyTorch's format are refused.
        adapters: The adapters to choose from; by default those of the model.
        report: Where to note tensors that are missing, unexpected or of another shape, instead of raising an error.

    Raises:
        UnknownAdapterError: an adapter that is fused is not there.
        AdapterFileError: a file is missing, cut off or of another kind.
        AdapterMismatchError: tensors are missing, unexpected or of another shape.
    """
    path = folder / FUSION_CONFIG
    data = read_json(path)
    saved_name, config = data.get("name"), data.get("config")
    if not isinstance(config, (dict, str)) or not isinstance(saved_name, str):
        raise AdapterFileError(f"{path} has no 'config' and 'name'.")
    if isinstance(config, dict) and "architecture" not in config:
        config = {"dropout_prob": None, **config}  # an early release did not have it
    tensors = read_tensors(folder, FUSION_WEIGHTS, safetensors_only)
    names = data.get("adapter_names") or saved_name.split(",")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AdapterFileError(f"{path}: adapter_names is {names!r}; it should be the names of adapters.")
    with read_from(path, UnknownAdapterError), to_be_filled(wholly=report is None):
        fusion = build(registry, names, AdapterFusionConfig.parsed(config), name or saved_name, adapters)
    modules = named_modules(fusion, saved_name)
    with read_from(folder):
        tensors = in_todays_form(modules, matched(tensors, aliases(modules), model_type))
    never_used = _never_used(registry, saved_name) - {f"{prefix}." for prefix in modules}
    fill(modules, tensors, str(folder), never_used, report)
    return fusion


def _never_used(registry: AdapterRegistry, name: str) -> set[str]:
    """The prefixes of a fusion's tensors at all sublayers: 1.3 had them also where adapters leave a layer out."""
    found = set()
    for _, sublayer in registry.anatomy.sublayers():
        outer = sublayer.container.rpartition(".")[0]
        found.add(".".join(part for part in (sublayer.host, outer, CONTAINER, name) if part) + ".")
    return found
