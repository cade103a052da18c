"""The laws of design.md, for every preset on every family of models."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from _pytest.mark.structures import ParameterSet

import adapters
import models
from adapters import AdapterConfig, AdapterSetup, Stack

PREFIX = "prefix_tuning[prefix_length=3, bottleneck_size=8]"
BOTTLENECKS = [
    f"{preset}[reduction_factor=4]" for preset in ("seq_bn", "double_seq_bn", "par_bn", "scaled_par_bn", "adapter_plus")
] + [
    "seq_bn_inv[reduction_factor=4]",
    "double_seq_bn_inv[reduction_factor=4]",
    "compacter[phm_dim=2, reduction_factor=4]",
    "compacter++[phm_dim=2, reduction_factor=4]",
]
LOW_RANK = [
    "lora[r=2]",
    "lora[r=2, attn_matrices=['q', 'k', 'v', 'o'], intermediate_lora=True, output_lora=True, use_rslora=True]",
    "lora[r=2, init_weights=pissa]",
    "ia3",
    "vera[r=2]",
    "dora[r=2]",
    "dvora[r=2]",
    "mtl_lora[r=2, n_up_projection=2]",
    "adalora[r=3, target_r=2]",
]
REFTS = ["loreft", "noreft[r=2, suffix_positions=2]", "direft[tied_weights=True, suffix_positions=1]"]
PARTIAL = ["bitfit", "ln_tuning"]
OTHERS = [
    PREFIX,
    "prefix_tuning_flat[prefix_length=3]",
    "prompt_tuning[prompt_length=3]",
    f"{PREFIX}|par_bn[reduction_factor=4]",
    f"{PREFIX[:-1]}, use_gating=True]|seq_bn[reduction_factor=4, use_gating=True]|lora[r=2, use_gating=True]",
    "dora[r=2, scale_bias=False]",
]
PRESETS = [*BOTTLENECKS, *LOW_RANK, *REFTS, *PARTIAL, *OTHERS]

# What cannot be, with what the error says.
WITHOUT_BIAS = ("llama", "qwen3", "gemma3", "mixtral", "t5", "modernbert")
IMPOSSIBLE = {
    **{(name, "bitfit"): "bias" for name in WITHOUT_BIAS},
    **{("custom", preset): "attention" for preset in PRESETS if "prefix_tuning" in preset},
}

# One preset of each method goes through all laws on all families in the quick tier; further ones do so on these, and on
# the others in the slow tier.
FIRST = {
    *(BOTTLENECKS[0], BOTTLENECKS[2], BOTTLENECKS[7], LOW_RANK[0], *LOW_RANK[3:6], *LOW_RANK[7:]),
    *(REFTS[0], *PARTIAL, PREFIX, *OTHERS[2:4]),
}
CORE = ("bert", "gpt2", "llama", "t5", "vit")

CASES = [(n, p) for n in models.NAMES for p in PRESETS if (n, p) not in IMPOSSIBLE]


def cases(
    names: Sequence[str],
    presets: Sequence[str],
    everywhere: Collection[str] = frozenset(FIRST),
    core: Collection[str] = CORE,
) -> pytest.MarkDecorator:
    """The pairs that can be. Quick are those of the presets that are tried everywhere, and of the core's models."""

    def param(name: str, preset: str) -> ParameterSet:
        is_quick = preset in everywhere or name in core
        return pytest.param(name, preset, marks=() if is_quick else pytest.mark.slow, id=f"{name}-{preset}")

    return pytest.mark.parametrize(("name", "preset"), [param(n, p) for n in names for p in presets if (n, p) in CASES])


every_case = cases(models.NAMES, PRESETS)


def with_adapter(name: str, preset: str, adapter: str = "a") -> torch.nn.Module:
    model = models.adapted(name)
    model.add_adapter(adapter, config=preset)
    models.randomise(model, adapter)
    return model


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first: list[torch.Tensor], second: list[torch.Tensor], tolerance: float = 1e-5) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize(("name", "preset"), IMPOSSIBLE)
def test_what_cannot_be_is_said(name: str, preset: str) -> None:
    model = models.adapted(name)
    keys = model.state_dict().keys()
    with pytest.raises(ValueError, match=IMPOSSIBLE[name, preset]):
        model.add_adapter("a", preset)
    assert not model.supports_adapter(preset)
    assert model.state_dict().keys() == keys


@cases(models.NAMES, [p for p in BOTTLENECKS if "inv" not in p] + LOW_RANK + PARTIAL)
def test_identity(name: str, preset: str) -> None:
    """A fresh adapter that starts with zero effect changes no bit."""
    model = models.adapted(name)
    before = models.outputs(model, name)
    config = AdapterConfig.load(preset)
    if preset in BOTTLENECKS:
        config = config.replace(init_weights="mam_adapter")
    model.add_adapter("a", config, set_active=True)
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
    model.add_adapter("other", preset)
    model.train_adapter("a")
    mine = {id(p) for p in models.parameters(model, "a") if p.requires_grad}
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


@cases([name for name in models.NAMES if name != "custom"], PRESETS, everywhere=(), core=("bert", "gpt2", "t5", "vit"))
def test_whole_model_is_loaded_as_saved(name: str, preset: str, tmp_path: Path) -> None:
    model = with_adapter(name, preset)
    model.save_pretrained(tmp_path)
    fresh = adapters.load_model(tmp_path, type(model)).eval()
    for one in (model, fresh):
        one.set_active_adapters("a")
    assert same(models.outputs(fresh, name), models.outputs(model, name))


@cases(["bert", "gpt2", "t5"], PRESETS)
def test_hooks_run_around_what_modules_do(name: str, preset: str) -> None:
    """Also such as are registered when the adapter is in use, alone and beside others."""
    model = with_adapter(name, preset)
    model.add_adapter("b", config=preset)
    model.set_active_adapters("a")
    expected = models.outputs(model, name)
    modules = [m for m in model._adapter_registry["a"].modules() if m.acts_by is not None]
    calls = dict.fromkeys(modules, 0)

    def count(module: torch.nn.Module, inputs: object, output: object) -> None:
        calls[module] += 1

    handles = [module.register_forward_hook(count) for module in modules]
    assert close(models.outputs(model, name), expected)
    assert modules and all(calls.values())
    calls = dict.fromkeys(modules, 0)
    models.outputs(model, name, adapter_names=["a", "b"])
    assert all(calls.values())
    for handle in handles:
        handle.remove()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert close(models.outputs(copied, name), expected)


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


REPLAYED = [p for p in PRESETS if p not in BOTTLENECKS[1::2]]
TRACED = [BOTTLENECKS[0], BOTTLENECKS[2], "lora[r=2]", "ia3", "dora[r=2]", "loreft", *OTHERS[:3], *PARTIAL]


def gradients(model: torch.nn.Module, values: list[torch.Tensor], adapter: str) -> list[torch.Tensor]:
    model.zero_grad()
    models.loss(values).backward()
    found = [p.grad for p in models.parameters(model, adapter) if p.requires_grad]
    assert all(g is not None for g in found)
    return [g.clone() for g in found]


def without_dropout(preset: str) -> AdapterConfig:
    config = AdapterConfig.load(preset)
    dropouts = {name: 0.0 for name in config if name.endswith(("dropout", "stochastic_depth"))}
    return config.replace(**dropouts) if dropouts else config


@pytest.mark.parametrize("use_reentrant", [False, pytest.param(True, marks=pytest.mark.slow)])
@cases([n for n in models.NAMES if n not in ("custom", "albert")], REPLAYED)  # these two have no checkpointing
def test_checkpointing_gives_the_same_gradients(name: str, preset: str, use_reentrant: bool) -> None:
    """Also when another adapter is activated between forward and backward."""
    without = {"dropout": 0.0} if name in ("bart", "whisper") else {}
    model = models.adapted(name, **without)
    for adapter in ("a", "b"):
        model.add_adapter(adapter, without_dropout(preset))
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


@cases(["bert", "llama", "t5", "vit", "modernbert", "custom"], [BOTTLENECKS[2], "dora[r=2]", "loreft", *OTHERS[:3]])
def test_threads_do_not_mix(name: str, preset: str) -> None:
    model = models.adapted(name)
    setups: list[str | None] = ["a", "b", None]
    for adapter in ("a", "b"):
        model.add_adapter(adapter, preset if adapter == "a" else "double_seq_bn[reduction_factor=4]")
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


@cases([n for n in models.NAMES if n not in ("mixtral", "whisper")], TRACED, {"lora[r=2]"}, {"bert", "llama"})
def test_compiled_is_eager(name: str, preset: str) -> None:
    torch._dynamo.reset()
    model = with_adapter(name, preset)
    bare = models.outputs(model, name)
    model.set_active_adapters("a")
    expected = models.outputs(model, name)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for setup, wanted in (("a", expected), (None, bare), ("a", expected)):  # a graph of another setup must not be used
        model.set_active_adapters(setup)
        assert close(models.tensors(compiled(**models.inputs(name))), wanted)


@cases(
    ["bert", "gpt2", "llama", "vit", "distilbert", "modernbert", "custom"], [*TRACED, BOTTLENECKS[1], BOTTLENECKS[7]]
)
def test_exported_is_eager(name: str, preset: str) -> None:
    model = with_adapter(name, preset)
    model.set_active_adapters("a")
    given = {**models.inputs(name), **({"use_cache": False} if name in ("gpt2", "llama") else {})}
    exported = torch.export.export(model, (), given)
    with torch.no_grad():
        assert close(models.tensors(exported.module()(**given)), models.tensors(model(**given)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
@cases(models.NAMES, [p for p in PRESETS if p not in BOTTLENECKS[2:]])
def test_half_precision(name: str, preset: str, dtype: torch.dtype) -> None:
    """Adapters take the type of numbers of the model, forward and backward."""
    model = models.bare(name).to(dtype)
    adapters.init(model, interface=models.CUSTOM_INTERFACE if name == "custom" else None)
    model.add_adapter("a", preset)
    assert all(p.dtype == dtype for p in model.parameters())
    model.train_adapter("a")
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in models.inputs(name).items()}
    assert all(g.isfinite().all() for g in gradients(model, models.tensors(model(**given)), "a"))


@cases(["bert", "gpt2", "llama", "t5", "vit"], [p for p in PRESETS if p not in BOTTLENECKS])
def test_two_methods_in_one_stack(name: str, preset: str, tmp_path: Path) -> None:
    """They act together, and are saved, loaded and deleted independently."""
    model = with_adapter(name, preset)
    model.add_adapter("b", "double_seq_bn[reduction_factor=4]")
    models.randomise(model, "b")
    alone = {}
    for adapter in ("a", "b"):
        model.set_active_adapters(adapter)
        alone[adapter] = models.outputs(model, name)
        model.save_adapter(tmp_path / adapter, adapter)
    model.set_active_adapters(Stack("a", "b"))
    both = models.outputs(model, name)
    assert all(
        v.shape != b.shape or not close([v], [b], 1e-3)
        for o in alone.values()
        for v, b in zip(o[:1], both, strict=False)
    )
    fresh = models.adapted(name)
    for adapter in ("b", "a"):
        fresh.load_adapter(tmp_path / adapter)
    fresh.set_active_adapters(Stack("a", "b"))
    assert same(models.outputs(fresh, name), both)
    model.delete_adapter("a")
    model.set_active_adapters("b")
    assert same(models.outputs(model, name), alone["b"])
