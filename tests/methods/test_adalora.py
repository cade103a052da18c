"""AdaLoRA: its equation, its budget, and what it prunes; LoRA+."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from adapters import AdaLoRAConfig, LoRAConfig, RankAllocator, lora_plus_groups

CONFIG = AdaLoRAConfig(r=6, target_r=2, total_steps=20, warmup_steps=3, final_steps=5, attn_matrices=["q", "v"])


def model_with(name: str, config: AdaLoRAConfig = CONFIG) -> torch.nn.Module:
    model = models.adapted(name)
    model.add_adapter("a", config)
    return model


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "deberta-v2", "t5"])
def test_equation(name: str, tmp_path: Path) -> None:
    model = model_with(name)
    bare = models.outputs(model, name)
    model.set_active_adapters("a")
    assert all(torch.equal(a, b) for a, b in zip(models.outputs(model, name), bare, strict=True))  # Λ starts at zero
    models.randomise(model, "a")
    expected = models.outputs(model, name)
    model.save_adapter(tmp_path, "a")
    fresh = models.adapted(name)
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(models.outputs(fresh, name)[0], expected[0])
    model.set_active_adapters(None)
    with torch.no_grad():
        for module in model.modules():
            if "loras" in module._modules:
                own = module.loras["a"]
                q, e, p = own.lora_A, own.lora_E, own.lora_B
                s = CONFIG.alpha / CONFIG.r
                if name == "gpt2":  # queries and values of a fused matrix, stored transposed
                    size = module.weight.shape[1] // 3
                    change = torch.cat([p[:size] @ (e * q)[:6], torch.zeros(size, size), p[size:] @ (e * q)[6:]])
                    module.weight += s * change.T
                else:
                    module.weight += s * p @ torch.diag(e[:, 0]) @ q
    assert all(torch.allclose(a, b, 1e-4, 1e-5) for a, b in zip(models.outputs(model, name), expected, strict=True))


def test_budget_falls_as_a_cube() -> None:
    allocator = RankAllocator(model_with("bert"), "a")
    assert [allocator.budget(step) for step in (0, 3, 15, 20)] == [24, 24, 8, 8]
    assert allocator.budget(9) == round(8 + 16 * (1 - 6 / 12) ** 3)
    assert all(allocator.budget(step + 1) <= allocator.budget(step) for step in range(20))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_training_prunes_what_matters_least(name: str, tmp_path: Path) -> None:
    model = model_with(name)
    model.train_adapter("a")
    model.eval()
    allocator = RankAllocator(model, "a")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    target = models.outputs(models.bare(name, seed=1), name)[0].detach()
    losses, orthogonality, ranks = [], [], []
    for step in range(20):
        loss = (models.outputs(model, name)[0] - target).pow(2).mean()
        regularisation = allocator.regularisation()
        (loss + 0.1 * regularisation).backward()
        optimizer.step()
        allocator.update(step)
        optimizer.zero_grad()
        losses.append(loss.item())
        orthogonality.append(regularisation.item())
        ranks.append(sum(allocator.ranks))
        assert ranks[-1] <= allocator.budget(step + 1)
    assert losses[-1] < 0.95 * losses[0] and orthogonality[-1] < orthogonality[0]
    assert ranks[2] == 24 and ranks[-1] == 8 and ranks == sorted(ranks, reverse=True)
    if name == "bert":  # the rank is where it matters
        assert len(set(allocator.ranks)) > 1
    model.save_adapter(tmp_path, "a")
    fresh = models.adapted(name)
    fresh.load_adapter(tmp_path, set_active=True)
    with torch.no_grad():
        expected = models.outputs(model, name)[0]
        assert torch.equal(models.outputs(fresh, name)[0], expected)
    assert RankAllocator(fresh, "a").ranks == allocator.ranks
    model.merge_adapter("a")
    assert torch.allclose(models.outputs(model, name)[0], expected, rtol=1e-4, atol=1e-5)


def test_importance_by_hand() -> None:
    model = model_with("bert", AdaLoRAConfig(r=4, target_r=1, total_steps=2, attn_matrices=["q"]))
    models.randomise(model, "a")
    model.train_adapter("a")
    models.loss(models.outputs(model, "bert")).backward()
    allocator = RankAllocator(model, "a")
    scores = []
    modules = [m["selfattn_lora"] for m in model.get_adapter("a").values()]
    for m in modules:
        s = {}
        for name in ("lora_A", "lora_E", "lora_B"):
            p = getattr(m, name)
            sensitivity = (p * p.grad).abs() * 0.15
            s[name] = sensitivity * ((p * p.grad).abs() - sensitivity).abs() * 0.15
        scores.append(s["lora_E"][:, 0] + s["lora_A"].mean(1) + s["lora_B"].mean(0))
    count = allocator.budget(1)
    threshold = torch.cat(scores).sort(descending=True).values[count - 1]
    allocator.update(0)
    for m, score in zip(modules, scores, strict=True):
        assert torch.equal(m.lora_E[:, 0] != 0, score >= threshold)


def test_state_goes_on() -> None:
    models_ = [model_with("bert"), model_with("bert")]
    models_[1].load_state_dict(models_[0].state_dict())
    allocators = []
    for model in models_:
        models.randomise(model, "a")
        model.train_adapter("a")
        models.loss(models.outputs(model.eval(), "bert")).backward()
        allocators.append(RankAllocator(model, "a"))
    for step in range(10):
        allocators[0].update(step)
    for step in range(9):
        allocators[1].update(step)
    resumed = RankAllocator(models_[1], "a")
    resumed.load_state_dict(allocators[1].state_dict())
    resumed.update(9)
    assert resumed.ranks == allocators[0].ranks


def test_errors() -> None:
    model = model_with("bert")
    model.add_adapter("b", LoRAConfig())
    model.add_adapter("c", AdaLoRAConfig())
    with pytest.raises(ValueError, match="'b' is no AdaLoRA"):
        RankAllocator(model, "b")
    with pytest.raises(ValueError, match="total_steps"):
        RankAllocator(model, "c")
    with pytest.raises(ValueError, match="leave none"):
        RankAllocator(model, "a", total_steps=8)
    with pytest.raises(ValueError, match="no gradients"):
        RankAllocator(model, "a").update(0)
    with pytest.raises(ValueError, match="pissa"):
        model.add_adapter("d", AdaLoRAConfig(init_weights="pissa"))


# -- LoRA+ ----------------------------------------------------------------------------------------------------------


def test_lora_plus() -> None:
    model = models.adapted("llama")
    model.add_adapter("a", LoRAConfig(target_modules=["q_proj", "embed_tokens"], use_dora=False))
    with pytest.raises(ValueError, match="No LoRA is trained"):
        model.freeze_model()
        lora_plus_groups(model, 1e-3)
    model.train_adapter("a")
    model.norm.requires_grad_(True)
    groups = lora_plus_groups(model, 1e-3, ratio=16, weight_decay=0.1)
    named = {id(p): name for name, p in model.named_parameters()}
    found = {named[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(p.requires_grad for p in model.parameters()) == 7
    for name, (rate, decay) in found.items():
        assert rate == (16e-3 if name.endswith("B") else 1e-3)
        assert decay == (0.0 if name == "norm.weight" else 0.1)
    torch.optim.AdamW(groups)
    with pytest.raises(ValueError, match="ratio=0"):
        lora_plus_groups(model, 1e-3, ratio=0)
