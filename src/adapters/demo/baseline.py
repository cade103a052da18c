"""What the encoder can do without an adapter: a head trained on its frozen vectors.

Shapes: B rows, T tokens, N texts, D hidden size.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .encoder import Batch, for_every_text

# Ten epochs cost a second, because the vectors are computed once. The accuracy on other divisions of the modules was
# no better with 20 epochs, with learning rates from 3e-4 to 1e-2, or with a single linear layer.
_EPOCHS = 10
_LEARNING_RATE = 1e-3
_BATCH_SIZE = 32


@dataclass(frozen=True)
class FrozenVectors:
    """One vector per text: that of its first token, which the adapter's head reads too, and the mean of all its
    tokens, which this encoder was pretrained to give. Shapes: (N, D), (N, D)."""

    first: Tensor
    mean: Tensor


def frozen_vectors(encoder: Any, tokens: Sequence[Tensor]) -> FrozenVectors:
    """Every text through the encoder, once."""

    def first_and_mean(batch: Batch) -> Tensor:
        hidden = encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        mask = batch.attention_mask.unsqueeze(-1)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.stack([hidden[:, 0], mean], dim=1)

    first, mean = for_every_text(first_and_mean, tokens).unbind(dim=1)
    return FrozenVectors(first, mean)


def trained_head(untrained: nn.Sequential, vectors: Tensor, labels: Tensor) -> nn.Module:
    """A copy of a head's layers, trained on vectors that never change. Shapes: (N, D), (N)."""
    head = nn.Sequential(*copy.deepcopy(untrained)).train()  # a head itself takes the outputs of a model
    optimizer = torch.optim.AdamW(head.parameters(), lr=_LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=_EPOCHS)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(labels)), _BATCH_SIZE):
            loss = nn.functional.cross_entropy(head(vectors[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        scheduler.step()
    return head.eval()


def majority_accuracy(train_labels: Tensor, test_labels: Tensor) -> float:
    """The accuracy of always answering what is most frequent in training. Shapes: (N), (N)."""
    return (test_labels == train_labels.bincount().argmax()).float().mean().item()
