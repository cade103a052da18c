"""`setup_adapter_training`, with what 1.3 gave."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import flexible
from transformers import BertConfig, BertModel, HfArgumentParser

import models
from adapters import AdapterArguments, AutoAdapterModel, LoRAConfig, Stack, setup_adapter_training


def bare() -> Any:
    """A model without adapters."""
    return AutoAdapterModel.from_config(BertConfig(**models.BERT))


def trained(model: Any) -> set[str]:
    """The adapters that are trained; "base" for the base model."""
    adapters = model.adapters_config.adapters
    names = [name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("heads.")]
    return {next((adapter for adapter in adapters if f".{adapter}." in name), "base") for name in names}


def test_the_fields_are_those_of_1_3() -> None:
    assert [(field.name, field.default) for field in fields(AdapterArguments)] == [
        ("train_adapter", False), ("load_adapter", ""), ("adapter_config", "seq_bn"), ("load_lang_adapter", None),
        ("lang_adapter_config", None),
    ]  # fmt: skip
    (found,) = HfArgumentParser(AdapterArguments).parse_args_into_dataclasses(
        ["--train_adapter", "--adapter_config=ia3"]
    )
    assert found == AdapterArguments(train_adapter=True, adapter_config="ia3")


def test_nothing_is_asked_for() -> None:
    model = bare()
    assert setup_adapter_training(model, AdapterArguments(), "task") == (None, None)
    assert not model.has_adapters() and trained(model) == {"base"}
    for asked in (AdapterArguments(load_adapter="x"), AdapterArguments(load_lang_adapter="x")):
        with pytest.raises(ValueError, match="--train_adapter"):
            setup_adapter_training(model, asked, "task")
    with pytest.raises(ValueError, match=r"adapters\.init"):
        setup_adapter_training(BertModel(BertConfig(**models.BERT)), AdapterArguments(train_adapter=True), "task")


def test_an_adapter_is_added(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"architecture": "lora", "r": 3, "alpha": 4}))
    for config, options, expected in (
        ("lora", {"r": 3}, LoRAConfig(r=3)),
        ("lora[r=2]", None, LoRAConfig(r=2)),
        (str(tmp_path / "c.json"), {"alpha": 5}, LoRAConfig(r=3, alpha=5)),
    ):
        model = bare().eval()
        asked = AdapterArguments(train_adapter=True, adapter_config=config)
        assert setup_adapter_training(model, asked, "task", options) == ("task", None)
        assert model.active_adapters == Stack("task") and model.training
        assert trained(model) == {"task"} and model.adapters_config.get("task") == expected


def test_an_adapter_is_there_already() -> None:
    model = flexible("lora[r=2]")
    assert setup_adapter_training(model, AdapterArguments(train_adapter=True), "b") == ("b", None)
    assert model.adapters_config.get("b") == LoRAConfig(r=2) and trained(model) == {"b"}


def test_adapters_are_loaded(tmp_path: Path) -> None:
    """In the way of MAD-X: a language below a task."""
    flexible("seq_bn_inv[reduction_factor=4]").save_adapter(tmp_path / "language", "a", with_head=False)
    flexible("lora[r=2]").save_adapter(tmp_path / "task", "b")
    model = bare()
    asked = AdapterArguments(True, str(tmp_path / "task"), "seq_bn", str(tmp_path / "language"), "seq_bn_inv")
    assert setup_adapter_training(model, asked, "task") == ("task", "a")
    assert model.active_adapters == Stack("a", "task") and trained(model) == {"task"}
    assert model.adapters_config.get("task") == LoRAConfig(r=2) and model.active_head == "task"
    model = bare()
    with pytest.raises(ValueError, match="x/y/z"):
        setup_adapter_training(model, AdapterArguments(True, load_lang_adapter=str(tmp_path / "x" / "y" / "z")), "task")
    assert not model.has_adapters()
    asked = AdapterArguments(True, load_lang_adapter=str(tmp_path / "language"))
    assert setup_adapter_training(model, asked, "task", None, {"load_as": "german"}) == ("task", "german")
