"""Heads in folders of PEFT: parameters of a static class's own head, which were trained with an adapter.

Files name them as that class does, and do not name the class: what is known is the task.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from ..checkpoints.files import AdapterFileError
from .base import PredictionHead, label_map
from .conversion import from_static, to_class
from .model_heads import static_head_parameters
from .static import Skeleton, StaticHeadError, is_causal, static_class

_LOGGER = logging.getLogger(__name__)

_CLASSES: dict[str, Mapping[str, Any]] = {
    "SEQ_CLS": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "CAUSAL_LM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
TASKS = {name: task for task, names in _CLASSES.items() for name in names.values() if isinstance(name, str)}
"""What PEFT calls the task of a class."""


@dataclass(frozen=True)
class FactsForPeft:
    """What PEFT has to know of a model that it is given an adapter for.

    Args:
        base_path: Path of the base model in it; "" if they are one.
        task: What PEFT calls its task; None if it has no head.
        head: The parameters of its head, by their names in it.
        notes: What a user should know of the head.
    """

    base_path: str
    task: str | None
    head: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def own_head(model: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model's own head; those of a language model's are its own, and no adapter's."""
    output = cast(Any, model).get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if output is not None:
        return {}
    own = static_head_parameters(model, base)
    return {name: t for name, t in own.items() if isinstance(t, nn.Parameter)}


def static_head(model: nn.Module, base: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tensors that are of the model's own head, by their names in it.

    Raises:
        AdapterFileError: they are of another shape, or of a layer that is tied to the embeddings.
    """
    own = static_head_parameters(model, base)
    state = model.state_dict(keep_vars=True)
    wrong = [
        f"{name}: {tuple(tensor.shape)} in the file, {tuple(state[name].shape)} in the model"
        for name, tensor in tensors.items()
        if name in state and state[name].shape != tensor.shape
    ]
    tied = [n for n, t in tensors.items() if n in state and n not in own and not torch.equal(state[n].to(t), t)]
    if wrong or tied:
        ties = [f"{name} is tied to the embeddings of this model, and has other values in the file" for name in tied]
        raise AdapterFileError(f"The head does not fit this model: {'; '.join([*wrong, *ties])} (modules_to_save).")
    others = sorted(name for name in tensors if name not in state)
    if others:
        _LOGGER.warning("Of a head that this %s has not, and left out: %s.", type(model).__name__, ", ".join(others))
    return {name: tensor for name, tensor in tensors.items() if name in own}


def flexible_head(
    model: nn.Module,
    name: str,
    tensors: Mapping[str, Tensor],
    options: Mapping[str, Any],
    id2label: Mapping[int, str] | None = None,
) -> PredictionHead | None:
    """The head as one of ours; None, and a warning, if it is none for this model.

    Args:
        model: The model.
        name: The name to give.
        tensors: Its tensors, by their names in the static class.
        options: What PEFT's `adapter_config.json` says, of which the task is read.
        id2label: Its labels.
    """
    if not tensors:
        return None
    config: Any = model.config
    class_name = (options.get("auto_mapping") or {}).get("base_model_class") or _CLASSES.get(
        str(options.get("task_type")).rpartition(".")[2], {}
    ).get(config.model_type)
    sizes = [len(t) for key, t in tensors.items() if key.endswith(("bias", "weight")) and t.ndim]
    try:
        if not isinstance(class_name, str):
            raise StaticHeadError(f"task_type={options.get('task_type')!r} does not say of which class it is.")
        number = sizes[-1] if sizes else None
        label2id = None if id2label is None else label_map(len(id2label) if number is None else number, id2label)
        return from_static(model, name, class_name, tensors, label2id, number)
    except (StaticHeadError, AdapterFileError) as error:
        _LOGGER.warning("The head in this folder (%s) is left out: %s", ", ".join(sorted(tensors)), error)
        return None


_TASKS_OF_HEADS = {
    "classification": "SEQ_CLS",
    "multilabel_classification": "SEQ_CLS",
    "tagging": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
}


def facts_of_flexible(model: nn.Module, head: Any, with_head: bool) -> FactsForPeft:
    """What PEFT has to know of a model with flexible heads: the static class that its head is that of.

    Args:
        model: The model.
        head: The head of the adapter; None if it has none.
        with_head: Whether it is to be written too.
    """
    own: Any = model.config
    head_type = None if head is None else head.config.get("head_type")
    task = _TASKS_OF_HEADS.get(str(head_type)) or ("CAUSAL_LM" if head is None and is_causal(own) else None)
    class_name = _CLASSES.get(task or "", {}).get(own.model_type)
    try:
        if not isinstance(class_name, str):
            raise StaticHeadError(f"transformers has no class with a head of the type {head_type!r}.")
        skeleton = Skeleton(static_class(class_name, own), own)
    except StaticHeadError as error:
        return FactsForPeft("", None, notes=() if head is None else (f"the head is not written: {error}",))
    if head is None or not with_head or task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return FactsForPeft(skeleton.base_path, task)
    try:
        tensors = to_class(class_name, own, head.config, dict(head.named_parameters()))
    except (StaticHeadError, AdapterFileError) as error:
        return FactsForPeft(skeleton.base_path, task, notes=(f"the head is not written: {error}",))
    return FactsForPeft(skeleton.base_path, task, tensors)
