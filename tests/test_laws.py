"""The laws of design.md, for every preset on every family of models."""

from __future__ import annotations

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import adapters
import models
from adapters import AdapterConfig, AdapterSetup, Stack

PRESETS = [
    "seq_bn",
    "double_seq_bn",
    "par_bn",
    "scaled_par_bn",
    "adapter_plus",
    "seq_bn_inv",
    "double_seq_bn_inv",
    "compacter[phm_dim=2]",
    "compacter++[phm_dim=2]",
]
SMALL = {"reduction_factor": 4}

every_model = pytest.mark.parametrize("name", models.NAMES)
every_preset = pytest.mark.parametrize("preset", PRESETS)
supported = [(n, p) for n in models.NAMES for p in PRESETS]
every_case = pytest.mark.parametrize(("name", "preset"), supported)


def with_adapter(name: str, preset: str, adapter: str = "a", **config: object) -> torch.nn.Module:
    model = models.adapted(name)
    model.add_adapter(adapter, config=AdapterConfig.load(preset, **{**SMALL, **config}))
    models.randomise(model, adapter)
    return model


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first: list[torch.Tensor], second: list[torch.Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(first, second, strict=True))


@every_model
@pytest.mark.parametrize("preset", [p for p in PRESETS if "inv" not in p])
def test_identity(name: str, preset: str) -> None:
    """A fresh adapter that starts with zero effect changes no bit."""
    model = models.adapted(name)
    before = models.outputs(model, name)
    model.add_adapter("a", AdapterConfig.load(preset, init_weights="mam_adapter", **SMALL), set_active=True)
    assert models.hooks(model) > 0
    assert same(models.outputs(model, name), before)


@every_case
def test_inactive_is_free(name: str, preset: str) -> None:
    """What is not active changes no bit and registers no hook; what is active has an effect."""
    expected = models.outputs(models.bare(name), name)
    hooks = models.hooks(models.bare(name))
    model = with_adapter(name, preset)
    assert models.hooks(model) == hooks
    assert same(models.outputs(model, name), expected)
    model.set_active_adapters("a")
    assert not close(models.outputs(model, name), expected, 1e-3)
    model.set_active_adapters(None)
    assert models.hooks(model) == hooks
    assert same(models.outputs(model, name), expected)


@every_case
def test_only_what_is_trained_moves(name: str, preset: str) -> None:
    model = with_adapter(name, preset)
    model.add_adapter("other", AdapterConfig.load(preset, **SMALL))
    model.train_adapter("a")
    mine = {id(p) for modules in model.get_adapter("a").values() for m in modules.values() for p in m.parameters()}
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    models.loss(models.outputs(model, name)).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == mine
    assert all(p.grad is not None for p in trained)
    torch.optim.SGD(trained, lr=1.0).step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert moved
    assert all(id(p) in mine for key, p in model.named_parameters() if key in moved)


@every_case
def test_save_is_load(name: str, preset: str, tmp_path: object) -> None:
    model = with_adapter(name, preset)
    model.set_active_adapters("a")
    model.save_adapter(tmp_path, "a")
    fresh = models.adapted(name)
    assert fresh.load_adapter(tmp_path, set_active=True) == "a"
    assert same(models.outputs(fresh, name), models.outputs(model, name))
    assert fresh.load_adapter(tmp_path, load_as="b.c", set_active=True) == "b.c"
    assert same(models.outputs(fresh, name), models.outputs(model, name))


@every_case
def test_stack_of_one_is_the_adapter(name: str, preset: str) -> None:
    model = with_adapter(name, preset)
    model.set_active_adapters("a")
    expected = models.outputs(model, name)
    model.set_active_adapters(Stack(Stack("a")))
    assert same(models.outputs(model, name), expected)
    model.set_active_adapters(None)
    with AdapterSetup("a"):
        assert same(models.outputs(model, name), expected)
    assert same(models.outputs(model, name), models.outputs(models.bare(name), name))


@every_case
def test_detach_restores(name: str, preset: str) -> None:
    bare = models.bare(name)
    model = with_adapter(name, preset)
    model.set_active_adapters("a")
    adapters.detach(model)
    assert type(model) is type(bare)
    assert model.__dict__.keys() == bare.__dict__.keys()
    assert model.state_dict().keys() == bare.state_dict().keys()
    assert models.hooks(model) == models.hooks(bare)
    assert same(models.outputs(model, name), models.outputs(bare, name))


@every_case
def test_copies_are_independent(name: str, preset: str) -> None:
    model = with_adapter(name, preset)
    model.set_active_adapters("a")
    expected = models.outputs(model, name)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied) is type(model)
        models.randomise(copied, "a")
        assert same(models.outputs(model, name), expected)
        assert not same(models.outputs(copied, name), expected)


def gradients(model: torch.nn.Module, values: list[torch.Tensor], adapter: str) -> list[torch.Tensor]:
    model.zero_grad()
    models.loss(values).backward()
    modules = [m for places in model.get_adapter(adapter).values() for m in places.values()]
    found = [p.grad for m in modules for p in m.parameters()]
    assert all(g is not None for g in found)
    return [g.clone() for g in found]


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", [n for n in models.NAMES if n not in ("custom", "albert")])  # these two have none
@pytest.mark.parametrize("preset", ["seq_bn", "double_seq_bn_inv", "par_bn", "compacter[phm_dim=2]"])
def test_checkpointing_gives_the_same_gradients(name: str, preset: str, use_reentrant: bool) -> None:
    """Also when another adapter is activated between forward and backward."""
    without = {"dropout": 0.0} if name in ("bart", "whisper") else {}
    model = models.adapted(name, **without)
    for adapter in ("a", "b"):
        model.add_adapter(adapter, AdapterConfig.load(preset, **SMALL))
        models.randomise(model, adapter)
    model.train_adapter("a")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for field in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(module.__dict__.get(field), float):
                setattr(module, field, 0.0)
    expected = gradients(model, models.outputs(model, name), "a")
    with warnings.catch_warnings():  # the name is deprecated in the newest transformers, the other new
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    for module in model.modules():  # reentrant checkpointing needs inputs that require gradients, also of images
        if isinstance(module, (torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d)):
            module.register_forward_hook(lambda m, i, o: o.requires_grad_() if o.is_leaf else None)
    for change in (lambda: None, lambda: model.set_active_adapters("b"), lambda: model.set_active_adapters(None)):
        model.set_active_adapters("a")
        values = models.outputs(model, name)
        change()
        assert close(gradients(model, values, "a"), expected, 1e-4)


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit", "modernbert", "custom"])
def test_threads_do_not_mix(name: str) -> None:
    model = models.adapted(name)
    setups: list[str | None] = ["a", "b", None]
    for adapter in ("a", "b"):
        model.add_adapter(adapter, AdapterConfig.load("par_bn" if adapter == "a" else "double_seq_bn", **SMALL))
        models.randomise(model, adapter)
    model.set_active_adapters("b")
    expected = {}
    for setup in setups:
        with torch.no_grad(), AdapterSetup(setup):
            expected[setup] = models.outputs(model, name)

    def call(i: int) -> bool:
        setup = setups[i % 3]
        with torch.no_grad(), AdapterSetup(setup):
            return close(models.outputs(model, name), expected[setup])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(120)))
    assert close(models.outputs(model, name), expected["b"])
    assert adapters.runtime.hooks._Borrowed.count == 0


@pytest.mark.parametrize("name", [n for n in models.NAMES if n not in ("mixtral", "whisper")])
@pytest.mark.parametrize("preset", ["seq_bn", "par_bn"])
def test_compiled_is_eager(name: str, preset: str) -> None:
    torch._dynamo.reset()
    model = with_adapter(name, preset)
    bare = models.outputs(model, name)
    model.set_active_adapters("a")
    expected = models.outputs(model, name)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert close(models.tensors(compiled(**models.inputs(name))), expected)
    model.set_active_adapters(None)  # a graph of the former setup must not be used
    assert close(models.tensors(compiled(**models.inputs(name))), bare)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "distilbert", "modernbert", "custom"])
@pytest.mark.parametrize("preset", ["seq_bn", "double_seq_bn", "par_bn", "compacter[phm_dim=2]"])
def test_exported_is_eager(name: str, preset: str) -> None:
    model = with_adapter(name, preset)
    model.set_active_adapters("a")
    given = {**models.inputs(name), **({"use_cache": False} if name in ("gpt2", "llama") else {})}
    exported = torch.export.export(model, (), given)
    with torch.no_grad():
        assert close(models.tensors(exported.module()(**given)), models.tensors(model(**given)))


@every_model
def test_bfloat16(name: str) -> None:
    """Adapters take the type of numbers of the model, forward and backward."""
    model = models.bare(name).bfloat16()
    adapters.init(model, interface=models.CUSTOM_INTERFACE if name == "custom" else None)
    model.add_adapter("a", "double_seq_bn[reduction_factor=4]")
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    model.train_adapter("a")
    given = {k: v.bfloat16() if v.is_floating_point() else v for k, v in models.inputs(name).items()}
    assert all(g.isfinite().all() for g in gradients(model, models.tensors(model(**given)), "a"))
