"""Prediction heads: small modules on the hidden states of a base model, bound to adapters by their name.

Shapes: B rows, T tokens, D hidden size, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput


@dataclass(frozen=True)
class HeadInputs:
    """What a base model gives to a head.

    Args:
        hidden: Last hidden states. Shape: (B, T, D).
        sentence: One vector per row: of the first token, or of the last one in a causal model. Shape: (B, D).
        pooled: What the base model's own pooler makes of it, if it has one. Shape: (B, D).
        outputs: All outputs of the base model.
    """

    hidden: Tensor
    sentence: Tensor
    pooled: Tensor | None
    outputs: ModelOutput


class PredictionHead(Protocol):
    """What every head offers. It is a module, named like its adapter; `config` is what `head_config.json` holds."""

    name: str
    config: dict[str, Any]

    def predict(self, inputs: HeadInputs, labels: Tensor | None) -> ModelOutput:
        """The prediction, with the loss if there are labels."""


class HeadBuilder(Protocol):
    """Makes a head from its configuration."""

    def __call__(self, name: str, config: Mapping[str, Any], size: int, dropout: float) -> nn.Module:
        """A new head for hidden size D."""


def label_map(num_labels: int, id2label: Mapping[int, str] | None) -> dict[str, int]:
    """`label2id` as head configurations hold it.

    Raises:
        ValueError: the labels are not numbered from 0 to C - 1.
    """
    if id2label is None:
        return {f"LABEL_{i}": i for i in range(num_labels)}
    if sorted(map(int, id2label)) != list(range(num_labels)):
        raise ValueError(
            f"id2label numbers {sorted(id2label)}; for num_labels={num_labels} give 0 to {num_labels - 1}."
        )
    return {str(label): int(i) for i, label in id2label.items()}
