"""The heads of one model, and their files.

Static classes (`BertForSequenceClassification` …) have one head of their own, outside the base model: its parameters
are saved with an adapter, so that nothing that was trained is lost.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoints.building import check_size, to_be_filled
from ..checkpoints.errors import AdapterMismatchError, LoadReport, read_from
from ..checkpoints.files import (
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    AdapterFileError,
    has_weights,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from ..checkpoints.keys import aliases, matched
from ..checkpoints.native import fill, fits
from ..checkpoints.transactions import located, together
from ..registry import AdapterDict
from . import HEADS, PredictionHead, label_map
from .custom import CUSTOM_HEADS, custom_head
from .static import base_children
from .support import check_supported


def build_head(model: nn.Module, name: str, config: Mapping[str, Any]) -> PredictionHead:
    """A head from its configuration.

    Args:
        model: The model that it is for.
        name: Its name.
        config: Its type, the arguments of that class, and `label2id`.

    Raises:
        ValueError: there is no head of that type, or it has no such options.
    """
    head_type = config.get("head_type")
    if head_type in CUSTOM_HEADS:
        return custom_head(model, name, head_type, {k: v for k, v in config.items() if k != "head_type"})
    if head_type not in HEADS:
        raise ValueError(
            f"There is no head type {head_type!r}; there are {', '.join([*HEADS, *CUSTOM_HEADS])}. A class of your own "
            "gets a name with model.register_custom_head(name, class)."
        )
    check_supported(model, head_type, cast(Any, model).is_causal_model)
    head_class = HEADS[head_type]
    given = {key: value for key, value in config.items() if key not in ("head_type", "label2id")}
    unknown = sorted(given.keys() - inspect.signature(head_class).parameters.keys())
    if unknown:
        raise ValueError(f"Head {name!r} ({head_type}) has options that are not known: {', '.join(unknown)}.")
    if config.get("label2id"):
        given["id2label"] = {int(number): label for label, number in config["label2id"].items()}
    return cast(PredictionHead, cast(Any, head_class)(model, name, **given))


def averaged_head(
    model: nn.Module, names: Sequence[str], heads: Sequence[Any], weights: Sequence[float], name: str
) -> PredictionHead:
    """A new head with the weighted sums of the parameters of others.

    Raises:
        ValueError: they are not of one configuration.
    """
    first = heads[0]
    for other_name, other in zip(names, heads, strict=True):
        fields = {field for field in {**first.config, **other.config} if field != "dropout_prob"}
        wrong = sorted(field for field in fields if first.config.get(field) != other.config.get(field))
        if wrong:
            found = [f"{field} is {first.config.get(field)!r} and {other.config.get(field)!r}" for field in wrong]
            raise ValueError(f"Heads {names[0]!r} and {other_name!r} cannot be averaged: {'; '.join(found)}.")
    head = build_head(model, name, first.config)
    with torch.no_grad():
        for key, parameter in head.named_parameters():
            values = [other.get_parameter(key) for other in heads]
            if parameter is values[0]:  # tied to the embeddings of the model, which are not the head's
                continue
            total = sum(weight * value.float() for weight, value in zip(weights, values, strict=True))
            parameter.copy_(cast(Tensor, total))
    return head


def save_head(
    head: nn.Module, name: str, config: Mapping[str, Any], folder: Path, facts: Mapping[str, Any], use_safetensors: bool
) -> None:
    """Write a head to a folder, in the layout of AdapterHub."""
    tensors = {f"heads.{name}.{key}": tensor for key, tensor in head.state_dict().items()}
    with together(folder):
        write_tensors(folder, HEAD_WEIGHTS, tensors, use_safetensors)
        write_json(folder / HEAD_CONFIG, {**facts, "config": dict(config), "name": name})


def load_head(
    model: nn.Module,
    folder: Path,
    name: str | None,
    id2label: Mapping[int, str] | None = None,
    safetensors_only: bool = False,
    report: LoadReport | None = None,
) -> tuple[str, PredictionHead]:
    """Read a head, built and filled but not yet added to a model.

    Args:
        model: The model.
        folder: The folder.
        name: The name to give; by default the one in the file.
        id2label: Other labels.
        safetensors_only: Whether files in PyTorch's format are refused.
        report: Where to note tensors that are missing, unexpected or of another shape, instead of raising an error.

    Raises:
        AdapterFileError: a file is missing, cut off, or holds another head.
    """
    path = folder / HEAD_CONFIG
    data = read_json(path)
    config, saved_name = data.get("config"), data.get("name")
    if not isinstance(config, dict) or not isinstance(saved_name, str):
        raise AdapterFileError(f"{folder} holds the head of a static class, {data.get('model_class')}.")
    if id2label is not None:
        config = {**config, "label2id": label_map(config.get("num_labels", len(id2label)), id2label)}
    tensors = read_tensors(folder, HEAD_WEIGHTS, safetensors_only)
    with read_from(path):
        is_own = config.get("head_type") in CUSTOM_HEADS
        with to_be_filled(wholly=True):
            check_size(path, config, tensors, lambda: build_head(model, "x", config).parameters())
        with to_be_filled(wholly=report is None and not is_own):
            head = build_head(model, name or saved_name, config)
    modules = {f"heads.{saved_name}": head}
    fill(modules, matched(tensors, aliases(modules), ""), str(folder), report=report)
    return name or saved_name, head


def holds_head(folder: Path) -> bool:
    """Whether a folder has a head."""
    return located(folder / HEAD_CONFIG) is not None and has_weights(folder, HEAD_WEIGHTS)


def static_head_parameters(model: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model outside its base model, without those tied to the base model's."""
    if model is base:  # it may hold the parts of a base model, as T5's classes do
        return _beside(model)
    outside = _outside(model, base, "")
    inside = {id(p) for p in base.parameters()} | {id(b) for b in base.buffers()} if outside else set()
    return {name: tensor for name, tensor in outside.items() if id(tensor) not in inside}


def _beside(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of those parts that the base class for the model's configuration does not have."""
    config = getattr(model, "config", None)
    if config is None:
        return {}
    children = base_children(model, model)
    if not children or children >= model._modules.keys():
        return {}
    inside = {id(t) for name, part in model.named_children() if name in children for t in part.parameters()}
    parts = {name: part for name, part in model.named_children() if name not in children and not _has_adapters(part)}
    state = {f"{name}.{key}": t for name, part in parts.items() for key, t in part.state_dict(keep_vars=True).items()}
    return {name: tensor for name, tensor in state.items() if id(tensor) not in inside}


def _has_adapters(part: nn.Module) -> bool:
    """Whether a part of a model is what holds adapters of the whole model (VeRA's matrices, prefixes, prompts)."""
    return any(isinstance(module, AdapterDict) for module in part.modules())


def _outside(module: nn.Module, base: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The state of a module without that of the base model in it, which is not walked: it may hold many adapters."""
    if module is base:
        return {}
    found: dict[str, Tensor] = {}
    module._save_to_state_dict(found, prefix, keep_vars=True)
    for name, child in module.named_children():
        found |= _outside(child, base, f"{prefix}{name}.")
    return found


def save_static_head(
    folder: Path,
    parameters: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    labels: Mapping[str, Any],
    use_safetensors: bool,
) -> None:
    """Write the head of a static class. It has no parameters if it is tied; then what is said of it is its class."""
    with together(folder):
        write_tensors(folder, HEAD_WEIGHTS, parameters, use_safetensors)
        write_json(folder / HEAD_CONFIG, {**facts, **labels, "config": None, "name": None})


def read_static_head(
    model: nn.Module, base: nn.Module, folder: Path, safetensors_only: bool, report: LoadReport | None = None
) -> dict[str, Tensor]:
    """The tensors of a static head that fit the model, or none if it is that of another class.

    Raises:
        AdapterFileError: the file is of this class, and its tensors do not fit.
    """
    if located(folder / HEAD_CONFIG) is None or not has_weights(folder, HEAD_WEIGHTS):
        return {}
    data = read_json(folder / HEAD_CONFIG)
    if data.get("config") is not None or data.get("model_class") != type(model).__name__:
        return {}
    own, tensors = static_head_parameters(model, base), read_tensors(folder, HEAD_WEIGHTS, safetensors_only)
    wrong = [n for n in own if n in tensors and not fits(tensors[n], own[n])]
    found = LoadReport(missing=sorted(own.keys() - tensors.keys()), misshapen=sorted(wrong))
    if report is not None:
        report.add(found)
    elif found:
        raise AdapterMismatchError(f"The head in {folder} does not fit this model, which is left as it was.\n{found}")
    return {name: tensors[name] for name in own if name in tensors and name not in wrong}
