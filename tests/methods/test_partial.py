"""BitFit, LayerNorm tuning and modules to save: formulas, sizes, what is refused, and how they act with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import adapters
import models
from adapters import AdapterConfig, AdapterSetup, ConfigUnion, LoRAConfig, ModulesToSaveConfig, Stack
from adapters.methods.copies import ModuleCopy

LAYERS = {"bert": "layer.*", "llama": "layers.*", "t5": "block.*", "vit": "layers.*", "gemma3": "layers.*"}
D, FFN, KV = 32, 64, 16  # hidden, feed-forward, and key sizes of the tiny models


def with_adapter(name: str, config: str | AdapterConfig, random: bool = True) -> nn.Module:
    model = models.adapted(name)
    model.add_adapter("a", config, set_active=True)
    if random:
        models.randomise(model, "a")
    return model


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second))


def close(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(first, second, strict=True))


def placements(model: nn.Module, adapter: str = "a") -> dict[str, nn.Module]:
    """The modules of an adapter by the paths of those that they act at."""
    return {p.host: p.module for p in model._adapter_registry[adapter].placements}


def size(model: nn.Module, adapter: str = "a") -> int:
    return sum(p.numel() for p in models.parameters(model, adapter))


# -- what they compute: the same as a model whose own parameters were changed ----------------------------------------


def changed_by_hand(name: str, adapted: nn.Module) -> nn.Module:
    """A bare model with the adapter's changes in its own parameters."""
    model = models.bare(name)
    with torch.no_grad():
        for path, module in placements(adapted).items():
            own = model.get_submodule(path)
            for key, parameter in module.named_parameters():
                value = parameter if isinstance(module, ModuleCopy) else own.get_parameter(key) + parameter
                own.get_parameter(key).copy_(value)
    return model


@pytest.mark.parametrize("name", ["bert", "gpt2", "albert", "bart", "vit", "custom"])
def test_bitfit_is_a_change_of_biases(name: str) -> None:
    model = with_adapter(name, "bitfit")
    assert close(models.outputs(model, name), models.outputs(changed_by_hand(name, model), name))


@pytest.mark.parametrize("name", models.NAMES)
def test_norms_are_exchanged(name: str) -> None:
    """LayerNorm, RMSNorm, Gemma's (1 + w), T5's."""
    model = with_adapter(name, "ln_tuning")
    assert same(models.outputs(model, name), models.outputs(changed_by_hand(name, model), name))


@pytest.mark.parametrize("name", LAYERS)
def test_whole_layers_are_exchanged(name: str) -> None:
    model = with_adapter(name, ModulesToSaveConfig([LAYERS[name]]))
    assert same(models.outputs(model, name), models.outputs(changed_by_hand(name, model), name))
    model.set_active_adapters(None)
    assert same(models.outputs(model, name), models.outputs(models.bare(name), name))


# -- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [
        # per layer: q, k, v, o and down have D outputs, up has FFN; two norms
        ("bert", "bitfit", 2 * (5 * D + FFN + 2 * D)),
        ("gpt2", "bitfit", 2 * (3 * D + D + FFN * 2 + D + 2 * D)),  # n_inner is 4 D
        # encoder and decoder, which has cross-attention and its norm besides
        ("bart", "bitfit", 2 * (5 * D + FFN + 2 * D) + 2 * (9 * D + FFN + 3 * D)),
        ("bert", "ln_tuning", 2 * 2 * 2 * D),
        ("llama", "ln_tuning", 2 * 2 * D),
        ("qwen3", "ln_tuning", 2 * (2 * D + 2 * 8)),  # with norms of queries and keys, of the size of a head
        ("gemma3", "ln_tuning", 2 * (4 * D + 2 * 8)),
        ("t5", "ln_tuning", 2 * 2 * D + 2 * 3 * D),
        ("vit", "ln_tuning", 2 * 2 * 2 * D),
    ],
)
def test_sizes(name: str, preset: str, expected: int) -> None:
    assert size(with_adapter(name, preset)) == expected


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["pooler"], D * D + D),
        (["word_embeddings"], 100 * D),
        (["layer.0.attention.self"], 3 * (D * D + D)),
        (["layer.*.attention.self.query"], 2 * (D * D + D)),
        (["pooler", "pooler.dense", "pool*"], D * D + D),  # nested and repeated names are one
        (["output"], 2 * (D * D + D + 2 * D) + 2 * (FFN * D + D + 2 * D)),
        (["encoder.layer"], 2 * (4 * (D * D + D) + 2 * D * FFN + FFN + D + 4 * D)),
    ],
)
def test_sizes_of_modules_to_save(modules: list[str], expected: int) -> None:
    assert size(with_adapter("bert", ModulesToSaveConfig(modules))) == expected


# -- where they are -------------------------------------------------------------------------------------------------


def test_names_in_files(tmp_path: Path) -> None:
    config = ConfigUnion("bitfit", "ln_tuning", ModulesToSaveConfig(["pooler"]))
    with_adapter("bert", config).save_adapter(tmp_path, "a")
    names = load_file(tmp_path / "adapter.safetensors").keys()
    layer = "encoder.layer.1.attention"
    assert {f"{layer}.self.query.bitfit.a.bias", f"{layer}.output.LayerNorm.bitfit.a.bias"} <= names
    assert {f"{layer}.output.LayerNorm.ln_tuning.a.weight", f"{layer}.output.LayerNorm.ln_tuning.a.bias"} <= names
    assert {"pooler.dense.modules_to_save.a.weight", "pooler.dense.modules_to_save.a.bias"} <= names


def test_places_have_names() -> None:
    model = with_adapter("bert", ConfigUnion("bitfit", "ln_tuning", ModulesToSaveConfig(["pooler"])))
    found = model.get_adapter("a")
    assert {"attention.self.query.bitfit", "output.LayerNorm.bitfit", "output.LayerNorm.ln_tuning"} <= found[0].keys()
    assert list(found[-1]) == ["pooler.dense.modules_to_save"]
    assert model.adapter_summary(as_dict=True)[0]["architecture"] == "union"
    assert "output.LayerNorm.ln_tuning" in adapters.inspect(model, "ln_tuning")


@pytest.mark.parametrize("preset", ["bitfit", "ln_tuning"])
def test_layers_can_be_left_out(preset: str) -> None:
    model = models.adapted("bart")
    model.add_adapter("a", f"{preset}[leave_out=[0, 3]]")
    assert set(model.get_adapter("a")) == {1, 2}
    model.add_adapter("b", preset, layers=[3])
    assert set(model.get_adapter("b")) == {3}
    with pytest.raises(ValueError, match=r"leave_out=\[0, 1, 2, 3\]"):
        model.add_adapter("c", f"{preset}[leave_out=[0, 1, 2, 3]]")


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("llama", "bitfit", "no bias to train.*LlamaModel"),
        ("bert", ModulesToSaveConfig(["poolr"]), "'poolr'.*Did you mean 'pooler'"),
        ("bert", ModulesToSaveConfig(["pooler", "layer.7"]), "'layer.7', which is the end of no path.*'layer.1'"),
        ("bert", ModulesToSaveConfig(["classifier"]), "Heads outside the base model.*saved with adapters anyway"),
        ("bert", ModulesToSaveConfig(["dropout"]), "'dropout', which has no parameters"),
        ("bert", ConfigUnion("ln_tuning", ModulesToSaveConfig(["layer.0"])), "Two configurations of this union"),
    ],
)
def test_what_cannot_be_is_said(name: str, config: str | AdapterConfig, message: str) -> None:
    model = models.adapted(name)
    keys = model.state_dict().keys()
    with pytest.raises(ValueError, match=message):
        model.add_adapter("a", config)
    assert model.state_dict().keys() == keys and not model.has_adapters()


def test_weights_that_are_no_numbers_cannot_be_copied() -> None:
    model = models.bare("bert")
    dense = model.pooler.dense
    dense.weight = nn.Parameter(dense.weight.to(torch.int8), requires_grad=False)
    adapters.init(model)
    with pytest.raises(ValueError, match=r"weight of a Linear cannot be copied.*quantised"):
        model.add_adapter("a", ModulesToSaveConfig(["pooler"]))


def test_running_statistics_cannot_be_copied() -> None:
    model = models.bare("bert")
    model.pooler.norm = nn.BatchNorm1d(4)
    adapters.init(model)
    with pytest.raises(ValueError, match=r"BatchNorm1d cannot be copied.*running statistics"):
        model.add_adapter("a", ModulesToSaveConfig(["pooler"]))


# -- with other adapters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partial", ["bitfit", "ln_tuning", ModulesToSaveConfig(["layer.*"])], ids=str)
@pytest.mark.parametrize("other", ["seq_bn", "double_seq_bn", "adapter_plus", "lora[r=2]"])
def test_others_see_what_is_changed(partial: str | AdapterConfig, other: str) -> None:
    """A bottleneck asks the block's norm, and a LoRA adds to a linear layer, that the adapter has changed."""
    small = "" if "lora" in other else "[reduction_factor=4]"
    model = with_adapter("bert", partial)
    by_hand = changed_by_hand("bert", model)
    adapters.init(by_hand)
    for own in (model, by_hand):
        torch.manual_seed(1)
        own.add_adapter("b", other + small)
        models.randomise(own, "b")
    by_hand.set_active_adapters("b")
    expected = models.outputs(by_hand, "bert")
    for setup in (Stack("a", "b"), Stack("b", "a")):
        model.set_active_adapters(setup)
        assert close(models.outputs(model, "bert"), expected, 1e-4)


def test_biases_add_up_and_the_last_copy_wins() -> None:
    model = with_adapter("bert", "bitfit")
    for name, config in (("b", "bitfit"), ("c", "ln_tuning"), ("d", "ln_tuning")):
        model.add_adapter(name, config)
        models.randomise(model, name, 0.3 if name == "d" else 0.2)

    def outputs(setup: Stack | str) -> list[Tensor]:
        model.set_active_adapters(setup)
        return models.outputs(model, "bert")

    assert close(outputs(Stack("a", "b")), outputs(Stack("b", "a")))
    assert not close(outputs(Stack("a", "b")), outputs("a"))
    assert same(outputs(Stack("c", "d")), outputs("d")) and same(outputs(Stack("d", "c")), outputs("c"))
    # A norm that is exchanged keeps the change of its bias, whichever comes first.
    assert same(outputs(Stack("a", "c")), outputs(Stack("c", "a")))
    assert not close(outputs(Stack("a", "c")), outputs("c"))


def test_other_extra_modules_coexist() -> None:
    """peft#2422, #1574, #493, #850: each adapter has its own modules, and none of them outlives its activity."""
    model = models.adapted("bert")
    before = models.outputs(model, "bert")
    configs = {
        "a": ConfigUnion(LoRAConfig(r=2), ModulesToSaveConfig(["pooler"])),
        "b": ModulesToSaveConfig(["pooler", "layer.1"]),
        "c": AdapterConfig.load("lora[r=2]"),
    }
    expected = {}
    for name, config in configs.items():
        model.add_adapter(name, config)
        models.randomise(model, name)
        alone = models.adapted("bert")
        alone.add_adapter(name, config, set_active=True)
        alone.load_state_dict(
            {k: v for k, v in model.state_dict().items() if k in alone.state_dict()},
        )
        expected[name] = models.outputs(alone, "bert")
    for name in ("a", "c", "b", "a"):
        model.set_active_adapters(name)
        assert same(models.outputs(model, "bert"), expected[name])
        with AdapterSetup("b"):
            assert same(models.outputs(model, "bert"), expected["b"])
        with AdapterSetup(None):
            assert same(models.outputs(model, "bert"), before)
    model.set_active_adapters(None)
    assert same(models.outputs(model, "bert"), before)
    model.delete_adapter("b")
    model.set_active_adapters("a")
    assert same(models.outputs(model, "bert"), expected["a"])


# -- modules that are read from outside -----------------------------------------------------------------------------

VISION = dict(hidden_size=D, num_hidden_layers=2, num_attention_heads=4, intermediate_size=FFN, image_size=16)


def siglip() -> nn.Module:
    config = transformers.SiglipVisionConfig(**VISION, patch_size=4)
    return transformers.SiglipVisionModel(config).eval()


@pytest.mark.parametrize(
    ("make", "inputs", "module", "options"),
    [
        (siglip, "vit", "head", {}),  # torch's attention reads its `out_proj`
        (siglip, "vit", "embeddings", {"interpolate_pos_encoding": True}),  # reads `position_embedding.weight`
        (lambda: models.bare("deberta-v2"), "bert", "rel_embeddings", {}),  # is read by the encoder
    ],
    ids=["attention of torch", "positions", "relative positions"],
)
def test_parameters_that_are_read_without_a_call(
    make: Callable[[], nn.Module], inputs: str, module: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = make()
    adapters.init(model)
    before = models.outputs(model, inputs, **options)
    model.add_adapter("a", ModulesToSaveConfig([module]))
    model.train_adapter("a")
    model.eval()
    assert same(models.outputs(model, inputs, **options), before)
    models.loss(models.outputs(model, inputs, **options)).backward()
    found = models.parameters(model, "a")
    assert found and all(p.grad is not None and p.grad.abs().sum() > 0 for p in found)
    models.randomise(model, "a")
    assert not close(models.outputs(model, inputs, **options), before, 1e-3)
    model.set_active_adapters(None)
    assert close(models.outputs(model, inputs, **options), before, 1e-6)


# -- tied weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_class", "family", "module"),
    [
        ("T5ForConditionalGeneration", "t5", "shared"),
        ("BartForConditionalGeneration", "bart", "decoder.embed_tokens"),
        ("LlamaForCausalLM", "llama", "embed_tokens"),
        ("BertForMaskedLM", "bert", "word_embeddings"),
    ],
)
def test_tied_embeddings_are_one_copy(model_class: str, family: str, module: str, tmp_path: Path) -> None:
    """The copy is used on both sides, as if the model's own tied weight had been changed."""
    config_class, arguments, *_ = models.FAMILIES[family]

    def make() -> nn.Module:
        torch.manual_seed(0)
        config = getattr(transformers, config_class)(**arguments, tie_word_embeddings=True)
        model = getattr(transformers, model_class)(config).eval()
        with torch.no_grad():  # the biases of new heads are zero
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        adapters.init(model)
        return model

    model, by_hand = make(), make()
    own = model.get_input_embeddings().weight
    assert own is model.get_output_embeddings().weight
    before = models.outputs(model, family)
    model.add_adapter("a", ModulesToSaveConfig([module]), set_active=True)
    assert [p.shape for p in models.parameters(model, "a")] == [own.shape]
    assert same(models.outputs(model, family), before)
    models.randomise(model, "a")
    with torch.no_grad():
        by_hand.get_input_embeddings().weight.copy_(models.parameters(model, "a")[0])
    expected = models.outputs(by_hand, family)
    assert close(models.outputs(model, family), expected)
    model.save_adapter(tmp_path, "a", with_head=False)
    fresh = make()
    fresh.load_adapter(tmp_path, set_active=True, with_head=False)
    assert close(models.outputs(fresh, family), expected)
    model.set_active_adapters(None)
    assert same(models.outputs(model, family), before)


@pytest.mark.parametrize("config", ["ln_tuning", ModulesToSaveConfig(["layers.*"])], ids=str)
def test_generation_with_and_without_cache(config: str | AdapterConfig) -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**models.LLAMA)).eval()
    adapters.init(model)
    model.add_adapter("a", config, set_active=True)
    models.randomise(model, "a", 0.3)
    given = models.inputs("llama")
    given = {"input_ids": given["input_ids"].flip(1), "attention_mask": given["attention_mask"].flip(1)}
    for beams in (1, 2):
        options = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams}
        cached, uncached = (model.generate(**given, use_cache=use, **options) for use in (True, False))
        assert torch.equal(cached, uncached)
