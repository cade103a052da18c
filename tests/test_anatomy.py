"""What the anatomy finds is really there, in every architecture of transformers: seen in a forward pass.

The law: x is what a sublayer gives and r what it is added to, so x + r (of post-norm blocks: at the input of their
norm) is what the model goes on with. A wrong place for either cannot fulfil it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapters
import models
import zoo
from adapters import AdapterConfig, AdapterModelInterface
from adapters.anatomy import Anatomy, Layer, Sublayer, Tap, anatomy

# At the time of writing; may only rise.
BUILT, WHOLE = 306, 250

BY_NAME = {architecture.model_class: architecture for architecture in zoo.ARCHITECTURES}
QUICK = [
    "AlbertForMaskedLM",
    "BartForConditionalGeneration",
    "BeitForImageClassification",
    "BertForMaskedLM",
    "BloomForCausalLM",
    "DebertaV2ForMaskedLM",
    "DeepseekV3ForCausalLM",
    "FalconForCausalLM",
    "FalconH1ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma4ForCausalLM",
    "GPT2LMHeadModel",
    "GPTJForCausalLM",
    "GPTNeoXForCausalLM",
    "LlamaForCausalLM",
    "LongcatFlashForCausalLM",
    "MixtralForCausalLM",
    "ModernBertForMaskedLM",
    "Olmo2ForCausalLM",
    "OPTForCausalLM",
    "PhiForCausalLM",
    "Qwen3MoeForCausalLM",
    "SwinForImageClassification",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
]
# What has no layers with attention, and what the anatomy says instead.
WITHOUT = {
    "MambaForCausalLM": "MambaMixer",
    "JambaForCausalLM": "state-space, convolution or other mixer (JambaMambaMixer) instead of attention",
    "RwkvForCausalLM": "state-space, convolution or other mixer (RwkvSelfAttention) instead of attention",
    "FNetForMaskedLM": "FNetFourierTransform",
    "ResNetForImageClassification": "convolution network",
    "ConvNextForImageClassification": "convolution network",
    "EfficientNetForImageClassification": "convolution network",
    "PoolFormerForImageClassification": "convolution network",
}
# Where x and r are added with learnt or fixed factors, which the reader of a checkpoint cannot see as modules: the sum
# is a·x + b·r + c with numbers per channel.
WEIGHED = {
    "BeamForCausalLM": "both are scaled by the depth of the layer",
    "DogeForCausalLM": "the residual is scaled by a parameter per channel",
    "EsmcForMaskedLM": "x is divided by a constant of the number of layers",
    "GPTNeoXJapaneseForCausalLM": "the last attention adds its bias with the residual",
    "MiniCPM3ForCausalLM": "x is scaled by a constant of the number of layers",
    "NeoMMEForMaskedLM": "x is scaled by a half",
    "ZayaForCausalLM": "both have a scale and a bias per channel",
}
# Where the output of a branch is added later than its siblings'.
ELSEWHERE = {
    "Gemma3nForCausalLM": "of four streams one goes through the layer, and corrects the others (AltUp)",
    "LongcatFlashForCausalLM": "the experts' output is added at the end of the layer, past another attention",
    "XmodForCausalLM": "what reads the sum is the model's own adapter of the language",
    "XmodForMaskedLM": "what reads the sum is the model's own adapter of the language",
}

quick = pytest.mark.parametrize("name", QUICK)


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Iterator[zoo.Architecture]:
    """All architectures; takes part with `pytest -m slow` only."""
    if "slow" not in request.config.getoption("-m"):
        pytest.skip("all architectures: pytest -m slow")
    return iter(zoo.ARCHITECTURES)


def tiny(name: str) -> tuple[Any, nn.Module]:
    """A model and its base model."""
    model = zoo.tiny_model(BY_NAME[name])
    return model, getattr(model, "base_model", model)


def flat(value: Any) -> list[Any]:
    """A module's output, also a tuple or a record, as a list whose indices are those of taps."""
    if isinstance(value, dict):
        value = tuple(value.values())
    return list(value) if isinstance(value, (tuple, list)) else [value]


def copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else None


class Recording:
    """Every tensor that went into a module, or came out of one, with the time."""

    def __init__(self, base: nn.Module, run: Callable[[], Any]) -> None:
        self.inputs: dict[str, list[tuple[int, Tensor | None]]] = defaultdict(list)
        self.outputs: dict[str, list[tuple[int, list[Tensor | None]]]] = defaultdict(list)
        self.seen: list[tuple[int, Tensor]] = []
        # The layers, by their numbers, and what holds them.
        inside = {
            path for path, module in base.named_modules() if path.rpartition(".")[2].isdigit() and [*module.children()]
        }
        self.blocks = {"", *(path.rpartition(".")[0].rpartition(".")[0] for path in inside), *inside}
        handles = []
        for path, module in base.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._before, path), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._after, path)))
        try:
            with torch.no_grad():
                self._see(models.tensors(run()))
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, tensors: list[Tensor | None]) -> int:
        time = len(self.seen)
        self.seen.append((time, torch.empty(0)))
        self.seen += [(time, t) for t in tensors if t is not None and t.is_floating_point()]
        return time

    def _before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        time = self._see([copied(t) for t in models.tensors((args, kwargs))])
        self.inputs[path].append((time, copied(args[0]) if args else None))

    def _after(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        values = [copied(value) for value in flat(output)]
        self.outputs[path].append((self._see(values), values))

    def at(self, tap: Tap) -> list[tuple[int, Tensor | None]]:
        """What a tap sees: one tensor per call."""
        if tap.side == "input":
            return self.inputs[tap.path]
        calls = self.outputs[tap.path]
        if tap.armed_by is not None:
            arming = [time for time, _ in self.outputs[tap.armed_by]]
            calls = [next((call for call in calls if call[0] > time), (time, [None])) for time in arming]
        return [(time, values[tap.index or 0]) for time, values in calls]

    def stream(self, parts: Anatomy, time: int, like: Tensor) -> list[Tensor]:
        """What the model goes on with after a time: the residuals that were found, what its blocks read and give.

        Not what a norm reads: where nothing but a norm reads x + r, that norm belongs to the sublayer. If the anatomy
        says that it lacks something, it is all that is seen anywhere.
        """
        if not parts.is_whole:
            seen = self.seen
        else:
            seen = [call for _, s in parts.sublayers() if s.residual is not None for call in self.at(s.residual)]
            for path in self.blocks:
                seen += [(when, t) for when, values in self.outputs[path] for t in values] + self.inputs[path]
        return [
            t.reshape(like.shape) for when, t in seen if when > time and t is not None and t.numel() == like.numel()
        ]


def near(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1e-3))


def is_weighed_sum(t: Tensor, x: Tensor, r: Tensor) -> bool:
    """Whether t = a·x + b·r + c, with numbers per channel that are fitted to all tokens."""
    given = torch.stack([x, r, torch.ones_like(x)], dim=-1).flatten(0, -3).transpose(0, 1).double()  # (D, B·T, 3)
    wanted = t.flatten(0, -2).T.unsqueeze(-1).double()
    factors = torch.linalg.lstsq(given, wanted).solution
    return near((given @ factors), wanted) and bool((factors[:, :2, 0].abs().mean(0) > 0.01).all())


def fault(recording: Recording, parts: Anatomy, layer: Layer, sublayer: Sublayer, model_class: str) -> str | None:
    """What is wrong with the places of a sublayer, if anything."""
    assert sublayer.residual is not None
    xs, rs = recording.at(sublayer.output), recording.at(sublayer.residual)
    if not xs:
        was_run = bool(recording.outputs[layer.path]) and sublayer.kind != "cross_attention"
        return "its output is in no call" if was_run else None
    if len(xs) != len(rs):
        return f"{len(xs)} outputs, {len(rs)} residuals"
    return next((f for i in range(len(xs)) if (f := _fault(recording, parts, layer, sublayer, i, model_class))), None)


def _fault(
    recording: Recording, parts: Anatomy, layer: Layer, sublayer: Sublayer, call: int, model_class: str
) -> str | None:
    time, x = recording.at(sublayer.output)[call]
    _, r = recording.at(sublayer.residual)[call]  # type: ignore[arg-type]
    if x is None or r is None:
        return f"{'output' if x is None else 'residual'} is no tensor, or passed by keyword"
    if x.shape != r.shape:
        return f"output {tuple(x.shape)}, residual {tuple(r.shape)}"
    if x.shape[-1] != sublayer.size:
        return f"the last dimension of {tuple(x.shape)} is not {sublayer.size}"
    if sublayer.pre_norm is not None:
        begins = [t for _, t in recording.inputs[sublayer.pre_norm]] + [
            t for _, values in recording.outputs[sublayer.pre_norm] for t in values
        ]
        if not any(near(t, r) for t in begins):
            return "the norm before does not read the residual"
    if sublayer.norm is not None:
        reads = [t for when, t in recording.inputs[sublayer.norm] if when > time]
        if not reads or reads[0] is None:
            return "its norm is not called after it"
        if not sublayer.norm_on_branch:
            return None if near(reads[0], x + r) else "its norm does not read x + r"
        if not near(reads[0], x):
            return "the norm on its branch does not read x"
        x = next(values[0] for when, values in recording.outputs[sublayer.norm] if when > time)
        assert x is not None
    follow = recording.stream(parts, time, x)
    if any(near(t, x + r) for t in follow) or any(near(t, r + parallel(recording, layer, r, call)) for t in follow):
        return None
    if model_class in WEIGHED and any(is_weighed_sum(t, x, r) for t in follow):
        return None
    return None if model_class in ELSEWHERE else "x + r comes nowhere"


def parallel(recording: Recording, layer: Layer, r: Tensor, call: int) -> Tensor:
    """The sum of all sublayers of the layer that read the same r."""
    total = torch.zeros_like(r)
    for sublayer in layer.sublayers:
        if sublayer.residual is not None:
            xs, rs = recording.at(sublayer.output), recording.at(sublayer.residual)
            if call < len(xs) and call < len(rs) and near(rs[call][1], r) and xs[call][1] is not None:
                total = total + xs[call][1].reshape(r.shape)  # type: ignore[union-attr]
    return total


def record(name: str, model: Any, base: nn.Module) -> Recording:
    return Recording(base, lambda: model(**zoo.tiny_inputs(model, BY_NAME[name])))


def faults(name: str) -> list[str]:
    """All that is wrong with what was found in an architecture."""
    model, base = tiny(name)
    parts = anatomy(base)
    found = list(wrong_names(base, parts))
    recording = record(name, model, base)
    for layer, sublayer in parts.sublayers():
        if sublayer.residual is not None:
            problem = fault(recording, parts, layer, sublayer, name)
            found += (
                [f"{name}, layer {layer.index}, {sublayer.kind} at {sublayer.output}: {problem}"] if problem else []
            )
    return found


def wrong_names(base: nn.Module, parts: Anatomy) -> Iterator[str]:
    """Paths that are of no module, and projections with two roles."""
    modules = {path for path, _ in base.named_modules()}
    for layer, s in parts.sublayers():
        taps = [s.output.path, s.host, *([s.residual.path] if s.residual else [])]
        projections = [path for paths in s.projections.values() for path in paths]
        norms = [path for path in (s.norm, s.pre_norm) if path]
        yield from (f"layer {layer.index}: there is no {p}" for p in (*taps, *projections, *norms) if p not in modules)
        if len(projections) != len(set(projections)):
            yield f"layer {layer.index}, {s.kind}: a projection with two roles in {s.projections}"
    numbers = [layer.index for layer in parts.layers]
    if numbers != list(range(len(numbers))):
        yield f"layers are numbered {numbers}"


# -- what is found is right ----------------------------------------------------------------------------------


@quick
def test_found_whole(name: str) -> None:
    _, base = tiny(name)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    parts = anatomy(base)
    assert parts.is_whole or name == "FalconH1ForCausalLM", parts.missing
    assert models.hooks(base) == 0
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


@quick
def test_what_is_found_is_right(name: str) -> None:
    assert not faults(name)


@pytest.mark.parametrize("name", models.NAMES)
def test_what_is_found_is_right_in_the_families(name: str) -> None:
    """The models of the laws, with their towers and padding; the custom one by its interface, too."""
    model = models.adapted(name)
    registry = model._adapter_registry
    parts = registry.anatomy
    recording = Recording(registry.base, lambda: model(**models.inputs(name)))
    for layer, sublayer in parts.sublayers():
        assert fault(recording, parts, layer, sublayer, name) is None, (layer.path, sublayer)
    if name == "custom":
        assert anatomy(registry.base).layers == [] or not anatomy(registry.base).is_whole


def test_the_law_sees_wrong_places() -> None:
    """The law itself: moved taps are found out."""
    model, base = tiny("BertForMaskedLM")
    recording = record("BertForMaskedLM", model, base)
    parts = anatomy(base)
    layer, sublayer = next(parts.sublayers())
    assert fault(recording, parts, layer, sublayer, "") is None
    assert sublayer.residual is not None
    for wrong in (
        replace(sublayer, output=sublayer.residual),
        replace(sublayer, residual=sublayer.output),
        replace(sublayer, output=Tap("encoder.layer.0.attention.self.value")),
        replace(sublayer, residual=Tap("encoder.layer.1", "input")),
        replace(sublayer, norm="encoder.layer.0.output.LayerNorm"),
        replace(sublayer, norm=None),
        replace(sublayer, norm_on_branch=True),
        replace(sublayer, size=16),
    ):
        assert fault(recording, parts, layer, wrong, "") is not None, wrong
    assert not is_weighed_sum(*(torch.randn(2, 7, 32) for _ in range(3)))


def effect(name: str, preset: str) -> str | None:
    """What is wrong with an adapter in an architecture, if anything.

    A refusal is right if something was not found, and if it leaves all as it was.
    """
    model, _ = tiny(name)
    given = zoo.tiny_inputs(model, BY_NAME[name])

    def outputs() -> list[Tensor]:
        torch.manual_seed(0)  # Reformer hashes with random numbers
        with torch.no_grad():
            return models.tensors(model(**given))

    expected, keys = outputs(), list(model.state_dict())
    adapters.init(model)
    config = AdapterConfig.load(preset, init_weights="mam_adapter", reduction_factor=4)

    def restored() -> str | None:
        is_same = list(model.state_dict()) == keys and models.hooks(model) == 0 and not model.has_adapters()
        return None if is_same and all(map(torch.equal, outputs(), expected)) else "is not as it was"

    try:
        model.add_adapter("a", config, set_active=True)
    except (ValueError, NotImplementedError) as error:
        if model._adapter_registry.anatomy.is_whole:
            return f"is refused by a model that was found whole: {error}"
        after = restored()
        return f"{after} after {error}" if after else None
    ours = {id(p) for p in model._adapter_registry["a"].parameters()}
    if not ours <= {id(p) for p in model.parameters()}:
        return "has modules that are in no place of the model, so they are not trained, moved or saved"
    if ours != {id(p) for places in model.get_adapter("a").values() for m in places.values() for p in m.parameters()}:
        return "get_adapter does not give all of its modules"
    if not all(map(torch.equal, outputs(), expected)):
        return "with zero effect it has one"
    models.randomise(model, "a")
    if all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(outputs(), expected, strict=True)):
        return "has no effect"
    model.delete_adapter("a")
    return restored()


@quick
@pytest.mark.parametrize("preset", ["double_seq_bn", "par_bn", "seq_bn"])
def test_adapters_act_in_every_architecture(name: str, preset: str) -> None:
    assert effect(name, preset) is None


@pytest.mark.slow
def test_every_architecture(sweep: Iterator[zoo.Architecture]) -> None:
    """The anatomy never fails, says what it lacks, and finds as many whole as ever."""
    built = whole = 0
    for architecture in sweep:
        try:
            _, base = tiny(architecture.model_class)
        except zoo.CannotShrink:
            continue
        parts = anatomy(base)
        built += 1
        whole += parts.is_whole
        assert parts.is_whole or all(isinstance(m, str) and m for m in parts.missing), architecture
        assert adapters.inspect(base)
    assert built >= BUILT
    assert whole >= WHOLE
    print(f"{whole} of {built} architectures found whole")


@pytest.mark.slow
def test_what_is_found_is_right_in_every_architecture(sweep: Iterator[zoo.Architecture]) -> None:
    found: list[str] = []
    for architecture in sweep:
        name = architecture.model_class
        if name == "Gemma4UnifiedAssistantForCausalLM":  # runs only with the states of another model
            continue
        try:
            found += faults(name)
        except zoo.CannotShrink:
            continue
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}: {error}")
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["double_seq_bn", "par_bn", "seq_bn"])
def test_adapters_act_in_all_architectures(preset: str, sweep: Iterator[zoo.Architecture]) -> None:
    found: list[str] = []
    for architecture in sweep:
        name = architecture.model_class
        if name == "Gemma4UnifiedAssistantForCausalLM":
            continue
        try:
            problem = effect(name, preset)
        except zoo.CannotShrink:
            continue
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        found += [f"{name}: {problem}"] if problem else []
    assert not found, "\n".join(found)


# -- what is not found is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "said"), WITHOUT.items())
def test_what_is_missing_is_named(name: str, said: str) -> None:
    model, base = tiny(name)
    parts = anatomy(base)
    assert not parts.is_whole
    assert said in "; ".join(parts.missing)
    assert said in adapters.inspect(model)


@pytest.mark.parametrize("name", ["MambaForCausalLM", "ResNetForImageClassification"])
def test_models_without_layers_refuse_adapters(name: str) -> None:
    """The message names the model, what is missing and what to do; the model is as it was."""
    model, _ = tiny(name)
    keys = list(model.state_dict())
    adapters.init(model)
    with pytest.raises(ValueError, match=r"No adapter can be added to this .*not found is .*AdapterModelInterface"):
        model.add_adapter("a")
    assert list(model.state_dict()) == keys and not model.has_adapters() and models.hooks(model) == 0
    assert not model.supports_adapter("seq_bn")


def test_projections_of_known_models() -> None:
    """By name, where everybody knows them."""
    _, bert = tiny("BertForMaskedLM")
    attention, ffn = anatomy(bert).layers[1].sublayers
    inner = "encoder.layer.1.attention"
    assert attention.projections == {
        "q": (f"{inner}.self.query",),
        "k": (f"{inner}.self.key",),
        "v": (f"{inner}.self.value",),
        "o": (f"{inner}.output.dense",),
    }
    assert ffn.projections == {"up": ("encoder.layer.1.intermediate.dense",), "down": ("encoder.layer.1.output.dense",)}
    assert (attention.norm, attention.pre_norm) == (f"{inner}.output.LayerNorm", None)
    _, llama = tiny("LlamaForCausalLM")
    attention, ffn = anatomy(llama).layers[0].sublayers
    assert ffn.projections == {role: (f"layers.0.mlp.{role}_proj",) for role in ("gate", "up", "down")}
    assert (attention.norm, attention.pre_norm) == (None, "layers.0.input_layernorm")
    _, gpt2 = tiny("GPT2LMHeadModel")
    assert anatomy(gpt2).layers[0].sublayers[0].projections == {"qkv": ("h.0.attn.c_attn",), "o": ("h.0.attn.c_proj",)}
    _, t5 = tiny("T5ForConditionalGeneration")
    kinds = [[s.kind for s in tower.layers[0].sublayers] for tower in anatomy(t5).towers]
    assert kinds == [["attention", "ffn"], ["attention", "cross_attention", "ffn"]]
    _, mixtral = tiny("MixtralForCausalLM")
    assert anatomy(mixtral).layers[0].sublayers[1].projections["experts"] == ("layers.0.mlp.experts",)


# -- AdapterModelInterface -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_embeddings", "word", r"model_embeddings names 'word', which CustomModel has not; did you mean 'words'"),
        ("model_layers", "block", r"model_layers names 'block', which CustomModel has not; did you mean 'blocks'"),
        ("model_layers", "words", r"model_layers='words' holds no modules"),
        ("layer_self_attn", "attention", r"'attention.*', which Block has not"),
        ("layer_cross_attn", "cross", r"'cross.*', which Block has not"),
        ("attn_q_proj", "querry", r"'attend.querry', which Block has not; did you mean 'attend.query'"),
        ("attn_k_proj", "keys", r"'attend.keys', which Block has not; did you mean 'attend.key'"),
        ("attn_v_proj", "values", r"'attend.values', which Block has not"),
        ("attn_o_proj", "results", r"'attend.results', which Block has not; did you mean 'attend.result'"),
        ("attn_qkv_proj", "qkv", r"'attend.qkv', which Block has not"),
        ("layer_intermediate_proj", "expanded", r"'expanded', which Block has not; did you mean 'expand'"),
        ("layer_output_proj", "contracted", r"'contracted', which Block has not; did you mean 'contract'"),
        ("layer_pre_self_attn", "before_attn", r"'before_attn', which Block has not; did you mean 'before_attention'"),
        ("layer_pre_ffn", "before", r"'before', which Block has not"),
        ("layer_ln_1", "norm", r"'norm', which Block has not"),
        ("layer_ln_2", "norm", r"'norm', which Block has not"),
    ],
)
def test_wrong_names_in_an_interface(field: str, value: str, message: str) -> None:
    model = models.bare("custom")
    attributes, modules = set(model.__dict__), list(model.named_modules())
    with pytest.raises(ValueError, match=message):
        adapters.init(model, interface=replace(models.CUSTOM_INTERFACE, **{field: value}))
    assert type(model) is models.CustomModel
    assert set(model.__dict__) == attributes and list(model.named_modules()) == modules


def test_wrong_base_model_in_an_interface() -> None:
    with pytest.raises(ValueError, match=r"base_model.*'body'"):
        adapters.init(models.bare("custom"), interface=replace(models.CUSTOM_INTERFACE, base_model="body"))


def test_interface_with_a_base_model() -> None:
    """All other names start at the base model; so do the names in files."""
    outer = nn.Module()
    outer.body = models.bare("custom")
    outer.forward = lambda input_ids: outer.body(input_ids)  # type: ignore[assignment]
    expected = outer.body(**models.inputs("custom"))
    adapters.init(outer, interface=replace(models.CUSTOM_INTERFACE, base_model="body"))
    outer.add_adapter("a", "seq_bn[reduction_factor=4]", set_active=True)  # type: ignore[operator]
    models.randomise(outer, "a")
    assert not torch.allclose(outer(**models.inputs("custom")), expected)
    assert any(key.startswith("body.blocks.0.output_adapters.adapters.a.") for key in outer.state_dict())


def test_interface_has_the_fields_of_adapterhub() -> None:
    """As `adapter_interface.json` holds them (shared/reference/formats.md, A4)."""
    data = models.CUSTOM_INTERFACE.to_dict()
    assert AdapterModelInterface(**data) == models.CUSTOM_INTERFACE
    assert sorted(data) == [
        "adapter_methods",
        "attn_k_proj",
        "attn_o_proj",
        "attn_q_proj",
        "attn_qkv_proj",
        "attn_v_proj",
        "base_model",
        "layer_cross_attn",
        "layer_intermediate_proj",
        "layer_ln_1",
        "layer_ln_2",
        "layer_output_proj",
        "layer_pre_cross_attn",
        "layer_pre_ffn",
        "layer_pre_self_attn",
        "layer_self_attn",
        "model_embeddings",
        "model_layers",
    ]


def test_interface_that_describes_no_sublayer() -> None:
    nothing = replace(models.CUSTOM_INTERFACE, layer_self_attn=None, layer_output_proj=None)
    with pytest.raises(ValueError, match="layer_self_attn"):
        adapters.init(models.bare("custom"), interface=nothing)


# -- inspect -------------------------------------------------------------------------------------------------


def test_inspect_shows_the_anatomy() -> None:
    text = adapters.inspect(models.bare("bert"))
    for part in (
        "BertModel: found whole",
        "encoder (2 layers, hidden size 32)",
        "embeddings: output of embeddings",
        "layers 0 to 1, like 0:",
        "attention: post-norm attention.output.LayerNorm",
        "q attention.self.query",
        "down output.dense",
    ):
        assert part in text
    assert "would add" not in text


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize("preset", ["seq_bn", "double_seq_bn_inv", "compacter[phm_dim=2]"])
def test_inspect_says_what_would_be_added(name: str, preset: str) -> None:
    """The number is that of really adding it; nothing is added."""
    model = models.adapted(name)
    keys, config = list(model.state_dict()), AdapterConfig.load(preset, reduction_factor=4)
    text = adapters.inspect(model, config)
    assert list(model.state_dict()) == keys and not model.has_adapters()
    model.add_adapter("a", config)
    row, base = model.adapter_summary(as_dict=True)
    assert text.splitlines()[-1] == (
        f"└─ would add {row['#param']:,} parameters: {row['%param']:.2f} % of {base['#param']:,}"
    )
    shown = sum("+ Bottleneck (" in line for line in text.splitlines())
    assert 0 < shown <= len(model._adapter_registry["a"].placements)


def test_inspect_of_what_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="did you mean"):
        adapters.inspect(models.bare("bert"), "seq_bm")
    with pytest.raises(ValueError, match="places nothing"):
        adapters.inspect(models.bare("bert"), "seq_bn[leave_out=[0, 1]]")
    with pytest.raises(ValueError, match=r"not found|No adapter can be added"):
        adapters.inspect(tiny("ResNetForImageClassification")[1], "seq_bn")
