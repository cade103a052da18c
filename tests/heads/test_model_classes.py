"""`AutoAdapterModel`, and the classes that one factory makes: names, pickles, loading and saving."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, BertModel

import adapters
from adapters import ADAPTER_MODEL_MAPPING, AutoAdapterModel
from places import SHARED

OF_1_3 = [
    *("AlbertAdapterModel", "BartAdapterModel", "BeitAdapterModel", "BertAdapterModel", "BertGenerationAdapterModel"),
    *("CLIPAdapterModel", "DebertaAdapterModel", "DebertaV2AdapterModel", "DistilBertAdapterModel"),
    *("ElectraAdapterModel", "GPT2AdapterModel", "GPTJAdapterModel", "LlamaAdapterModel", "MBartAdapterModel"),
    *("MT5AdapterModel", "MistralAdapterModel", "PLBartAdapterModel", "RobertaAdapterModel", "T5AdapterModel"),
    *("ViTAdapterModel", "WhisperAdapterModel", "XLMRobertaAdapterModel", "XmodAdapterModel"),
]
BERT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
IDS = torch.arange(10).view(2, 5)


@pytest.mark.parametrize("name", [*OF_1_3, "Gemma2AdapterModel", "ModernBertAdapterModel", "Qwen3AdapterModel"])
def test_names(name: str) -> None:
    found = getattr(adapters, name)
    config = getattr(transformers, f"{name.removesuffix('AdapterModel')}Config")
    assert found.__name__ == name and name in dir(adapters) and name in dir(importlib.import_module("adapters.auto"))
    assert ADAPTER_MODEL_MAPPING[config] is found and found.config_class is config
    assert pickle.loads(pickle.dumps(found)) is found
    assert f"{name}.from_pretrained" in found.__doc__
    assert {"labels", "head"} <= inspect.signature(found.forward).parameters.keys()


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="NothingAdapterModel"):
        adapters.NothingAdapterModel  # noqa: B018
    with pytest.raises(ImportError):
        exec("from adapters import NothingAdapterModel")
    assert dict not in ADAPTER_MODEL_MAPPING and len(ADAPTER_MODEL_MAPPING) > 300


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there; set ADAPTERS_SHARED")
def test_the_mapping_of_release_1_3() -> None:
    wanted = json.loads((SHARED / "reference" / "api-1.3.json").read_text())["ADAPTER_MODEL_MAPPING"]
    assert {k: ADAPTER_MODEL_MAPPING[getattr(transformers, k)].__name__ for k in wanted} == wanted


@pytest.mark.parametrize(("old", "new"), [("AutoModelWithHeads", "AutoAdapterModel"), ("BertModelWithHeads",) * 2])
def test_names_of_old(old: str, new: str) -> None:
    new = new.replace("ModelWithHeads", "AdapterModel")
    with pytest.warns(FutureWarning, match=f"{old} is called {new} now"):
        assert getattr(adapters, old) is getattr(adapters, new)
    assert old not in dir(adapters)


def test_auto_class_is_not_made_itself() -> None:
    with pytest.raises(OSError, match="from_pretrained"):
        AutoAdapterModel()


def trained() -> Any:
    model = AutoAdapterModel.from_config(BertConfig(**BERT))
    model.add_adapter("a", set_active=True)
    model.add_classification_head("a", num_labels=3, id2label={0: "x", 1: "y", 2: "z"})
    model.add_tagging_head("b", num_labels=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("loader", [AutoAdapterModel, adapters.BertAdapterModel], ids=["auto", "bert"])
def test_saved_with_adapters_and_heads(loader: Any, tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path).eval()
    assert type(again) is adapters.BertAdapterModel and list(again.heads) == ["a", "b"]
    again.set_active_adapters("a")
    model.active_head = "a"
    assert again.get_labels() == ["x", "y", "z"]
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert torch.equal(pickle.loads(pickle.dumps(again))(IDS).logits, model(IDS).logits)


def test_bare_checkpoints(tmp_path: Path) -> None:
    base = BertModel(BertConfig(**BERT)).eval()
    base.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path).eval()
    assert model.active_head is None and not len(model.heads)
    assert torch.equal(model(IDS).last_hidden_state, base(IDS).last_hidden_state)


def test_arguments(tmp_path: Path) -> None:
    static = BertForSequenceClassification(BertConfig(**BERT, num_labels=3)).eval()
    static.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path, dtype=torch.float64, hidden_dropout_prob=0.25)
    assert model.dtype == torch.float64 == next(model.heads.parameters()).dtype
    assert model.config.hidden_dropout_prob == 0.25 == model.bert.embeddings.dropout.p
    model, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and model.active_head == "default"
    config = BertConfig.from_pretrained(tmp_path)
    own = AutoAdapterModel.from_pretrained(None, config=config, state_dict=static.state_dict()).eval()
    assert torch.allclose(own(IDS).logits, static(IDS).logits, atol=1e-6)


def test_static_classes() -> None:
    model = BertForSequenceClassification(BertConfig(**BERT, num_labels=3)).eval()
    wanted = model(IDS).logits
    adapters.init(model)
    assert torch.equal(model(IDS).logits, wanted) and model.get_labels() == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert pickle.loads(pickle.dumps(model)).get_labels_dict() == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
