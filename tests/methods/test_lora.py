"""LoRA and its relatives at one matrix: the formulas, the patterns of ranks, stacks, fused projections, old files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import models
from adapters import Stack

QUERY = "encoder.layer.1.attention.self.query"
PATHS = {
    "o": "encoder.layer.1.attention.output.dense",
    "up": "encoder.layer.1.intermediate.dense",
    "down": "encoder.layer.1.output.dense",
}


def added(name: str, *presets: str) -> Any:
    model = models.adapted(name)
    for adapter, preset in zip("abc", presets, strict=False):
        model.add_adapter(adapter, preset)
        models.randomise(model, adapter)
    return model


def increment(model: Any, path: str, setup: Any = "a") -> tuple[Tensor, Tensor]:
    """What reaches a layer, and what adapters add to what it computes. Shapes: (2, 5, I) and (2, 5, O)."""
    layer = model.get_submodule(path)
    weight = layer.weight if type(layer).__name__ != "Conv1D" else layer.weight.T
    x = torch.randn(2, 5, weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.set_active_adapters(None)
        before = layer(x)
        model.set_active_adapters(setup)
        return x, layer(x) - before


def at(model: Any, path: str, adapter: str = "a") -> Any:
    return model.get_submodule(path).loras[adapter]


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "rank", "scaling"),
    [
        ("", 4, 2.0),  # alpha is 8
        ("alpha=2", 4, 0.5),
        ("alpha=2, use_rslora=True", 4, 1.0),
        ("rank_pattern={'query': 2}", 2, 4.0),
        ("alpha_pattern={'1.attention.*.query': 20}", 4, 5.0),
        ("rank_pattern={'query': 9}, alpha_pattern={'query': 6}, use_rslora=True", 9, 2.0),
    ],
)
def test_ranks_and_scalings(options: str, rank: int, scaling: float) -> None:
    model = added("bert", f"lora[r=4, {options}]")
    lora = at(model, QUERY)
    x, found = increment(model, QUERY)
    assert_close(found, scaling * x @ lora.lora_A.T @ lora.lora_B.T)
    assert math.isclose(lora.scaling, scaling) and len(lora.lora_A) == rank
    assert len(at(model, QUERY.replace("query", "value")).lora_A) == 4


@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_fit_nothing(option: str) -> None:
    model = models.adapted("bert")
    with pytest.raises(ValueError, match=rf"(?s){option}.*'qeury'.*Did you mean '?.*query"):
        model.add_adapter("a", f"lora[{option}={{'qeury': 4}}]")
    with pytest.raises(ValueError, match=option):  # it is there, but not adapted
        model.add_adapter("a", f"lora[{option}={{'key': 4}}]")
    assert not model.has_adapters()


def test_the_best_pattern_counts() -> None:
    pattern = "{'query': 3, 'layer.1.attention.self.query': 5, 'self.*': 2}"
    model = added("bert", f"lora[r=4, rank_pattern={pattern}]")
    ranks = [len(at(model, QUERY.replace("1", n).replace("query", m)).lora_A) for n in "01" for m in ("query", "value")]
    assert ranks == [2, 2, 5, 2]  # that with most parts


@pytest.mark.parametrize("role", PATHS)
def test_other_matrices(role: str) -> None:
    options = {"o": "attn_matrices=['o']", "up": "selfattn_lora=False, intermediate_lora=True"}
    model = added("bert", f"lora[r=2, {options.get(role, 'selfattn_lora=False, output_lora=True')}]")
    assert {p.host for p in model._adapter_registry["a"].placements if p.layer == 1} == {PATHS[role]}
    lora = at(model, PATHS[role])
    x, found = increment(model, PATHS[role])
    assert_close(found, 4 * x @ lora.lora_A.T @ lora.lora_B.T)


def test_gates_take_the_place_of_the_scaling() -> None:
    model = added("bert", "lora[r=2, alpha=7, use_gating=True]")
    lora = at(model, QUERY)
    x, found = increment(model, QUERY)
    gate = torch.sigmoid(lora.gate(x)).mean(dim=1, keepdim=True)
    assert gate.shape == (2, 1, 1)
    assert_close(found, gate * (x @ lora.lora_A.T @ lora.lora_B.T))


@pytest.mark.parametrize("roles", ["qkv", "qv", "k"])
@pytest.mark.parametrize("options", ["", ", use_gating=True", ", use_rslora=True"])
def test_fused_projections_are_as_separate_ones(roles: str, options: str) -> None:
    """Of GPT-2 the three projections are one matrix: A has a block for each, and B only reaches its own rows."""
    model, path = added("gpt2", f"lora[r=2, attn_matrices={list(roles)}{options}]"), "h.1.attn.c_attn"
    lora = at(model, path)
    assert lora.lora_A.shape == (2 * len(roles), 32) and lora.lora_B.shape == (32 * len(roles), 2)
    x, found = increment(model, path)
    wanted = {role: torch.zeros(2, 5, 32) for role in "qkv"}
    gates = lora.gates(x) if lora.gate is not None else torch.full((1, 1, len(roles)), lora.scaling)
    for i, role in enumerate(roles):
        a, b = lora.lora_A[2 * i : 2 * i + 2], lora.lora_B[32 * i : 32 * i + 32]
        wanted[role] = gates[..., i : i + 1] * (x @ a.T @ b.T)
    assert_close(found, torch.cat([wanted[role] for role in "qkv"], dim=-1))


@pytest.mark.parametrize("presets", [("lora[r=2]", "lora[r=3, alpha=3]"), ("lora[r=2]", "vera[r=2]", "lora[r=4]")])
def test_a_stack_is_a_chain(presets: tuple[str, ...]) -> None:
    """y′ = y + B₂ A₂ B₁ A₁ x, with the scalings."""
    model = added("bert", *presets)
    names = list("abc"[: len(presets)])
    x, found = increment(model, QUERY, Stack(*names))
    u = x
    for name in names:
        a, b = at(model, QUERY, name).factors()
        u = at(model, QUERY, name).scaling * u @ a.T @ b.T
    assert_close(found, u)
    _, alone = increment(model, QUERY, Stack("a"))
    assert_close(alone, increment(model, QUERY, "a")[1])


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        ("bert", "lora[selfattn_lora=False, output_lora=True]", r"encoder.layer.0.output.dense: .* is 32 × 64 instead"),
        ("llama", "lora", r"v_proj: .* the matrix is 16 × 32 instead of square.*merge_adapter"),
        ("gpt2", "lora", r"c_attn: .* the matrix fuses q, k, v instead"),
    ],
)
def test_a_stack_needs_square_matrices(name: str, preset: str, message: str) -> None:
    model = added(name, preset, preset)
    model.set_active_adapters("a")
    with pytest.raises(ValueError, match=message):
        model.set_active_adapters(Stack("a", "b"))
    assert model.active_adapters == Stack("a")


@pytest.mark.parametrize("off_diagonal", [0.0, 0.3])
def test_vera_files_with_full_matrices(off_diagonal: float, tmp_path: Path) -> None:
    """1.3 wrote d and b as (r, r) and (R, R), and trained all of them: y′ = y + s · b B d A x."""
    model = added("bert", "vera[r=3]")
    model.save_adapter(tmp_path, "a")
    tensors = load_file(tmp_path / "adapter.safetensors")
    generator = torch.Generator().manual_seed(0)
    for key in [key for key in tensors if key.rpartition(".")[2] in ("vera_D", "vera_B")]:
        size = len(tensors[key])
        noise = off_diagonal * torch.randn(size, size, generator=generator)
        tensors[key] = tensors[key].diag() + noise - noise.diagonal().diag()
    save_file(tensors, tmp_path / "adapter.safetensors")
    _, before = increment(model, QUERY)
    model.load_adapter(str(tmp_path), load_as="b")
    vera = at(model, QUERY, "b")
    assert (vera.vera_D.ndim, vera.vera_B.ndim) == ((1, 1) if off_diagonal == 0 else (2, 2))
    shared = model.shared_parameters["b"]
    x, found = increment(model, QUERY, "b")
    if off_diagonal == 0:
        assert torch.equal(found, before)
        return
    assert_close(found, vera.scaling * x @ shared.lora_A.T @ vera.vera_D.T @ shared.lora_B.T @ vera.vera_B.T)
    # What was read is written, and read again.
    model.save_adapter(tmp_path / "again", "b")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["config"]["vera_d"] is not None
    model.load_adapter(str(tmp_path / "again"), load_as="c")
    assert torch.equal(increment(model, QUERY, "c")[1], found)
