"""Heads of users: classes with names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from . import HEADS
from .base import HeadInputs, PredictionHead, TaskHead

CUSTOM_HEADS: dict[str, type[nn.Module]] = {}
"""The classes that users have given a name."""


def register(identifier: str, head: type[nn.Module]) -> None:
    """Give a class a name.

    Raises:
        ValueError: the name is that of another head of this library.
        TypeError: it is no class of modules.
    """
    if HEADS.get(identifier, head) is not head:
        raise ValueError(f"{identifier!r} is a type of heads of this library; choose another name.")
    if not (isinstance(head, type) and issubclass(head, nn.Module)):
        raise TypeError(f"register_custom_head takes a class of modules, not {head!r}.")
    if identifier not in HEADS:
        CUSTOM_HEADS[identifier] = head


def custom_head(model: nn.Module, name: str, head_type: str, config: Mapping[str, Any]) -> PredictionHead:
    """A head of a user's class; see `register_custom_head`."""
    head_class = CUSTOM_HEADS[head_type]
    if not issubclass(head_class, PredictionHead):
        return ModuleHead(name, head_type, config, head_class(**config))
    head = cast(PredictionHead, cast(Any, head_class)(model, name, **config))
    head.name = name
    head.config = {**config, **head.config, "head_type": head_type}
    return head


class ModuleHead(TaskHead):
    """A plain module as a head: it gets the last hidden states, and what it gives are logits.

    If its `forward` takes `labels`, it gets these too, and gives the loss and the logits.

    Args:
        name: The name of the head.
        head_type: The name of the class.
        config: What the class was called with.
        module: The module.
    """

    accepts_loss_kwargs = False

    def __init__(self, name: str, head_type: str, config: Mapping[str, Any], module: nn.Module) -> None:
        super().__init__(name)
        self.config = {**config, "head_type": head_type}
        self.append(module)
        self.takes_labels = "labels" in inspect.signature(module.forward).parameters

    def get_label_names(self) -> list[str]:
        """The names of the arguments that hold labels."""
        return ["labels"] if self.takes_labels else []

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """What the module gives."""
        found = self[0](inputs.hidden, **labels) if labels else self[0](inputs.hidden)
        if isinstance(found, ModelOutput):
            return found
        loss, logits = found if isinstance(found, tuple) else (None, found)
        return SequenceClassifierOutput(loss=loss, logits=logits)
