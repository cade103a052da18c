"""Scores of tokens.

Shapes: B rows, T tokens, P tokens that prompts put in front of them, C scores.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, label_map, output_like
from .losses import IGNORED, averaged, checked, one_of

_LOSSES = {
    "mse": nn.functional.mse_loss,
    "l1": nn.functional.l1_loss,
    "huber": nn.functional.smooth_l1_loss,
}


class TokenRegressionHead(TaskHead):
    """Linear layers that give each token one score, or several: how long it is read, how hard it is.

    >>> model.add_token_regression_head("reading_times")
    >>> model(**batch, labels=times).loss  # times: (B, T); -100 for tokens without one

    Args:
        model: The model that it is for.
        head_name: Its name.
        num_labels: Number of scores C of each token.
        layers: Number of linear layers.
        activation_function: Activation between them.
        id2label: Names of the scores.
        loss: "mse" (squared error), "l1" (absolute error) or "huber" (squared below 1, absolute above).
        bias: Whether the last layer has a bias.
        dropout_prob: Dropout before each layer; by default the model's.

    Raises:
        ValueError: there is no such loss.
    """

    reads_call = True

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        num_labels: int = 1,
        layers: int = 1,
        activation_function: str | None = "tanh",
        id2label: Mapping[int, str] | None = None,
        loss: str = "mse",
        bias: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "token_regression",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
            "loss": one_of(head_name, "loss", loss, tuple(_LOSSES)),
            "bias": bias,
            "dropout_prob": dropout_prob,
        }
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, P + T, C), the scores; and the mean loss over those of tokens that are no padding and not -100.

        Raises:
            ValueError: the labels have another shape than (B, T), or (B, T, C) if there are several scores.
        """
        logits = self.apply_layers(inputs.hidden)
        loss = None
        if "labels" in labels:
            own = _of_text(logits, inputs)
            shape = tuple(own.shape[:2]) if own.shape[-1] == 1 else tuple(own.shape)
            wanted = checked(self, labels["labels"], shape, logits).view(own.shape)
            counts = wanted != IGNORED
            if inputs.attention_mask is not None and inputs.attention_mask.ndim == 2:
                counts = counts & (_of_text(inputs.attention_mask, inputs) == 1)[..., None]
            # In full precision, as for the labels of tokens.
            errors = _LOSSES[self.config["loss"]](own.float(), wanted.float(), reduction="none")
            loss = averaged(errors.where(counts, 0.0).sum(), counts.sum().clamp_min(1), inputs.items)
        return output_like(TokenClassifierOutput, inputs, loss=loss, logits=logits)


def _of_text(x: Tensor, inputs: HeadInputs) -> Tensor:
    """What belongs to the tokens of the inputs. Prompts are in front of them, and scores are not made longer for these,
    as the numbers of classes are. Shape: (B, P + T, ...) to (B, T, ...)."""
    ids = inputs.call.get("input_ids")
    return x if ids is None else x[:, -ids.shape[1] :]
