"""Classes of transformers with a head of their own (`BertForSequenceClassification` …), and what of them is that head.

Such a class is known by its name alone, in configurations and files. Here it is built without its base model, in the
place of which something stands that gives what it is told to: then the class's own code is that of its head.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, cast, get_args

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
    Seq2SeqModelOutput,
)
from transformers.models.auto import modeling_auto as auto
from transformers.utils.generic import ModelOutput

# Tasks as transformers lists them. A class that is under several is what the first one says.
_TASKS: dict[str, Mapping[str, Any]] = {
    "classification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "tagging": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question_answering": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "multiple_choice": auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "image_classification": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "seq2seq_lm": {
        **auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        **auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    },
    "masked_lm": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "causal_lm": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}


class StaticHeadError(ValueError):
    """The head of a class of transformers is none for this model, and why."""


def task_of(class_name: str, is_encoder_decoder: bool) -> str | None:
    """The task of a class by its name, as a type of heads; None if transformers lists it under no task with heads.

    >>> task_of("BertForSequenceClassification", False)
    'classification'
    """
    for task in _TASKS:
        if class_name in _classes_of(task):  # language models that listen are listed beside those with an encoder
            return "causal_lm" if task == "seq2seq_lm" and not is_encoder_decoder else task
    return None


def is_causal(config: Any) -> bool:
    """Whether the tokens of a model see only those before them: it is made to go on with texts, not to fill gaps."""
    kind = config.model_type
    return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


@cache
def _classes_of(task: str) -> frozenset[str]:
    names = (found if isinstance(found, (tuple, list)) else (found,) for found in _TASKS[task].values())
    return frozenset(name for group in names for name in group)


def static_class(class_name: str, config: Any) -> type[PreTrainedModel]:
    """A class of transformers by its name.

    Raises:
        StaticHeadError: there is none, or it is for other models.
    """
    found = getattr(transformers, class_name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise StaticHeadError(f"transformers {transformers.__version__} has no class {class_name!r}.")
    if found.config_class is not None and not isinstance(config, found.config_class):
        raise StaticHeadError(
            f"{class_name} is for a {found.config_class.__name__}, and this model has a {type(config).__name__}."
        )
    return found


def with_labels(config: Any, label2id: Mapping[str, int] | None, num_labels: int | None = None) -> Any:
    """A copy of a configuration, with other labels."""
    config = copy.deepcopy(config)
    if label2id:
        config.id2label = {int(number): str(label) for label, number in label2id.items()}
        config.label2id = {str(label): int(number) for label, number in label2id.items()}
    elif num_labels is not None and num_labels != config.num_labels:
        config.num_labels = num_labels
    return config


def base_children(model: nn.Module, base: nn.Module | None = None) -> set[str]:
    """The children of a model that its base model is made of; the others are its head.

    Classes such as `T5ForQuestionAnswering` hold the parts of `T5Model`, and no `T5Model`.

    Args:
        model: The model.
        base: Its base model.
    """
    base = cast(nn.Module, getattr(model, "base_model", model)) if base is None else base
    if base is model:
        wanted = _children_of_base_class(type(cast(Any, model).config), cast(Any, model).config)
        return wanted & model._modules.keys()
    found = {name.partition(".")[0] for name, module in model.named_modules() if module is base}
    if base not in (model._modules[name] for name in found):
        raise StaticHeadError(f"The base model of {type(model).__name__} is not one of its parts.")
    return found


_CHILDREN: dict[type, set[str]] = {}


def _children_of_base_class(config_class: type, config: Any) -> set[str]:
    """The names of the children of the class of base models for a configuration."""
    if config_class not in _CHILDREN:
        classes: Any = _base_classes(config_class)
        with torch.device("meta"):
            _CHILDREN[config_class] = set(classes[0](copy.deepcopy(config))._modules) if classes else set()
    return _CHILDREN[config_class]


class _Unseen:
    """A module on the meta device, beside those of a model: it is neither walked nor copied nor written."""

    def __init__(self, module: nn.Module | None) -> None:
        self.module = module

    def __deepcopy__(self, memo: object) -> _Unseen:
        return self

    def __reduce__(self) -> tuple[type[_Unseen], tuple[None]]:
        return _Unseen, (None,)


class Given(nn.Module):
    """Stands in the place of a base model, or of a part of it, and gives what it is told to."""

    _told = threading.local()

    def __init__(self, module: nn.Module, config: Any, part: str) -> None:
        super().__init__()
        self.config = config
        self.part = part
        self.outputs_class = _outputs_class(type(module), BaseModelOutputWithPastAndCrossAttentions)
        self.original = _Unseen(module)

    def __getattr__(self, name: str) -> Any:
        """What else a class asks of its base model: its configuration, the parts of that, without any weights."""
        original = self.__dict__.get("original")
        if original is None or original.module is None:
            raise AttributeError(name)
        found = getattr(original.module, name)
        return Given(found, self.config, name) if isinstance(found, nn.Module) else found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of `telling`, whatever it is called with."""
        outputs = self._told.outputs
        self._told.calls.append((args, kwargs))
        if self.part not in ("encoder", "decoder"):
            return outputs
        found = {name: outputs.get(f"{self.part}_{name}", outputs.get(name)) for name in fields_of(self.outputs_class)}
        return self.outputs_class(**found)

    @classmethod
    @contextmanager
    def telling(cls, outputs: ModelOutput) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
        """Within it, these are the outputs in this thread. What it gives notes the calls."""
        cls._told.outputs, cls._told.calls = outputs, []
        try:
            yield cls._told.calls
        finally:
            del cls._told.outputs, cls._told.calls


class Skeleton:
    """A static class without its base model.

    Args:
        model_class: The class.
        config: The configuration of the model.

    Attributes:
        model: The model; its head's tensors are on the meta device.
        parts: The children that are its head.
        base_class: The class of its base model; its own if it holds the parts of that.
        base_path: The name of its base model; "" if it holds the parts of that.
        ties: The parameters that are tied, by name, and what they are tied to.
        adds_pooler: Whether its base model has a part of the name "pooler".
        has_pooler: Whether its base model may give a pooled vector.
    """

    def __init__(self, model_class: type[PreTrainedModel], config: Any) -> None:
        try:
            with torch.device("meta"):
                model: Any = cast(Any, model_class)(copy.deepcopy(config))
            base = _base_of(model, config)
            inside = base_children(model, base)
            wanted = _children_of_base_class(type(config), config) if base is model else inside
            if inside != wanted:
                raise StaticHeadError(f"{model_class.__name__} has only some parts of a base model: {sorted(inside)}.")
        except StaticHeadError:
            raise
        except Exception as error:  # whatever the class's own code does with a configuration that is not for it
            raise StaticHeadError(f"{model_class.__name__} cannot be built: {error}") from error
        self.base_class = type(base)
        self.base_path = "" if base is model else next(iter(inside))
        self.ties: dict[str, str] = dict(model.all_tied_weights_keys)
        pooler = base._modules.get("pooler")
        usual = Seq2SeqModelOutput if config.is_encoder_decoder else BaseModelOutputWithPooling
        self.outputs_class = _outputs_class(self.base_class, usual, pooler is not None)
        self.adds_pooler = pooler is not None
        self.has_pooler = self.adds_pooler or "pooler" not in base._modules
        for name in inside:
            model._modules[name] = Given(model._modules[name], model.config, name if base is model else "base")
        self.model: PreTrainedModel = model.eval()
        self.parts: dict[str, nn.Module] = {
            name: module
            for name, module in model.named_children()
            if name not in inside and not isinstance(module, nn.modules.loss._Loss)
        }

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The parameters and saved buffers of the head, by name."""
        return self.model.state_dict(keep_vars=True)


def _base_of(model: Any, config: Any) -> nn.Module:
    """The base model of a model. Some have it at another place than they say."""
    base = cast(nn.Module, model.base_model)
    if base is not model:
        return base
    return next((child for child in model.children() if type(child) in _base_classes(type(config))), base)


def _base_classes(config_class: type) -> tuple[type[nn.Module], ...]:
    """The classes of base models for a configuration."""
    mapped: Any = transformers.MODEL_MAPPING.get(config_class, ())
    return mapped if isinstance(mapped, tuple) else (mapped,)


def gives_hidden_states(base_class: type[nn.Module]) -> bool:
    """Whether a base model gives hidden states: backbones of vision models give maps of features."""
    said = inspect.signature(base_class.forward).return_annotation
    classes = [found for found in (said, *get_args(said)) if isinstance(found, type) and issubclass(found, ModelOutput)]
    return not any("feature_maps" in fields_of(found) for found in classes)


def _outputs_class(model_class: Any, usual: type[ModelOutput], is_pooled: bool = False) -> type[ModelOutput]:
    """The class of the outputs of a base model, as its `forward` says, or the usual one."""
    said = inspect.signature(model_class.forward).return_annotation
    wanted = {"last_hidden_state", "pooler_output"} if is_pooled else {"last_hidden_state"}
    for found in (said, *get_args(said)):
        if isinstance(found, type) and issubclass(found, ModelOutput) and wanted <= set(fields_of(found)):
            return found
    return usual


def fields_of(outputs_class: type[ModelOutput]) -> list[str]:
    """The names of what a class of outputs can hold."""
    return list(inspect.signature(outputs_class).parameters)
