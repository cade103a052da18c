"""A training that was interrupted ends as one that was not: the same losses, the same weights, bit by bit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import STOP, assert_equal, flexible, losses, static, trained, trainer
from transformers import Trainer

from adapters import AdapterTrainer

pytest.importorskip("accelerate", reason="the Trainer needs it")

METHODS = ["double_seq_bn[reduction_factor=4]", "lora[r=2]", "loreft[r=2]"]
MORE_METHODS = [
    "prefix_tuning[bottleneck_size=8]", "seq_bn_inv[reduction_factor=4]", "lora[r=2,use_gating=True]", "ia3",
    "vera[vera_d=0.1,r=4]", "mtl_lora[r=2]",
    "prefix_tuning_flat", "prompt_tuning", "direft[r=2]", "mam", "dora[r=2]",
]  # fmt: skip
CONDITIONS: dict[str, dict[str, Any]] = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "reentrant checkpointing": {
        "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "bf16 autocast": {"bf16": True},
}  # fmt: skip

QUICK = ("accumulation", "checkpointing")


def check(make: Any, kind: Any, folder: Path, **options: Any) -> None:
    """That an interruption changes nothing."""
    whole = trainer(kind, make(), folder / "whole", **options)
    before = trained(whole.model)
    whole.train()
    trainer(kind, make(), folder / "parts", stop=STOP, **options).train()
    again = trainer(kind, make(seed=1), folder / "parts", **options)
    again.train(resume_from_checkpoint=True)
    assert losses(again) == losses(whole)
    assert_equal(trained(again.model), trained(whole.model))
    assert any(not torch.equal(before[name], p) for name, p in trained(whole.model).items())


@pytest.mark.parametrize(
    "method", [*METHODS, *(pytest.param(method, marks=pytest.mark.slow) for method in MORE_METHODS)]
)
def test_the_adapter_trainer(method: str, tmp_path: Path) -> None:
    check(functools.partial(static, method), AdapterTrainer, tmp_path)


@pytest.mark.parametrize(
    "method", ["loreft[r=2]", *(pytest.param(m, marks=pytest.mark.slow) for m in ("lora[r=2]", *MORE_METHODS))]
)
def test_the_plain_trainer(method: str, tmp_path: Path) -> None:
    check(functools.partial(static, method), Trainer, tmp_path)


@pytest.mark.parametrize("kind", [AdapterTrainer, pytest.param(Trainer, marks=pytest.mark.slow)])
def test_flexible_heads_and_fusion(kind: Any, tmp_path: Path) -> None:
    check(functools.partial(flexible, fuse=True), kind, tmp_path)


@pytest.mark.filterwarnings("ignore:.*(gradient_checkpointing|is_gradient_checkpointing):FutureWarning")
@pytest.mark.parametrize("kind", [AdapterTrainer, pytest.param(Trainer, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "condition", [*QUICK, *(pytest.param(c, marks=pytest.mark.slow) for c in CONDITIONS if c not in QUICK)]
)
def test_conditions(condition: str, kind: Any, tmp_path: Path) -> None:
    check(static, kind, tmp_path, **CONDITIONS[condition])


@pytest.mark.parametrize("kind", [AdapterTrainer, Trainer])
def test_adapters_of_peft(kind: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def make(seed: int = 0) -> Any:
        model = static(seed=seed)
        model.delete_adapter("a")
        model.add_adapter("x", peft.LoHaConfig(r=2, target_modules=["query"]))
        model.train_adapter("x")
        return model

    check(make, kind, tmp_path)


def bf16(seed: int = 0) -> Any:
    """A model in bf16 with a flexible head."""
    model = flexible(seed=seed).to(torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    return model


@pytest.mark.parametrize("kind", [AdapterTrainer, pytest.param(Trainer, marks=pytest.mark.slow)])
def test_bf16(kind: Any, tmp_path: Path) -> None:
    check(bf16, kind, tmp_path)
