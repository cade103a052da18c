"""Heads read from files into models of static classes (`BertForSequenceClassification` …)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.errors import LoadReport
from ..checkpoints.files import HEAD_CONFIG, HEAD_WEIGHTS, AdapterFileError, read_json, read_tensors
from .base import label_map
from .conversion import to_static
from .model_heads import holds_head, read_static_head, static_head_parameters
from .static import StaticHeadError, task_of


def read_for_static(
    model: nn.Module, base: nn.Module, folder: Path, safetensors_only: bool, report: LoadReport | None = None
) -> tuple[dict[str, Tensor], dict[str, int] | None]:
    """The tensors of a head in a folder, by their names in a model of a static class, and its labels.

    The head is one of the same class, or a flexible one of the same layers.

    Args:
        model: The model.
        base: Its base model.
        folder: The folder.
        safetensors_only: Whether files in PyTorch's format are refused.
        report: Where to note tensors of the same class that are missing or of another shape, instead of an error.

    Raises:
        StaticHeadError: the head is another one than the model has; the message says in what.
        AdapterFileError: a file is cut off, or its tensors do not fit.
    """
    own = static_head_parameters(model, base)
    if not (own or has_task(model)) or not holds_head(folder):
        return {}, None
    data = read_json(folder / HEAD_CONFIG)
    config, class_name = data.get("config"), data.get("model_class")
    if config is None and class_name == type(model).__name__:
        return read_static_head(model, base, folder, safetensors_only, report), _labels(data.get("label2id"), model)
    if not isinstance(config, dict):
        raise StaticHeadError(
            f"The head in {folder} is that of a {class_name}, and the model a {type(model).__name__}."
        )
    prefix = f"heads.{data.get('name')}."
    tensors = {k.removeprefix(prefix): t for k, t in read_tensors(folder, HEAD_WEIGHTS, safetensors_only).items()}
    found = to_static(model, config, tensors)
    wrong = [name for name in own if name not in found or found[name].shape != own[name].shape]
    if wrong:
        shapes = ", ".join(f"{name} {tuple(found[name].shape) if name in found else 'missing'}" for name in wrong)
        wanted = ", ".join(f"{name} {tuple(own[name].shape)}" for name in wrong)
        raise StaticHeadError(
            f"The head in {folder} has {shapes}; this {type(model).__name__} has {wanted}. Load the model with "
            f"num_labels={config.get('num_labels')}."
        )
    state = model.state_dict()
    for name in sorted(found.keys() & state.keys() - own.keys()):
        if not torch.equal(found[name], state[name].cpu()):
            raise StaticHeadError(f"The head in {folder} has a {name} of its own; here it is that of the embeddings.")
    return {name: found[name] for name in own}, _labels(config.get("label2id"), model)


def has_task(model: nn.Module) -> bool:
    """Whether a model is of a static class with a head."""
    config: Any = getattr(model, "config", None)
    return config is not None and task_of(type(model).__name__, bool(config.is_encoder_decoder)) is not None


def _labels(label2id: Any, model: Any) -> dict[str, int] | None:
    """Labels, if they are as many as the model has."""
    if not isinstance(label2id, dict) or len(label2id) != model.config.num_labels:
        return None
    return {str(label): int(number) for label, number in label2id.items()}


def read_static_or_raise(
    model: nn.Module, base: nn.Module, folder: Path, id2label: Mapping[int, str] | None, safetensors_only: bool
) -> tuple[dict[str, Tensor], dict[str, int] | None]:
    """As `read_for_static`, for who asks for the head itself.

    Raises:
        AdapterFileError: there is no head, or another one than the model has.
    """
    try:
        tensors, labels = read_for_static(model, base, folder, safetensors_only)
    except StaticHeadError as error:
        raise AdapterFileError(f"{error} The model is left as it was.") from None
    if not tensors and not (has_task(model) and holds_head(folder)):
        reason = "there is no head in it" if not holds_head(folder) else f"a {type(model).__name__} has no head"
        raise AdapterFileError(f"No head was read from {folder}: {reason}.")
    return tensors, labels if id2label is None else label_map(len(id2label), id2label)
