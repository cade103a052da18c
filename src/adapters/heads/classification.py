"""Classification of whole rows: one label, several labels, or one score.

Shapes: B rows, D hidden size, C labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqSequenceClassifierOutput, SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from ..methods.layers import Activation
from .base import HeadInputs


class ClassificationHead(nn.Sequential):
    """Linear layers on one vector per row; the loss is that of the labels.

    >>> model.add_classification_head("topics", num_labels=3, id2label={0: "text", 1: "files", 2: "network"})

    Args:
        name: The name of the head.
        config: `num_labels`, `layers`, `activation_function`, `use_pooler`, `bias`, `dropout_prob`, `label2id`.
        size: Hidden size D.
        dropout: Dropout probability where the configuration names none.
    """

    def __init__(self, name: str, config: Mapping[str, Any], size: int, dropout: float) -> None:
        probability = config.get("dropout_prob")
        probability = dropout if probability is None else probability
        steps: list[nn.Module] = []
        for _ in range(config["layers"] - 1):
            steps += [nn.Dropout(probability), nn.Linear(size, size)]
            steps += [Activation(config["activation_function"])] if config["activation_function"] else []
        steps += [nn.Dropout(probability), nn.Linear(size, config["num_labels"], bias=config.get("bias", True))]
        super().__init__(*steps)
        for module in steps:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.name = name
        self.config = dict(config)

    def predict(self, inputs: HeadInputs, labels: Tensor | None) -> ModelOutput:
        """Logits (B, C), and the loss: cross-entropy; binary cross-entropy for several labels; squared error for C = 1.

        Raises:
            ValueError: the labels have another shape than the kind of classification needs.
        """
        if self.config.get("use_pooler") and inputs.pooled is None:
            raise ValueError(f"Head {self.name!r} has use_pooler=True, but the base model has no pooler.")
        logits = self(inputs.pooled if self.config.get("use_pooler") else inputs.sentence)
        loss = None if labels is None else self._loss(logits, labels)
        is_pair = "encoder_last_hidden_state" in inputs.outputs
        result_class = Seq2SeqSequenceClassifierOutput if is_pair else SequenceClassifierOutput
        kept = {f.name: inputs.outputs.get(f.name) for f in dataclasses.fields(result_class)}
        return result_class(**{**kept, "loss": loss, "logits": logits})

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        wanted = logits.shape if self.config["head_type"] == "multilabel_classification" else logits.shape[:1]
        if labels.shape not in (wanted, (*wanted, 1)):
            raise ValueError(
                f"Head {self.name!r} ({self.config['head_type']}) needs labels of shape {tuple(wanted)}, "
                f"not {tuple(labels.shape)}."
            )
        if self.config["head_type"] == "multilabel_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        if self.config["num_labels"] == 1:
            return nn.functional.mse_loss(logits.view(-1), labels.view(-1).to(logits.dtype))
        return nn.functional.cross_entropy(logits, labels.view(-1))
