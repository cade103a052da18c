"""Loops of others: AdapterDrop in both trainers, and Lightning where it is installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import STEPS, assert_equal, rows, static, trained, trainer
from transformers import Trainer

from adapters import AdapterTrainer
from adapters.training import AdapterDropTrainerCallback

pytest.importorskip("accelerate", reason="the Trainer needs it")


@pytest.mark.parametrize("kind", [Trainer, AdapterTrainer])
def test_adapters_are_dropped(kind: Any, tmp_path: Path) -> None:
    made = trainer(kind, static(), tmp_path)
    made.add_callback(AdapterDropTrainerCallback(1))
    before = trained(made.model)
    made.train()
    moved = {name for name, p in trained(made.model).items() if not torch.equal(p, before[name])}
    assert moved and not any("layer.0." in name for name in moved)
    assert made.model._adapter_registry.skip_layers == () and made.state.global_step == STEPS


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    """Three steps, which are those of a plain loop; what is trained is read again from files of the adapter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning: Any = pytest.importorskip("pytorch_lightning")
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

    class Task(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = static(**options)

        def training_step(self, batch: Any, number: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    data = torch.utils.data.DataLoader(rows(6), batch_size=2)
    task = Task()
    made = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        enable_model_summary=False,
    )
    made.fit(task, data)
    plain = static(**options)
    optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=0.1)
    for batch in data:
        optimizer.zero_grad()
        plain(**batch).loss.backward()
        optimizer.step()
    assert_equal(trained(task.model), trained(plain))
    task.model.save_adapter(tmp_path, "a")
    again = static(seed=1, **options)
    again.load_adapter(tmp_path)
    again.train_adapter("a")
    assert_equal(trained(again), trained(plain))
