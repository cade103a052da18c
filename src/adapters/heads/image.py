"""Classification of images.

Shapes: B rows, D hidden size, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, label_map, output_like, vector_of_row
from .losses import loss_of_labels, loss_of_multilabels


class ImageClassificationHead(TaskHead):
    """Linear layers on one vector per image.

    >>> model.add_image_classification_head("animals", num_labels=10)

    Args:
        model: The model that it is for.
        head_name: Its name.
        num_labels: Number of labels C; 1 for a score.
        layers: Number of linear layers.
        activation_function: Activation between them.
        multilabel: Whether an image can have several labels.
        id2label: Names of the labels.
        use_pooler: Whether to read the base model's pooler.
        bias: Whether the last layer has a bias.
        dropout_prob: Dropout before each layer; by default the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        num_labels: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        multilabel: bool = False,
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
        bias: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "image_classification",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "multilabel": multilabel,
            "label2id": label_map(num_labels, id2label),
            "use_pooler": use_pooler,
            "bias": bias,
            "dropout_prob": dropout_prob,
        }
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, C), and the loss: as for texts.

        Raises:
            ValueError: the labels have another shape than the kind of classification needs.
        """
        logits = self.apply_layers(vector_of_row(self, inputs))
        loss_of = loss_of_multilabels if self.config["multilabel"] else loss_of_labels
        loss = loss_of(self, logits, labels["labels"], inputs.items) if "labels" in labels else None
        return output_like(ImageClassifierOutput, inputs, loss=loss, logits=logits)
