"""`output_adapter_gating_scores`: what the gates of adapters let through, for the rows that are theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import models
from adapters import MultiTask, Parallel, Stack
from test_composition import batch, randomised

PREFIX = "prefix_tuning[prefix_length=3, bottleneck_size=8, use_gating=True"
METHODS = {
    "bottleneck": "double_seq_bn[reduction_factor=4, use_gating=True]",
    "lora": "lora[r=2, use_gating=True, intermediate_lora=True]",
    "ia3": "ia3[use_gating=True]",
    "prefix": f"{PREFIX}]",
    "prefix_two_gates": f"{PREFIX}, shared_gating=False]",
    "union": f"{PREFIX}]|seq_bn[use_gating=True]|lora[r=2, use_gating=True]",
}
# Where adapters have gates, and how many: in the layers of a BERT, in the encoder of a T5, and in its decoder.
PLACES: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {
    "bottleneck": (
        {"mh_adapter": 1, "output_adapter": 1},
        {"mh_adapter": 1, "output_adapter": 1},
        {"mh_adapter": 1, "output_adapter": 1},
    ),
    "lora": (
        {"selfattn_lora": 2, "intermediate_lora": 1},
        {"selfattn_lora": 2, "intermediate_lora": 1},
        {"selfattn_lora": 4, "intermediate_lora": 1},
    ),
    "prefix": ({"self_prefix": 1}, {"encoder_prefix": 1}, {"self_prefix": 1, "cross_prefix": 1}),
    "prefix_two_gates": ({"self_prefix": 2}, {"encoder_prefix": 2}, {"self_prefix": 2, "cross_prefix": 2}),
}
NAMES = ["bert", "gpt2", "t5"]


def gated(name: str, method: str, *adapters: str) -> Any:
    model: Any = models.adapted(name)
    for adapter in adapters:
        model.add_adapter(adapter, METHODS[method])
    return randomised(model, *adapters)


def scores(model: Any, name: str, **options: Any) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    with torch.no_grad():
        found: dict[str, Any] = model(**batch(name), **options, output_adapter_gating_scores=True).adapter_gating_scores
    return found


def flat(of_adapter: dict[int, dict[str, np.ndarray]]) -> dict[tuple[int, str], np.ndarray]:
    return {(layer, key): gates for layer, places in of_adapter.items() for key, gates in places.items()}


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.parametrize("method", PLACES)
def test_places_and_shapes(name: str, method: str) -> None:
    """An array of (rows,) for one gate, and of (rows, gates) for several."""
    model = gated(name, method, "a")
    model.set_active_adapters("a")
    found = scores(model, name)["a"]
    in_bert, in_encoder, in_decoder = PLACES[method]
    wanted = [in_bert] * 2 if name == "bert" else [in_encoder] * 2 + [in_decoder] * 2
    for layer, places in enumerate(wanted):
        assert {key: gates.shape for key, gates in found[layer].items()} == {
            key: (4,) if count == 1 else (4, count) for key, count in places.items()
        }
    assert all(((gates > 0) & (gates < 1)).all() for gates in flat(found).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_gates_are_those_that_are_set(name: str, method: str) -> None:
    """Without weights, a gate is the sigmoid of its bias."""
    model = gated(name, method, "a")
    model.set_active_adapters("a")
    own = {n: p for n, p in model.named_parameters() if "gate" in n}
    with torch.no_grad():
        for parameter_name, parameter in own.items():
            parameter.fill_(-1.0 if parameter_name.endswith("bias") else 0.0)
    for gates in flat(scores(model, name)["a"]).values():
        assert gates == pytest.approx(np.full(gates.shape, torch.sigmoid(torch.tensor(-1.0))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_rows_have_their_own(name: str, method: str) -> None:
    """However a batch is divided among adapters, each shows the gates of its rows, as it does alone."""
    model = gated(name, method, "a", "b")
    alone = {}
    for adapter in "ab":
        model.set_active_adapters(adapter)
        alone[adapter] = flat(scores(model, name)[adapter])

    def agree(found: dict[str, Any], rows: dict[str, list[int]]) -> None:
        assert found.keys() == rows.keys()
        for adapter, own in rows.items():
            got = flat(found[adapter])
            assert got.keys() == alone[adapter].keys()
            for place, gates in got.items():
                np.testing.assert_allclose(gates, alone[adapter][place][own], rtol=1e-3, atol=1e-4)

    model.set_active_adapters(None)
    assert scores(model, name) == {}
    agree(scores(model, name, adapter_names=["b", None, "a", "b"]), {"a": [2], "b": [0, 3]})
    model.set_active_adapters(Parallel("b", "a"))
    agree(scores(model, name), {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]})
    model.set_active_adapters(MultiTask("a", "b"))
    agree(scores(model, name, task_ids=[1, 0, 0, 1]), {"a": [1, 2], "b": [0, 3]})


def test_nothing_is_shown_unless_it_is_asked_for() -> None:
    model = gated("bert", "bottleneck", "a")
    model.set_active_adapters(Stack("a"))
    assert "adapter_gating_scores" not in model(**batch("bert"))
    assert isinstance(model(**batch("bert"), return_dict=False, output_adapter_gating_scores=True)[-1], dict)
