"""Training an adapter and its head. Nothing here prints: whoever iterates over `train` sees how it goes."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .encoder import Texts, accuracy, predict_logits, shuffled_batches

ADAPTER = "docstrings"
# Usual values; after three epochs the accuracy on other modules no longer rises.
CONFIG = "seq_bn"
EPOCHS = 3
_LEARNING_RATE = 2e-3
_BATCH_SIZE = 32
_WARMUP = 0.1
_EVALUATIONS_PER_EPOCH = 2


@dataclass(frozen=True)
class Progress:
    """One step of training, with the test accuracy after some of the steps and the last one."""

    step: int
    steps: int
    loss: float
    test_accuracy: float | None


def add_adapter(model: Any, labels: Sequence[str]) -> None:
    """An adapter and a head of the same name, the only parts of the model that will be trained."""
    model.add_adapter(ADAPTER, config=CONFIG)
    model.add_classification_head(ADAPTER, num_labels=len(labels), id2label=dict(enumerate(labels)))
    model.train_adapter(ADAPTER)


def count_trainable(model: nn.Module) -> int:
    """The number of parameters that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def train(model: Any, texts: Texts, test: Texts, epochs: int, seed: int) -> Iterator[Progress]:
    """Train for a fixed number of epochs. The test texts only draw the curve: they stop nothing and choose nothing."""
    rng = random.Random(seed)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=_LEARNING_RATE)
    per_epoch = math.ceil(len(texts.tokens) / _BATCH_SIZE)
    evaluate_every = math.ceil(per_epoch / _EVALUATIONS_PER_EPOCH)
    steps = epochs * per_epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done, steps))
    batches = (batch for _ in range(epochs) for batch in shuffled_batches(texts.tokens, _BATCH_SIZE, rng))
    model.train()
    for step, batch in enumerate(batches, start=1):
        labels = texts.labels[batch.rows]
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        scheduler.step()
        is_evaluated = step % evaluate_every == 0 or step == steps
        measured = accuracy(predict_logits(model, test.tokens), test.labels) if is_evaluated else None
        yield Progress(step, steps, loss.item(), measured)


def _rate(done: int, steps: int) -> float:
    """The learning rate as a share of the highest: up during the warm-up, then down to zero."""
    warmup = max(1, round(_WARMUP * steps))
    return min((done + 1) / warmup, (steps - done) / max(1, steps - warmup))
