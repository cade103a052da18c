"""How code written for 1.3 calls: on the base model, with `loading_info`, with classes of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config, GPT2LMHeadModel

import adapters
import models
from adapters import AdapterConfig, AutoAdapterModel, ConfigUnion, Fuse, LoRAConfig, MAMConfig, SeqBnConfig
from adapters.checkpoints.errors import LoadReport
from adapters.heads import ClassificationHead

SMALL = BertConfig(**models.BERT)
IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def static() -> Any:
    torch.manual_seed(0)
    model = BertForSequenceClassification(SMALL).eval()
    adapters.init(model)
    return model


def flexible() -> Any:
    torch.manual_seed(0)
    return AutoAdapterModel.from_config(SMALL).eval()


# -- the base model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [static, flexible])
def test_the_base_model_has_the_methods_of_the_whole(made: Any, tmp_path: Path) -> None:
    model = made()
    base = model.base_model
    base.add_adapter("a", config="seq_bn_inv")
    base.set_active_adapters("a")
    assert model.active_adapters == base.active_adapters and "a" in base.adapters_config
    assert base.get_invertible_adapter() is model.invertible_adapters["a"] is base.invertible_adapters["a"]
    assert base.get_adapter("a").keys() == model.get_adapter("a").keys()
    base.save_adapter(tmp_path, "a")
    base.delete_adapter("a")
    assert base.load_adapter(tmp_path) == "a" and model.has_adapters()
    base.active_adapters = "a"
    assert "a" in model.active_adapters.flatten() and len(base.loaded_embeddings) == 1
    adapters.init(base)  # it is initialised already
    with pytest.raises(ValueError, match="initialised before"):
        adapters.init(base, adapters_config=adapters.ModelAdaptersConfig())


def test_the_base_model_is_given_back() -> None:
    bare = BertForSequenceClassification(SMALL)
    adapters.init(bare)
    assert type(bare.bert) is not BertModel and isinstance(bare.bert, BertModel)
    assert type(bare.bert).__name__ == "BertModel"
    adapters.detach(bare)
    assert type(bare.bert) is BertModel and "_adapted_whole" not in vars(bare.bert)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_invertible_adapters_are_found_where_there_are_none(name: str) -> None:
    model: Any = models.adapted(name)
    assert list(model.invertible_adapters) == []
    model.add_adapter("a", config="seq_bn_inv")
    assert list(model.invertible_adapters) == ["a"]
    model.delete_adapter("a")
    assert list(model.invertible_adapters) == []


# -- what is shown ----------------------------------------------------------------------------------------------------

SHOWN = {
    "lora": ("bert", {0: {"selfattn_lora": "ModuleList"}, 1: {"selfattn_lora": "ModuleList"}}),
    "lora[attn_matrices=['q']]": ("bert", {0: {"selfattn_lora": "LoRA"}, 1: {"selfattn_lora": "LoRA"}}),
    "prefix_tuning": ("bert", {0: {"self_prefix": "ModuleDict"}}),
    "prefix_tuning[use_gating=True]": ("bert", {0: {"self_prefix": "ModuleDict"}, 1: {"self_prefix": "ModuleDict"}}),
    "prefix_tuning_flat": (
        "t5",
        {0: {"encoder_prefix": "ModuleDict"}, 2: {"self_prefix": "ModuleDict", "cross_prefix": "ModuleDict"}},
    ),
}


@pytest.mark.parametrize("preset", SHOWN)
def test_get_adapter(preset: str) -> None:
    name, expected = SHOWN[preset]
    model: Any = models.adapted(name)
    model.add_adapter("a", config=preset)
    found = model.get_adapter("a")
    assert {
        layer: {place: type(module).__name__ for place, module in places.items()} for layer, places in found.items()
    } == expected
    assert model.get_adapter("b") == {}


# -- files ------------------------------------------------------------------------------------------------------------


def test_loading_info(tmp_path: Path) -> None:
    model = flexible()
    model.add_adapter("a")
    model.add_adapter("b")
    model.add_adapter_fusion(Fuse("a", "b"))
    model.add_classification_head("a")
    model.save_adapter(tmp_path / "adapter", "a")
    model.save_head(tmp_path / "head", "a")
    model.save_adapter_fusion(tmp_path / "fusion", "a,b", with_head="a")
    fits: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": []}
    loads = {"adapter": model.load_adapter, "head": model.load_head, "fusion": model.load_adapter_fusion}
    for folder, load in loads.items():
        info: dict[str, list[str]] = {}
        load(tmp_path / folder, loading_info=info)
        assert info == fits
    wider = AutoAdapterModel.from_config(BertConfig(**{**models.BERT, "num_hidden_layers": 3}))
    info, report = {}, LoadReport()
    wider.load_adapter(tmp_path / "adapter", strict=False, loading_info=info, report=report)
    assert info["missing_keys"] == report.missing
    assert info["unexpected_keys"] == [] and {key.split(".")[2] for key in info["missing_keys"]} == {"2"}


def test_a_fusion_is_loaded_with_its_head(tmp_path: Path) -> None:
    model, fresh = flexible(), flexible()
    for one in (model, fresh):
        one.add_adapter("a")
        one.add_adapter("b")
    model.add_adapter_fusion(Fuse("a", "b"))
    model.add_classification_head("other", num_labels=3)
    model.save_adapter_fusion(tmp_path, "a,b", with_head="other")
    fresh.load_adapter_fusion(tmp_path, set_active=True)
    assert fresh.active_head == "other" and fresh(IDS).logits.shape == (2, 3)


@pytest.mark.parametrize("auto", [AutoAdapterModel, transformers.AutoModelForSequenceClassification])
def test_load_model_chooses_the_class(auto: Any, tmp_path: Path) -> None:
    model = flexible() if auto is AutoAdapterModel else static()
    model.add_adapter("a", config="lora")
    models.randomise(model, "a")
    model.set_active_adapters("a")
    model.save_pretrained(tmp_path)
    fresh, info = adapters.load_model(tmp_path, auto, output_loading_info=True)
    fresh.eval().set_active_adapters("a")
    assert type(fresh).__name__ == type(model).__name__ and not info["missing_keys"]
    assert torch.equal(fresh(IDS)[0], model(IDS)[0])
    with pytest.raises(ValueError, match="AutoModelForCTC has no class for BertConfig"):
        adapters.load_model(tmp_path, transformers.AutoModelForCTC)


def test_a_tied_head_is_written(tmp_path: Path) -> None:
    """All that it says is its class, but a model with flexible heads has to be told."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    adapters.init(model)
    model.save_head(tmp_path)
    fresh = AutoAdapterModel.from_pretrained(None, config=config, state_dict=model.state_dict()).eval()
    fresh.load_head(tmp_path, load_as="lm")
    assert torch.allclose(fresh(IDS).logits, model(IDS).logits, atol=1e-6)
    headless = models.adapted("bert")
    with pytest.raises(ValueError, match="This BertModel has no head to write"):
        headless.save_head(tmp_path / "none")


# -- configurations ---------------------------------------------------------------------------------------------------


def test_classes_of_users() -> None:
    @dataclasses.dataclass
    class NotedConfig(SeqBnConfig):
        note: str = "first"

    config = AdapterConfig.load(NotedConfig(), note="second")
    assert isinstance(config, NotedConfig) and config["note"] == config.to_dict()["note"] == "second"
    with pytest.raises(dataclasses.FrozenInstanceError, match="replace"):
        config.note = "third"  # type: ignore[misc]
    model = flexible()
    model.add_adapter("a", config=config)
    assert model.adapters_config.get("a").note == "second"


@pytest.mark.parametrize("config", [SeqBnConfig(), LoRAConfig(), MAMConfig()], ids=lambda config: type(config).__name__)
def test_attributes_of_users(config: Any) -> None:
    config.note = "of mine"
    assert config.note == "of mine" and "note" not in config.to_dict()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.note = "another"
    with pytest.raises(dataclasses.FrozenInstanceError):
        del config.note


def test_a_slip_is_no_attribute() -> None:
    config: Any = SeqBnConfig()
    with pytest.raises(TypeError, match="did you mean 'reduction_factor'"):
        config.reduction_facter = 4


def test_fields_of_all_parts_of_a_union() -> None:
    changed: Any = MAMConfig().replace(leave_out=[1], **{"1.reduction_factor": 8})
    assert [part["leave_out"] for part in changed.configs] == [[1], [1]] and changed[1].reduction_factor == 8
    with pytest.raises(TypeError, match="PrefixTuningConfig has no field 'reduction_factor'"):
        MAMConfig().replace(reduction_factor=8)
    with pytest.raises(TypeError, match="by its number"):
        ConfigUnion("lora", "seq_bn").replace(**{"2.r": 8})


def test_kinds_of_errors() -> None:
    with pytest.raises(TypeError, match="no field 'factor'"):
        AdapterConfig.load("seq_bn[factor=2]")
    model = flexible()
    with pytest.raises(KeyError) as error:
        model.add_adapter("a", config=SeqBnConfig(reduction_factor={"1": 8}))
    assert str(error.value).startswith("reduction_factor has no entry for layer 0")
    model.add_adapter("a")
    model.add_adapter("b")
    model.set_active_adapters(adapters.BatchSplit("a", "b", batch_sizes=[3, 4]))
    with pytest.raises(IndexError, match="7 rows, but the batch has 2"):
        model(IDS)


@pytest.mark.parametrize("config", [LoRAConfig(init_weights="bert"), adapters.IA3Config(init_weights="bert")])
def test_init_weights_bert(config: Any) -> None:
    """All of N(0, 0.02): a new adapter changes something."""
    model: Any = models.adapted("bert")
    before = model(IDS)[0]
    model.add_adapter("a", config=config, set_active=True)
    assert not torch.equal(model(IDS)[0], before)
    for name, weight in model.named_parameters():
        if "loras.a.lora_" in name:
            assert weight.std().item() == pytest.approx(0.02, rel=0.5) and abs(weight.mean().item()) < 0.01


# -- others -----------------------------------------------------------------------------------------------------------


def test_a_head_of_the_library_can_be_registered() -> None:
    model = flexible()
    model.register_custom_head("classification", ClassificationHead)
    model.add_custom_head("classification", "mine", num_labels=3, layers=2)
    assert model(IDS).logits.shape == (2, 3)
    with pytest.raises(ValueError, match="choose another name"):
        model.register_custom_head("tagging", ClassificationHead)


def test_the_trainer_asks_the_base_model_for_the_regularisation(tmp_path: Path) -> None:
    model = flexible()
    model.add_adapter("a")
    model.add_adapter("b")
    model.add_adapter_fusion(Fuse("a", "b"))
    model.add_classification_head("task")
    model.train_adapter_fusion(Fuse("a", "b"))
    asked = []
    own = model.base_model.get_fusion_regularization_loss
    model.base_model.get_fusion_regularization_loss = lambda: asked.append(True) or own()
    arguments = transformers.TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True)
    rows = [{"input_ids": ids, "labels": 1} for ids in IDS]
    adapters.AdapterTrainer(model, arguments, train_dataset=rows).train()
    assert asked
