"""Quantised base models, real ones where bitsandbytes is installed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny_runs import STOP, assert_equal, losses, static, trained, trainer
from transformers import Trainer
from transformers.utils.quantization_config import QuantizationMethod

import adapters
import models
from adapters import AdapterTrainer

pytest.importorskip("accelerate", reason="the Trainer needs it")


def stub(seed: int = 0) -> Any:
    """A model that the `Trainer` takes for a quantised one."""
    model = static(seed=seed)
    model.is_quantized, model.quantization_method = True, QuantizationMethod.BITS_AND_BYTES
    model.hf_quantizer = SimpleNamespace(is_trainable=True, is_qat_trainable=False)
    return model


@pytest.mark.parametrize("kind", [Trainer, AdapterTrainer])
def test_models_that_say_they_are_quantised(kind: Any, tmp_path: Path) -> None:
    bare = stub()
    bare.delete_adapter("a")
    with pytest.raises(ValueError, match="purely quantized"):
        trainer(kind, bare, tmp_path)
    options = {"load_best_model_at_end": True}
    made = trainer(kind, stub(), tmp_path, **options)
    made.train()
    assert made.state.best_model_checkpoint is not None
    again = trainer(kind, stub(seed=1), tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STOP}"))
    assert_equal(trained(again.model), trained(made.model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Trainer, AdapterTrainer])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_4_bits(checkpointing: bool, kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = {**models.LLAMA, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    torch.manual_seed(0)
    transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**config)).save_pretrained(tmp_path / "base")
    four = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)

    def make(seed: int = 0) -> Any:
        kind = transformers.LlamaForSequenceClassification
        model = kind.from_pretrained(tmp_path / "base", quantization_config=four)
        torch.manual_seed(seed)
        adapters.init(model)
        model.add_adapter("a", config="lora[r=2]")
        model.train_adapter("a")
        return model

    # On the CPU, evaluation changes how bitsandbytes computes with its weights afterwards.
    options = {"eval_strategy": "no", "gradient_checkpointing": checkpointing}
    whole = trainer(kind, make(), tmp_path / "whole", **options)
    whole.train()
    trainer(kind, make(), tmp_path / "parts", stop=STOP, **options).train()
    again = trainer(kind, make(1), tmp_path / "parts", **options)
    again.train(resume_from_checkpoint=True)
    assert losses(again) == losses(whole)
    assert_equal(trained(again.model), trained(whole.model))
    best = trainer(kind, make(), tmp_path / "best", load_best_model_at_end=True)
    best.train()
    assert best.state.best_model_checkpoint is not None
    assert not list((tmp_path / "best").rglob("model.safetensors"))
    best.save_model(str(tmp_path / "saved"))  # by a Trainer the whole model, in four bits
    assert (tmp_path / "saved" / "model.safetensors").is_file() == (kind is Trainer)
