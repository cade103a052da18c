"""Other loops: AdapterDrop in both trainers, a plain loop, and Lightning where it is installed."""

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


DATA = rows(8)
OPTIONS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def adam(model: Any) -> torch.optim.Optimizer:
    """An optimizer with something to remember."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def steps(model: Any, optimizer: torch.optim.Optimizer, batches: Any) -> None:
    """A plain loop."""
    for batch in batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


def test_a_plain_loop_is_resumed(tmp_path: Path) -> None:
    """From an adapter and the state of an optimizer."""
    batches = list(torch.utils.data.DataLoader(DATA, batch_size=2))
    whole, part = static(**OPTIONS), static(**OPTIONS)
    steps(whole, adam(whole), batches)
    optimizer = adam(part)
    steps(part, optimizer, batches[:2])
    part.save_adapter(tmp_path / "a", "a")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    again = static(seed=1, **OPTIONS)
    again.load_adapter(tmp_path / "a")
    again.train_adapter("a")
    optimizer = adam(again)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    steps(again, optimizer, batches[2:])
    assert_equal(trained(again), trained(whole))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_small", [False, True], ids=["whole checkpoints", "checkpoints of what is trained"])
def test_lightning(is_small: bool, tmp_path: Path) -> None:
    """The steps are those of a plain loop, also after an interruption."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning: Any = pytest.importorskip("pytorch_lightning")

    class Task(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            self.model = static(seed=seed, **OPTIONS)
            self.strict_loading = not is_small

        def training_step(self, batch: Any, number: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return adam(self.model)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            if is_small:
                kept = {name for name, p in self.named_parameters() if p.requires_grad}
                checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}

    def fit(task: Any, epochs: int, resumed: Path | None = None) -> Path:
        made = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        made.fit(task, torch.utils.data.DataLoader(DATA, batch_size=2), ckpt_path=resumed)
        made.save_checkpoint(tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    plain, task = static(**OPTIONS), Task(seed=1)
    steps(plain, adam(plain), [*torch.utils.data.DataLoader(DATA, batch_size=2)] * 2)
    folder = fit(Task(), 1)
    held = torch.load(folder, weights_only=True)["state_dict"]
    assert sum(t.numel() for t in held.values()) == sum(
        p.numel() for p in task.parameters() if p.requires_grad or not is_small
    )
    fit(task, 2, folder)
    assert_equal(trained(task.model), trained(plain))
    task.model.save_adapter(tmp_path / "a", "a")
    again = static(seed=2, **OPTIONS)
    again.load_adapter(tmp_path / "a")
    again.train_adapter("a")
    assert_equal(trained(again), trained(plain))
