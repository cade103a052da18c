"""Adapters in the layout of the `peft` library, read as adapters of this one. `peft` need not be installed.

A configuration of ours is made that does the same at the same modules; what there is none for is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.building import check_size
from ..checkpoints.errors import AdapterMismatchError, LoadReport, read_from
from ..checkpoints.files import ADAPTER_CONFIG, AdapterFileError
from ..checkpoints.native import fill, named_modules
from ..configuration import AdapterConfig, BitFitConfig, ConfigUnion, ModulesToSaveConfig
from ..methods.base import AdapterModule, SharedParameters
from ..methods.bitfit import BiasShift
from ..methods.copies import ModuleCopy
from ..methods.prefix_tuning import PrefixPool
from ..methods.prompt_tuning import Prompt
from ..registry import Adapter, AdapterRegistry
from . import peft_options
from .peft_layout import read
from .peft_methods import METHODS
from .peft_places import Parts, Places


@dataclass(frozen=True)
class Loaded:
    """An adapter from a folder of PEFT, built and filled but not yet added to the model.

    Args:
        adapter: The adapter.
        head: What belongs to modules outside the base model, by names as in the model that was saved.
        options: The options of PEFT.
    """

    adapter: Adapter
    head: Mapping[str, Tensor]
    options: Mapping[str, Any]


def load(
    registry: AdapterRegistry,
    folder: Path,
    model_type: str,
    name: str = "default",
    leave_out: Sequence[int] = (),
    safetensors_only: bool = False,
    report: LoadReport | None = None,
) -> Loaded:
    """Read an adapter. The model stays as it is.

    Args:
        registry: The adapters of the model.
        folder: The folder.
        model_type: The type of the model, for renamed paths.
        name: The name to give.
        leave_out: Layers to load nothing for.
        safetensors_only: Whether files in PyTorch's format are refused.
        report: Where to note tensors that are missing, unexpected or of another shape, instead of raising an error.

    Raises:
        AdapterFileError: a file is missing, cut off, does not fit the model, or has options that there is nothing for
            here; the message says all that is wrong.
    """
    file = read(folder, safetensors_only)
    path = folder / ADAPTER_CONFIG
    with read_from(path):
        found = peft_options.problems(file.options, file.peft_type)
    if found:
        raise AdapterFileError(_refused(folder, file.peft_type, found))
    with read_from(path):
        places = Places(file, registry, model_type)
        config, tensors = METHODS[file.peft_type](places)
        config = _with_trained(places, config, tensors)
        held = {f"{p}.{part}": t for p, parts in file.modules.items() for part, t in parts.items()}
        sizes = {**held, **file.shared, **file.whole}
        check_size(path, config.to_dict(), sizes, lambda: registry.build(name, config, is_filled=True).parameters())
        adapter = registry.build(name, config, is_filled=report is None)
        named = _named(places, adapter, tensors)
    try:
        fill(named_modules(adapter, name), named, str(folder), report=report)
    except AdapterMismatchError as error:
        hint = f"Adapters here are in the base model ({registry.anatomy.model_class}) alone, without its head."
        raise AdapterMismatchError(f"{error}\n{hint}" if places.unknown else str(error)) from None
    if leave_out:
        adapter = _without(registry, adapter, leave_out)
    return Loaded(adapter, places.head, file.options)


def _refused(folder: Path, peft_type: str, found: Sequence[str]) -> str:
    lines = "\n".join(f"  {line}." for line in found)
    return (
        f"{folder} holds a {peft_type} adapter of PEFT with options that no method here has:\n{lines}\nThe peft "
        "library itself may load it: model.load_adapter(folder, config=peft.PeftConfig.from_pretrained(folder))."
    )


def _without(registry: AdapterRegistry, adapter: Adapter, left_out: Sequence[int]) -> Adapter:
    """The same adapter with modules in fewer layers."""
    config = adapter.config.without_layers(left_out, [layer.number for layer in registry.anatomy.layers])
    fewer = registry.build(adapter.name, config, is_filled=True)
    given = {key: t for p, m in named_modules(adapter, adapter.name).items() for key, t in _state(m, p).items()}
    modules = named_modules(fewer, adapter.name)
    fill(modules, {key: given[key] for p, m in modules.items() for key in _state(m, p)}, adapter.name)
    return fewer


def _state(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.named_parameters()}


# -- parameters of the model itself ---------------------------------------------------------------------------------


def _with_trained(places: Places, config: AdapterConfig, tensors: Mapping[str, Parts]) -> AdapterConfig:
    """The configuration with what trains parameters of the model itself: differences of biases, and whole modules."""
    further: list[AdapterConfig] = []
    shifted = _shifted(places)
    behind = {path for path, parts in tensors.items() if "bias" in parts and places.options.get("lora_bias")}
    if behind - shifted:
        raise AdapterFileError(
            f"lora_bias=True: {', '.join(sorted(behind - shifted))} have no bias that it could be added to, or are "
            "outside the layers."
        )
    copies = _copies(places, shifted)
    if behind or any(name.endswith(".bias") and name.rpartition(".")[0] not in copies for name in places.whole):
        further.append(BitFitConfig())
    further += [ModulesToSaveConfig(copies)] if copies else []
    return ConfigUnion(config, *further) if further else config


def _shifted(places: Places) -> set[str]:
    """The modules whose biases may be changed by differences, if the file has such."""
    if places.options.get("bias", "none") == "none" and not places.options.get("lora_bias"):
        return set()
    try:
        return {p.host for p in places.registry.build("shifts", BitFitConfig(), is_filled=True).placements}
    except ValueError:
        return set()


def _copies(places: Places, shifted: set[str]) -> list[str]:
    """The modules that are trained whole; what else the file has of the model must be as it is there."""
    found = dict.fromkeys(
        path for path in places.own if path and _has_parameters(places, path) and places.is_asked_for(path)
    )
    for name, tensor in list(places.whole.items()):
        path, _, parameter = name.rpartition(".")
        own = places.own[path]._parameters[parameter]
        assert own is not None
        if path in found or (parameter == "bias" and path in shifted):
            continue
        if own.shape == tensor.shape and torch.equal(own.to(tensor), tensor):
            del places.whole[name]  # written beside the adapter, and what the model has anyway
        elif own.shape != tensor.shape or path in places.modules:
            is_table = isinstance(places.own[path], nn.Embedding)
            advice = "; give the model these embeddings first (model.resize_token_embeddings)" if is_table else ""
            raise AdapterFileError(
                f"{name} of shape {tuple(tensor.shape)} in the file is not that of the model, of shape "
                f"{tuple(own.shape)}, which the adapter was trained with (save_embedding_layers of PEFT){advice}."
            )
        else:
            found[path] = None
    return list(found)


def _has_parameters(places: Places, path: str) -> bool:
    return any(parameter is not None for parameter in places.own[path]._parameters.values())


# -- tensors --------------------------------------------------------------------------------------------------------


def _named(places: Places, adapter: Adapter, tensors: Mapping[str, Parts]) -> dict[str, Tensor]:
    """All tensors of a file by their names in the adapter; those that are for none of its modules keep their own."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    modules = zip(adapter.placements, named_modules(adapter, adapter.name).items(), strict=True)
    for placement, (prefix, module) in modules:
        given = _given(places, placement.host, module, tensors, used)
        found |= {f"{prefix}.{part}": tensor for part, tensor in given.items()}
    hosts = {placement.host for placement in adapter.placements}
    missed = {path: parts for path, parts in places.modules.items() if path not in tensors or path not in hosts}
    rest = {f"{path}.{part}": tensor for path, parts in missed.items() for part, tensor in parts.items()}
    return found | rest | places.unknown | {name: t for name, t in places.whole.items() if name not in used}


def _given(
    places: Places, host: str, module: AdapterModule, tensors: Mapping[str, Parts], used: set[str]
) -> Mapping[str, Tensor]:
    """The tensors of one module. What of the model's own parameters they are made of is noted as used."""
    if isinstance(module, Prompt):
        return {"prompt_embedding.weight": tensors[""]["prompt"]}
    if isinstance(module, PrefixPool):
        return {f"{group}.control_trans": tensors[""]["prompt"].flatten() for group, _ in module.named_children()}
    if isinstance(module, SharedParameters):
        return _projection(places, module)
    parts = tensors.get(host, {})
    if isinstance(module, BiasShift):
        return {"bias": _shift(places, host, parts.get("bias"), used)}
    if isinstance(module, ModuleCopy) and host not in tensors:
        return _copy(places, host, used)
    # What PiSSA and OLoRA started at is a part of the weight, and was found when the module was made.
    starts = {name: p.detach() for name, p in module.named_parameters() if name.startswith("start_")}
    is_shifted = bool(places.options.get("lora_bias"))
    return starts | {part: tensor for part, tensor in parts.items() if part != "bias" or not is_shifted}


def _copy(places: Places, host: str, used: set[str]) -> dict[str, Tensor]:
    """The parameters of a module that was trained whole. If only some were, the others are the model's."""
    own = {name: p.detach() for name, p in places.own[host]._parameters.items() if p is not None}
    given = {name: places.whole[f"{host}.{name}"] for name in own if f"{host}.{name}" in places.whole}
    used |= {f"{host}.{name}" for name in given}
    return given if places.is_asked_for(host) else own | given


def _shift(places: Places, host: str, behind: Tensor | None, used: set[str]) -> Tensor:
    """What is added to a bias: the difference of that in the file from the model's, and s times what is behind B."""
    own = places.own[host]._parameters["bias"]
    assert own is not None
    shift = torch.zeros(own.shape)
    if f"{host}.bias" in places.whole:
        used.add(f"{host}.bias")
        shift = places.whole[f"{host}.bias"].float() - own.detach().cpu().float()
    return shift if behind is None else shift + places.scaling_at(host) * behind.float()


def _projection(places: Places, module: SharedParameters) -> dict[str, Tensor]:
    """VeRA's A and B: those of the file, or drawn anew from its seed."""
    if places.file.shared.keys() >= {"lora_A", "lora_B"}:
        return dict(places.file.shared)
    generator = torch.Generator().manual_seed(int(places.options.get("projection_prng_key", 0)))
    drawn = {}
    for name in ("lora_A", "lora_B"):
        shape = module[name].shape
        bound = math.sqrt(6 / shape[1])
        drawn[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return drawn
