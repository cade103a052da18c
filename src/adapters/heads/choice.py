"""The choice of one of several texts.

Shapes: B rows, N choices for each, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.modeling_outputs import MultipleChoiceModelOutput
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, label_map, output_like, vector_of_row
from .losses import classes, cross_entropy


class MultipleChoiceHead(TaskHead):
    """Linear layers that give a score to each choice. The inputs have the shape (B, N, T).

    >>> model.add_multiple_choice_head("copa", num_choices=2)

    Args:
        model: The model that it is for.
        head_name: Its name.
        num_choices: Number of choices N.
        layers: Number of linear layers.
        activation_function: Activation between them.
        id2label: Names of the choices.
        use_pooler: Whether to read the base model's pooler.
        dropout_prob: Dropout before each layer; by default the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        num_choices: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
        dropout_prob: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "multiple_choice",
            "num_choices": num_choices,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_choices, id2label),
            "use_pooler": use_pooler,
            "dropout_prob": dropout_prob,
        }
        self.rows_of_label = num_choices
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, N), and their cross-entropy.

        Raises:
            ValueError: the rows are not those of N choices, or the labels have another shape than (B,).
        """
        count: int = self.config["num_choices"]
        scores = self.apply_layers(vector_of_row(self, inputs))
        if scores.shape[0] % count:
            raise ValueError(
                f"Head {self.name!r} chooses one of {count}: give inputs of shape (rows, {count}, tokens); here are "
                f"{scores.shape[0]} texts."
            )
        logits = scores.view(-1, count)
        loss = None
        if "labels" in labels:
            wanted = classes(self, labels["labels"], tuple(logits.shape[:1]), logits)
            loss = cross_entropy(logits, wanted.view(-1), inputs.items)
        return output_like(MultipleChoiceModelOutput, inputs, loss=loss, logits=logits)
