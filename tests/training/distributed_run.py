"""One process of a distributed training, run by torchrun with tests/ on the path; see test_distributed.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_runs import Interruption, flexible, losses, rows, static
from transformers import PrinterCallback, Trainer, TrainingArguments

from adapters import AdapterTrainer

MODELS: dict[str, Any] = {
    "static": lambda: static(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "lora": lambda: static("lora[r=2]", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "flexible": lambda: flexible(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "fusion": lambda: flexible(fuse=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
}


def main(folder: str, kind: str, batch: str, options: str) -> None:
    """Train, with as many rows in all processes together as a batch says, and write what was logged."""
    given = json.loads(options)
    stop, resume = given.pop("stop", None), given.pop("resume", False)
    trainer_class: Any = Trainer if given.pop("plain", False) else AdapterTrainer
    count = int(batch) // int(os.environ.get("WORLD_SIZE", "1"))
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=count,
        per_device_eval_batch_size=count,
        learning_rate=1e-2,
        optim=given.pop("optim", "sgd"),
        max_grad_norm=0.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        eval_strategy="steps",
        eval_steps=2,
        **given,
    )
    trainer = trainer_class(
        MODELS[kind](),
        arguments,
        train_dataset=rows(16),
        eval_dataset=rows(16),
        callbacks=[] if stop is None else [Interruption(stop)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model(folder)
    if trainer.is_world_process_zero():
        (Path(folder) / "losses.json").write_text(json.dumps(losses(trainer)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
