"""The `Trainer` of transformers as it is: its checkpoints hold adapters, and all else that it saves is whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_runs import STEPS, STOP, assert_equal, flexible, losses, rows, static, trained, trainer
from transformers import Trainer, TrainerCallback

from adapters import AdapterTrainer, AutoAdapterModel

pytest.importorskip("accelerate", reason="the Trainer needs it")


def test_checkpoints_hold_no_base_model(tmp_path: Path) -> None:
    """They are read by `load_adapter` and its like; what the user saves is a whole model."""
    model = flexible(fuse=True)
    made = trainer(Trainer, model, tmp_path)
    made.train()
    folder = tmp_path / f"checkpoint-{STEPS}"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"a", "b", "a,b"}
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert weights < 3 * sum(t.numel() * t.element_size() for t in model._trained_state().values())
    other = flexible(seed=5, fuse=True)
    for name in ("a", "b"):
        other.load_adapter(folder / name)
    other.load_adapter_fusion(folder / "a,b", set_active=True)
    other.active_head = "a"
    made.save_model(str(tmp_path / "whole"))
    whole = AutoAdapterModel.from_pretrained(tmp_path / "whole")
    whole.set_active_adapters(model.active_adapters)
    whole.active_head = "a"
    batch = torch.stack([row["input_ids"] for row in rows()])
    expected = model.eval()(batch).logits
    assert torch.equal(other.eval()(batch).logits, expected) and torch.equal(whole.eval()(batch).logits, expected)


@pytest.mark.parametrize("after", [Trainer, AdapterTrainer])
def test_it_is_resumed_without_a_word(after: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By either trainer, also where the folder of a checkpoint had a whole model before."""
    whole = trainer(Trainer, static(), tmp_path / "whole")
    whole.train()
    folder = tmp_path / f"checkpoint-{STOP}"
    static(seed=3).save_pretrained(folder)
    trainer(Trainer, static(), tmp_path, stop=STOP).train()
    assert not (folder / "model.safetensors").exists()
    again = trainer(after, static(seed=1), tmp_path)
    logger = logging.getLogger("transformers.trainer")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING, "transformers.trainer"):
            again.train(resume_from_checkpoint=str(folder))
    finally:
        logger.removeHandler(caplog.handler)
    assert losses(again) == losses(whole) and not caplog.messages
    assert_equal(trained(again.model), trained(whole.model))


class Saving(TrainerCallback):
    """Saves the model by itself, to a folder that could be one of a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        model.save_pretrained(Path(args.output_dir) / "checkpoint-own", state_dict=None, is_main_process=True)


def test_what_users_save_is_whole(tmp_path: Path) -> None:
    model = static()
    made = trainer(Trainer, model, tmp_path, max_steps=1)
    made.add_callback(Saving())
    made.train()
    read = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-own")
    state = model.state_dict()
    assert_equal(read.state_dict(), {name: state[name] for name in read.state_dict()})


@pytest.mark.parametrize("what", ["all", "a part, by an AdapterTrainer"])
def test_whole_models_are_written_where_they_are_trained(what: str, tmp_path: Path) -> None:
    def make(seed: int) -> Any:
        model = static(seed=seed)
        model.freeze_model(False)
        model.bert.embeddings.requires_grad_(what == "all")
        if what == "all":
            return trainer(Trainer, model, tmp_path)
        given = trainer(AdapterTrainer, model, tmp_path)
        given.train_model = True
        return given

    made = make(0)
    made.train()
    folder = tmp_path / f"checkpoint-{STEPS}"
    read = transformers.BertForSequenceClassification.from_pretrained(folder)
    state = made.model.state_dict()
    assert_equal(read.state_dict(), {name: state[name] for name in read.state_dict()})
    again = make(1)
    again._load_from_checkpoint(str(folder))
    assert_equal(dict(again.model.named_parameters()), dict(made.model.named_parameters()))
