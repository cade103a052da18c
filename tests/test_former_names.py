"""Names and methods that code written for 1.3 uses, beside those of the other tests."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
from transformers import BertConfig

import adapters
import models
from adapters import AdapterConfig, AdapterMethod, AutoAdapterModel, Parallel

PLACES = {
    "adapters.composition": "Average BatchSplit Fuse MultiTask Parallel Split Stack parse_composition",
    "adapters.configuration": "AdapterConfig AdapterFusionConfig BnConfig LoRAConfig ModelAdaptersConfig",
    "adapters.context": "AdapterSetup",
    "adapters.hub_mixin": "PushAdapterToHubMixin",
    "adapters.heads": "BiaffineParsingHead CausalLMHead ClassificationHead MultiHeadOutput PredictionHead TaggingHead",
    "adapters.interface": "AdapterMethod AdapterModelInterface INTERFACE_CONFIG_NAME",
    "adapters.utils": "ADAPTER_CACHE ADAPTER_HUB_ALL_FILE AdapterInfo AdapterType CONFIG_NAME download_cached "
    "find_in_index get_adapter_info list_adapters pull_from_hf_model_hub pull_from_hub resolve_adapter_path",
    "adapters.wrappers": "init load_model",
}


@pytest.mark.parametrize("place", PLACES)
def test_names_are_where_they_were(place: str) -> None:
    module = importlib.import_module(place)
    for name in PLACES[place].split():
        found = getattr(module, name)
        assert found is getattr(adapters, name, found)


@pytest.fixture
def model() -> torch.nn.Module:
    config = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    model = AutoAdapterModel.from_config(BertConfig(**config)).eval()
    for name in ("a", "b"):
        model.add_adapter(name, config="seq_bn_inv")
        model.add_classification_head(name, num_labels=3)
    return model


def test_forward_head_is_what_the_model_does(model: torch.nn.Module) -> None:
    ids = torch.tensor([[1, 2, 3]])
    model.set_active_adapters("a")
    outputs = model.bert(ids)
    assert torch.equal(model.forward_head(outputs, return_dict=True).logits, model(ids).logits)
    loss, logits = model.forward_head(outputs, "b", labels=torch.tensor([2]))[:2]
    assert loss.ndim == 0 and torch.equal(logits, model(ids, head="b").logits)
    with pytest.raises(ValueError, match=r"'c'.*'a', 'b'"):
        model.forward_head(outputs, "c")


def test_looking_at_models(model: torch.nn.Module) -> None:
    assert [number for number, _ in model.iter_layers()] == [0, 1]
    assert dict(model.iter_layers())[1] is model.bert.encoder.layer[1]
    assert model.get_invertible_adapter() is None and not model.has_parallel_adapters
    model.set_active_adapters(Parallel("b", "a"))
    assert model.get_invertible_adapter() is model.bert.invertible_adapters["b"] and model.has_parallel_adapters
    model.freeze_embeddings()
    assert not model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize("preset", ["seq_bn", "seq_bn_inv", "lora", "loreft", "mam", "ln_tuning"])
def test_an_interface_allows_only_its_methods(preset: str) -> None:
    needed = AdapterMethod.get_from_config(AdapterConfig.load(preset))
    for allowed in (needed, needed[1:], ["lora", *needed]):
        model = models.bare("custom")
        adapters.init(model, interface=replace(models.CUSTOM_INTERFACE, adapter_methods=allowed))
        if allowed == needed[1:]:
            with pytest.raises(ValueError, match=f"uses {needed[0]}; the interface"):
                model.add_adapter("a", preset)
            assert not model.supports_adapter(preset) and not model.has_adapters()
        elif preset != "mam":  # this model has no attention function that prefixes could be put in
            model.add_adapter("a", preset)
