"""Batches of several tasks: each row goes through the adapter that it names, and its label to the head of that name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import arguments, rows
from transformers import BertConfig, Trainer

import models
from adapters import AdapterTrainer, AutoAdapterModel, MultiTask
from adapters.training import AdapterNamesCollator

pytest.importorskip("accelerate", reason="the Trainer needs it")


def model() -> Any:
    """A model with two tasks of 2 and 3 labels."""
    torch.manual_seed(0)
    made = AutoAdapterModel.from_config(BertConfig(**models.BERT))
    for name, labels in (("two", 2), ("three", 3)):
        made.add_adapter(name, config="seq_bn[reduction_factor=4]")
        made.add_classification_head(name, num_labels=labels)
    made.train_adapter(MultiTask("two", "three"))
    return made


def tasks(count: int = 12) -> list[dict[str, Any]]:
    """Rows of both tasks in turn."""
    data = rows(count)
    return [{**row, "adapter_names": ("two", "three")[i % 2]} for i, row in enumerate(data)]


@pytest.mark.parametrize("kind", [Trainer, AdapterTrainer])
def test_rows_name_their_adapters(kind: Any, tmp_path: Path) -> None:
    made = model()
    options = {} if kind is AdapterTrainer else {"remove_unused_columns": False}
    given = arguments(tmp_path, eval_strategy="no", max_steps=20, **options)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    trainer = kind(made, given, data_collator=AdapterNamesCollator(), train_dataset=tasks())
    trainer.train()
    moved = {name for name, p in made.named_parameters() if not torch.equal(p, before[name])}
    assert {"two", "three"} == {task for task in ("two", "three") for name in moved if f".{task}." in name}
    assert all(".two." in name or ".three." in name for name in moved)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_a_task_alone_learns_the_same(tmp_path: Path) -> None:
    """Rows of one task change nothing of the other, and give the gradients that they give by themselves."""
    made, data = model().eval(), [row for row in tasks() if row["adapter_names"] == "three"]
    batch = AdapterNamesCollator()(data)
    loss = made(**batch).loss
    loss.backward()
    mixed = {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert mixed and all(".three." in name for name in mixed)
    made.zero_grad()
    made.set_active_adapters("three")
    own = made(**{key: value for key, value in batch.items() if key != "adapter_names"}).loss
    own.backward()
    torch.testing.assert_close(loss, own)
    found = {n: p.grad for n, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    torch.testing.assert_close(found, mixed)


def test_all_rows_have_names_or_none() -> None:
    data = tasks(4)
    assert AdapterNamesCollator()(data)["adapter_names"] == ["two", "three", "two", "three"]
    assert "adapter_names" not in AdapterNamesCollator()(rows(4))
    del data[1]["adapter_names"]
    with pytest.raises(ValueError, match="Of 4 rows of a batch 3 have a column 'adapter_names'"):
        AdapterNamesCollator()(data)


@pytest.mark.parametrize("names", [("two", "three"), ("three",)], ids="-".join)
def test_predictions_are_in_the_order_of_rows(names: tuple[str, ...], tmp_path: Path) -> None:
    """Also where batches have one of the heads, or another one first; narrow logits are filled up."""
    made = model().eval()
    data = [{**row, "adapter_names": names[i // 3 % len(names)]} for i, row in enumerate(rows(11))]
    trainer = AdapterTrainer(made, arguments(tmp_path, eval_strategy="no"), data_collator=AdapterNamesCollator())
    found = trainer.predict(data)
    assert found.predictions.shape == (11, 3) and list(found.label_ids) == [int(row["labels"]) for row in data]
    for row, logits in zip(data, torch.from_numpy(found.predictions), strict=True):
        made.set_active_adapters(row["adapter_names"])
        expected = made(row["input_ids"][None]).logits[0].detach()
        torch.testing.assert_close(logits[: len(expected)], expected)
        assert logits[len(expected) :].eq(-100).all()


def test_predictions_of_different_kinds(tmp_path: Path) -> None:
    made = model()
    made.add_tagging_head("two", num_labels=2, overwrite_ok=True)
    made.set_active_adapters(MultiTask("two", "three"))
    trainer = AdapterTrainer(made, arguments(tmp_path, eval_strategy="no"), data_collator=AdapterNamesCollator())
    data = [{k: v for k, v in row.items() if k != "labels"} for row in tasks(4)]
    with pytest.raises(ValueError, match=r"cannot be collected together \('two': logits .*evaluate their tasks one"):
        trainer.predict(data)
