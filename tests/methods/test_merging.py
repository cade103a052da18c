"""Merging: merged equals unmerged, and resetting brings every bit back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import transformers

import adapters
import models
from adapters import AdapterConfig, ConfigUnion, LoRAConfig, SeqBnConfig, Stack

ALL = {"attn_matrices": ["q", "k", "v", "o"], "intermediate_lora": True, "output_lora": True}
CONFIGS: dict[str, AdapterConfig] = {
    "lora": LoRAConfig(r=4, alpha=8, **ALL),
    "rslora": LoRAConfig(r=4, alpha=8, use_rslora=True, rank_pattern={"*": 2}, **ALL),
    "scale": LoRAConfig(r=1, alpha=2, composition_mode="scale", init_weights="ia3", **ALL),
    "ia3": AdapterConfig.load("ia3"),
    "vera": AdapterConfig.load("vera", r=4, alpha=8, **ALL),
    "dora": AdapterConfig.load("dora", r=4, alpha=8, **ALL),
    "dvora": AdapterConfig.load("dvora", r=4, **ALL),
    "mtl_lora": AdapterConfig.load("mtl_lora", r=4, n_up_projection=2),
    "bitfit": AdapterConfig.load("bitfit"),
    "ln_tuning": AdapterConfig.load("ln_tuning"),
    "union": ConfigUnion(LoRAConfig(r=4), AdapterConfig.load("ln_tuning")),
}
FAMILIES = ["bert", "albert", "gpt2", "llama", "modernbert", "deberta-v2", "t5", "vit", "custom"]
NO_BIAS = {"llama", "modernbert", "t5"}

every_case = pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for n in FAMILIES for k in CONFIGS if not (k == "bitfit" and n in NO_BIAS)]
)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """The largest difference, relative to the largest number."""
    return max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(first, second, strict=True) if b.abs().max() > 0
    )


def with_adapters(name: str, *kinds: str) -> torch.nn.Module:
    model = models.adapted(name)
    for adapter, kind in zip("abc", kinds, strict=False):
        model.add_adapter(adapter, CONFIGS[kind])
        models.randomise(model, adapter)
    return model


@every_case
def test_merged_is_unmerged(name: str, kind: str) -> None:
    model = with_adapters(name, kind)
    before, bare = weights(model), models.outputs(model, name)
    flags = {key: (p.requires_grad, id(p), p.data_ptr()) for key, p in model.named_parameters()}
    model.set_active_adapters("a")
    expected = models.outputs(model, name)
    assert difference(expected, bare) > 1e-3
    model.merge_adapter("a")
    assert difference(models.outputs(model, name), expected) < 2e-5  # active and merged: once
    model.set_active_adapters(None)
    assert difference(models.outputs(model, name), expected) < 2e-5
    assert models.hooks(model) == models.hooks(models.bare(name))
    model.reset_adapter()
    assert same(weights(model), before)
    assert {key: (p.requires_grad, id(p), p.data_ptr()) for key, p in model.named_parameters()} == flags
    assert all(torch.equal(a, b) for a, b in zip(models.outputs(model, name), bare, strict=True))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("kinds", [("lora", "ia3", "lora"), ("dora", "lora", "bitfit"), ("scale", "vera", "ln_tuning")])
def test_several_on_top_of_each_other(name: str, kinds: tuple[str, ...]) -> None:
    if name == "llama":
        kinds = tuple("lora" if kind == "bitfit" else kind for kind in kinds)
    model = with_adapters(name, *kinds)
    before = weights(model)
    model.merge_adapter("a")
    model.set_active_adapters("b")
    expected = models.outputs(model, name)  # b on top of what a made
    model.merge_adapter("b")
    assert difference(models.outputs(model, name), expected) < 2e-5
    with_two = weights(model)
    model.merge_adapter("c")
    assert not same(weights(model), with_two)
    model.reset_adapter("c")
    assert same(weights(model), with_two)
    model.reset_adapter("a")
    merged = weights(model)
    model.reset_adapter()
    assert same(weights(model), before)
    model.merge_adapter("b")
    assert same(weights(model), merged)  # as if a had never been there


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_keep_their_type(dtype: torch.dtype) -> None:
    model = models.bare("llama").to(dtype)
    adapters.init(model)
    model.add_adapter("a", CONFIGS["lora"])
    models.randomise(model, "a", 0.05)
    before = weights(model)
    model.set_active_adapters("a")
    expected = [t.float() for t in models.outputs(model, "llama")]
    model.merge_adapter("a")
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert difference([t.float() for t in models.outputs(model, "llama")], expected) < 0.05
    model.reset_adapter()
    assert same(weights(model), before)


def test_copies_and_moves_keep_the_way_back() -> None:
    model = with_adapters("bert", "lora")
    before = weights(model)
    model.merge_adapter("a")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied.reset_adapter()
        assert same(weights(copied), before)
    assert not same(weights(model), before)
    model.double().reset_adapter()
    assert all(torch.equal(v.float() if v.is_floating_point() else v, before[k]) for k, v in weights(model).items())
    model.float().merge_adapter("a")
    adapters.detach(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_a_merged_adapter_refuses() -> None:
    model = with_adapters("bert", "lora", "lora")
    model.merge_adapter("a")
    before = weights(model)
    refused = [
        (lambda: model.merge_adapter("a"), "merged again"),
        (lambda: model.train_adapter(Stack("b", "a")), "trained"),
        (lambda: model.delete_adapter("a"), "deleted"),
        (lambda: model.add_adapter("a", "lora", overwrite_ok=True), "deleted"),
        (lambda: model.set_active_adapters("a", skip_layers=[0]), r"skip_layers=\[0\]"),
        (lambda: model.reset_adapter("b"), r"'b' is not merged.*\['a'\]"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(adapters.registry.UnknownAdapterError):
        model.merge_adapter("c")
    assert same(weights(model), before)
    assert [row.get("merged") for row in model.adapter_summary(as_dict=True)] == [True, None, None]
    assert "merged" in model.adapter_summary()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (SeqBnConfig(reduction_factor=4), "Bottleneck"),
        (ConfigUnion(LoRAConfig(r=4), SeqBnConfig(reduction_factor=4)), "Bottleneck"),
        (LoRAConfig(r=4, use_gating=True), "use_gating"),
        (AdapterConfig.load("seq_bn_inv", reduction_factor=4), "Bottleneck"),
        (AdapterConfig.load("prefix_tuning"), "cannot be merged"),
    ],
)
def test_what_is_no_change_of_weights_is_refused(config: AdapterConfig, what: str) -> None:
    model = models.adapted("bert")
    model.add_adapter("good", CONFIGS["lora"])
    models.randomise(model, "good")
    model.merge_adapter("good")
    model.add_adapter("a", config)
    before = weights(model)
    with pytest.raises(ValueError, match=what):
        model.merge_adapter("a")
    assert same(weights(model), before)
    model.reset_adapter()


def test_tied_weights_are_not_changed_on_both_sides() -> None:
    config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=True)
    model = transformers.GPT2LMHeadModel(config).eval()
    adapters.init(model)
    model.add_adapter("a", LoRAConfig(r=4, target_modules=["wte", "c_fc"]))
    models.randomise(model, "a")
    before = weights(model)
    with pytest.raises(ValueError, match=r"wte.weight is also lm_head.weight \(tied weights\)"):
        model.merge_adapter("a")
    assert same(weights(model), before)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    ids = torch.arange(6)[None]
    model.set_active_adapters("a")
    expected = model(ids).logits
    model.merge_adapter("a")
    assert torch.allclose(model(ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_embeddings_of_an_adapter_are_merged_into_tied_ones() -> None:
    """They act on both sides, so that merging changes both rightly."""
    config = transformers.LlamaConfig(**models.LLAMA, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).eval()
    adapters.init(model)
    model.add_adapter("a", adapters.ModulesToSaveConfig(modules=["embed_tokens"]), set_active=True)
    models.randomise(model, "a")
    before, expected = weights(model), model(torch.arange(6)[None]).logits
    model.merge_adapter("a")
    assert torch.equal(model(torch.arange(6)[None]).logits, expected)
    model.reset_adapter()
    assert same(weights(model), before)


def test_a_merged_model_is_saved_as_it_computes(tmp_path: Path) -> None:
    model = with_adapters("bert", "lora", "ia3")
    model.set_active_adapters(Stack("a", "b"))
    model.merge_adapter("a")
    expected = models.outputs(model, "bert")
    model.save_adapter(tmp_path / "a", "a")
    model.save_pretrained(tmp_path / "model")
    plain = transformers.BertModel.from_pretrained(tmp_path / "model")
    model.set_active_adapters(None)
    assert difference(models.outputs(plain, "bert"), models.outputs(model, "bert")) == 0
    loaded = adapters.load_model(tmp_path / "model", transformers.BertModel).eval()
    assert list(loaded.adapters_config) == ["b"]
    loaded.set_active_adapters("b")
    assert difference(models.outputs(loaded, "bert"), expected) == 0
    fresh = models.adapted("bert")
    fresh.load_adapter(tmp_path / "a", set_active=True)
    model.reset_adapter()
    model.set_active_adapters("a")
    assert difference(models.outputs(fresh, "bert"), models.outputs(model, "bert")) == 0


def test_training_goes_on_on_top_of_a_merged_adapter() -> None:
    model = with_adapters("llama", "lora", "lora")
    model.merge_adapter("a")
    merged = weights(model)
    model.train_adapter("b")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    models.loss(models.outputs(model, "llama")).backward()
    optimizer.step()
    changed = {key for key, value in weights(model).items() if not torch.equal(value, merged[key])}
    assert changed and all(".loras.b." in key for key in changed)


def test_compiled_graphs_see_the_merge() -> None:
    torch._dynamo.reset()
    model = with_adapters("bert", "lora")
    model.set_active_adapters("a")
    expected, compiled = models.outputs(model, "bert"), torch.compile(model, fullgraph=True, backend="eager")
    for change in (lambda: None, lambda: model.merge_adapter("a")):
        change()
        assert difference(models.tensors(compiled(**models.inputs("bert"))), expected) < 2e-5
