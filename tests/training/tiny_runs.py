"""Tiny trainings: models, data and arguments for the `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import adapters
import models
from adapters import AutoAdapterModel, Fuse

STEPS = 4
STOP = 2


def rows(count: int = 12, vocabulary: int = 99) -> list[dict[str, Tensor]]:
    """Sentences of random words, and whether they have more of the first half of the words."""
    generator = torch.Generator().manual_seed(7)
    words = torch.randint(3, vocabulary, (count, 6), generator=generator)
    return [{"input_ids": row, "labels": ((row < 50).sum() > 3).long()} for row in words]


def static(method: str = "seq_bn[reduction_factor=4]", seed: int = 0, **options: Any) -> Any:
    """BertForSequenceClassification with an adapter that is trained; its adapter and head depend on the seed."""
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**{**models.BERT, **options}))
    adapters.init(model)
    torch.manual_seed(seed)
    model.classifier.reset_parameters()
    model.add_adapter("a", config=method)
    model.train_adapter("a")
    return model


def flexible(method: str = "seq_bn[reduction_factor=4]", seed: int = 0, fuse: bool = False, **options: Any) -> Any:
    """BertAdapterModel with two adapters and two heads; the first is trained, or a fusion of them."""
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(transformers.BertConfig(**{**models.BERT, **options}))
    torch.manual_seed(seed)
    for name in ("a", "b"):
        model.add_adapter(name, config=method)
        model.add_classification_head(name, num_labels=2)
    if fuse:
        model.add_adapter_fusion(Fuse("a", "b"))
        model.train_adapter_fusion(Fuse("a", "b"))
        model.active_head = "a"
    else:
        model.train_adapter("a")
    return model


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Arguments of a short training that evaluates, saves and logs often."""
    given: dict[str, Any] = {
        "max_steps": STEPS, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "save_steps": STOP, "eval_strategy": "steps", "eval_steps": STOP, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, **options,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **given)


def trainer(kind: type[Trainer], model: Any, folder: Path, stop: int | None = None, **options: Any) -> Trainer:
    """A trainer, which may be interrupted after a step."""
    callbacks: list[TrainerCallback] = [] if stop is None else [Interruption(stop)]
    made = kind(
        model=model, args=arguments(folder, **options), train_dataset=rows(), eval_dataset=rows(), callbacks=callbacks
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


class Interruption(TrainerCallback):
    """Ends a training early."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what is trained."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def losses(made: Trainer) -> list[Any]:
    """All that was logged about losses: of steps and evaluations."""
    history = made.state.log_history
    return [(entry["step"], key, entry[key]) for entry in history for key in ("loss", "eval_loss") if key in entry]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """That all tensors are equal, bit by bit."""
    assert found.keys() == expected.keys()
    different = [name for name in found if not torch.equal(found[name], expected[name])]
    assert not different
