"""Adapters of the `peft` library, by the same calls. Most is skipped without it."""

from __future__ import annotations

import copy
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import adapters
import models
from adapters import AdapterSetup, Stack
from adapters.checkpoints.files import AdapterFileError

has_peft = find_spec("peft") is not None
needs_peft = pytest.mark.skipif(not has_peft, reason="peft is not installed: pip install adapters[peft]")
pytestmark = pytest.mark.filterwarnings("ignore")  # peft and what it imports warn of much

# name: (configuration class, its arguments)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}),
    "loha": ("LoHaConfig", {"r": 4, "target_modules": ["q_proj"]}),
    "lokr": ("LoKrConfig", {"r": 4, "target_modules": ["q_proj"]}),
    "oft": ("OFTConfig", {"oft_block_size": 4, "target_modules": ["q_proj"]}),
    "ia3": ("IA3Config", {"target_modules": ["k_proj"], "feedforward_modules": []}),
    "embeddings": ("LoraConfig", {"r": 4, "target_modules": ["q_proj", "embed_tokens"]}),
    "tokens": ("LoraConfig", {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7]}),
    "whole modules": ("LoraConfig", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
}
every_config = pytest.mark.parametrize("kind", CONFIGS)


def config(kind: str = "lora", **changes: Any) -> Any:
    import peft

    name, arguments = CONFIGS[kind]
    return getattr(peft, name)(**{**arguments, **changes})


def outputs(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return models.outputs(model, "llama")[0]


def randomise(model: Any, name: str = "x") -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model._adapter_registry.peft.trained[name]:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@needs_peft
@every_config
def test_life_of_an_adapter(kind: str, tmp_path: Path) -> None:
    model = models.adapted("llama")
    bare, before, attributes = outputs(model), state(model), set(vars(model))
    flags = {key: p.requires_grad for key, p in model.named_parameters()}
    model.add_adapter("x", config(kind))
    # Added is neither active nor trained.
    assert model.has_adapters() and model.active_adapters is None
    assert torch.equal(outputs(model), bare) and not any(m.training for m in model.modules())
    own = {id(p) for p in model._adapter_registry.peft.trained["x"]}
    assert all(p.requires_grad for p in model.parameters() if id(p) not in own)
    # Only what is trained moves.
    model.train_adapter("x")
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == own and model.active_adapters == Stack("x") and model.training
    values = {id(p): p.detach().clone() for p in model.parameters()}
    models.loss(models.outputs(model, "llama")).backward()
    torch.optim.SGD(trained, lr=1.0).step()
    moved = {id(p) for p in model.parameters() if not torch.equal(p, values[id(p)])}
    assert moved and moved <= own
    randomise(model)
    model.eval()
    expected = outputs(model)
    assert not torch.allclose(expected, bare, atol=1e-3)
    # Saved is loaded, by this library and by transformers.
    model.save_adapter(tmp_path, "x")
    fresh = models.adapted("llama")
    assert fresh.load_adapter(tmp_path) == "default" and fresh.active_adapters is None
    fresh.set_active_adapters("default")
    assert torch.equal(outputs(fresh), expected)
    plain = models.bare("llama")
    plain.load_adapter(str(tmp_path))
    assert torch.equal(outputs(plain), expected)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(copied), expected)
        copied.delete_adapter("x")
        assert copied.state_dict().keys() == before.keys() and torch.equal(outputs(copied), bare)
    # A second one beside it.
    model.add_adapter("y", config(kind))
    assert model.active_adapters == Stack("x") and torch.equal(outputs(model), expected)
    model.set_active_adapters("y")
    assert torch.allclose(outputs(model), bare, atol=1e-6)
    model.set_active_adapters("x")
    assert torch.equal(outputs(model), expected)
    model.delete_adapter("x")
    assert model.active_adapters is None and torch.equal(outputs(model), bare)
    # And away with it.
    model.requires_grad_(True)
    model.delete_adapter("y")
    assert set(vars(model)) == attributes
    after = state(model)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert {key: p.requires_grad for key, p in model.named_parameters()} == flags


@needs_peft
def test_detach_and_save_pretrained(tmp_path: Path) -> None:
    model = models.adapted("llama")
    before = state(model)
    model.add_adapter("x", config())
    with pytest.raises(ValueError, match="writes its active one"):
        model.save_pretrained(tmp_path)
    model.set_active_adapters("x")
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    model.save_all_adapters(tmp_path / "all")
    assert (tmp_path / "all" / "x" / "adapter_model.safetensors").is_file()
    adapters.detach(model)
    assert type(model) is transformers.LlamaModel and not hasattr(model, "peft_config")
    assert not model._hf_peft_config_loaded
    after = state(model)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()


@needs_peft
@pytest.mark.parametrize("whole", [None, ["classifier"]])
def test_heads_are_saved_with_adapters(whole: list[str] | None, tmp_path: Path) -> None:
    """A static head beside the adapter, unless peft itself has it."""

    def built() -> Any:
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**models.BERT)).eval()
        adapters.init(model)
        return model

    model = built()
    model.add_adapter("x", config(target_modules=["query"], modules_to_save=whole))
    model.train_adapter("x")
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 + 2  # A and B of each layer, and the one classifier that acts
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.eval().save_adapter(tmp_path, "x")
    assert (tmp_path / "model_head.safetensors").exists() == (whole is None)
    fresh = built()
    fresh.load_adapter(tmp_path, set_active=True)
    ids = torch.arange(6)[None]
    assert torch.equal(fresh(ids).logits, model(ids).logits)


@needs_peft
def test_flexible_heads_are_saved_with_adapters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = adapters.AutoAdapterModel.from_config(transformers.BertConfig(**models.BERT)).eval()
    fresh = copy.deepcopy(model)
    model.add_adapter("x", config(target_modules=["query"]), set_active=True)
    model.add_classification_head("x", num_labels=3)
    randomise(model)
    model.save_adapter(tmp_path, "x")
    fresh.load_adapter(tmp_path, load_as="y", set_active=True)
    assert fresh.active_head == "y"
    ids = torch.arange(6)[None]
    assert torch.equal(fresh(ids).logits, model.eval()(ids).logits)


@needs_peft
@pytest.mark.parametrize("as_keyword", [False, True])
def test_the_order_of_transformers(as_keyword: bool) -> None:
    """It does what transformers' own method does: the adapter is active, and all else is frozen."""
    model, plain = models.adapted("llama"), models.bare("llama")
    for each in (model, plain):
        if as_keyword:
            each.add_adapter(config(), adapter_name="x")
        else:
            each.add_adapter(config(), "x")
    assert model.active_adapters == Stack("x") and plain.active_adapters() == ["x"]
    flags = [{k: p.requires_grad for k, p in m.named_parameters() if "adapter" not in k} for m in (model, plain)]
    assert flags[0] == flags[1]
    model.add_adapter(config())
    assert model.active_adapters == Stack("default")
    rows = {row["name"]: row for row in model.adapter_summary(as_dict=True)}
    assert (rows["x"]["active"], rows["default"]["active"]) == (False, True)
    assert rows["x"]["#param"] == rows["default"]["#param"] == 2 * 4 * (32 + 32 + 32 + 16)


@needs_peft
def test_either_of_this_library_or_of_that() -> None:
    model = models.adapted("llama")
    model.add_adapter("ours", "seq_bn[reduction_factor=4]")
    before = state(model)
    with pytest.raises(ValueError, match=r"adapters of this library \(ours\)"):
        model.add_adapter("x", config())
    assert state(model).keys() == before.keys() and not model._hf_peft_config_loaded
    model.delete_adapter("ours")
    model.add_adapter("x", config())
    refused = [
        (lambda: model.add_adapter("ours", "seq_bn"), "adapters of the peft library"),
        (lambda: model.set_active_adapters(Stack("x", "y")), "alone"),
        (lambda: model.set_active_adapters("x", skip_layers=[0]), "skip_layers"),
        (lambda: model.train_adapter(Stack("x", "y")), "alone"),
        (lambda: model.add_adapter("x", config()), "already"),
        (lambda: model.add_adapter("y", config(), layers=[0]), "layers="),
        (lambda: model.merge_adapter("x"), "peft library, which this does not reach"),
        (lambda: model.get_adapter("x"), "peft library, which this does not reach"),
        (lambda: model.adapter_to("x", "cpu"), "peft library, which this does not reach"),
        (lambda: model.save_adapter("folder", "x", use_safetensors=False), "safetensors"),
        (lambda: model.set_active_adapters("z"), "no adapter named 'z'"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
    for setup in ("x", None):
        with pytest.raises(ValueError, match="AdapterSetup"), AdapterSetup(setup):
            model(**models.inputs("llama"))
    assert not model.supports_adapter("lora")
    model.add_adapter("x", config("loha"), overwrite_ok=True)
    assert list(model.peft_config) == ["x"] and type(model.peft_config["x"]).__name__ == "LoHaConfig"


@needs_peft
def test_what_peft_cannot_add_leaves_the_model() -> None:
    import peft

    model = models.adapted("llama")
    before, attributes = state(model), set(vars(model))
    for wrong, message in [
        (config(target_modules=["nothing"]), "nothing"),
        (config(init_lora_weights="pissa"), "nothing would undo"),
        (config(bias="all"), "BitFitConfig"),
        (peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "prompt learning"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.add_adapter("x", wrong)
        assert set(vars(model)) == attributes and not model.has_adapters()
        assert state(model).keys() == before.keys()
    custom = models.adapted("custom")
    with pytest.raises(ValueError, match="no model of transformers"):
        custom.add_adapter("x", config(target_modules=["query"]))


@needs_peft
def test_files_that_do_not_fit(tmp_path: Path) -> None:
    import peft
    from safetensors.torch import load_file, save_file

    model = models.adapted("llama")
    model.add_adapter("x", config())
    model.save_adapter(tmp_path, "x")
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != first}, path)
    fresh = models.adapted("llama")
    before = state(fresh)
    theirs = peft.PeftConfig.from_pretrained(tmp_path)
    for given, message in ((None, r"Missing \(1\):\s+layers.*lora_A"), (theirs, r"missing: .*lora_A")):
        with pytest.raises(AdapterFileError, match=message):
            fresh.load_adapter(tmp_path, given, load_as="layers")
        assert state(fresh).keys() == before.keys() and not fresh.has_adapters()
    with pytest.raises(ValueError, match="as it is"):
        fresh.load_adapter(tmp_path, theirs, leave_out=[0])


@needs_peft
def test_models_that_have_adapters_of_peft_already() -> None:
    import peft

    model = models.bare("llama")
    model.add_adapter(config())
    for taken in (model, peft.get_peft_model(models.bare("llama"), config())):
        with pytest.raises(ValueError, match=r"\(default\)"):
            adapters.init(taken)


@needs_peft
def test_folders_of_peft_are_models(tmp_path: Path) -> None:
    """transformers' `from_pretrained` takes them, and so do the classes with adapters."""
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**models.LLAMA)).save_pretrained(tmp_path / "base")
    model = adapters.load_model(tmp_path / "base", transformers.LlamaForCausalLM)
    model.add_adapter("x", config(), set_active=True)
    randomise(model)
    ids = torch.arange(6)[None]
    model.eval().save_adapter(tmp_path / "x", "x")
    loaded = adapters.load_model(tmp_path / "x", transformers.LlamaForCausalLM).eval()
    assert loaded.active_adapters == Stack("default")
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.skipif(has_peft, reason="peft is installed")
def test_without_peft(tmp_path: Path) -> None:
    class LoraConfig:
        """Stands for that of peft."""

    LoraConfig.__module__ = "peft.tuners.lora"
    model = models.adapted("llama")
    for call in (lambda: model.add_adapter("x", LoraConfig()), lambda: model.add_adapter(LoraConfig(), "x")):
        with pytest.raises(ImportError, match=r"pip install adapters\[peft\]"):
            call()
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LOHA"}')
    with pytest.raises(AdapterFileError, match=r"pip install adapters\[peft\]"):
        model.load_adapter(tmp_path)
