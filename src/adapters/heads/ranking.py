"""Scores of texts, learned from which of them are better: rewards, and rankings.

Shapes: B rows, N texts of each, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqSequenceClassifierOutput, SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, is_pair, output_like, vector_of_row
from .losses import IGNORED, averaged, checked


class RankingHead(TaskHead):
    """Linear layers that give a text a score, which is higher for better texts.

    >>> model.add_ranking_head("helpful")
    >>> model(**chosen_and_rejected).loss  # inputs of shape (B, 2, T): in each row the better text first
    >>> model(**candidates, labels=relevances).loss  # inputs (B, N, T), labels (B, N): higher ones are better
    >>> model(**texts).logits  # inputs (B, T), scores (B, 1)

    The loss is that of Bradley and Terry (1952), -log σ(s⁺ - s⁻ - margin), as for reward models: the mean over all
    pairs of a row of which one text is better (Ouyang et al. 2022, arXiv:2203.02155). Without labels, the first text of
    a row is better than each of the others. The call takes `margin` too, of shape (B,): how much better (Touvron et al.
    2023, arXiv:2307.09288, section 3.2.2).

    Args:
        model: The model that it is for.
        head_name: Its name.
        layers: Number of linear layers.
        activation_function: Activation between them.
        use_pooler: Whether to read the base model's pooler.
        margin: How much higher the score of the better text has to be.
        bias: Whether the last layer has a bias. It changes no loss.
        dropout_prob: Dropout before each layer; by default the model's.
    """

    rows_of_label = None
    further_inputs = ("margin", "return_loss")

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        layers: int = 2,
        activation_function: str | None = "tanh",
        use_pooler: bool = False,
        margin: float = 0.0,
        bias: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "ranking",
            "layers": layers,
            "activation_function": activation_function,
            "use_pooler": use_pooler,
            "margin": margin,
            "bias": bias,
            "dropout_prob": dropout_prob,
            "label2id": None,
        }
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Any]) -> ModelOutput:
        """Logits (B, N), the scores, and the loss if there are several texts per row. N = 1 for inputs (B, T).

        Raises:
            ValueError: there are labels or a margin of another shape, or for single texts.
        """
        scores = self.apply_layers(vector_of_row(self, inputs)).view(-1, inputs.texts or 1)
        given = [name for name in ("labels", "margin") if name in labels] or ["return_loss"] * bool(
            labels.get("return_loss")
        )
        if scores.shape[1] == 1 and given:
            raise ValueError(
                f"Head {self.name!r} (ranking) learns from texts of which one is better: with {given[0]} give inputs "
                "of shape (rows, texts per row, tokens), the better text first or labels of (rows, texts per row)."
            )
        has_loss = scores.shape[1] > 1 and labels.get("return_loss") is not False
        result_class = Seq2SeqSequenceClassifierOutput if is_pair(inputs) else SequenceClassifierOutput
        loss = self._loss(scores, labels, inputs) if has_loss else None
        return output_like(result_class, inputs, loss=loss, logits=scores)

    def _loss(self, scores: Tensor, labels: Mapping[str, Any], inputs: HeadInputs) -> Tensor:
        margin: Tensor | float = self.config["margin"]
        if "margin" in labels:
            margin = checked(self, labels["margin"], tuple(scores.shape[:1]), scores).view(-1, 1, 1).to(scores.dtype)
        if "labels" in labels:
            wanted = checked(self, labels["labels"], tuple(scores.shape), scores)
        else:
            wanted = torch.zeros_like(scores)
            wanted[:, 0] = 1
        is_text = wanted != IGNORED
        is_better = (wanted[:, :, None] > wanted[:, None]) & is_text[:, :, None] & is_text[:, None]
        losses = nn.functional.softplus(margin - (scores[:, :, None] - scores[:, None])).where(is_better, 0.0)
        of_rows = losses.sum((1, 2)) / is_better.sum((1, 2)).clamp_min(1)
        counts = is_text.sum(dim=1)  # every text is an item
        return averaged((of_rows * counts).sum(), counts.sum().clamp_min(1), inputs.items)
