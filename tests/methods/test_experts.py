"""LoRA of experts that are fused in one parameter, and of embeddings."""

from __future__ import annotations

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import adapters
import models
from adapters import AdapterSetup, ConfigUnion, IA3Config, LoRAConfig, Stack

SIZES = {**models.LLAMA, "num_experts_per_tok": 2}
# name: (configuration class, model class, arguments)
MIXTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", "MixtralModel", {**SIZES, "num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeModel", {**SIZES, "num_experts": 4, "moe_intermediate_size": 24}),
    "llama4": (
        "Llama4TextConfig",
        "Llama4TextModel",
        {**SIZES, "num_local_experts": 4, "intermediate_size": 24, "intermediate_size_mlp": 48},
    ),
    "gpt_oss": ("GptOssConfig", "GptOssModel", {**SIZES, "num_local_experts": 4, "intermediate_size": 24}),
}
every_mixture = pytest.mark.parametrize("name", MIXTURES)
EXPERTS = LoRAConfig(selfattn_lora=False, intermediate_lora=True, output_lora=True, r=4, alpha=8)
SCALED = IA3Config(selfattn_lora=False, intermediate_lora=True, output_lora=True)
IDS = torch.arange(12).view(2, 6) + 3


def mixture(name: str) -> Any:
    config_class, model_class, arguments = MIXTURES[name]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    adapters.init(model)
    return model


def hidden(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    result: torch.Tensor = model(ids, use_cache=False).last_hidden_state
    return result


def with_adapter(name: str, config: Any = EXPERTS, adapter: str = "a", seed: int = 1) -> Any:
    model = mixture(name)
    add(model, config, adapter, seed)
    return model


def add(model: Any, config: Any, adapter: str, seed: int = 1) -> None:
    model.add_adapter(adapter, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for modules in model.get_adapter(adapter).values():
            for module in modules.values():
                for parameter in module.parameters():
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


@every_mixture
@pytest.mark.parametrize("config", [EXPERTS, SCALED], ids=["lora", "ia3"])
def test_experts(name: str, config: LoRAConfig, tmp_path: Path) -> None:
    model = mixture(name)
    bare = hidden(model)
    model.add_adapter("a", config, set_active=True)
    assert torch.equal(hidden(model), bare)
    model = with_adapter(name, config)
    model.set_active_adapters("a")
    expected = hidden(model)
    assert not torch.allclose(expected, bare, atol=1e-3)
    model.save_adapter(tmp_path, "a")
    fresh = mixture(name)
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(hidden(fresh), expected)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(hidden(copied), expected)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.merge_adapter("a")
    assert torch.allclose(hidden(model), expected, rtol=1e-4, atol=1e-5)
    model.reset_adapter()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    adapters.detach(model)
    assert torch.equal(hidden(model), bare)


@every_mixture
def test_each_expert_has_its_own_matrices(name: str) -> None:
    """The equation, with the weights that the experts compute with written by hand."""
    model = with_adapter(name, LoRAConfig(target_modules=["experts.*"], r=4, alpha=8))
    model.set_active_adapters("a")
    expected = hidden(model)
    model.set_active_adapters(None)
    experts = [m for m in model.modules() if type(m).__name__.endswith("Experts")]
    assert experts
    with torch.no_grad():
        for module in experts:
            for parameter in ("gate_up_proj", "down_proj"):
                weight, own = getattr(module, parameter), getattr(module.loras["a"], parameter)
                assert own.lora_A.shape[0] == own.lora_B.shape[0] == 4
                for e in range(4):
                    change = 2.0 * own.lora_B[e] @ own.lora_A[e]
                    weight[e] += change if name in ("mixtral", "qwen3_moe") else change.T
    assert torch.allclose(hidden(model), expected, rtol=1e-4, atol=1e-5)


@every_mixture
def test_experts_train_as_without_checkpointing(name: str) -> None:
    model = with_adapter(name)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            with warnings.catch_warnings():  # the name is deprecated in the newest transformers, the other new
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train_adapter("a")
        model.zero_grad()
        value = hidden(model).double().pow(2).mean()
        model.set_active_adapters(None)
        value.backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert trained and all(p.grad is not None and p.grad.any() for p in trained)
        found.append([p.grad.clone() for p in trained])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*found, strict=True))


def test_threads_and_stacks_of_experts() -> None:
    model = with_adapter("mixtral")
    add(model, SCALED, "b", 2)
    setups: list[Any] = ["a", "b", None, Stack("a", "b")]
    expected = []
    for setup in setups:
        with torch.no_grad(), AdapterSetup(setup):
            expected.append(hidden(model))

    def call(i: int) -> bool:
        with torch.no_grad(), AdapterSetup(setups[i % 4]):
            return torch.equal(hidden(model), expected[i % 4])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(80)))


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_compiled_experts(name: str) -> None:
    torch._dynamo.reset()
    model = with_adapter(name)
    model.set_experts_implementation("batched_mm")
    model.set_active_adapters("a")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(hidden(compiled), hidden(model), rtol=1e-4, atol=1e-5)


def test_experts_are_named_by_their_parameters() -> None:
    model = mixture("mixtral")
    model.add_adapter("a", LoRAConfig(target_modules=["experts.down_proj"], r=4, rank_pattern={"0.*.*.down_proj": 2}))
    shapes = {k: tuple(p.shape) for k, p in model.named_parameters() if ".loras." in k}
    assert shapes["layers.0.mlp.experts.loras.a.down_proj.lora_A"] == (4, 2, 64)
    assert shapes["layers.1.mlp.experts.loras.a.down_proj.lora_A"] == (4, 4, 64)
    assert len(shapes) == 4
    model.add_adapter("b", LoRAConfig(target_modules=["experts.*"]))
    assert sum(".loras.b." in key for key, _ in model.named_parameters()) == 8
    with pytest.raises(ValueError, match=r"down_proj"):
        model.add_adapter("c", LoRAConfig(target_modules=["experts.down_prj"]))


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"dropout": 0.1}, {"use_gating": True}, {"vera_d": 0.1, "vera_b": 0.0}]
)
def test_what_there_is_not_for_experts(change: dict[str, Any]) -> None:
    model = mixture("mixtral")
    with pytest.raises(ValueError, match=next(iter(change))):
        model.add_adapter("a", EXPERTS.replace(**change))
    assert not model.has_adapters()


def test_experts_that_are_not_known_are_not_left_out_silently() -> None:
    from transformers.models.dbrx.configuration_dbrx import DbrxAttentionConfig, DbrxFFNConfig

    attention = DbrxAttentionConfig(kv_n_heads=2)
    attention.rope_theta = 10000.0
    experts = DbrxFFNConfig(ffn_hidden_size=24, moe_num_experts=4, moe_top_k=2)
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 100, "max_seq_len": 32}
    config = transformers.DbrxConfig(**sizes, attn_config=attention, ffn_config=experts)
    model = transformers.DbrxModel(config)
    adapters.init(model)
    with pytest.raises(ValueError, match=r"blocks.0.ffn.experts holds its matrices"):
        model.add_adapter("a", LoRAConfig(output_lora=True))
    model.add_adapter("a", LoRAConfig(output_lora=False))


# -- embeddings -----------------------------------------------------------------------------------------------------

EMBEDDINGS = {
    "bert": "word_embeddings",
    "gpt2": "wte",
    "llama": "embed_tokens",
    "gemma3": "embed_tokens",  # scaled
    "t5": "embed_tokens",
    "bart": "embed_tokens",
}


@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("mode", ["add", "scale"])
def test_embeddings(name: str, mode: str, tmp_path: Path) -> None:
    target = EMBEDDINGS[name]
    plain = {"r": 1, "init_weights": "ia3", "composition_mode": "scale"} if mode == "scale" else {"r": 4}
    config = LoRAConfig(target_modules=[target], alpha=8 if mode == "add" else 1, **plain)
    model = models.adapted(name)
    bare = models.outputs(model, name)
    model.add_adapter("a", config, set_active=True)
    assert all(torch.equal(a, b) for a, b in zip(models.outputs(model, name), bare, strict=True))
    models.randomise(model, "a")
    expected = models.outputs(model, name)
    assert not torch.allclose(expected[0], bare[0], atol=1e-3)
    model.save_adapter(tmp_path, "a")
    fresh = models.adapted(name)
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(models.outputs(fresh, name)[0], expected[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for module in model.modules():  # tied to each other, and to `shared`
        if isinstance(module, torch.nn.Embedding):
            module.weight = torch.nn.Parameter(module.weight.detach().clone())
    model.merge_adapter("a")
    merged = models.outputs(model, name)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(merged, expected, strict=True))
    model.reset_adapter()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_embeddings_have_the_names_of_peft() -> None:
    model = models.adapted("llama")
    model.add_adapter("a", LoRAConfig(target_modules=["embed_tokens", "q_proj"], r=4, dropout=0.5))
    own = {k.removeprefix("embed_tokens.loras.a."): p for k, p in model.named_parameters() if "embed_tokens.loras" in k}
    assert {name: tuple(p.shape) for name, p in own.items()} == {
        "lora_embedding_A": (4, 100),
        "lora_embedding_B": (32, 4),
    }
    models.randomise(model, "a")
    model.train_adapter("a")
    x = model.embed_tokens(torch.full((1, 400), 7)) - model.embed_tokens.weight[7]
    dropped = (x == 0).all(dim=-1)
    assert 0.3 < dropped.float().mean() < 0.7  # of a token all or nothing, and the rest twice as much
    assert torch.allclose(x[~dropped], 4.0 * (own["lora_embedding_B"] @ own["lora_embedding_A"][:, 7]), atol=1e-5)


def test_tied_output_layers_stay() -> None:
    config = transformers.LlamaConfig(**models.LLAMA, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).eval()
    adapters.init(model)
    model.add_adapter("a", LoRAConfig(target_modules=["embed_tokens"], r=4), set_active=True)
    models.randomise(model, "a")
    states = model.model(IDS).last_hidden_state
    assert torch.equal(model(IDS).logits, states @ model.model.embed_tokens.weight.T)


def test_what_there_is_not_for_embeddings() -> None:
    for name, config, message in [
        ("llama", LoRAConfig(target_modules=["embed_tokens"], use_dora=True), "use_dora"),
        ("llama", LoRAConfig(target_modules=["embed_tokens"], init_weights="pissa"), "init_weights"),
        ("t5", LoRAConfig(target_modules=["shared"]), r"encoder.embed_tokens and decoder.embed_tokens"),
        ("bart", LoRAConfig(target_modules=["embed_positions"]), "no plain look-up"),
    ]:
        model = models.adapted(name)
        with pytest.raises(ValueError, match=message):
            model.add_adapter("a", config)
        assert not model.has_adapters()


def test_embeddings_beside_other_configurations() -> None:
    union = ConfigUnion(LoRAConfig(target_modules=["embed_tokens"]), adapters.DoRAConfig())
    model = models.adapted("llama")
    model.add_adapter("a", union, set_active=True)
    models.randomise(model, "a")
    expected = models.outputs(model, "llama")
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(models.tensors(compiled(**models.inputs("llama")))[0], expected[0], atol=1e-5)
