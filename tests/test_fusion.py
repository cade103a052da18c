"""Learned mixtures: the formula of the paper for every field of the configuration, gates, training, files, errors."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import adapters
import models
from adapters import AdapterFusionConfig, Fuse, GateFusionConfig, ModelAdaptersConfig, Stack
from adapters.checkpoints.files import AdapterFileError
from adapters.composition import Gate
from adapters.configuration import AdapterConfigError
from adapters.methods.fusion import AttentionFusion, FusionModule, GateFusion, mixture
from adapters.registry import UnknownAdapterError
from test_api import auto, refused, run, same

D, N = 8, 3
SMALL = "seq_bn[reduction_factor=4]"
CONFIG, SAFE, BIN = "adapter_fusion_config.json", "model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin"
SWITCHES = ("query", "key", "value", "residual_before", "temperature", "value_before_softmax")
EVERY_FIELD = [dict(zip(SWITCHES, values, strict=True)) for values in itertools.product((True, False), repeat=6)]


def plain(fusion: Any, q: Tensor, z: Tensor, r: Tensor, temperature: float, drop: Any = lambda s: s) -> Any:
    """The formula as it is written: a key and a value for each adapter. Shapes: (…, D), (…, N, D), (…, D)."""
    config = fusion.config
    z = z + r.unsqueeze(-2) if config.residual_before else z
    query = fusion.query(q) if config.query else q
    keys = fusion.key(z) if config.key else z
    weights = (drop(torch.einsum("...d,...nd->...n", query, keys)) / temperature).softmax(-1)
    if config.value and config.value_before_softmax:
        mixed = torch.einsum("...n,...nd->...d", weights, fusion.value(z))
    else:
        mixed = torch.einsum("...n,...nd->...d", weights, z)
        mixed = fusion.value(mixed) if config.value else mixed
    return (mixed if config.residual_before else mixed + r), weights


def made(**fields: Any) -> Any:
    """A module of AdapterFusion whose weights show, in double precision."""
    torch.manual_seed(0)
    fusion = AttentionFusion(AdapterFusionConfig.load("dynamic", **fields), D).double()  # type: ignore[arg-type]
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.4)
    return fusion


def tensors(*shapes: tuple[int, ...], requires_grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(s, dtype=torch.double, generator=generator, requires_grad=requires_grad) for s in shapes]


# -- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", EVERY_FIELD, ids=lambda f: "-".join(k for k, v in f.items() if v) or "none")
@pytest.mark.parametrize("training", [True, False])
def test_algebra_is_the_formula(fields: dict[str, bool], training: bool) -> None:
    fusion = made(**fields).train(training)
    q, r, *values = tensors((2, 3, D), (2, 3, D), *[(2, 3, D)] * N)
    wanted = plain(fusion, q, torch.stack(values, -2), r, 50.0 if fields["temperature"] else 1.0)
    with torch.no_grad():
        kept = fusion.eval().attend(q, values, r)  # with the product of two matrices that is kept
    found = fusion.train(training).attend(q, values, r)
    stacked = fusion.attend(q, torch.stack(values), r)
    for results in (kept, found, stacked):
        torch.testing.assert_close(results, wanted)
    places = [q, r, *values, *fusion.parameters()]
    grads = [torch.randn_like(t) for t in wanted]
    ours = torch.autograd.grad(found, places, grads, materialize_grads=True, allow_unused=True)
    theirs = torch.autograd.grad(wanted, places, grads, materialize_grads=True, allow_unused=True)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("fields", EVERY_FIELD[::2], ids=lambda f: "-".join(k for k, v in f.items() if v) or "none")
def test_dropout_of_the_scores(fields: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees what is the same for all adapters, so the biases and the residual are in the scores then."""
    fusion = made(**fields, dropout_prob=0.5).train()
    q, r, z = tensors((2, 3, D), (2, 3, D), (2, 3, N, D))
    mask = torch.rand(2, 3, N, generator=torch.Generator().manual_seed(0)) > 0.5

    def drop(scores: Tensor, p: float = 0.5) -> Tensor:
        return scores * mask.view(scores.shape) * 2

    monkeypatch.setattr(nn.functional, "dropout", drop)
    found = fusion.attend(q, z.unbind(-2), r)
    torch.testing.assert_close(found, plain(fusion, q, z, r, 50.0 if fields["temperature"] else 1.0, drop))
    fusion.eval()
    found = fusion.attend(q, z.unbind(-2), r)
    torch.testing.assert_close(found, plain(fusion, q, z, r, 50.0 if fields["temperature"] else 1.0))


def test_gradients_of_the_mixture() -> None:
    u, z = tensors((3, 4), (2, 3, 4))
    assert torch.autograd.gradcheck(mixture, (u, z))
    assert torch.autograd.gradgradcheck(mixture, (u, z))


def test_every_parameter_has_a_gradient() -> None:
    """Also the bias of the keys, on which nothing depends: who trains on several machines waits for each."""
    fusion = made()
    q, r, z = tensors((2, 3, D), (2, 3, D), (N, 2, 3, D))
    fusion.attend(q, z, r)[0].square().sum().backward()
    assert all(p.grad is not None for p in fusion.parameters())
    assert not fusion.key.bias.grad.any()


def test_what_is_kept_follows_the_weights() -> None:
    fusion = made().eval()
    q, r, z = tensors((2, 3, D), (2, 3, D), (2, 3, N, D), requires_grad=False)
    with torch.no_grad():
        fusion.attend(q, z.unbind(-2), r)
        fusion.query.weight.mul_(2)
        torch.testing.assert_close(fusion.attend(q, z.unbind(-2), r), plain(fusion, q, z, r, 1.0))


def test_initial_weights() -> None:
    for given, is_identity in ((True, True), ("True", True), (False, False), ("False", False)):
        config: Any = AdapterFusionConfig.load("dynamic", value_initialized=given)
        weight = AttentionFusion(config, 64).value.weight  # type: ignore[union-attr]
        assert torch.equal(weight, torch.full((64, 64), 1e-6).fill_diagonal_(1.0)) == is_identity
    assert not AttentionFusion(config, 64).query.bias.any()  # type: ignore[union-attr]


def test_temperature_falls_with_training_only() -> None:
    """Also under gradient checkpointing, which computes each pass twice; and it is the same at both times."""
    found = []
    for is_checkpointed in (False, True):
        fusion = made(temperature=True).train()
        q, r, z = tensors((2, 3, D), (2, 3, D), (N, 2, 3, D))
        for _ in range(3):
            fusion.zero_grad()
            given = (fusion.attend, q, z, r)
            results = checkpoint(*given, use_reentrant=False) if is_checkpointed else fusion.attend(q, z, r)
            results[0].square().sum().backward()
        assert fusion.passes == 3
        found.append(fusion.key.weight.grad)
    assert torch.equal(*found)
    fusion.eval()
    fusion.attend(q, z, r)[0].sum().backward()
    assert fusion.passes == 3
    torch.testing.assert_close(fusion.attend(q, z, r), plain(fusion, q, z.movedim(0, -2), r, 50.0 - 3 * 0.05))
    fusion.passes.fill_(100_000)
    torch.testing.assert_close(fusion.attend(q, z, r), plain(fusion, q, z.movedim(0, -2), r, 1.0))
    assert fusion.bfloat16().passes == 100_000


class Fusing(nn.Module):
    """A fusion as something that can be called."""

    def __init__(self, fusion: FusionModule) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, q: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self.fusion.attend(q, [a, b], q)[0]


@pytest.mark.parametrize("kind", ["dynamic", "temperature", "gate"])
def test_compiles_exports_and_takes_any_type(kind: str) -> None:
    fusion = GateFusion(2) if kind == "gate" else made(temperature=kind == "temperature").float()
    module = Fusing(fusion)
    torch.compiler.reset()
    given = [t.detach().float().requires_grad_() for t in tensors(*[(2, 3, D)] * 3)]
    for training in (True, False):
        expected = copy.deepcopy(module).train(training)(*given)
        for backend in ("eager", "aot_eager"):
            compiled = torch.compile(copy.deepcopy(module).train(training), fullgraph=True, backend=backend)
            found = compiled(*given)
            torch.testing.assert_close(found, expected)
            found.sum().backward()
    exported = torch.export.export(module.eval(), tuple(given)).module()
    torch.testing.assert_close(exported(*given), module(*given))
    with torch.autocast("cpu", torch.bfloat16):
        module(*given).float().sum().backward()
    assert module.bfloat16()(*[t.bfloat16() for t in given]).dtype == torch.bfloat16
    assert pickle.loads(pickle.dumps(module)) is not None


def test_gate() -> None:
    gate = GateFusion(N).double()
    q, r, z = tensors((2, 3, D), (2, 3, D), (N, 2, 3, D))
    torch.testing.assert_close(gate.attend(q, z, r)[0], z.mean(0) + r)
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([1.0, -1.0, 0.5]))
    p = gate.logits.softmax(0)
    found, weights = gate.attend(q, z.unbind(0), r)
    torch.testing.assert_close(found, torch.einsum("n,nbtd->btd", p, z) + r)
    torch.testing.assert_close(weights, p.expand(2, 3, N))
    with pytest.raises(ValueError, match="made for 3 adapters, and 2"):
        gate.attend(q, z[:2], r)


# -- configurations ---------------------------------------------------------------------------------------------------


def test_configurations() -> None:
    load = AdapterFusionConfig.load
    assert load("static").value is False and load("dynamic", key=False).key is False  # type: ignore[attr-defined]
    assert load("dynamic[temperature=True]")["temperature"] is True
    for name, config in {**adapters.ADAPTERFUSION_CONFIG_MAP, "gate": GateFusionConfig()}.items():
        assert load(name) is not None and load(config.to_dict()).to_dict() == config.to_dict()
    assert isinstance(load({"architecture": "gate"}), GateFusionConfig)
    for wrong, match in (
        ("dynamik", "there are 'static', 'dynamic', 'gate'"),
        ("dynamic[keys=False]", "did you mean 'key'"),
        ({"key": True}, "needs dropout_prob, query"),
        ("dynamic[dropout_prob=1.5]", "a probability"),
        ("dynamic[key=1]", "key is 1; it should be True or False"),
        ({"architecture": "lora"}, "'lora'"),
        (3, "not 3"),
    ):
        with pytest.raises(AdapterConfigError, match=match):
            load(wrong)  # type: ignore[arg-type]


def test_configuration_of_a_model() -> None:
    kept = ModelAdaptersConfig()
    kept.add("a")
    kept.add_fusion(["a", "b"])
    kept.add_fusion(["a", "b"], "dynamic[key=False]", "mine")
    assert kept.fusions == {"a,b": "dynamic", "mine": "1e4b6443157fb58c"}  # the hash of 1.3
    assert kept.fusion_name_map == {"a,b": ["a", "b"], "mine": ["a", "b"]}
    again = ModelAdaptersConfig(**json.loads(json.dumps(kept.to_dict())))
    assert again.to_dict() == kept.to_dict()
    config, names = again.get_fusion("mine")
    assert config is not None and config["key"] is False and names == ["a", "b"]
    assert again.get_fusion(["a", "b"])[1] == ["a", "b"] and again.get_fusion("c") == (None, None)


# -- models -----------------------------------------------------------------------------------------------------------


def with_fusion(names: Any = ("a", "b"), config: Any = None, preset: str = SMALL, **options: Any) -> Any:
    """A model with the adapters a, b, c and a fusion, all of which show."""
    model = models.adapted("bert")
    for name in "abc":
        model.add_adapter(name, preset)
    model.add_adapter_fusion(names if isinstance(names, (str, Fuse)) else list(names), config, **options)
    return shown(model)


def shown(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    registry = model._adapter_registry
    for owner in (*registry.adapters.values(), *registry.fusions.values()):
        for parameter in owner.parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("preset", "places"),
    [
        (SMALL, {"output.adapter_fusion_layer"}),
        ("double_seq_bn", {"output.adapter_fusion_layer", "attention.output.adapter_fusion_layer"}),
        ("lora", {f"attention.self.{role}.adapter_fusion_layer" for role in ("query", "value")}),
        ("loreft", {"reft_layer.adapter_fusion_layer"}),
    ],
)
def test_a_module_at_each_point(preset: str, places: set[str]) -> None:
    model = with_fusion(preset=preset)
    found = [name for name, module in model.named_modules() if isinstance(module, AttentionFusion)]
    assert set(found) == {f"encoder.layer.{i}.{place}.a,b" for i in range(2) for place in places}
    before = run(model)
    model.set_active_adapters(Fuse("a", "b"))
    assert not same(run(model), before)
    model.delete_adapter_fusion(["a", "b"])
    assert same(run(model), before) and not model._adapter_registry.fusions and model.active_adapters is None
    assert not [name for name, module in model.named_modules() if "adapter_fusion_layer" in name]


def test_adapters_that_differ() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", "double_seq_bn[leave_out=[0]]")
    model.add_adapter("b", SMALL)
    model.add_adapter_fusion(Gate("a", None, "b"))
    sizes = {name: module.logits.numel() for name, module in model.named_modules() if isinstance(module, GateFusion)}
    assert sizes == {
        "encoder.layer.0.output.adapter_fusion_layer.a,None,b": 2,
        "encoder.layer.1.output.adapter_fusion_layer.a,None,b": 3,
        "encoder.layer.1.attention.output.adapter_fusion_layer.a,None,b": 2,
    }


@pytest.mark.parametrize("config", ["dynamic", "gate"])
def test_training_freezes_the_rest(config: str) -> None:
    model = with_fusion(Fuse("a", "b"), config)
    model.add_adapter_fusion(["b", "c"])
    model.train_adapter_fusion(Fuse("a", "b"))
    assert model.training and model.active_adapters == Fuse("a", "b")
    own = {name for name, _ in model.named_parameters() if ".adapter_fusion_layer.a,b." in name}
    assert trainable(model) == own and own
    models.loss(models.outputs(model, "bert")).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == own
    model.train_adapter_fusion(Stack("c", Fuse("a", "b")), unfreeze_adapters=True)
    adapters_too = {n for n, _ in model.named_parameters() if any(f".adapters.{a}." in n for a in "abc")}
    assert trainable(model) == own | adapters_too
    model.train_adapter("a")
    assert not any("fusion" in name for name in trainable(model))


def test_regularization() -> None:
    model = models.adapted("bert")
    for name in "abc":
        model.add_adapter(name, SMALL)
    assert model.get_fusion_regularization_loss() is None
    model.add_adapter_fusion(["a", "b"], "static")
    model.add_adapter_fusion(["b", "c"], "dynamic[regularization=False]")
    assert model.get_fusion_regularization_loss() is None
    model.add_adapter_fusion(["a", "b", "c"])
    assert model.get_fusion_regularization_loss() < 1e-8
    shown(model)
    modules = [m for m in model.modules() if isinstance(m, AttentionFusion) and m.config.regularization and m.value]
    wanted = sum(0.01 * (m.value.weight - torch.eye(32)).square().sum() for m in modules)  # type: ignore[union-attr]
    torch.testing.assert_close(model.get_fusion_regularization_loss(), wanted)


def test_looking() -> None:
    model = with_fusion(config="static", name="mine", set_active=True)
    assert model.active_adapters == Fuse("a", "b", name="mine")
    rows = {row["name"]: row for row in model.adapter_summary(as_dict=True)}
    assert rows["mine"]["architecture"] == "fusion" and rows["mine"]["active"] and rows["a"]["active"]
    assert rows["mine"]["#param"] == 2 * 2 * (32 * 32 + 32) and "mine" in model.adapter_summary()
    assert model.adapters_config.get_fusion("mine")[1] == ["a", "b"]
    model.adapter_fusion_to("mine", dtype=torch.float64)
    assert {p.dtype for p in model._adapter_registry.fusions["mine"].parameters()} == {torch.float64}
    other = models.adapted("bert")
    adapters.detach(other)
    adapters.init(other, model.adapters_config)
    assert list(other._adapter_registry.fusions) == ["mine"]
    adapters.detach(model)
    assert not [name for name in model.state_dict() if "adapter" in name]


def test_names() -> None:
    model = with_fusion("a,b")
    model.add_adapter_fusion(Fuse(Stack("a", "b"), "c"))
    model.add_adapter_fusion(Gate("a", "b", name="g"))
    fusions = model._adapter_registry.fusions
    names = {name: fusion.adapter_names for name, fusion in fusions.items()}
    assert names == {"a,b": ("a", "b"), "b,c": ("b", "c"), "g": ("a", "b")}
    assert isinstance(fusions["g"].config, GateFusionConfig)
    model.delete_adapter_fusion(Fuse(Stack("a", "b"), "c"))
    model.delete_adapter_fusion("g")
    assert list(fusions) == ["a,b"]


def test_an_adapter_can_be_replaced() -> None:
    """A fusion stays, and works again when there is an adapter of that name."""
    model = with_fusion(set_active=True)
    model.delete_adapter("b")
    assert model.active_adapters is None and list(model._adapter_registry.fusions) == ["a,b"]
    with refused(model, UnknownAdapterError, "no adapter named 'b'"):
        model.set_active_adapters(Fuse("a", "b"))
    model.add_adapter("b", SMALL)
    model.set_active_adapters(Fuse("a", "b"))


def test_refusals() -> None:
    model = with_fusion()
    model.add_adapter("prefix", "prefix_tuning_flat")
    model.add_adapter("mixed", f"{SMALL}|bitfit")
    for call, error, match in (
        (lambda: model.add_adapter_fusion(["a", "x"]), UnknownAdapterError, "no adapter named 'x'"),
        (lambda: model.add_adapter_fusion(["a", "b"]), ValueError, "a fusion named 'a,b' already"),
        (lambda: model.add_adapter_fusion(["a", "prefix"]), ValueError, "not defined for adapter 'prefix'"),
        (lambda: model.add_adapter_fusion(["a", "mixed"]), ValueError, "not defined for adapter 'mixed'"),
        (lambda: model.add_adapter_fusion([]), ValueError, "needs adapters"),
        (lambda: model.add_adapter_fusion(Stack("a", "b")), TypeError, "not by Stack"),
        (lambda: model.add_adapter_fusion(["a", "b"], name="x/y"), ValueError, "no name"),
        (lambda: model.add_adapter_fusion(["b", "c"], "lora"), AdapterConfigError, "'lora'"),
        (lambda: model.delete_adapter_fusion("a,c"), UnknownAdapterError, "no fusion named 'a,c'. Did you mean 'a,b'"),
        (lambda: model.train_adapter_fusion(["a", "b"]), ValueError, "needs a setup with a Fuse"),
        (lambda: model.train_adapter_fusion(Fuse("a", "c")), UnknownAdapterError, "no fusion named 'a,c'"),
        (lambda: model.save_adapter_fusion("/tmp/none", "x"), UnknownAdapterError, "no fusion named 'x'"),
        (lambda: model.save_adapter_setup("/tmp/none", None), ValueError, "needs the name"),
    ):
        with refused(model, error, match):
            call()


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("config", ["dynamic", "static", "gate", "dynamic[temperature=True]"])
def test_file(tmp_path: Path, config: str, safe: bool) -> None:
    model = with_fusion(config=config, set_active=True)
    for module in model._adapter_registry.fusions["a,b"].modules():
        if "temperature" in config:
            module.passes.fill_(400)
    expected = run(model)
    model.save_adapter_fusion(tmp_path, Fuse("a", "b"), use_safetensors=safe)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([CONFIG, SAFE if safe else BIN])
    data = json.loads((tmp_path / CONFIG).read_text())
    assert data["name"] == "a,b" and data["adapter_names"] == ["a", "b"] and data["model_type"] == "bert"
    other = with_fusion(["b", "c"])
    assert other.load_adapter_fusion(tmp_path, load_as="mine", set_active=True) == "mine"
    assert other.active_adapters == Fuse("a", "b", name="mine")
    assert same(run(other), expected)
    assert other.load_adapter_fusion(tmp_path, set_active=True, use_safetensors=safe) == "a,b"
    assert same(run(other), expected)


def test_file_errors(tmp_path: Path) -> None:
    model = with_fusion()
    model.save_adapter_fusion(tmp_path / "f", ["a", "b"])
    bare = models.adapted("bert")
    with refused(bare, UnknownAdapterError, "no adapter named 'a'.*A fusion is of adapters that are there"):
        bare.load_adapter_fusion(tmp_path / "f")
    wide = with_fusion(["b", "c"], preset="double_seq_bn")
    with refused(wide, AdapterFileError, r"Missing \(10\)"):
        wide.load_adapter_fusion(tmp_path / "f")
    with refused(model, AdapterFileError, "no safetensors|There is no model_adapter_fusion"):
        (tmp_path / "f" / SAFE).unlink()
        model.load_adapter_fusion(tmp_path / "f")
    (tmp_path / "f" / CONFIG).write_text("{}")
    with refused(model, AdapterFileError, "no 'config' and 'name'"):
        model.load_adapter_fusion(tmp_path / "f")


def test_modules_that_nothing_uses_are_no_error(tmp_path: Path) -> None:
    """1.3 has them in layers that all adapters leave out."""
    model = with_fusion()
    model.save_adapter_fusion(tmp_path, ["a", "b"])
    other = with_fusion(["b", "c"], preset=f"{SMALL[:-1]}, leave_out=[0]]")
    other.load_adapter_fusion(tmp_path)
    assert len(other._adapter_registry.fusions["a,b"].placements) == 1


def test_all_fusions(tmp_path: Path) -> None:
    model = with_fusion()
    model.add_adapter_fusion(["b", "c"], "gate", name="g")
    model.save_all_adapter_fusions(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob(CONFIG)) == [f"a,b/{CONFIG}", f"g/{CONFIG}"]


def test_whole_model(tmp_path: Path) -> None:
    """Fusions of adapters that are not there any more are left out."""
    model = auto()
    for name in "abc":
        model.add_adapter(name, SMALL)
    model.add_adapter_fusion(["a", "b"], "dynamic[temperature=True]")
    model.add_adapter_fusion(["b", "c"], "static", name="mine")
    model.add_adapter_fusion(["a", "c"])
    shown(model).set_active_adapters(Fuse("a", "b"))
    model._adapter_registry.fusions["a,b"].placements[0].module.passes.fill_(7)
    expected = run(model)
    model.delete_adapter("c")
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["adapters"]
    assert list(written["fusions"]) == ["a,b"] and written["fusion_name_map"] == {"a,b": ["a", "b"]}
    again = adapters.AutoAdapterModel.from_pretrained(tmp_path).eval()
    again.set_active_adapters(Fuse("a", "b"))
    assert same(run(again), expected)
    assert not hasattr(model.config, "adapters")
    file = tmp_path / "model.safetensors"  # 1.3 does not save how often a fusion was trained
    save_file({k: t for k, t in load_file(file).items() if "passes" not in k}, file, {"format": "pt"})
    again = adapters.AutoAdapterModel.from_pretrained(tmp_path)
    assert [int(module.passes) for module in again._adapter_registry.fusions["a,b"].modules()] == [0, 0]


SETUP = Stack("c", Fuse("a", "b"))


def test_setup(tmp_path: Path) -> None:
    model = with_fusion()
    model.set_active_adapters(SETUP)
    expected = run(model)
    model.save_adapter_setup(tmp_path, SETUP)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["a", "a,b", "adapter_setup.json", "b", "c"]
    data = json.loads((tmp_path / "adapter_setup.json").read_text())
    assert data["adapter_setup"] == SETUP.to_dict() and data["head_setup"] is None
    other = models.adapted("bert")
    assert other.load_adapter_setup(tmp_path, set_active=True) == (SETUP, None)
    assert same(run(other), expected)


def test_setup_with_heads(tmp_path: Path) -> None:
    model = auto()
    for name in "ab":
        model.add_adapter(name, SMALL)
        model.add_classification_head(name)
    model.add_classification_head("clf", num_labels=5)
    model.set_active_adapters(Stack("a", "b"))
    model.active_head = "clf"
    expected = run(model)
    model.save_adapter_setup(tmp_path / "s", Stack("a", "b"), head_setup=True)
    other = auto()
    assert other.load_adapter_setup(tmp_path / "s", set_active=True) == (Stack("a", "b"), "clf")
    assert other.active_head == "clf" and sorted(other.heads) == ["a", "b", "clf"] and same(run(other), expected)
    with refused(model, ValueError, "no head named 'x'"):
        model.save_adapter_setup(tmp_path / "t", "a", head_setup="x")
    model.save_adapter_setup(tmp_path / "u", "a")
    assert auto().load_adapter_setup(tmp_path / "u") == (Stack("a"), None)


def test_setup_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    model = with_fusion()
    model.save_adapter_setup(tmp_path, SETUP)
    (tmp_path / "a,b" / SAFE).write_bytes(b"torn")
    other = models.adapted("bert")
    with refused(other, AdapterFileError, "cannot be read"):
        other.load_adapter_setup(tmp_path)
    (tmp_path / "adapter_setup.json").write_text('{"adapter_setup": {"type": "Blend", "children": []}}')
    with refused(other, AdapterFileError, "holds no setup"):
        other.load_adapter_setup(tmp_path)
    with refused(other, ValueError, "version"):
        other.load_adapter_setup(tmp_path, version="main")
