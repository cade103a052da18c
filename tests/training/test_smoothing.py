"""Smoothed labels, which the `Trainer` of transformers shifts by the class of a model, and not by its heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_runs import arguments, flexible, rows
from torch.nn.functional import cross_entropy

import adapters
import models
from adapters import AdapterTrainer, AutoAdapterModel

pytest.importorskip("accelerate", reason="the Trainer needs it")
IDS = torch.stack([row["input_ids"] for row in rows(4)])


def loss(model: Any, inputs: dict[str, Any], folder: Path) -> float:
    """The loss of a batch in evaluation, with smoothed labels."""
    given = arguments(folder, label_smoothing_factor=0.1, eval_strategy="no")
    with torch.no_grad():
        return float(AdapterTrainer(model.eval(), given).compute_loss(model, dict(inputs)))


def smoothed(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """What torch says."""
    return float(cross_entropy(logits.detach().flatten(0, -2), labels.flatten(), label_smoothing=0.1))


def test_causal_heads_are_shifted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=16)
    own = transformers.GPT2LMHeadModel(config)
    adapters.init(own)
    own.add_adapter("a")
    own.train_adapter("a")
    flexible_one = AutoAdapterModel.from_config(config)
    flexible_one.add_adapter("a")
    flexible_one.add_causal_lm_head("a")
    flexible_one.train_adapter("a")
    for model in (own, flexible_one):
        expected = smoothed(model.eval()(IDS).logits[:, :-1], IDS[:, 1:])
        assert loss(model, {"input_ids": IDS, "labels": IDS}, tmp_path) == pytest.approx(expected, rel=1e-5)


def test_decoders_read_the_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = transformers.BartForConditionalGeneration(transformers.BartConfig(**models.BART))
    adapters.init(own)
    own.add_adapter("a")
    own.train_adapter("a")
    flexible_one = AutoAdapterModel.from_config(transformers.BartConfig(**models.BART))
    flexible_one.add_adapter("a")
    flexible_one.add_seq2seq_lm_head("a")
    flexible_one.train_adapter("a")
    for model in (own, flexible_one):
        labels = IDS.flip(1)
        expected = smoothed(model.eval()(IDS, labels=labels).logits, labels)
        assert loss(model, {"input_ids": IDS, "labels": labels}, tmp_path) == pytest.approx(expected, rel=1e-5)


def test_other_heads(tmp_path: Path) -> None:
    model = flexible()
    labels = torch.tensor([0, 1, 1, 0])
    expected = smoothed(model.eval()(IDS).logits, labels)
    assert loss(model, {"input_ids": IDS, "labels": labels}, tmp_path) == pytest.approx(expected, rel=1e-5)
    model.add_qa_head("span")
    with pytest.raises(ValueError, match="active is: 'span': question_answering"):
        loss(model, {"input_ids": IDS, "start_positions": labels, "end_positions": labels}, tmp_path)
    model.add_classification_head("number", num_labels=1)
    with pytest.raises(ValueError, match="label_smoothing_factor is for one head whose labels are classes"):
        loss(model, {"input_ids": IDS, "labels": labels.float()}, tmp_path)
