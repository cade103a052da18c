"""What users of other libraries ran into, over the methods. Numbers: shared/reference/user-needs.md, part 2.

Bugs 25, 26 and 31, of embeddings, are in tests/test_embeddings.py; 46 and 47, of extra modules, in test_partial.py.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import adapters
import models
from adapters import AdapterConfig, ConfigUnion, ModulesToSaveConfig

CONFIGS: dict[str, AdapterConfig] = {
    "seq_bn": AdapterConfig.load("seq_bn[reduction_factor=4]"),
    "lora": AdapterConfig.load("lora[r=2]"),
    "ia3": AdapterConfig.load("ia3"),
    "vera": AdapterConfig.load("vera[r=2]"),
    "dora": AdapterConfig.load("dora[r=2]"),
    "prefix_tuning": AdapterConfig.load("prefix_tuning[prefix_length=3, bottleneck_size=8]"),
    "prompt_tuning": AdapterConfig.load("prompt_tuning[prompt_length=3]"),
    "loreft": AdapterConfig.load("loreft"),
    "bitfit": AdapterConfig.load("bitfit"),
    "ln_tuning": AdapterConfig.load("ln_tuning"),
    "modules_to_save": ModulesToSaveConfig(["pooler", "layer.1"]),
    "union": ConfigUnion("lora[r=2]", "seq_bn[reduction_factor=4]", ModulesToSaveConfig(["pooler"])),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def bert(config: AdapterConfig, name: str = "a") -> nn.Module:
    model = models.adapted("bert")
    model.add_adapter(name, config, set_active=True)
    models.randomise(model, name)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(models.outputs(first, "bert"), models.outputs(second, "bert"), strict=True)
    return all(itertools.starmap(torch.equal, pairs))


@every_config
@pytest.mark.parametrize(
    "name", ["lora", "a.b", "default", "weight", "bias", "adapters", "modules_to_save", "ä 名", "x" * 200]
)
def test_36_names(config: AdapterConfig, name: str, tmp_path: Path) -> None:
    """peft#2699: names that are parts of the names of tensors."""
    model = bert(config, name)
    model.save_adapter(tmp_path, name)
    fresh = models.adapted("bert")
    assert fresh.load_adapter(tmp_path, set_active=True) == name
    assert same(fresh, model)
    fresh.load_adapter(tmp_path, load_as="other", set_active=True)
    assert same(fresh, model)
    model.delete_adapter(name)
    assert same(model, models.bare("bert"))


@every_config
def test_44_loading_leaves_others_as_they_are(config: AdapterConfig, tmp_path: Path) -> None:
    """peft#3580, #3487: which parameters are trained is the same after others were loaded, added or activated."""
    bert(config, "b").save_adapter(tmp_path, "b")
    model = bert(config)
    model.train_adapter("a")
    trained = {key: p.requires_grad for key, p in model.named_parameters()}

    def unchanged() -> bool:
        return all(p.requires_grad == trained[key] for key, p in model.named_parameters() if key in trained)

    model.load_adapter(tmp_path)
    assert unchanged()
    model.add_adapter("c", config)
    assert unchanged()
    model.set_active_adapters("b")
    model.set_active_adapters("a")
    assert unchanged()
    model.delete_adapter("b")
    assert unchanged()
    model.train_adapter("c")
    assert not any(p.requires_grad for p in models.parameters(model, "a"))


@every_config
def test_45_all_that_is_trained_gets_a_gradient(config: AdapterConfig) -> None:
    """peft#899: parameters without a gradient stop distributed training."""
    torch.manual_seed(0)
    base = transformers.BertForSequenceClassification(transformers.BertConfig(**models.BERT))
    adapters.init(base)
    for name in ("a", "other"):
        base.add_adapter(name, config)
    base.train_adapter("a")
    base(**models.inputs("bert"), labels=torch.tensor([0, 1])).loss.backward()
    trained = [key for key, p in base.named_parameters() if p.requires_grad]
    assert trained and not [key for key in trained if base.get_parameter(key).grad is None]


@every_config
def test_49_loading_is_not_random(config: AdapterConfig, tmp_path: Path) -> None:
    """peft#1678: what is loaded are the numbers of the file, each time."""
    bert(config).save_adapter(tmp_path, "a")
    stored = load_file(tmp_path / "adapter.safetensors")
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = models.adapted("bert")
        model.load_adapter(tmp_path)
        model.save_adapter(tmp_path / str(seed), "a")
        again = load_file(tmp_path / str(seed) / "adapter.safetensors")
        assert again.keys() == stored.keys() and all(torch.equal(again[key], stored[key]) for key in stored)
