"""MTL-LoRA adapters of several tasks with the same A and Bᵢ."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adapters
import models
from adapters import MultiTask
from adapters.sharing import groups

PRESET = "mtl_lora[r=2, n_up_projection=2]"
PATH = "encoder.layer.1.attention.self.value"


def added(*names: str, preset: str = PRESET) -> Any:
    model = models.adapted("bert")
    for i, name in enumerate(names):
        model.add_adapter(name, preset)
        models.randomise(model, name, std=0.1 * (i + 1))
    return model


def at(model: nn.Module, name: str) -> Any:
    return model.get_submodule(f"{PATH}.loras.{name}")


def shares(model: nn.Module, one: str, other: str) -> bool:
    first, second = at(model, one), at(model, other)
    assert (first.lora_A is second.lora_A) == (first.lora_B is second.lora_B)
    assert first.weights is not second.weights and first.task_specific.values is not second.task_specific.values
    return first.lora_A is second.lora_A


@pytest.mark.parametrize("given", [MultiTask("a", "b", "c"), ["a", "b", "c"], "a,b,c"])
def test_sharing_and_its_end(given: Any) -> None:
    model = added("a", "b", "c", "d")
    wanted = at(model, "b").lora_A.clone()
    assert model.share_parameters(given, reference_adapter_name="b") is None
    assert shares(model, "a", "b") and shares(model, "b", "c") and not shares(model, "a", "d")
    assert torch.equal(at(model, "c").lora_A, wanted)
    model.share_parameters(["a", "d"], name="other")
    assert shares(model, "a", "d") and shares(model, "b", "c") and not shares(model, "a", "b")
    assert groups(model._adapter_registry) == {"a,b,c": ["b", "c"], "other": ["a", "d"]}
    model.unshare_parameters(["b", "c"])
    model.unshare_parameters("a", name="other")
    assert not any(shares(model, *pair) for pair in ("ab", "bc", "ad"))
    assert torch.equal(at(model, "c").lora_A, at(model, "d").lora_A)


def test_what_is_shared_is_trained_by_all_and_only_once() -> None:
    model = added("a", "b")
    model.share_parameters(["a", "b"])
    model.train_adapter("b")
    a, b = at(model, "a"), at(model, "b")
    assert a.lora_A.requires_grad and not a.weights.requires_grad and b.weights.requires_grad
    before = a.lora_A.clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    models.loss(models.outputs(model, "bert")).backward()
    optimizer.step()
    assert not torch.equal(a.lora_A, before)
    model.eval()
    model.set_active_adapters("a")
    found = models.outputs(model, "bert")
    model.unshare_parameters(["a"])
    assert all(map(torch.equal, models.outputs(model, "bert"), found))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_share_among_themselves(copied: Callable[[Any], Any]) -> None:
    model = added("a", "b")
    model.share_parameters(["a", "b"], name="x")
    other = copied(model)
    assert shares(other, "a", "b") and at(other, "a").lora_A is not at(model, "a").lora_A
    other.delete_adapter("a")
    assert groups(other._adapter_registry) == {} and groups(model._adapter_registry) == {"x": ["a", "b"]}
    other.set_active_adapters("b")
    model.set_active_adapters("b")
    assert all(map(torch.equal, models.outputs(other, "bert"), models.outputs(model, "bert")))


def test_files(tmp_path: Path) -> None:
    model = added("a", "b", "c")
    model.share_parameters(["a", "b"], name="x")
    model.save_all_adapters(tmp_path / "each")
    model.save_pretrained(tmp_path / "whole")
    other = models.adapted("bert")
    for name in "ab":
        other.load_adapter(tmp_path / "each" / name)
    assert not shares(other, "a", "b")
    other.share_parameters(["a", "b"])
    again = adapters.load_model(tmp_path / "whole", type(models.bare("bert")))
    assert shares(again, "a", "b") and not shares(again, "a", "c")
    assert groups(again._adapter_registry) == {"x": ["a", "b"]}
    for name in "ab":
        for each in (model, other, again):
            each.set_active_adapters(name)
        wanted = models.outputs(model, "bert")
        assert all(map(torch.equal, models.outputs(other, "bert"), wanted))
        assert all(map(torch.equal, models.outputs(again.eval(), "bert"), wanted))


WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    ("share_parameters", (["a"],), "at least two"),
    ("share_parameters", (["a", "a"],), "each once"),
    ("share_parameters", (["a", "zz"],), "no adapter named 'zz'"),
    ("share_parameters", (["a", "b"], None, "l"), "'l' is not among"),
    ("share_parameters", (["a", "l"],), "LoRAConfig, which has nothing to share"),
    ("share_parameters", (["a", "r"],), "Give them the same r"),
    ("share_parameters", (["a", "k"],), "only one of them adapts"),
    ("unshare_parameters", (["a"],), "'a' shares no parameters"),
    ("unshare_parameters", (["b"], "y"), "has no parameters shared as 'y'. There are: {'x'"),
    ("unshare_parameters", (["zz"],), "no adapter named 'zz'"),
    ("share_parameters", (["a", "b"], "x"), "under the name 'x' already"),
]


@pytest.mark.parametrize(("method", "arguments", "message"), WRONG)
def test_what_cannot_be_is_said(method: str, arguments: tuple[Any, ...], message: str) -> None:
    model = added("a", "b", "c")
    model.add_adapter("l", "lora[r=2]")
    model.add_adapter("r", "mtl_lora[r=3]")
    model.add_adapter("k", f"{PRESET[:-1]}, attn_matrices=['k']]")
    model.share_parameters(["b", "c"], name="x")
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(*arguments)
    assert not shares(model, "a", "b") and shares(model, "b", "c")
