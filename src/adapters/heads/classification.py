"""Classification of whole rows: one label, several labels, or one score.

Shapes: B rows, D hidden size, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqSequenceClassifierOutput, SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, is_pair, label_map, output_like, vector_of_row
from .losses import Items, loss_of_labels, loss_of_multilabels


class ClassificationHead(TaskHead):
    """Linear layers on one vector per row; the loss is that of the labels.

    >>> model.add_classification_head("topics", num_labels=3, id2label={0: "text", 1: "files", 2: "network"})

    Args:
        model: The model that it is for.
        head_name: Its name.
        num_labels: Number of labels C; 1 for a score.
        layers: Number of linear layers.
        activation_function: Activation between them.
        id2label: Names of the labels.
        use_pooler: Whether to read the base model's pooler.
        bias: Whether the last layer has a bias.
        dropout_prob: Dropout before each layer; by default the model's.
    """

    head_type = "classification"

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        num_labels: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
        bias: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": self.head_type,
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
            "use_pooler": use_pooler,
            "bias": bias,
            "dropout_prob": dropout_prob,
        }
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, C), and the loss: cross-entropy; binary cross-entropy for several labels; squared error for C = 1.

        Raises:
            ValueError: the labels have another shape than the kind of classification needs.
        """
        logits = self.apply_layers(vector_of_row(self, inputs))
        loss = self._loss(logits, labels["labels"], inputs.items) if "labels" in labels else None
        result_class = Seq2SeqSequenceClassifierOutput if is_pair(inputs) else SequenceClassifierOutput
        return output_like(result_class, inputs, loss=loss, logits=logits)

    def _loss(self, logits: Tensor, labels: Tensor, items: Items) -> Tensor:
        return loss_of_labels(self, logits, labels, items)


class MultiLabelClassificationHead(ClassificationHead):
    """The same for rows that can have several labels. Its arguments are those of `ClassificationHead`."""

    head_type = "multilabel_classification"

    def _loss(self, logits: Tensor, labels: Tensor, items: Items) -> Tensor:
        return loss_of_multilabels(self, logits, labels, items)
