"""A new method costs one short file: here is one, which follows ARCHITECTURE.md, and the laws hold for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import models
import test_laws as laws
from adapters import AdapterConfig, Stack
from adapters.anatomy.parts import Anatomy
from adapters.configuration.base import register_method, register_preset
from adapters.methods import METHODS
from adapters.methods.base import Method, Placement, SublayerMap

# -- the method: a learned scale of what feed-forward sublayers give -------------------------------------------------


@dataclass
class ScalingConfig(AdapterConfig):
    architecture: str | None = "scaling"
    leave_out: list[int] = field(default_factory=list)


class Scaling(SublayerMap):
    """x′ = x + s · x, with s = 0 at first."""

    increments_norm = replaces_norm = needs_residual = is_parallel = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(size))

    def increment(self, h: Tensor) -> Tensor:
        return self.s * h

    def adapt(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        return x + self.increment(x)

    finish = adapt


class ScalingMethod(Method):
    def place(self, config: ScalingConfig, anatomy: Anatomy, base: nn.Module) -> Iterator[Placement]:
        for layer, sublayer in anatomy.sublayers():
            if sublayer.kind == "ffn" and layer.number not in config.leave_out:
                module = Scaling(sublayer.size)
                yield Placement(sublayer.host, "scalings", "scaling", layer.index, module, sublayer)


# -- the proof ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    register_method(ScalingConfig, "scaling")
    register_preset("scaling", ScalingConfig())
    METHODS[ScalingConfig] = ScalingMethod()
    yield
    del AdapterConfig._methods["scaling"], AdapterConfig._presets["scaling"], METHODS[ScalingConfig]


every_model = pytest.mark.parametrize("name", models.NAMES)


@every_model
@pytest.mark.parametrize(
    "law",
    [
        laws.test_identity,
        laws.test_inactive_is_free,
        laws.test_only_what_is_trained_moves,
        laws.test_stack_of_one_is_the_adapter,
        laws.test_detach_restores,
        laws.test_copies_are_independent,
    ],
    ids=lambda law: law.__name__.removeprefix("test_"),
)
def test_laws(name: str, law: Callable[[str, str], None]) -> None:
    law(name, "scaling")


@every_model
def test_save_is_load(name: str, tmp_path: Path) -> None:
    laws.test_save_is_load(name, "scaling", tmp_path)


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(name: str, use_reentrant: bool) -> None:
    laws.test_checkpointing_gives_the_same_gradients(name, "scaling", use_reentrant)


@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_compiled_exported_and_half(name: str) -> None:
    laws.test_compiled_is_eager(name, "scaling")
    laws.test_exported_is_eager(name, "scaling")
    laws.test_half_precision(name, "scaling", torch.bfloat16)


def test_what_it_does() -> None:
    """With another method in a stack or a union, by layer, and in what is shown."""
    model = models.adapted("llama")
    model.add_adapter("a", "scaling[leave_out=[0]]|lora[r=2]", set_active=True)
    scaling = model.get_adapter("a")[1]["scaling"]
    assert isinstance(scaling, Scaling) and "scaling" not in model.get_adapter("a")[0]
    before = models.outputs(model, "llama")
    seen: list[Tensor] = []
    handle = model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    models.outputs(model, "llama")
    nn.init.constant_(scaling.s, 0.5)
    models.outputs(model, "llama")
    handle.remove()
    assert torch.allclose(seen[1], 1.5 * seen[0])
    assert not laws.close(models.outputs(model, "llama"), before, 1e-3)
    model.add_adapter("b", "scaling")
    model.set_active_adapters(Stack("a", "b"))
    assert not laws.same(models.outputs(model, "llama"), before)
    assert model.adapter_summary(as_dict=True)[1]["architecture"] == "scaling"
