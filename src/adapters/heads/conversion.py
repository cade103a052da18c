"""Heads of static classes (`BertForSequenceClassification` …) as flexible heads, and the other way round.

There is no table of architectures: what a class's head is, is read from a run of its code (`reading`). What is none of
the types of this library is run by the class's own code (`own_code`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoints.errors import LoadReport
from ..checkpoints.files import HEAD_CONFIG, HEAD_WEIGHTS, AdapterFileError, read_json, read_tensors
from .base import PredictionHead, hidden_size, label_map
from .model_heads import build_head, load_head
from .own_code import check_base
from .reading import LANGUAGE, Reading, reading_of
from .static import Skeleton, StaticHeadError, is_causal, static_class, task_of, with_labels
from .support import check_supported
from .tracing import Trace, traced

_LOGGER = logging.getLogger(__name__)


def from_static(
    model: nn.Module,
    name: str,
    class_name: str,
    tensors: Mapping[str, Tensor],
    label2id: Mapping[str, int] | None = None,
    num_labels: int | None = None,
) -> PredictionHead:
    """The head of a static class as a flexible head.

    Args:
        model: The model that it is for.
        name: The name to give.
        class_name: The name of the class.
        tensors: Its tensors by their names in that class; those tied to the embeddings may be missing.
        label2id: Its labels.
        num_labels: Their number.

    Raises:
        StaticHeadError: its class is not known, or for other models.
        AdapterFileError: tensors are missing, left over, or of another shape.
    """
    config = with_labels(cast(Any, model).config, label2id, num_labels)
    return from_skeleton(model, name, Skeleton(static_class(class_name, config), config), tensors)


def from_skeleton(model: nn.Module, name: str, skeleton: Skeleton, tensors: Mapping[str, Tensor]) -> PredictionHead:
    """As `from_static`, with the class built already."""
    check_base(skeleton, model)
    base = cast(Any, model)._adapter_registry.base
    class_name, config = type(skeleton.model).__name__, cast(Any, skeleton.model).config
    task = task_of(class_name, bool(config.is_encoder_decoder))
    if task is None:
        raise StaticHeadError(f"transformers lists {class_name} under no task that there are heads for.")
    if any(not tensor.is_floating_point() for name, tensor in tensors.items() if not name.endswith("_tracked")):
        raise StaticHeadError(f"The weights of the head of this {class_name} are quantised.")
    tensors = _with_other_names(tensors, skeleton, model)
    try:
        trace = _trace(model, skeleton, task)
        _tell_of_arguments(trace, class_name, name)
        reading = reading_of(model, skeleton, trace, task)
        entries = _entries(reading, task, config)
        check_supported(model, task, is_causal(cast(Any, model).config))
    except ValueError as reason:
        return _by_own_code(model, name, skeleton, tensors, reason)
    values = {}
    for key, names in reading.names.items():
        value = next((tensors[n] for n in names if n in tensors), None)
        if value is None:
            raise AdapterFileError(f"The head of this {class_name} has no {' or '.join(names)}.")
        values[key] = value.flatten() if key.endswith(".bias") else value
    if reading.scale != 1.0:
        values[_first(values)] = values[_first(values)] * reading.scale
    added = _added_bias(reading, skeleton)
    if added is not None and not values[added].any():  # BART's is zero, and release 1.3 knows none
        entries["bias"] = False
        del values[added]
    if entries.get("use_pooler") and "pooler" in base._modules and base._modules["pooler"] is None:
        raise StaticHeadError(f"A {class_name} reads the pooler of its base model, and here that has none.")
    head = build_head(model, name, entries)
    fill_head(head, values, class_name)
    return head


def _trace(model: Any, skeleton: Skeleton, task: str) -> Trace:
    try:
        size = hidden_size(model)
    except AttributeError:
        raise StaticHeadError("the model's configuration has no hidden_size") from None
    return traced(skeleton, size, task)


def _tell_of_arguments(trace: Trace, class_name: str, name: str) -> None:
    if trace.added:
        _LOGGER.warning(
            "%s calls its base model with %s of its own, and the head %r was read from it: give that in calls.",
            class_name,
            ", ".join(trace.added),
            name,
        )


def _by_own_code(
    model: nn.Module, name: str, skeleton: Skeleton, tensors: Mapping[str, Tensor], reason: ValueError
) -> PredictionHead:
    class_name, config = type(skeleton.model).__name__, cast(Any, skeleton.model).config
    entries = {
        "head_type": "static_class",
        "model_class": class_name,
        "num_labels": config.num_labels,
        "label2id": config.label2id,
    }
    try:
        head = build_head(model, name, entries)
    except StaticHeadError as error:
        raise StaticHeadError(f"The head of {class_name} is none of this library's types: {reason}. {error}") from None
    own = head.state_dict()
    fill_head(head, {key: value for key, value in tensors.items() if key in own}, class_name)
    return head


def _with_other_names(tensors: Mapping[str, Tensor], skeleton: Skeleton, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a static head, also those that are names of others, or of the base model's embeddings."""
    found = dict(tensors)
    for one, other in skeleton.ties.items():
        for name, known in ((one, other), (other, one)):
            if name not in found and known in tensors:
                found[name] = tensors[known]
        if one not in found and other not in skeleton.tensors and one in skeleton.tensors:
            found[one] = cast(Any, model).get_input_embeddings().weight.detach()
    return found


def _entries(reading: Reading, task: str, config: Any) -> dict[str, Any]:
    """The configuration of a flexible head, with what the model's configuration says of labels."""
    entries = dict(reading.config)
    if task in LANGUAGE:
        return entries
    if task == "multiple_choice":
        return {**entries, "num_choices": config.num_labels}
    entries["num_labels"] = config.num_labels
    problem = config.problem_type
    if problem is not None and (problem == "regression") != (config.num_labels == 1):
        raise StaticHeadError(f"its problem_type {problem!r} does not go with {config.num_labels} labels")
    if task == "question_answering":
        if config.num_labels != 2:
            raise StaticHeadError(f"it has {config.num_labels} labels")
        return entries
    if problem == "multi_label_classification" and task == "classification":
        entries["head_type"] = "multilabel_classification"
    if task == "image_classification":
        entries["multilabel"] = problem == "multi_label_classification"
    return {**entries, "label2id": dict(config.label2id)}


def fill_head(head: nn.Module, values: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a head, all or none.

    Raises:
        AdapterFileError: tensors are missing, left over, or of another shape.
    """
    own = head.state_dict()
    missing, unexpected = sorted(own.keys() - values.keys()), sorted(values.keys() - own.keys())
    misshapen = [
        f"{key}: {tuple(values[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in values and values[key].shape != own[key].shape
    ]
    if missing or unexpected or misshapen:
        raise AdapterFileError(
            f"The head of {source} does not fit. Missing: {', '.join(missing) or 'none'}; unexpected: "
            f"{', '.join(unexpected) or 'none'}; of another shape: {'; '.join(misshapen) or 'none'}."
        )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(values[key])


def read_head(
    model: nn.Module,
    folder: Path,
    name: str | None,
    id2label: Mapping[int, str] | None = None,
    safetensors_only: bool = False,
    report: LoadReport | None = None,
) -> tuple[str, PredictionHead]:
    """Read a head for a model with flexible heads, from a file of such a model or of one of a static class.

    The arguments and what is returned are those of `model_heads.load_head`.

    Raises:
        AdapterFileError: a file is missing, cut off, or holds what is none for this model.
        ValueError: the head of a static class has no name, and none was given.
    """
    data = read_json(folder / HEAD_CONFIG)
    if data.get("config") is not None or not isinstance(data.get("model_class"), str):
        return load_head(model, folder, name, id2label, safetensors_only, report)
    if name is None:
        raise ValueError(f"{folder} holds the head of a {data['model_class']}, which has no name: give load_as='...'.")
    label2id, count = data.get("label2id"), data.get("num_labels")
    if not isinstance(label2id, (dict, type(None))) or not isinstance(count, (int, type(None))):
        raise AdapterFileError(f"{folder / HEAD_CONFIG}: label2id is {label2id!r}, and num_labels is {count!r}.")
    if id2label is not None:
        label2id = label_map(count if count is not None else len(id2label), id2label)
    tensors = read_tensors(folder, HEAD_WEIGHTS, safetensors_only)
    try:
        return name, from_static(model, name, data["model_class"], tensors, label2id, count)
    except StaticHeadError as error:
        raise AdapterFileError(f"The head in {folder} cannot be used here. {error}") from None


def to_static(model: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a flexible head, by the names that they have in the class of a model.

    Args:
        model: The model, of a static class.
        config: The configuration of the flexible head.
        tensors: Its tensors, without the name of the head.

    Raises:
        StaticHeadError: the head of the model's class is another one; the message says in what.
    """
    return to_class(type(model).__name__, cast(Any, model).config, config, tensors)


def to_class(class_name: str, own: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `to_static`, for a class by its name and the configuration of a model.

    Raises:
        StaticHeadError: the head of the class is another one; the message says in what.
    """
    head_type = config.get("head_type")
    static = with_labels(own, config.get("label2id") if head_type not in LANGUAGE else None)
    task = task_of(class_name, bool(own.is_encoder_decoder))
    if task is None:
        raise StaticHeadError(f"A {class_name} has no head that there is a flexible one for.")
    skeleton = Skeleton(static_class(class_name, own), static)
    if head_type == "static_class":
        if config.get("model_class") != class_name:
            raise StaticHeadError(f"The head is that of a {config.get('model_class')}, and the model a {class_name}.")
        return dict(tensors)
    like = SimpleNamespace(config=own, is_causal_model=is_causal(own))
    reading = reading_of(like, skeleton, _trace(like, skeleton, task), task)
    values, entries = dict(tensors), _entries(reading, task, static)
    added = _added_bias(reading, skeleton)
    if added is not None and not config.get("bias"):
        entries["bias"] = False
        values[added] = torch.zeros(values[added.replace("bias", "weight")].shape[0])
    wrong = _differences(entries, config)
    if wrong:
        raise StaticHeadError(f"The head of a {class_name} is another one: {'; '.join(wrong)}.")
    if values.keys() != reading.names.keys():
        raise AdapterFileError(f"The head has tensors {sorted(values)}, and needs {sorted(reading.names)}.")
    values[_first(values)] = values[_first(values)] / reading.scale
    shapes = {name: tensor.shape for name, tensor in skeleton.tensors.items()}
    return {
        name: values[key].view(shapes[name]) if key.endswith("bias") else values[key]
        for key, names in reading.names.items()
        for name in names
        if name in shapes
    }


def _differences(entries: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """In what a flexible head is not the one that a class has."""
    fields = ["layers", "use_pooler", "logit_scale", "logit_softcap"]
    if entries["layers"] > 1 or config.get("layers", 1) > 1:
        fields += ["activation_function", "layer_norm"]
    if "bias" in config:
        fields.append("bias")
    if "embedding_size" in config and entries["layers"] > 1:
        fields.append("embedding_size")
    pairs = {name: (entries.get(name) or None, config.get(name) or None) for name in fields}
    kinds = [str(each.get("head_type")).removeprefix("multilabel_") for each in (entries, config)]
    found = {"head_type": (kinds[0], kinds[1]), **pairs}
    return [f"{name} is {own!r} there, {other!r} in the file" for name, (own, other) in found.items() if own != other]


def _added_bias(reading: Reading, skeleton: Skeleton) -> str | None:
    """The bias that a class keeps beside its last layer, as a buffer."""
    return next((key for key, names in reading.names.items() if names[0] in skeleton.model._buffers), None)


def _first(values: Mapping[str, Tensor]) -> str:
    """The weight of the first layer."""
    return min((key for key in values if key.endswith(".weight")), key=lambda key: int(key.partition(".")[0]))
