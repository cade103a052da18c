"""Groups of parameters with learning rates of their own, and what weight decay does to fusions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import STOP, Interruption, arguments, assert_equal, flexible, losses, rows, static, trained
from transformers import PrinterCallback, Trainer

from adapters import AdapterTrainer, lora_plus_groups

pytest.importorskip("accelerate", reason="the Trainer needs it")
KINDS = [Trainer, AdapterTrainer]


def head_and_adapter(model: Any) -> list[dict[str, Any]]:
    """A head that learns ten times faster than its adapter."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    head = [p for name, p in named if "classifier" in name]
    assert 0 < len(head) < len(named)
    return [{"params": head, "lr": 1e-2}, {"params": [p for name, p in named if "classifier" not in name], "lr": 1e-3}]


GROUPS = {
    "LoRA+": lambda model: lora_plus_groups(model, learning_rate=1e-3, ratio=16.0, weight_decay=0.01),
    "head and adapter": head_and_adapter,
}


def run(kind: Any, groups: Any, folder: Path, seed: int = 0, stop: int | None = None, resume: bool = False) -> Any:
    """A training with groups."""
    model = static("lora[r=2]", seed=seed)
    made = kind(
        model,
        arguments(folder),
        train_dataset=rows(),
        eval_dataset=rows(),
        optimizers=(torch.optim.AdamW(groups(model)), None),
        callbacks=[] if stop is None else [Interruption(stop)],
    )
    made.remove_callback(PrinterCallback)
    made.train(resume_from_checkpoint=resume or None)
    return made


@pytest.mark.parametrize(
    ("groups", "kind"),
    [
        ("LoRA+", AdapterTrainer),
        pytest.param("LoRA+", Trainer, marks=pytest.mark.slow),
        pytest.param("head and adapter", AdapterTrainer, marks=pytest.mark.slow),
        pytest.param("head and adapter", Trainer, marks=pytest.mark.slow),
    ],
)
def test_groups_are_resumed(groups: str, kind: Any, tmp_path: Path) -> None:
    whole = run(kind, GROUPS[groups], tmp_path / "whole")
    run(kind, GROUPS[groups], tmp_path / "parts", stop=STOP)
    again = run(kind, GROUPS[groups], tmp_path / "parts", seed=1, resume=True)
    assert losses(again) == losses(whole)
    assert_equal(trained(again.model), trained(whole.model))


@pytest.mark.parametrize("kind", KINDS)
def test_each_group_has_its_learning_rate(kind: Any, tmp_path: Path) -> None:
    """The first step of Adam is as long as the learning rate, for each number that has a gradient."""
    model = static("lora[r=2]")
    before = trained(model)
    groups = lora_plus_groups(model, learning_rate=1e-3, ratio=16.0)
    given = arguments(tmp_path, max_steps=1, lr_scheduler_type="constant", eval_strategy="no", save_strategy="no")
    kind(model, given, train_dataset=rows(), optimizers=(torch.optim.AdamW(groups, eps=0.0), None)).train()
    moved = {name: (p - before[name]).abs().max().item() for name, p in trained(model).items()}
    fast = {name for name in moved if name.endswith("lora_B")}
    assert fast and all(moved[name] == pytest.approx(16e-3, rel=1e-3) for name in fast)
    heads = [name for name in moved if "classifier" in name]
    assert heads and all(moved[name] == pytest.approx(1e-3, rel=1e-3) for name in heads)


def without_gradient(model: Any) -> Any:
    """A model whose loss has no gradient, so that weight decay alone changes it."""
    model.register_forward_hook(lambda module, inputs, found: found | {"loss": found["loss"] * 0.0})
    return model


@pytest.mark.parametrize("by_hand", [False, True], ids=["AdapterTrainer", "lora_plus_groups"])
def test_decay_shrinks_all_of_a_fusion_but_its_values(by_hand: bool, tmp_path: Path) -> None:
    """The values begin near the identity, where their regularisation has next to no gradient."""
    model = without_gradient(flexible(fuse=True, method="double_seq_bn[reduction_factor=4]"))
    if by_hand:
        model.add_adapter("c", config="lora[r=2]")
        for name, p in model.named_parameters():
            p.requires_grad_(p.requires_grad or ".loras.c." in name)
    before = trained(model)
    given = arguments(
        tmp_path, max_steps=3, learning_rate=0.1, weight_decay=0.5, lr_scheduler_type="constant", eval_strategy="no",
        optim="sgd",
    )  # fmt: skip
    groups = lora_plus_groups(model, 0.1, weight_decay=0.5) if by_hand else None
    optimizers = (torch.optim.SGD(groups), None) if groups else (None, None)
    AdapterTrainer(model, given, train_dataset=rows(), optimizers=optimizers).train()
    kept = {name for name in before if name.endswith(("value.weight", ".bias"))}
    assert any(name.endswith("value.weight") for name in kept)
    fused = {name: p for name, p in trained(model).items() if "adapter_fusion_layer" in name}
    for name, found in fused.items():
        torch.testing.assert_close(found, before[name] * (1.0 if name in kept else 0.95**3), rtol=1e-5, atol=1e-6)
