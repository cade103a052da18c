"""Heads of classes of transformers that are none of this library's types, run by the code of their class.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead
from .sentences import hidden_scale
from .static import Given, Skeleton, StaticHeadError, gives_hidden_states, static_class, task_of, with_labels


class StaticClassHead(TaskHead):
    """The head of a class of transformers: what that class does behind its base model, and its loss.

    `AutoAdapterModel.from_pretrained` makes one for a checkpoint whose head is no chain of linear layers. One with new
    weights is added by

    >>> config = {"head_type": "static_class", "model_class": "ModernBertForSequenceClassification", "num_labels": 3}
    >>> model.add_prediction_head_from_config("topics", config)

    Args:
        model: The model that it is for.
        head_name: Its name.
        model_class: The name of the class.
        num_labels: Number of labels; by default the model's.
        id2label: Names of the labels.

    Raises:
        StaticHeadError: there is no such class, or it is for other models.
    """

    reads_call = True

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        model_class: str,
        num_labels: int | None = None,
        id2label: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(head_name)
        labels = {label: number for number, label in id2label.items()} if id2label else None
        config = with_labels(cast(Any, model).config, labels, num_labels)
        skeleton = Skeleton(static_class(model_class, config), config)
        self._hold(skeleton, model)
        for module in self.modules():
            if module is not self:
                _materialise(module)
                cast(Any, skeleton.model)._init_weights(module)
        self.train(model.training)

    def _hold(self, skeleton: Skeleton, model: nn.Module) -> None:
        check_base(skeleton, model)
        code = cast(Any, skeleton.model)
        task = task_of(type(code).__name__, bool(code.config.is_encoder_decoder))
        if task is None or hidden_scale(code.config) != 1.0:
            raise StaticHeadError(f"{type(code).__name__} is listed under no task with heads that this library runs.")
        if not skeleton.parts:
            raise StaticHeadError(f"The head of {type(code).__name__} is a part of its base model.")
        own = [*code._parameters, *code._buffers]
        if own:
            raise StaticHeadError(f"{type(code).__name__} has tensors outside of its layers: {', '.join(own)}.")
        self.task = task
        if task == "multiple_choice":
            self.rows_of_label = None
        self.generates = task in ("causal_lm", "seq2seq_lm")
        self.config = {
            "head_type": "static_class",
            "model_class": type(code).__name__,
            "num_labels": code.config.num_labels,
            "label2id": dict(code.config.label2id or {}),
        }
        self._code = [code]  # no child: its tensors have the names of the class's own
        for name, part in skeleton.parts.items():
            self.add_module(name, part)

    def get_label_names(self) -> list[str]:
        """The names of the arguments that hold labels."""
        return ["start_positions", "end_positions"] if self.task == "question_answering" else ["labels"]

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """What the class gives."""
        code = self._code[0]
        accepted = inspect.signature(type(code).forward).parameters
        call = {name: value for name, value in inputs.call.items() if name in accepted}
        if self.task == "multiple_choice":  # its code is for texts that are not rows yet
            texts = inputs.texts or 1
            call = {
                name: value.view(-1, texts, *value.shape[1:])
                for name, value in call.items()
                if isinstance(value, Tensor)
            }
        if inputs.items is not None and labels and "kwargs" in accepted:
            call["num_items_in_batch"] = inputs.items
        code.train(self.training)
        with Given.telling(inputs.outputs):
            return cast(ModelOutput, code.forward(**{**call, **labels, "return_dict": True}))


def check_base(skeleton: Skeleton, model: Any) -> None:
    """Raise a StaticHeadError for a class whose head reads another base model than the model's."""
    if not gives_hidden_states(type(model._adapter_registry.base)):
        raise StaticHeadError(f"A {type(model._adapter_registry.base).__name__} gives no hidden states to heads.")
    own, theirs = type(model._adapter_registry.base), skeleton.base_class
    if theirs is not type(skeleton.model) and not issubclass(own, theirs):
        raise StaticHeadError(
            f"{type(skeleton.model).__name__} has a {theirs.__name__} as its base model; here it is a {own.__name__}."
        )


def _materialise(module: nn.Module) -> None:
    """Give the tensors of a module memory, if they have none."""
    if any(t.is_meta for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)]):
        module.to_empty(device="cpu", recurse=False)
