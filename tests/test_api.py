"""What users call on a model: each method does what it says, and bad input leaves the model as it was."""

from __future__ import annotations

import gc
import inspect
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import adapters
import models
from adapters import (
    AdapterConfig,
    AdapterSetup,
    AdapterType,
    AutoAdapterModel,
    Fuse,
    ModelAdaptersConfig,
    SeqBnConfig,
    Stack,
)

SMALL = "seq_bn[reduction_factor=4]"
STATIC: dict[str, Any] = {
    "classification": (BertForSequenceClassification, lambda: BertConfig(**models.BERT, num_labels=3)),
    "causal": (LlamaForCausalLM, lambda: LlamaConfig(**models.LLAMA)),
    "seq2seq": (T5ForConditionalGeneration, lambda: T5Config(**models.FAMILIES["t5"][1], decoder_start_token_id=0)),
}
every_static = pytest.mark.parametrize("kind", STATIC)


def static(kind: str) -> Any:
    """A static class of transformers with a head of its own, tiny and random, without adapters."""
    torch.manual_seed(0)
    model_class, config = STATIC[kind]
    return large(model_class(config()))


def large(model: nn.Module) -> Any:
    """The model with weights that show, in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model.eval()


def auto(name: str = "bert") -> Any:
    """A model with flexible heads."""
    torch.manual_seed(0)
    config_class, arguments, _, _ = models.FAMILIES[name]
    return large(AutoAdapterModel.from_config(getattr(transformers, config_class)(**arguments)))


def run(model: nn.Module, name: str = "bert", **more: Any) -> list[Tensor]:
    with torch.no_grad():
        return models.tensors(model(**models.inputs(name), **more))


def of(kind: str, model: nn.Module, **more: Any) -> list[Tensor]:
    """The outputs of a static class."""
    return run(model, {"classification": "bert", "causal": "llama", "seq2seq": "t5"}[kind], **more)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def with_two(name: str = "bert", config: str = SMALL) -> Any:
    """A model with the adapters `a` and `b`, whose effects show."""
    model = models.adapted(name)
    for adapter in ("a", "b"):
        model.add_adapter(adapter, config)
        models.randomise(model, adapter)
    with torch.no_grad():
        for parameter in model._adapter_registry["b"].parameters():
            parameter.mul_(-1)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    """All that a call that fails must leave as it was."""
    return {
        "class": type(model),
        "keys": list(model.state_dict()),
        "weights": [id(p) for p in model.parameters()],
        "values": [p.detach().clone() for p in model.parameters()],
        "trained": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": models.hooks(model),
        "active": model.active_adapters,
        "summary": model.adapter_summary(as_dict=True),
        "head": getattr(model, "active_head", None),
        "outputs": [] if model.training else run(model, "custom" if isinstance(model, models.CustomModel) else "bert"),
    }


@contextmanager
def refused(model: nn.Module, error: type[Exception], match: str) -> Iterator[None]:
    """The block raises an error with a message that matches, and the model is as it was."""
    before = state(model)
    with pytest.raises(error, match=match):
        yield
    after = state(model)
    for part in before:
        if part in ("values", "outputs"):
            assert same(after[part], before[part]), part
        else:
            assert after[part] == before[part], part


# -- init, detach --------------------------------------------------------------------------------------------


@every_static
def test_init_changes_nothing(kind: str) -> None:
    """Type name, module, signature, modules, keys, outputs and recorded outputs are the model's own."""
    bare, model = static(kind), static(kind)
    assert adapters.init(model) is None  # type: ignore[func-returns-value]
    assert isinstance(model, type(bare)) and isinstance(model, adapters.ModelAdaptersMixin)
    assert (type(model).__name__, type(model).__module__) == (type(bare).__name__, type(bare).__module__)
    assert type(model).__doc__ == type(bare).__doc__
    assert repr(model) == repr(bare)
    assert inspect.signature(model.forward) == inspect.signature(bare.forward)
    assert model.state_dict().keys() == bare.state_dict().keys()
    inner = [[type(part) for part in m.modules() if part not in (m, m.base_model)] for m in (model, bare)]
    assert inner[0] == inner[1] and isinstance(model.base_model, type(bare.base_model))
    assert same(of(kind, model), of(kind, bare))
    assert model.config.to_dict() == bare.config.to_dict()


@every_static
def test_outputs_are_recorded_as_ever(kind: str) -> None:
    """`output_hidden_states` and `output_attentions`, without an adapter and with one."""
    bare, model = static(kind), static(kind)
    for m in (bare, model):
        m.set_attn_implementation("eager")
    adapters.init(model)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    assert same(of(kind, model, **wanted), of(kind, bare, **wanted))
    model.add_adapter("a", SMALL, set_active=True)
    models.randomise(model, "a")
    adapted, plain = of(kind, model, **wanted), of(kind, bare, **wanted)
    assert len(adapted) == len(plain) > len(of(kind, bare))
    assert [t.shape for t in adapted] == [t.shape for t in plain]
    assert not same(adapted, plain)


def test_hidden_states_are_those_with_the_adapter() -> None:
    """The recorded state of the last layer is the model's output."""
    model = with_two()
    model.set_active_adapters("a")
    with torch.no_grad():
        outputs = model(**models.inputs("bert"), output_hidden_states=True)
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)


def test_init_twice_and_with_configurations() -> None:
    model = models.bare("bert")
    configs = ModelAdaptersConfig()
    configs.add("a", "seq_bn")
    configs.add("b", SMALL)
    adapters.init(model, configs)
    registry, first = model._adapter_registry, type(model)
    adapters.init(model)
    assert model._adapter_registry is registry and type(model) is first
    assert list(model.adapters_config) == ["a", "b"] and model.adapters_config.get("b")["reduction_factor"] == 4
    assert type(models.adapted("bert")) is first


def test_names_of_peft_are_shadowed() -> None:
    """transformers gives every model methods of these names with other arguments."""
    model = with_two()
    assert model.active_adapters is None
    model.active_adapters = "a"
    assert model.active_adapters == Stack("a")
    model.active_adapters = ["a", "b"]
    assert model.active_adapters == Stack("a", "b")
    assert not getattr(model, "_hf_peft_config_loaded", False)
    for name in ("add_adapter", "load_adapter", "delete_adapter", "active_adapters", "save_pretrained"):
        assert inspect.getattr_static(type(model), name) is inspect.getattr_static(adapters.ModelAdaptersMixin, name)


@every_static
def test_detach(kind: str) -> None:
    bare, model = static(kind), static(kind)
    adapters.init(model)
    model.add_adapter("a", "double_seq_bn_inv", set_active=True)
    adapters.detach(model)
    assert type(model) is type(bare) and model.__dict__.keys() == bare.__dict__.keys()
    assert model.state_dict().keys() == bare.state_dict().keys() and models.hooks(model) == models.hooks(bare)
    assert same(of(kind, model), of(kind, bare))
    adapters.detach(model)
    adapters.init(model)
    assert not model.has_adapters()


def test_detach_of_a_model_that_is_ours() -> None:
    model = auto()
    with refused(model, ValueError, r"BertAdapterModel is a model with adapters and heads by itself.*model\.bert"):
        adapters.detach(model)


# -- adding --------------------------------------------------------------------------------------------------


def numbers(model: Any, adapter: str) -> list[int]:
    """The layers that an adapter is in."""
    return sorted(n for n in model.get_adapter(adapter) if n >= 0)


@pytest.mark.parametrize("config", [None, "seq_bn", SeqBnConfig(), SeqBnConfig().to_dict(), dict(SeqBnConfig())])
def test_ways_to_say_a_configuration(config: Any) -> None:
    model = models.adapted("bert")
    assert model.add_adapter("a", config) is None
    assert model.has_adapters() and model.adapters_config.get("a").to_dict() == SeqBnConfig().to_dict()
    assert model.active_adapters is None


def test_layers_and_leave_out() -> None:
    """Layers are counted over encoder and decoder."""
    model = models.adapted("bart")
    model.add_adapter("all")
    model.add_adapter("some", layers=[0, 3])
    model.add_adapter("rest", "seq_bn[leave_out=[0, 3]]")
    model.add_adapter("both", "seq_bn[leave_out=[0]]", layers=[0, 1])
    model.add_adapter("none named", layers=None)
    found = [numbers(model, name) for name in ("all", "some", "rest", "both", "none named")]
    assert found == [[0, 1, 2, 3], [0, 3], [1, 2], [1], [0, 1, 2, 3]]
    assert model.adapters_config.get("some")["leave_out"] == [1, 2]
    assert len(model.get_adapter("some")) == 2


def test_early_releases_named_a_type() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", AdapterType.text_task, "seq_bn[reduction_factor=8]")
    model.add_adapter("b", AdapterType.text_lang, config="seq_bn[reduction_factor=2]")
    model.add_adapter("c", AdapterType.text_task)
    model.train_adapter("a", AdapterType.text_task)
    factors = [model.adapters_config.get(name)["reduction_factor"] for name in "abc"]
    assert factors == [8, 2, 16] and model.active_adapters == Stack("a")
    assert (
        AdapterType("text_task") is AdapterType.text_task and AdapterType.has("text_lang") and not AdapterType.has("x")
    )


def test_models_without_a_head_take_the_facts_where_others_take_the_head(tmp_path: Path) -> None:
    model = models.adapted("bert")
    model.add_adapter("a")
    model.save_adapter(tmp_path / "one", "a", {"by": "me"})
    model.save_all_adapters(tmp_path / "all", {"by": "me"})
    model.save_adapter_setup(tmp_path / "setup", "a", {"by": "me"})
    for folder in ("one", "all/a", "setup/a"):
        assert json.loads((tmp_path / folder / "adapter_config.json").read_text())["by"] == "me", folder


def test_overwriting() -> None:
    """The new one takes the place of the old, which is gone; what was active is not."""
    model = with_two()
    model.set_active_adapters("a")
    old = weakref.ref(model.get_adapter("a")[0]["output_adapter"])
    model.add_adapter("a", "double_seq_bn", overwrite_ok=True)
    gc.collect()
    assert old() is None
    assert model.adapters_config.get("a") == AdapterConfig.load("double_seq_bn") and list(model.adapters_config) == [
        "b",
        "a",
    ]
    assert model.active_adapters is None and models.hooks(model) == 0
    model.add_adapter("a", "double_seq_bn", overwrite_ok=True, set_active=True)
    assert model.active_adapters == Stack("a")


@pytest.mark.parametrize("setup", [Stack("a"), Stack("b", "a"), Fuse("a", "b")], ids=str)
@pytest.mark.parametrize("trained", ["a", "b"])
def test_what_is_loaded_again_stays_active(setup: Any, trained: str, tmp_path: Path) -> None:
    """As with 1.3; frozen adapters stay frozen, others are trained as before."""
    model = with_two()
    model.add_adapter_fusion(["a", "b"])
    model.save_adapter(tmp_path / "a", "a")
    model.save_adapter_fusion(tmp_path / "a,b", ["a", "b"])
    model.train_adapter(trained)
    model.set_active_adapters(setup, skip_layers=[0])
    expected, is_trained = run(model.eval()), [(name, p.requires_grad) for name, p in model.named_parameters()]
    models.randomise(model, "a")
    assert not same(run(model), expected)
    model.load_adapter(tmp_path / "a")
    model.load_adapter_fusion(tmp_path / "a,b")
    assert model.active_adapters == setup and model._adapter_registry.skip_layers == (0,)
    assert same(run(model), expected)
    assert sorted((name, p.requires_grad) for name, p in model.named_parameters()) == sorted(is_trained)


def test_what_cannot_take_its_place(tmp_path: Path) -> None:
    """An adapter of another configuration, in an active fusion that has nothing for it: the former one stays."""
    model = with_two()
    model.add_adapter_fusion(["a", "b"], set_active=True)
    model.adapter_to("a", dtype=torch.float64)
    other = models.adapted("bert")
    other.add_adapter("a", "lora[r=2]")
    other.save_adapter(tmp_path, "a")
    before = dict(model.named_parameters())
    with pytest.raises(ValueError, match="has no module at"):
        model.load_adapter(tmp_path)
    assert dict(model.named_parameters()) == before and model.active_adapters == Fuse("a", "b")
    assert {p.dtype for p in model._adapter_registry["a"].parameters()} == {torch.float64}


def test_a_place_is_taken() -> None:
    """By a module of the model's own, in a layer behind others."""
    model = models.adapted("bert")
    model.encoder.layer[1].output.adapters = nn.Linear(2, 2)
    with refused(model, ValueError, "has a module named 'adapters' already"):
        model.add_adapter("a", SMALL)


def test_failures_of_init_and_training() -> None:
    """A model that was not initialised is not so afterwards, and nothing is frozen."""
    configs = ModelAdaptersConfig()
    configs.add("a", "seq_bn")
    configs.add("b", "seq_bn[leave_out=[0, 1]]")
    model = static("classification")
    with pytest.raises(ValueError, match="places nothing"):
        adapters.init(model, configs)
    assert type(model) is BertForSequenceClassification and not hasattr(model, "_adapter_registry")
    vision = models.adapted("vit")
    vision.add_adapter("a", SMALL)
    before = [p.requires_grad for p in vision.parameters()], vision.training, vision.active_adapters
    with pytest.raises(ValueError, match="no embeddings of tokens"):
        vision.train_adapter("a", train_embeddings=True)
    assert ([p.requires_grad for p in vision.parameters()], vision.training, vision.active_adapters) == before


def test_reduction_factors_per_layer() -> None:
    model = models.adapted("bart")
    model.add_adapter("a", SeqBnConfig(reduction_factor={"0": 2, "3": 8, "default": 4}))
    sizes = [model.get_adapter("a")[n]["output_adapter"].adapter_down[0].out_features for n in range(4)]
    assert sizes == [16, 8, 8, 4]
    run(model, "bart")


def test_layout_of_get_adapter() -> None:
    """By layer and place; -1 holds what belongs to no layer."""
    model = models.adapted("bart")
    model.add_adapter("a", "double_seq_bn_inv[cross_adapter=True]")
    places = {n: set(found) for n, found in model.get_adapter("a").items()}
    encoder, decoder = {"mh_adapter", "output_adapter"}, {"mh_adapter", "output_adapter", "cross_adapter"}
    assert places == {-1: {"invertible"}, 0: encoder, 1: encoder, 2: decoder, 3: decoder}
    assert all(isinstance(m, nn.Module) for found in model.get_adapter("a").values() for m in found.values())
    assert set(model.get_adapter("a")[-1]) == {"invertible"}


def test_a_new_adapter_is_like_the_model() -> None:
    """Type of numbers and mode follow the modules; the random numbers of others are left alone."""
    model = models.adapted("bert").double()
    model.add_adapter("a", SMALL)
    assert all(p.dtype == torch.float64 for p in model._adapter_registry["a"].parameters())
    assert not any(m.training for m in model.modules())
    model.delete_adapter("a")
    model.train().add_adapter("b", SMALL)
    assert all(m.training for m in model.modules())


def test_seeds() -> None:
    """`init_weights_seed` gives the same weights, and takes no random number from others."""
    first, second = models.adapted("bert"), models.adapted("bert")
    before = torch.get_rng_state()
    for model in (first, second):
        model.add_adapter("a", "double_seq_bn[init_weights_seed=3]")
    assert torch.equal(torch.get_rng_state(), before)
    first.add_adapter("b", "double_seq_bn[init_weights_seed=4]")
    of_first, of_second = ([*m._adapter_registry["a"].parameters()] for m in (first, second))
    assert same(of_first, of_second)  # type: ignore[arg-type]
    assert not same(of_first, [*first._adapter_registry["b"].parameters()])  # type: ignore[list-item]


def test_supports_adapter() -> None:
    model = models.adapted("bert")
    assert model.supports_adapter("seq_bn") and model.supports_adapter(SeqBnConfig())
    assert not model.supports_adapter("seq_bn[leave_out=[0, 1]]") and not model.supports_adapter("no_such_preset")
    assert not model.has_adapters()


# -- active, trained, frozen ---------------------------------------------------------------------------------


def rows(model: Any) -> dict[str, tuple[bool, bool]]:
    """(active, trained) by name."""
    return {row["name"]: (row.get("active", False), row["train"]) for row in model.adapter_summary(as_dict=True)}


def test_three_separate_states() -> None:
    """Activating changes nothing that is trained; training, nothing of others; freezing, nothing that is active."""
    model = with_two()
    assert rows(model) == {"a": (False, True), "b": (False, True), "Full model": (False, True)}
    model.set_active_adapters("b")
    assert rows(model) == {"a": (False, True), "b": (True, True), "Full model": (False, True)}
    model.train_adapter("a")
    assert rows(model) == {"a": (True, True), "b": (False, False), "Full model": (False, False)}
    assert model.training
    model.set_active_adapters(None)
    assert rows(model) == {"a": (False, True), "b": (False, False), "Full model": (False, False)}
    model.freeze_model(True)
    assert rows(model) == {"a": (False, False), "b": (False, False), "Full model": (False, False)}
    model.freeze_model(False)
    assert rows(model) == {"a": (False, True), "b": (False, True), "Full model": (False, True)}
    model.train_adapter(Stack("a", "b"))
    assert rows(model) == {"a": (True, True), "b": (True, True), "Full model": (False, False)}


def test_a_second_adapter_does_not_unfreeze_the_first(tmp_path: Any) -> None:
    """Nor does it freeze what is trained (huggingface/peft#3580)."""
    model = with_two()
    model.save_adapter(tmp_path, "b")
    model.train_adapter("a")
    model.load_adapter(tmp_path, load_as="c")
    model.add_adapter("d", SMALL, set_active=True)
    assert [rows(model)[name][1] for name in ("a", "b", "Full model")] == [True, False, False]


def test_training_the_embeddings_too() -> None:
    model = with_two()
    model.train_adapter("a", train_embeddings=True)
    assert model.get_input_embeddings().weight.requires_grad
    base = [p for key, p in model.named_parameters() if ".adapters." not in key]
    assert [p for p in base if p.requires_grad] == [model.get_input_embeddings().weight]


def test_heads_stay_trainable() -> None:
    """`train_adapter` and `freeze_model` leave heads alone."""
    model = static("classification")
    adapters.init(model)
    model.add_adapter("a", SMALL)
    model.train_adapter("a")
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert {"classifier.weight", "classifier.bias"} <= trained
    assert all(".adapters.a." in key or key.startswith("classifier.") for key in trained)


def test_summary() -> None:
    model = with_two()
    model.train_adapter("a")
    first, second, full = model.adapter_summary(as_dict=True)
    size = sum(p.numel() for p in model._adapter_registry["a"].parameters())
    total = sum(p.numel() for p in models.bare("bert").parameters())
    assert first == {
        "name": "a",
        "architecture": "bottleneck",
        "#param": size,
        "%param": 100 * size / total,
        "active": True,
        "train": True,
    }
    assert (second["name"], second["active"], second["train"]) == ("b", False, False)
    assert (full["name"], full["#param"], full["%param"], full["train"]) == ("Full model", total, 100.0, False)
    table = model.adapter_summary()
    assert [line.split()[0] for line in table.splitlines() if line[:1].isalpha()] == ["Name", "a", "b", "Full"]
    assert f"{size:,}" in table and len({len(line) for line in table.splitlines()}) <= 2


def test_active_is_free_of_order() -> None:
    """A stack in another order is another model; its first adapter is the one nearest to the sublayer."""
    model = with_two()
    found = {}
    for setup in ("a", "b", ("a", "b"), ("b", "a")):
        model.set_active_adapters(Stack(*setup))
        found[setup] = run(model)
    assert len({tuple(t.sum().item() for t in outputs) for outputs in found.values()}) == 4
    model.set_active_adapters(["a", "b"])
    assert same(run(model), found["a", "b"])
    model.set_active_adapters(Stack("a", Stack("b")))
    assert same(run(model), found["a", "b"])


def test_skipped_layers_are_left_as_they_are() -> None:
    model = with_two()
    model.add_adapter("first only", SMALL, layers=[0])
    with torch.no_grad():
        source = model.get_adapter("a")[0]["output_adapter"].state_dict()
        model.get_adapter("first only")[0]["output_adapter"].load_state_dict(source)
    model.set_active_adapters("first only")
    expected = run(model)
    model.set_active_adapters("a", skip_layers=[1])
    assert same(run(model), expected)
    model.set_active_adapters("a", skip_layers=[0, 1])
    assert same(run(model), run(models.bare("bert"))) and models.hooks(model) == 0
    model.set_active_adapters("a")
    assert not same(run(model), expected)


def test_adapter_setup_is_for_its_block_only() -> None:
    model = with_two()
    expected = {}
    for setup in (None, "a", "b"):
        model.set_active_adapters(setup)
        expected[setup] = run(model)
    model.set_active_adapters("b")
    with AdapterSetup("a") as context:
        assert same(run(model), expected["a"])
        assert AdapterSetup.get_context() is context and AdapterSetup.get_context_adapter_setup() == Stack("a")
        assert model.active_adapters == Stack("b")
        with AdapterSetup(None):
            assert same(run(model), expected[None])
            assert AdapterSetup.get_contexts()[0] is context
        with context:
            assert same(run(model), expected["a"])
    assert AdapterSetup.get_context() is None and same(run(model), expected["b"])
    with pytest.raises(KeyError), AdapterSetup("a"):
        raise KeyError
    assert same(run(model), expected["b"])


# -- deleting, moving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["seq_bn", "double_seq_bn_inv", "compacter[phm_dim=2]"])
def test_deleting_frees(preset: str) -> None:
    """Parameters die, containers are gone with their last adapter, and the others work on."""
    model = models.adapted("bert")
    keys = list(model.state_dict())
    bare = run(model)
    for adapter in ("a", "b"):
        model.add_adapter(adapter, AdapterConfig.load(preset, reduction_factor=4))
        models.randomise(model, adapter)
    model.set_active_adapters("b")
    expected = run(model)
    model.set_active_adapters(Stack("a", "b"))
    run(model)
    parameters = [weakref.ref(p) for p in model._adapter_registry["a"].parameters()]
    assert model.delete_adapter("a") is None
    gc.collect()
    assert parameters and not any(p() is not None for p in parameters)
    assert model.active_adapters is None and models.hooks(model) == 0 and list(model.adapters_config) == ["b"]
    model.set_active_adapters("b")
    assert same(run(model), expected)
    model.delete_adapter("b")
    assert list(model.state_dict()) == keys and not model.has_adapters() and same(run(model), bare)


def test_deleting_another_leaves_what_is_active() -> None:
    model = with_two()
    model.set_active_adapters("a")
    expected = run(model)
    model.delete_adapter("b")
    assert model.active_adapters == Stack("a") and same(run(model), expected)


def test_an_adapter_of_a_deleted_name_is_new() -> None:
    """No routing of the old one is used."""
    model = with_two()
    model.set_active_adapters("a")
    with AdapterSetup("a"):
        before = run(model)
    model.delete_adapter("a")
    model.add_adapter("a", SMALL, set_active=True)
    with AdapterSetup("a"):
        assert not same(run(model), before)


def test_adapter_to() -> None:
    model = with_two()
    model.adapter_to("a", device="meta")
    model.adapter_to("b", dtype=torch.float64)
    assert {p.device.type for p in model._adapter_registry["a"].parameters()} == {"meta"}
    assert {p.dtype for p in model._adapter_registry["b"].parameters()} == {torch.float64}
    assert {p.dtype for p in models.bare("bert").parameters()} == {torch.float32}
    assert same(run(model), run(models.bare("bert")))


# -- models with heads ---------------------------------------------------------------------------------------


def test_auto_model_from_a_folder(tmp_path: Any) -> None:
    """A bare checkpoint gives a model of the same weights, without a head of its own, by the configuration's class."""
    bare = models.bare("bert")
    bare.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == "BertAdapterModel" and type(model) is type(auto())
    assert same(run(model), run(bare))
    assert not model.has_adapters() and model.active_head is None
    assert "labels" in inspect.signature(model.forward).parameters
    assert isinstance(model, transformers.PreTrainedModel)
    with pytest.raises(OSError, match="from_pretrained"):
        AutoAdapterModel()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "roberta", "vit"])
def test_auto_model_is_the_base_model(name: str) -> None:
    bare, model = models.bare(name), auto(name)
    missing = getattr(model, model.base_model_prefix).load_state_dict(bare.state_dict())
    assert not missing.missing_keys and same(run(model, name), run(bare, name))


def test_training_with_a_head() -> None:
    """Some steps make the loss fall; only the adapter and its head have moved."""
    model = auto()
    model.add_adapter("a", "double_seq_bn[reduction_factor=2]")
    model.add_adapter("other", SMALL)
    model.add_classification_head("a", num_labels=3)
    model.train_adapter("a")
    assert model.active_head == "a"
    labels = torch.tensor([0, 2])
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        torch.manual_seed(0)
        loss = model(**models.inputs("bert"), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert moved and all(".adapters.a." in key or key.startswith("heads.a.") for key in moved)


def test_labels() -> None:
    model = auto()
    model.add_classification_head("plain", num_labels=2)
    model.add_classification_head("topics", num_labels=3, id2label={2: "c", 0: "a", 1: "b"})
    assert model.get_labels() == ["a", "b", "c"] and model.get_labels_dict() == {0: "a", 1: "b", 2: "c"}
    assert model.get_labels("plain") == ["LABEL_0", "LABEL_1"]
    assert list(model.get_prediction_heads_config()) == ["plain", "topics"]
    with refused(model, ValueError, r"id2label numbers \[0, 2\].*0 to 1"):
        model.add_classification_head("gap", num_labels=2, id2label={0: "a", 2: "b"})


@pytest.mark.parametrize(
    ("head", "labels", "message"),
    [
        (
            {"num_labels": 3},
            torch.tensor([0, 1, 2]),
            r"labels has 3 rows; the batch has 2, and head 'h'",
        ),
        ({"num_labels": 3}, torch.zeros(2, 3), r"shape \(2,\), not \(2, 3\)"),
        ({"num_labels": 3, "multilabel": True}, torch.tensor([0, 1]), r"shape \(2, 3\), not \(2,\)"),
        ({"num_labels": 1}, torch.zeros(2, 2), r"shape \(2,\), not \(2, 2\)"),
    ],
)
def test_labels_of_a_wrong_shape(head: dict[str, Any], labels: Tensor, message: str) -> None:
    model = auto()
    model.add_classification_head("h", **head)
    with refused(model, ValueError, message):
        model(**models.inputs("bert"), labels=labels)


@pytest.mark.parametrize(
    ("head", "labels", "loss"),
    [
        ({"num_labels": 3}, torch.tensor([0, 2]), nn.CrossEntropyLoss()),
        ({"num_labels": 3, "multilabel": True}, torch.tensor([[0, 1, 1], [1, 0, 0]]), nn.BCEWithLogitsLoss()),
        ({"num_labels": 1}, torch.tensor([0.5, -1.0]), nn.MSELoss()),
    ],
    ids=["one label", "several labels", "a score"],
)
def test_losses(head: dict[str, Any], labels: Tensor, loss: Any) -> None:
    model = auto()
    model.add_classification_head("h", **head)
    with torch.no_grad():
        outputs = model(**models.inputs("bert"), labels=labels)
        as_tuple = model(**models.inputs("bert"), labels=labels, return_dict=False)
    assert outputs.logits.shape == (2, head["num_labels"])
    given = (
        outputs.logits if labels.shape == outputs.logits.shape or labels.dtype == torch.int64 else outputs.logits[:, 0]
    )
    assert torch.allclose(outputs.loss, loss(given, labels.float() if given.shape == labels.shape else labels))
    assert torch.equal(as_tuple[0], outputs.loss) and torch.equal(as_tuple[1], outputs.logits)


def test_choosing_a_head() -> None:
    """The head of the last adapter's name, unless another is named, or the context names one."""
    model = auto()
    for name, labels in (("a", 2), ("b", 3)):
        model.add_adapter(name, SMALL)
        model.add_classification_head(name, num_labels=labels)
    model.set_active_adapters("a")
    assert model.active_head == "a" and model(**models.inputs("bert")).logits.shape == (2, 2)
    assert model(**models.inputs("bert"), head="b").logits.shape == (2, 3)
    with AdapterSetup("b"):
        assert model(**models.inputs("bert")).logits.shape == (2, 3)
    with AdapterSetup("a", head_setup="b"):
        assert model(**models.inputs("bert")).logits.shape == (2, 3)
        assert AdapterSetup.get_context_head_setup() == "b"
    model.active_head = "b"
    assert model(**models.inputs("bert")).logits.shape == (2, 3)
    model.set_active_adapters(Stack("b", "a"))
    assert model.active_head == "a"
    model.active_head = None
    assert "logits" not in model(**models.inputs("bert"))
    with refused(model, ValueError, r"no head 'c'.*'a', 'b'"):
        model(**models.inputs("bert"), head="c")
    with refused(model, ValueError, r"no head named 'c'"):
        model.active_head = "c"
    with refused(model, ValueError, r"labels given, but no head is active"):
        model(**models.inputs("bert"), labels=torch.zeros(2, dtype=torch.long))
    model.delete_head("b")
    assert list(model.get_prediction_heads_config()) == ["a"]
    with refused(model, ValueError, r"no head named 'b'"):
        model.delete_head("b")


def test_unknown_head_of_a_setup() -> None:
    """A head that is named, and is not there, is never silently left out."""
    model = auto()
    model.add_adapter("a", SMALL)
    model.add_classification_head("a")
    with pytest.raises(ValueError, match=r"no head 'misspelt'.*'a'"), AdapterSetup("a", head_setup="misspelt"):
        run(model)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_causal_models_classify_by_the_last_token(padding: str) -> None:
    """On whichever side the padding is: the row alone gives the same."""
    model = auto("llama")
    model.add_adapter("a", SMALL)
    model.add_classification_head("a", num_labels=3)
    model.set_active_adapters("a")
    ids, mask = torch.arange(10, 18).view(2, 4), torch.ones(2, 4, dtype=torch.long)
    kept = slice(0, 3) if padding == "right" else slice(1, 4)
    mask[1], mask[1, kept] = 0, 1
    with torch.no_grad():
        batch = model(input_ids=ids, attention_mask=mask).logits[1]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        if padding == "left":
            batch = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[1]
        alone = model(input_ids=ids[1:, kept]).logits[0]
    assert torch.allclose(batch, alone, atol=1e-5)


def test_same_head_twice() -> None:
    model = auto()
    model.add_classification_head("h", num_labels=2)
    with refused(model, ValueError, "head named 'h' already.*overwrite_ok"):
        model.add_classification_head("h", num_labels=3)
    model.add_classification_head("h", num_labels=3, overwrite_ok=True)
    assert model(**models.inputs("bert")).logits.shape == (2, 3)


def test_the_pooler_and_layers_of_a_head() -> None:
    model = auto()
    model.add_classification_head("deep", layers=3, activation_function="relu")
    assert sum(isinstance(m, nn.Linear) for m in model.heads["deep"]) == 3
    model.add_classification_head("flat", layers=1, use_pooler=True)
    outputs = model.bert(**models.inputs("bert"))
    head = model.heads["flat"][1]
    assert torch.allclose(model(**models.inputs("bert")).logits, head(outputs.pooler_output))
    gpt = auto("gpt2")
    gpt.add_classification_head("h", use_pooler=True)
    with pytest.raises(ValueError, match="'h' has use_pooler=True, but the base model has no pooler"):
        run(gpt, "gpt2")


# -- whole models on disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b.c"), ("weight", "ü, 日本")], ids=str)
def test_save_pretrained_of_a_model_with_heads(names: tuple[str, str], tmp_path: Any) -> None:
    model = auto()
    for name in names:
        model.add_adapter(name, "double_seq_bn_inv[reduction_factor=4]")
        models.randomise(model, name)
        model.add_classification_head(name, num_labels=3, id2label={0: "x", 1: "y", 2: "z"})
    model.save_pretrained(tmp_path / "first")
    assert not hasattr(model.config, "adapters") and not hasattr(model.config, "prediction_heads")
    fresh = AutoAdapterModel.from_pretrained(tmp_path / "first").eval()
    fresh.save_pretrained(tmp_path / "second")
    for found in (fresh, AutoAdapterModel.from_pretrained(tmp_path / "second").eval()):
        assert tuple(found.adapters_config) == tuple(found.get_prediction_heads_config()) == names
        assert found.get_labels(names[0]) == ["x", "y", "z"] and found.active_adapters is None
        assert found.state_dict().keys() == model.state_dict().keys()
        for name in names:
            model.set_active_adapters(name)
            found.set_active_adapters(name)
            assert found.active_head == name and same(run(found), run(model))
        found.set_active_adapters(None)


@every_static
def test_save_pretrained_of_a_static_class(kind: str, tmp_path: Any) -> None:
    model = static(kind)
    adapters.init(model)
    model.add_adapter("a", "double_seq_bn_inv[reduction_factor=4]", set_active=True)
    models.randomise(model, "a")
    model.save_pretrained(tmp_path)
    fresh = adapters.load_model(tmp_path, type(static(kind))).eval()
    assert (type(fresh).__name__, type(fresh)) == (type(model).__name__, type(model))
    assert isinstance(fresh, STATIC[kind][0]) and fresh.active_adapters is None
    assert same(of(kind, fresh), of(kind, static(kind)))
    fresh.set_active_adapters("a")
    assert same(of(kind, fresh), of(kind, model))
    fresh.delete_adapter("a")
    assert fresh.state_dict().keys() == static(kind).state_dict().keys()


@every_static
def test_load_model_of_a_bare_checkpoint(kind: str, tmp_path: Any) -> None:
    bare = static(kind)
    bare.save_pretrained(tmp_path)
    model = adapters.load_model(tmp_path, STATIC[kind][0]).eval()
    assert not model.has_adapters() and same(of(kind, model), of(kind, bare))
    told, info = adapters.load_model(tmp_path, STATIC[kind][0], output_loading_info=True)  # type: ignore[misc]
    assert type(told) is type(model) and not info["missing_keys"]


def test_from_pretrained_of_transformers_still_reads_the_base(tmp_path: Any) -> None:
    """transformers itself reads the base model out of the folder."""
    model = with_two()
    model.save_pretrained(tmp_path)
    plain = transformers.BertModel.from_pretrained(tmp_path).eval()
    assert same(run(plain), run(models.bare("bert")))


def test_detached_models_are_saved_as_ever(tmp_path: Any) -> None:
    model = with_two()
    adapters.detach(model)
    model.save_pretrained(tmp_path)
    assert same(run(transformers.AutoModel.from_pretrained(tmp_path).eval()), run(models.bare("bert")))
    assert "adapters" not in transformers.AutoConfig.from_pretrained(tmp_path).to_dict()


# -- generation ----------------------------------------------------------------------------------------------


def greedy(model: Any, ids: Tensor, steps: int) -> Tensor:
    """Greedy decoding, token by token, without a cache."""
    is_seq2seq = model.config.is_encoder_decoder
    found = torch.full((len(ids), 1), 0) if is_seq2seq else ids
    for _ in range(steps):
        given = {"input_ids": ids, "decoder_input_ids": found} if is_seq2seq else {"input_ids": found}
        found = torch.cat([found, model(**given).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return found


def generated(model: Any, ids: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """What `generate` gives without sampling: the tokens, and the logits at each step."""
    fixed = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "output_logits": True}
    fixed |= {"attention_mask": torch.ones_like(ids), "return_dict_in_generate": True}
    found = model.generate(ids, **fixed, **options)
    return found.sequences, torch.stack(found.logits)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
@pytest.mark.parametrize("preset", ["seq_bn", "double_seq_bn", "par_bn", "seq_bn_inv"])
def test_generation(kind: str, preset: str) -> None:
    """Cached equals uncached equals by hand, with beams and in a setup; and it is not what the bare model gives."""
    bare, model = static(kind), static(kind)
    adapters.init(model)
    model.add_adapter("a", AdapterConfig.load(preset, reduction_factor=2))
    models.randomise(model, "a", std=0.5)
    model.set_active_adapters("a")
    ids = models.inputs("bert")["input_ids"]
    with torch.no_grad():
        by_hand = greedy(model, ids, 6)
        uncached, expected = generated(model, ids, use_cache=False)
        cached, logits = generated(model, ids, use_cache=True)
        assert torch.equal(cached, by_hand) and torch.equal(uncached, by_hand)
        assert torch.allclose(logits, expected, atol=1e-5)
        beams = [generated(model, ids, num_beams=3, use_cache=c)[0] for c in (True, False)]
        assert torch.equal(*beams)
        assert not torch.allclose(generated(bare, ids)[1][0], expected[0], atol=1e-3)
        model.set_active_adapters(None)
        assert torch.equal(greedy(model, ids, 6), greedy(bare, ids, 6))
        with AdapterSetup("a"):
            assert torch.allclose(generated(model, ids)[1][0], expected[0], atol=1e-5)


# -- bad input -----------------------------------------------------------------------------------------------

NO_NAMES = ["", " ", "a/b", "a\\b", "..", ".", "/etc/passwd", "a\0b"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_no_folders(name: str) -> None:
    model = with_two()
    model.set_active_adapters("a")
    with refused(model, ValueError, "is no name for an adapter"):
        model.add_adapter(name, SMALL)


@pytest.mark.parametrize("name", [None, 3, ["a"], SeqBnConfig(), Stack("a")])
def test_names_that_are_no_strings(name: Any) -> None:
    with refused(with_two(), TypeError, f"name of the adapter, a string, not {type(name).__name__}"):
        with_two().add_adapter(name, SMALL)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("set_active_adapters", ()),
        ("train_adapter", ()),
        ("delete_adapter", ()),
        ("adapter_to", ("cpu",)),
    ],
)
def test_unknown_names(method: str, arguments: tuple[Any, ...]) -> None:
    """The message has near matches; or all there are; or says that there are none."""
    model = models.adapted("bert")
    with refused(model, ValueError, r"no adapter named 'sentiment'\. No adapter has been added yet"):
        getattr(model, method)("sentiment", *arguments)
    model.add_adapter("sentiments", SMALL, set_active=True)
    model.add_adapter("zzz", SMALL)
    with refused(model, ValueError, r"no adapter named 'sentiment'\. Did you mean 'sentiments'\?"):
        getattr(model, method)("sentiment", *arguments)
    with refused(model, ValueError, r"no adapter named 'q'\. There are 'sentiments', 'zzz'"):
        getattr(model, method)("q", *arguments)


def test_unknown_names_in_setups(tmp_path: Any) -> None:
    model = with_two()
    model.set_active_adapters("b")
    for method in (model.set_active_adapters, model.train_adapter):
        with refused(model, ValueError, "no adapter named 'c'"):
            method(Stack("a", "c"))
    with refused(model, ValueError, "no adapter named 'c'"), AdapterSetup(Stack("a", "c")):
        run(model)
    with refused(model, ValueError, "no adapter named 'c'"):
        model.save_adapter(tmp_path / "new", "c")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("setup", [3, {"a": 1}, object()])
def test_setups_that_are_none(setup: Any) -> None:
    model = with_two()
    for method in (model.set_active_adapters, model.train_adapter):
        with refused(model, TypeError, "An adapter setup is a name, a block"):
            method(setup)


def test_empty_setups() -> None:
    model = with_two()
    model.set_active_adapters("a")
    with refused(model, ValueError, "is empty; give None"):
        model.set_active_adapters(Stack())
    with refused(model, ValueError, "not None"):
        model.train_adapter(None)
    with refused(model, ValueError, "empty|not None"):
        model.train_adapter(Stack())
    model.set_active_adapters([])
    assert model.active_adapters is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("seq_bm", "'seq_bm'.*did you mean.*'seq_bn'"),
        ("seq_bn[reduction=4]", "no field 'reduction'"),
        ("seq_bn[non_linearity=reluu]", "non_linearity is 'reluu'"),
        ({"mh_adapter": True}, "BnConfig needs"),
        (3, "not 3"),
        (SeqBnConfig(reduction_factor={"0": 4}), "no entry for layer 1"),
        ("seq_bn[leave_out=[0, 1]]", r"places nothing.*leave_out=\[0, 1\].*BertModel with 2 layers"),
        ("compacter[phm_dim=5]", "phm_dim"),
        ("compacter[reduction_factor=32]", "phm_dim"),
    ],
)
def test_configurations_that_cannot_be_met(config: Any, message: str) -> None:
    model = with_two()
    model.set_active_adapters("a")
    for change in ({"overwrite_ok": True}, {}, {"set_active": True}):
        name = "a" if change else "new"
        with refused(model, ValueError, message):
            model.add_adapter(name, config, **{"overwrite_ok": True, **change})


def test_duplicate_name() -> None:
    model = with_two()
    model.set_active_adapters("a")
    with refused(model, ValueError, r"adapter named 'a' already.*overwrite_ok=True"):
        model.add_adapter("a", "double_seq_bn", set_active=True)


@pytest.mark.parametrize(
    ("layers", "message"), [([2], "layers 0 to 1.*no layer 2"), ([-1], "no layer -1"), ([], "places")]
)
def test_layers_that_are_not_there(layers: list[int], message: str) -> None:
    with refused(model := with_two(), ValueError, message):
        model.add_adapter("new", SMALL, layers=layers)


def test_invertible_adapters_of_odd_sizes() -> None:
    odd = {**models.BERT, "hidden_size": 33, "num_attention_heads": 3, "intermediate_size": 40}
    model = transformers.BertModel(BertConfig(**odd)).eval()
    adapters.init(model)
    with refused(model, ValueError, "even hidden size; this model has 33"):
        model.add_adapter("a", "seq_bn_inv")


def test_methods_of_peft_that_are_not_ours() -> None:
    """They say that nothing was loaded, as on the bare model; they do not touch ours."""
    model = with_two()
    model.set_active_adapters("a")
    for method in ("enable_adapters", "disable_adapters", "get_adapter_state_dict"):
        with refused(model, (ValueError, ImportError), ".+"):  # type: ignore[arg-type]
            getattr(model, method)()


def test_activation_that_fails_adds_nothing() -> None:
    """An adapter that this model could not run is refused when it is added, not when it is activated."""
    interface = models.CUSTOM_INTERFACE
    model = models.bare("custom")
    without = {f: None for f in ("layer_pre_self_attn", "layer_pre_ffn")}
    adapters.init(model, interface=adapters.AdapterModelInterface(**{**interface.to_dict(), **without}))
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"residual of the .* is not known"):
        model.add_adapter("a", "par_bn[reduction_factor=4]", set_active=True)
    assert list(model.state_dict()) == before and not model.has_adapters() and models.hooks(model) == 0
