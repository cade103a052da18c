"""Prefix tuning: its equation by hand, its sizes, what of it is computed when, and what it leaves as it was."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

import adapters
import models
from adapters import ConfigUnion, PrefixTuningConfig, Stack
from adapters.methods.prefix_tuning import PrefixGroup, PrefixPool
from adapters.runtime.masks import check

FLAT = PrefixTuningConfig(flat=True, prefix_length=3)
DEEP = PrefixTuningConfig(prefix_length=3, bottleneck_size=8)
GPT = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "rotary_dim": 4}
LLAMA = {**models.LLAMA, "head_dim": 16}
# name: (configuration class, its arguments, model class), for what `models` does not have.
FURTHER: dict[str, tuple[str, dict[str, Any], str]] = {
    "gptj": ("GPTJConfig", GPT, "GPTJModel"),
    "codegen": ("CodeGenConfig", GPT, "CodeGenModel"),
    "deberta": ("DebertaConfig", {**models.BERT, "relative_attention": True, "pos_att_type": ["c2p"]}, "DebertaModel"),
    "megatron-bert": ("MegatronBertConfig", models.BERT, "MegatronBertModel"),
    "plain deberta-v2": ("DebertaV2Config", {**models.BERT, "relative_attention": False}, "DebertaV2Model"),
    "gpt_neo": (
        "GPTNeoConfig",
        {"vocab_size": 100, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 32}
        | {"attention_types": [[["global", "local"], 1]], "window_size": 4},
        "GPTNeoModel",
    ),
    "mistral": ("MistralConfig", {**LLAMA, "sliding_window": 4}, "MistralModel"),
    "gemma2": ("Gemma2Config", {**LLAMA, "sliding_window": 4}, "Gemma2Model"),
    "multi-query": ("LlamaConfig", {**LLAMA, "num_key_value_heads": 1}, "LlamaModel"),
    "big_bird": ("BigBirdConfig", {**models.BERT, "attention_type": "block_sparse"}, "BigBirdModel"),
}


def adapted(name: str, config: Any = FLAT, implementation: str = "sdpa") -> Any:
    """A tiny model with an active prefix whose weights show."""
    if name in FURTHER:
        config_class, arguments, model_class = FURTHER[name]
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**arguments)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    else:
        model = models.bare(name)
    if implementation != "sdpa":
        model.set_attn_implementation(implementation)
    adapters.init(model)
    model.add_adapter("a", config, set_active=True)
    models.randomise(model, "a")
    return model


def inputs(name: str, side: str = "right") -> dict[str, Tensor]:
    given = models.inputs("bert" if name in FURTHER else name)
    if side == "left" and "attention_mask" in given:
        given["attention_mask"] = given["attention_mask"].flip(1)
    return given


def output(model: Any, name: str, **changes: Any) -> Tensor:
    return models.tensors(model(**{**inputs(name), **changes}))[0]


def pool_of(model: Any, name: str = "a") -> PrefixPool:
    return next(m for m in model._adapter_registry[name].modules() if isinstance(m, PrefixPool))


# -- the equation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "multi-query", "mixtral"])
def test_a_prefix_is_a_cache(name: str, implementation: str) -> None:
    """Keys and values in front are those of a cache, but that positions are counted from the first token."""
    model = adapted(name, DEEP, implementation=implementation)
    expected = output(model, name)
    shares = pool_of(model).shares()
    model.set_active_adapters(None)
    cache = transformers.DynamicCache(config=model.config)
    for layer in range(len(shares) // 2):
        cache.update(*(s.expand(2, -1, -1, -1) for s in shares[2 * layer : 2 * layer + 2]), layer)
    given = inputs(name)
    mask = nn.functional.pad(given["attention_mask"], (3, 0), value=1)
    positions = torch.arange(6).expand(2, -1)
    by_hand = output(model, name, attention_mask=mask, past_key_values=cache, position_ids=positions)
    assert torch.allclose(by_hand, expected, atol=1e-5)


def test_attention_by_hand() -> None:
    model = adapted("bert")
    attention, given = model.encoder.layer[0].attention.self, {}
    attention.register_forward_hook(lambda m, i, o: given.update(h=i[0], output=o[0]))
    model(**inputs("bert"))
    q, k, v = (
        f(given["h"]).unflatten(-1, (4, 8)).transpose(1, 2) for f in (attention.query, attention.key, attention.value)
    )
    p_k, p_v = (s.expand(2, -1, -1, -1) for s in pool_of(model).shares()[:2])
    scores = q @ torch.cat([p_k, k], 2).transpose(2, 3) / 8**0.5
    seen = nn.functional.pad(inputs("bert")["attention_mask"], (3, 0), value=1).bool()[:, None, None]
    context = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ torch.cat([p_v, v], 2)
    assert torch.allclose(context.transpose(1, 2).flatten(2), given["output"], atol=1e-5)


# Attention that modules compute themselves: where it is, and where its keys and values can be seen.
WRITTEN_OUT = {
    "gptj": ("h.0.attn", ()),
    "codegen": ("h.0.attn", ()),
    "gpt_neo": ("h.0.attn.attention", ()),
    "megatron-bert": ("encoder.layer.0.attention.self", ("key", "value")),
    "plain deberta-v2": ("encoder.layer.0.attention.self", ("key_proj", "value_proj")),
}


def seen_keys_and_values(module: Any, projections: tuple[str, ...], run: Callable[[], Any]) -> list[Tensor]:
    """Keys and values of an attention: what it gives to `_attn`, or what its projections give. Shape: (1, H, T, d)."""
    seen: list[Tensor] = []
    if not projections:
        own = module._attn
        module._attn = lambda q, k, v, *rest: seen.extend((k, v)) or own(q, k, v, *rest)
        run()
        del module._attn
        return seen
    for name in projections:
        hook = getattr(module, name).register_forward_hook(lambda m, x, y: seen.append(y))
        run()
        hook.remove()
    return [y.unflatten(-1, (4, 8)).transpose(1, 2) for y in seen]


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_what_is_attended_to_twice_changes_nothing(name: str) -> None:
    """A prefix that repeats the tokens' keys and values gives their average again, if it is scaled as they are."""
    path, projections = WRITTEN_OUT[name]
    model = adapted(name, FLAT.replace(prefix_length=6, leave_out=[1]))
    module = model.get_submodule(path)
    given, outs = inputs(name)["input_ids"][:1], []
    module.register_forward_hook(lambda m, i, o: outs.append(o[0]))
    model.set_active_adapters(None)
    k, v = seen_keys_and_values(module, projections, lambda: model(given))
    expected = outs[-1]
    with torch.no_grad():
        pool_of(model).groups[0].control_trans.copy_(torch.stack([k, v])[:, 0].permute(2, 0, 1, 3).flatten())
    model.set_active_adapters("a")
    model(given)
    assert torch.allclose(outs[-1][:, -1], expected[:, -1], atol=1e-5)  # the last token sees all in causal models too
    pool_of(model).groups[0].control_trans.data[: k[0, :, 0].numel()] += 1.0
    model(given)
    assert not torch.allclose(outs[-1][:, -1], expected[:, -1], atol=1e-3)


FAMILIES = [name for name in models.NAMES if name != "custom"] + [name for name in FURTHER if name != "big_bird"]
EAGER_ONLY = ("gptj", "codegen", "deberta", "deberta-v2", "megatron-bert", "gpt_neo", "plain deberta-v2", "gemma2")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in EAGER_ONLY])
def test_eager_is_sdpa(name: str, side: str) -> None:
    """Also with padding, on either side."""
    model, given = adapted(name), inputs(name, side)
    real = given.get("attention_mask", torch.ones(2, 1)).bool()
    sdpa = models.tensors(model(**given))[0]
    model.set_attn_implementation("eager")
    eager = models.tensors(model(**given))[0]
    if eager.shape[:2] == real.shape:
        sdpa, eager = sdpa[real], eager[real]
    if name != "clip":  # it pools at a place that may be padding
        assert torch.allclose(sdpa, eager, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "mistral", "gemma3", "modernbert", "deberta"])
def test_padding_is_not_seen(name: str) -> None:
    model, given = adapted(name, DEEP.replace(use_gating=False)), inputs(name)
    padded = output(model, name)[1, :4]
    alone = models.tensors(model(input_ids=given["input_ids"][1:, :4]))[0][0]
    assert torch.allclose(padded, alone, atol=1e-5)


def test_masks_of_two_dimensions() -> None:
    """Functions such as those of flash attention get a longer mask of ones, and look back from the end."""

    def reference(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
    ) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        past = key.shape[2] - query.shape[2]
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(past)
        if mask is not None:
            assert mask.shape == (len(key), key.shape[2])
            seen = seen & mask.bool()[:, None, None]
        scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -1e9)
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    AttentionInterface.register("padded", reference)
    AttentionMaskInterface.register("padded", flash_attention_mask)
    model = adapted("llama")
    real = inputs("llama")["attention_mask"].bool()
    expected = output(model, "llama")
    model.set_attn_implementation("padded")
    assert torch.allclose(output(model, "llama")[real], expected[real], atol=1e-5)
    for names in (AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping):
        del names["padded"]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama", "t5", "deberta"])
def test_a_stack_is_one_longer_prefix(name: str, flat: bool) -> None:
    model = adapted(name, FLAT if flat else DEEP)
    model.add_adapter("b", FLAT.replace(prefix_length=2))
    model.add_adapter("both", FLAT.replace(prefix_length=5))
    models.randomise(model, "b")
    with torch.no_grad():
        for group in pool_of(model, "both").groups:
            name_of = next(key for key, own in pool_of(model, "both").named_children() if own is group)
            parts = [pool_of(model, own).get_submodule(name_of).prefixes() for own in ("a", "b")]
            group.control_trans.copy_(torch.cat(parts).flatten())
    model.set_active_adapters(Stack("a", "b"))
    stacked = output(model, name)
    model.set_active_adapters("both")
    assert torch.allclose(output(model, name), stacked, atol=1e-5)


def test_gates() -> None:
    """A gate of zero leaves zeros in front; one gate weighs keys and values alike, two apart."""
    model = adapted("bert", FLAT.replace(use_gating=True, shared_gating=False))
    prefix = model.get_adapter("a")[0]["self_prefix"]["gate"]
    shares, h = pool_of(model).shares(), torch.randn(2, 6, 32)
    keys, values = prefix.prefix(shares, h)
    gates = torch.sigmoid(h @ prefix.weight.t() + prefix.bias).mean(1)
    assert torch.allclose(keys, gates[:, 0].view(2, 1, 1, 1) * shares[0], atol=1e-6)
    assert torch.allclose(values, gates[:, 1].view(2, 1, 1, 1) * shares[1], atol=1e-6)
    with torch.no_grad():
        for layer in range(2):
            gate = model.get_adapter("a")[layer]["self_prefix"]["gate"]
            gate.weight.zero_()
            gate.bias.fill_(-1e9)
    gated = output(model, "bert")
    model.add_adapter("zeros", FLAT, set_active=True)
    nn.init.zeros_(pool_of(model, "zeros").groups[0].control_trans)
    assert torch.allclose(gated, output(model, "bert"), atol=1e-6)


# -- sizes, switches, initial values ----------------------------------------------------------------------------------

# family: hidden size D; for each group the number of attentions, and K · d of each.
SHAPES: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {
    "bert": (32, {"self_prefix": (2, 32)}),
    "distilbert": (32, {"self": (2, 32)}),
    "albert": (32, {"self_prefix": (1, 32)}),
    "llama": (32, {"self_prefix": (2, 16)}),
    "multi-query": (32, {"self_prefix": (2, 16)}),
    "mistral": (32, {"self_prefix": (2, 32)}),
    "t5": (32, {"encoder_prefix": (2, 32), "self_prefix": (2, 32), "cross_prefix": (2, 32)}),
    "whisper": (32, {"encoder_prefix": (2, 32), "self_prefix": (2, 32), "cross_prefix": (2, 32)}),
    "clip": (32, {"clip_text_model_self_prefix": (2, 32), "clip_vision_model_self_prefix": (2, 32)}),
    "deberta": (32, {"self_prefix": (2, 32)}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes(name: str) -> None:
    """2 P A K d numbers for A attentions; reparametrised P D + (D + 1) m + (m + 1) 2 A K d; (D + 1) a gate."""
    size, groups = SHAPES[name]
    widths = [2 * attentions * width for attentions, width in groups.values()]
    model = adapted(name, FLAT)
    assert list(dict(pool_of(model).named_children())) == list(groups)
    assert sum(p.numel() for p in models.parameters(model, "a")) == 3 * sum(widths)
    model.add_adapter("deep", DEEP)
    deep = sum(3 * size + (size + 1) * 8 + (8 + 1) * width for width in widths)
    assert sum(p.numel() for p in models.parameters(model, "deep")) == deep
    attentions = sum(n for n, _ in groups.values())
    for shared, gates in ((True, 1), (False, 2)):
        model.add_adapter("gated", FLAT.replace(use_gating=True, shared_gating=shared), overwrite_ok=True)
        expected = 3 * sum(widths) + attentions * gates * (size + 1)
        assert sum(p.numel() for p in models.parameters(model, "gated")) == expected


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({"encoder_prefix": False}, {"self_prefix": 4, "cross_prefix": 4}),
        ({"cross_prefix": False}, {"encoder_prefix": 4, "self_prefix": 4}),
        ({"leave_out": [1, 2]}, {"encoder_prefix": 2, "self_prefix": 2, "cross_prefix": 2}),
        ({"leave_out": [0, 1]}, {"self_prefix": 4, "cross_prefix": 4}),
    ],
)
def test_what_is_left_out_has_no_share(changes: dict[str, Any], groups: dict[str, int]) -> None:
    model = adapted("bart", FLAT.replace(**changes))
    found = {name: len(group.sizes) for name, group in pool_of(model).named_children()}  # type: ignore[arg-type]
    assert found == groups
    output(model, "bart")


def test_initial_values() -> None:
    config = transformers.BertConfig(hidden_size=512, num_hidden_layers=2, num_attention_heads=8, vocab_size=10)
    model = transformers.BertModel(config)
    adapters.init(model)
    model.add_adapter("flat", PrefixTuningConfig(flat=True, use_gating=True))
    model.add_adapter("deep", PrefixTuningConfig())
    flat, deep = pool_of(model, "flat").groups[0].control_trans, pool_of(model, "deep").groups[0]
    assert flat.std().item() == pytest.approx(1, rel=0.02)
    assert deep.wte.weight.std().item() == pytest.approx(1, rel=0.05)
    for layer in (deep.control_trans[0], deep.control_trans[2]):
        assert layer.weight.abs().max().item() == pytest.approx(layer.in_features**-0.5, rel=0.01)
    gate = model.get_adapter("flat")[0]["self_prefix"]["gate"]
    assert gate.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert gate.bias.abs() <= 512**-0.5
    seeded = [adapted("bert", FLAT.replace(init_weights_seed=seed)) for seed in (1, 1, 2)]
    one, same, other = (pool_of(m).groups[0].control_trans for m in seeded)
    assert torch.equal(one, same) and not torch.equal(one, other)


# -- when it is computed ----------------------------------------------------------------------------------------------


@pytest.fixture
def computations(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each time that a group of prefixes is computed."""
    calls: list[None] = []
    own = PrefixGroup.prefixes
    monkeypatch.setattr(PrefixGroup, "prefixes", lambda group: (calls.append(None), own(group))[1])
    return calls


def test_it_is_computed_once_until_weights_change(computations: list[None]) -> None:
    model = adapted("bert", DEEP)
    output(model, "bert")
    with torch.inference_mode():
        output(model, "bert")
    with torch.no_grad():
        first = [output(model, "bert") for _ in range(3)][-1]
    assert len(computations) == 2  # with gradients, and in inference mode; that is kept
    weight = pool_of(model).groups[0].wte.weight

    def in_place() -> None:
        with torch.no_grad():
            weight.add_(0.1)

    def optimized() -> None:
        models.loss(models.outputs(model, "bert")).backward()
        torch.optim.SGD([weight], lr=0.1).step()
        model.zero_grad()

    def loaded() -> None:
        state = {key: tensor + 0.1 for key, tensor in model.state_dict().items() if "wte" in key}
        model.load_state_dict(state, strict=False)

    def behind_the_back() -> None:
        weight.data.add_(0.1)
        model.eval()

    for change in (in_place, optimized, loaded, behind_the_back):
        change()
        with torch.no_grad():
            second = output(model, "bert")
        assert not torch.allclose(first, second, atol=1e-6)
        model.train().eval()
        with torch.no_grad():
            assert torch.equal(second, output(model, "bert"))
        first = second


@pytest.mark.parametrize("use_reentrant", [None, False, True])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_training_computes_it_once_in_a_pass(name: str, use_reentrant: bool | None, computations: list[None]) -> None:
    """Also if layers are checkpointed and recomputed; dropout of a prefix is then the same as in the forward pass."""
    model = adapted(name, DEEP.replace(dropout=0.5))
    model.train_adapter("a")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    gradients = []
    for enabled in (False, True):
        if enabled and use_reentrant is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        computations.clear()
        torch.manual_seed(3)
        loss = models.loss(models.outputs(model, name))
        model.set_active_adapters(None)
        loss.backward()
        model.set_active_adapters("a")
        assert len(computations) == len(pool_of(model).groups)
        gradients.append([p.grad.clone() for p in models.parameters(model, "a")])
        model.zero_grad()
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_a_part_can_be_trained_by_itself(computations: list[None]) -> None:
    """If the encoder is called without the model around it, each layer computes the prefix."""
    model = adapted("t5", DEEP)
    model.train_adapter("a")
    model.eval()
    model.encoder(input_ids=inputs("t5")["input_ids"]).last_hidden_state.sum().backward()
    alone = [p.grad for p in pool_of(model).get_submodule("encoder_prefix").parameters()]
    assert all(g is not None for g in alone)
    assert len(computations) == 2 * 3  # two layers, three groups


# -- ejecting, files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("preset", ["prefix", "mam"])
def test_eject(name: str, preset: str, tmp_path: Path) -> None:
    config = DEEP if preset == "prefix" else ConfigUnion(DEEP, adapters.ParBnConfig(reduction_factor=4))
    model = adapted(name, config)
    expected = output(model, name)
    trained = models.parameters(model, "a")
    model.eject_prefix_tuning("a")
    assert torch.allclose(output(model, name), expected, atol=1e-6)
    assert not {id(p) for p in trained} & {id(p) for p in pool_of(model).parameters()}
    ejected = model.adapters_config.get("a")
    assert (ejected if preset == "prefix" else ejected.configs[0]).flat
    model.save_adapter(tmp_path, "a")
    fresh = models.adapted(name)
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(output(fresh, name), output(model, name))
    with pytest.raises(ValueError, match="no prefix"):
        model.eject_prefix_tuning("a")


def test_files_of_release_1(tmp_path: Path) -> None:
    """They hold the prefixes once more in every layer, and do not say that one was ejected."""
    model = adapted("bert", DEEP)
    model.eject_prefix_tuning("a")
    expected = output(model, "bert")
    model.save_adapter(tmp_path, "a", use_safetensors=False)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["config"]["flat"], config["version"] = False, "adapters.1.3.0"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = torch.load(tmp_path / "pytorch_adapter.bin")
    (name, tensor), *others = tensors.items()
    assert name == "prefix_tuning.prefix_tunings.a.self_prefix.control_trans" and not others
    layers = (f"encoder.layer.{n}.attention.self.prefix_tuning.pool.prefix_tunings.a." for n in range(2))
    torch.save(
        tensors | {f"{layer}self_prefix.control_trans": tensor for layer in layers}, tmp_path / "pytorch_adapter.bin"
    )
    fresh = models.adapted("bert")
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(output(fresh, "bert"), expected)
    fresh.save_adapter(tmp_path / "again", "a")


def test_a_model_of_two_models(tmp_path: Path) -> None:
    """Each half has prefixes of its own; release 1 gave the first half some whatever `encoder_prefix` was."""
    halves = (
        transformers.BertConfig(**models.BERT),
        transformers.BertConfig(**models.BERT, is_decoder=True, add_cross_attention=True),
    )
    model = transformers.EncoderDecoderModel(transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*halves))
    model.eval()
    adapters.init(model)
    given = {**models.inputs("t5")}
    bare = model(**given).logits
    model.add_adapter("a", FLAT, set_active=True)
    assert set(model.encoder.prefix_tuning.prefix_tunings["a"]._modules) == {"self_prefix"}
    assert set(model.decoder.bert.prefix_tuning.prefix_tunings["a"]._modules) == {"self_prefix", "cross_prefix"}
    assert not torch.allclose(model(**given).logits, bare, atol=1e-4)
    model.save_adapter(tmp_path, "a")
    model.add_adapter("a", FLAT.replace(encoder_prefix=False), overwrite_ok=True)
    assert "prefix_tuning" not in model.encoder._modules
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["config"]["encoder_prefix"] = False
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model.load_adapter(tmp_path)
    assert "prefix_tuning" in model.encoder._modules


# -- what it leaves as it was -----------------------------------------------------------------------------------------


def test_nothing_of_transformers_changes() -> None:
    """Another model of the same class goes on as before, while prefixes are in use here."""
    bare = models.bare("llama")
    before = output(bare, "llama")
    functions = dict(ALL_ATTENTION_FUNCTIONS)
    forward = type(bare.layers[0].self_attn).forward
    model = adapted("llama")
    output(model, "llama")
    assert torch.equal(output(bare, "llama"), before)
    assert dict(ALL_ATTENTION_FUNCTIONS) == functions and "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)
    assert type(model.layers[0].self_attn).forward is forward
    assert model.config._attn_implementation == bare.config._attn_implementation


def test_generation_with_a_static_cache() -> None:
    config = transformers.LlamaConfig(**LLAMA)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    nn.init.normal_(model.lm_head.weight, std=0.5)
    adapters.init(model)
    model.add_adapter("a", DEEP, set_active=True)
    models.randomise(model, "a", std=1.0)
    given = {**inputs("llama", "left"), "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    dynamic = model.generate(**given)
    assert torch.equal(model.generate(**given, use_cache=False), dynamic)
    assert torch.equal(model.generate(**given, cache_implementation="static", disable_compile=True), dynamic)
    model.set_active_adapters(None)
    assert not torch.equal(model.generate(**given), dynamic)


@pytest.mark.parametrize("name", ["gptj", "deberta", "llama", "t5"])
def test_copies(name: str) -> None:
    model = adapted(name, DEEP.replace(use_gating=True))
    expected = output(model, name)
    copied = copy.deepcopy(model)
    models.randomise(copied, "a")
    assert torch.equal(output(model, name), expected)
    assert not torch.allclose(output(copied, name), expected, atol=1e-4)


# -- what cannot be ---------------------------------------------------------------------------------------------------


def test_attention_that_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"BigBirdBlockSparseAttention .*leave_out"):
        adapted("big_bird")


def test_heads_that_are_mixed() -> None:
    config = transformers.DebertaConfig(**models.BERT, talking_head=True)
    model = transformers.DebertaModel(config)
    adapters.init(model)
    with pytest.raises(ValueError, match="talking_head"):
        model.add_adapter("a", FLAT)


def test_no_attention_is_left() -> None:
    with pytest.raises(ValueError, match="places nothing"):
        adapted("bert", FLAT.replace(leave_out=[0, 1]))


@pytest.mark.parametrize(
    ("implementation", "mask", "arguments", "message"),
    [
        ("flex_attention", None, {}, "flex_attention"),
        ("custom", object(), {}, "flex_attention"),
        ("flash_attention_2", None, {"sliding_window": 4}, "sliding window"),
        ("flash_attention_2", None, {"cu_seq_lens_k": torch.zeros(2)}, "packed"),
        ("sdpa", None, {"cache": object()}, "continuous batching"),
    ],
)
def test_kinds_of_attention(implementation: str, mask: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        check(implementation, mask, arguments)
