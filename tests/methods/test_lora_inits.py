"""How LoRA starts: by the weight it changes (PiSSA, OLoRA), orthogonal, by data (EVA)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import models
from adapters import AdapterConfig, LoRAConfig, Stack, initialise_with_data

ALL = {"attn_matrices": ["q", "k", "v", "o"], "intermediate_lora": True, "output_lora": True}
FAMILIES = ["bert", "gpt2", "llama", "modernbert", "t5"]


def config(init: str, **changes: Any) -> LoRAConfig:
    return LoRAConfig(**{"r": 4, "alpha": 8, "init_weights": init, **ALL, **changes})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal", "eva"])
def test_nothing_changes_at_the_start(name: str, init: str, tmp_path: Path) -> None:
    model = models.adapted(name)
    bare = models.outputs(model, name)
    model.add_adapter("a", config(init), set_active=True)
    assert all(torch.equal(a, b) for a, b in zip(models.outputs(model, name), bare, strict=True))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    model.merge_adapter("a")
    if init in ("pissa", "olora"):
        merged = models.outputs(model, name)
        assert all(torch.allclose(a, b, 1e-3, 1e-4) for a, b in zip(merged, bare, strict=True))
    model.reset_adapter()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    model.train_adapter("a")
    trained = [p for p in model.parameters() if p.requires_grad]
    models.loss(models.outputs(model, name)).backward()
    torch.optim.SGD(trained, lr=0.1).step()
    assert all(torch.equal(p, weights[k]) for k, p in model.named_parameters() if ".start_" in k)
    model.eval()
    model.save_adapter(tmp_path, "a")
    fresh = models.adapted(name)
    fresh.load_adapter(tmp_path, set_active=True)
    with torch.no_grad():  # torch multiplies otherwise where a weight needs gradients
        expected = models.outputs(model, name)
        assert torch.equal(models.outputs(fresh, name)[0], expected[0])
    assert not torch.equal(expected[0], bare[0])
    model.merge_adapter("a")
    assert all(torch.allclose(a, b, 1e-3, 1e-4) for a, b in zip(models.outputs(model, name), expected, strict=True))


def test_pissa_is_the_best_part_of_the_weight() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", config("pissa"))
    layer = model.encoder.layer[0].attention.self.query
    own = layer.loras["a"]
    change = 2.0 * own.lora_B @ own.lora_A
    u, s, v = torch.linalg.svd(layer.weight)
    assert torch.allclose(change, u[:, :4] @ s[:4].diag() @ v[:4], atol=1e-5)
    assert torch.equal(own.start_A, own.lora_A) and torch.equal(own.start_B, own.lora_B)
    assert not own.start_A.requires_grad and own.lora_A.requires_grad


def test_pissa_of_a_fused_matrix_is_that_of_each_part() -> None:
    model = models.adapted("gpt2")
    model.add_adapter("a", config("pissa", attn_matrices=["q", "v"]))
    layer = model.h[0].attn.c_attn
    own = layer.loras["a"]
    parts = layer.weight.T.split(32)
    for i, weight in enumerate((parts[0], parts[2])):
        u, s, v = torch.linalg.svd(weight)
        change = 2.0 * own.lora_B[32 * i : 32 * (i + 1)] @ own.lora_A[4 * i : 4 * (i + 1)]
        assert torch.allclose(change, u[:, :4] @ s[:4].diag() @ v[:4], atol=1e-5)


def test_olora_and_orthogonal() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", config("olora"))
    model.add_adapter("b", config("orthogonal"))
    layer = model.encoder.layer[1].output.dense
    q, r = torch.linalg.qr(layer.weight)
    assert torch.allclose(layer.loras["a"].lora_B @ layer.loras["a"].lora_A, q[:, :4] @ r[:4], atol=1e-5)
    assert torch.allclose(layer.loras["a"].lora_B.T @ layer.loras["a"].lora_B, torch.eye(4), atol=1e-5)
    assert torch.allclose(layer.loras["b"].lora_A @ layer.loras["b"].lora_A.T, torch.eye(4), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_start_at_nothing_too(dtype: torch.dtype) -> None:
    import adapters

    model = models.bare("llama").to(dtype)
    adapters.init(model)
    bare = models.outputs(model, "llama")
    model.add_adapter("a", config("pissa"), set_active=True)
    assert torch.equal(models.outputs(model, "llama")[0], bare[0])


def test_stacks_and_dropout_of_shifted_starts() -> None:
    model = models.adapted("bert")
    for name, seed in (("a", 1), ("b", 2)):
        model.add_adapter(name, config("pissa", intermediate_lora=False, output_lora=False, dropout=0.5))
        torch.manual_seed(seed)
    bare = models.outputs(model, "bert")
    model.set_active_adapters(Stack("a", "b"))
    assert torch.equal(models.outputs(model, "bert")[0], bare[0])
    model.set_active_adapters("a")
    own = model.encoder.layer[0].attention.self.query.loras["a"].train()
    x, y = torch.randn(3, 32), torch.randn(3, 32)
    assert torch.equal(own.adapt(x, y), y)  # one mask for both products


def test_what_cannot_start_so() -> None:
    model = models.adapted("bert")
    for changes, message in [
        ({"use_dora": True}, "use_dora"),
        ({"use_gating": True}, "use_gating"),
        ({"r": 33}, "r=33 is more than"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.add_adapter("a", config("pissa", **changes))
        assert not model.has_adapters()
    with pytest.raises(ValueError, match="pissa"):
        model.add_adapter("a", AdapterConfig.load("mtl_lora", init_weights="pissa"))


# -- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_eva_starts_at_the_directions_of_the_inputs(name: str) -> None:
    model = models.adapted(name)
    model.add_adapter("a", config("eva", dropout=0.1))
    model.add_adapter("other", "seq_bn[reduction_factor=4]", set_active=True)
    models.randomise(model, "other")
    model.train()
    modules = {path: m for path, m in model.named_modules() if "loras" in m._modules}
    seen: dict[str, list[torch.Tensor]] = {path: [] for path in modules}
    hooks = [
        m.register_forward_pre_hook(lambda _, inputs, path=path: seen[path].append(inputs[0]))
        for path, m in modules.items()
    ]
    given = models.inputs(name)
    ids = given["input_ids"]
    batches = [given, {**given, "input_ids": ids.flip(0)}, {**given, "input_ids": (ids + 3) % 90 + 5}]
    initialise_with_data(model, "a", batches)
    assert model.training and model.active_adapters == Stack("other")
    for hook in hooks:
        hook.remove()
    for path, m in modules.items():
        own = m.loras["a"]
        is_decoder = path.startswith("decoder")
        mask = torch.ones(2, 4) if is_decoder else given["attention_mask"]
        of_encoder = seen[path][0].shape[1] == 6
        rows = torch.cat([x[given["attention_mask"].bool()] if of_encoder else x[mask.bool()] for x in seen[path]])
        v = torch.linalg.svd(rows, full_matrices=False)[2][:4]
        for a in own.lora_A.view(-1, 4, own.lora_A.shape[1]):
            assert torch.allclose(a @ a.T, torch.eye(4), atol=1e-4)
            assert torch.allclose((rows @ a.T).pow(2).sum(), (rows @ v.T).pow(2).sum(), rtol=1e-3)
        assert not own.lora_B.any()
    model.eval().set_active_adapters("a")
    assert torch.equal(models.outputs(model, name)[0], models.outputs(models.bare(name), name)[0])


def test_eva_without_enough_data() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", config("eva", r=16))
    model.add_adapter("b", "seq_bn")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    few = {key: value[:1, :4] for key, value in models.inputs("bert").items()}
    with pytest.raises(ValueError, match=r"4 directions were seen, and r=16"):
        initialise_with_data(model, "a", [few])
    with pytest.raises(ValueError, match="no LoRA"):
        initialise_with_data(model, "b", [few])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert models.hooks(model) == models.hooks(models.bare("bert"))
