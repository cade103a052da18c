"""Labels of tokens, and spans of them.

Shapes: B rows, T tokens, P tokens that prompts put in front of them, D hidden size, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    Seq2SeqQuestionAnsweringModelOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, is_pair, label_map, output_like
from .losses import IGNORED, Items, classes, cross_entropy


class TaggingHead(TaskHead):
    """Linear layers on each token.

    >>> model.add_tagging_head("entities", num_labels=3, id2label={0: "O", 1: "B", 2: "I"})

    Args:
        model: The model that it is for.
        head_name: Its name.
        num_labels: Number of labels C.
        layers: Number of linear layers.
        activation_function: Activation between them.
        id2label: Names of the labels.
        dropout_prob: Dropout before each layer; by default the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        id2label: Mapping[int, str] | None = None,
        dropout_prob: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "tagging",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
            "dropout_prob": dropout_prob,
        }
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, P + T, C), and the cross-entropy over the tokens that are no padding and whose label is not -100.

        Raises:
            ValueError: the labels have another shape than (B, T).
        """
        logits = self.apply_layers(inputs.hidden)
        loss = None
        if "labels" in labels:
            own = of_inputs(logits, inputs)
            wanted = classes(self, labels["labels"], tuple(own.shape[:2]), logits).view(own.shape[:2])
            mask = inputs.attention_mask
            if mask is not None and mask.shape == wanted.shape:
                wanted = wanted.masked_fill(mask != 1, IGNORED)
            loss = cross_entropy(own.flatten(0, 1).float(), wanted.flatten(), inputs.items)
        return output_like(TokenClassifierOutput, inputs, loss=loss, logits=logits)


class QuestionAnsweringHead(TaskHead):
    """Linear layers on each token, that tell where an answer starts and ends. The labels are `start_positions` and
    `end_positions`, of shape (B,); positions behind the last token are ignored.

    >>> model.add_qa_head("squad")

    Args:
        model: The model that it is for.
        head_name: Its name.
        num_labels: 2.
        layers: Number of linear layers.
        activation_function: Activation between them.
        id2label: Names of the labels.
        dropout_prob: Dropout before each layer; by default the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        id2label: Mapping[int, str] | None = None,
        dropout_prob: float | None = None,
    ) -> None:
        if num_labels != 2:
            raise ValueError(f"Head {head_name!r} tells the start and the end of an answer: num_labels=2.")
        super().__init__(head_name)
        self.config = {
            "head_type": "question_answering",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
            "dropout_prob": dropout_prob,
        }
        self.build(model)

    def get_label_names(self) -> list[str]:
        """The names of the arguments that hold labels."""
        return ["start_positions", "end_positions"]

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Start and end logits (B, P + T), and the mean of both cross-entropies over the tokens."""
        start, end = (x.contiguous() for x in self.apply_layers(inputs.hidden).unbind(dim=-1))
        loss = None
        if labels:
            missing = [name for name in self.get_label_names() if name not in labels]
            if missing:
                raise ValueError(
                    f"Head {self.name!r} needs start_positions and end_positions; {missing[0]} is missing."
                )
            offset = start.shape[1] - of_inputs(start, inputs).shape[1]
            losses = [
                _position_loss(logits, classes(self, labels[name], (len(logits),), logits), offset, inputs.items)
                for logits, name in ((start, "start_positions"), (end, "end_positions"))
            ]
            loss = (losses[0] + losses[1]) / 2
        pair = is_pair(inputs)
        result_class = Seq2SeqQuestionAnsweringModelOutput if pair else QuestionAnsweringModelOutput
        return output_like(result_class, inputs, loss=loss, start_logits=start, end_logits=end)


def _position_loss(logits: Tensor, positions: Tensor, offset: int, items: Items) -> Tensor:
    length = logits.shape[1]
    wanted = (positions.view(-1) + offset).clamp(0, length)
    return cross_entropy(logits, wanted, items, ignored=length)


def of_inputs(x: Tensor, inputs: HeadInputs) -> Tensor:
    """What belongs to the tokens of the inputs, without that of prompts. Shape: (B, P + T, ...) to (B, T, ...)."""
    return x[:, -inputs.tokens :] if inputs.tokens is not None and inputs.tokens < x.shape[1] else x
