"""New adapters made of others: what they are, parameter by parameter or as changes ΔW of the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adapters
import models
from adapters.averaging import combine, products
from adapters.averaging.products import as_product, relative_error, truncated
from adapters.averaging.strategies import agreed, trimmed

ALL = "attn_matrices=['q', 'k', 'v', 'o'], intermediate_lora=True, output_lora=True"
# Variants of changes of weights, each with others of other ranks, scalings, matrices or kinds.
CHANGES = [
    ("bert", ["lora[r=2]", "lora[r=2]"]),
    ("bert", ["lora[r=2, alpha=8]", "lora[r=3, alpha=1]", f"lora[r=4, use_rslora=True, {ALL}]"]),
    ("bert", ["lora[r=2, leave_out=[0]]", "vera[r=3]", "adalora[r=3, target_r=2]", "lora[r=2, init_weights=pissa]"]),
    ("llama", [f"lora[r=2, {ALL}, rank_pattern={{'q_proj': 4}}, alpha_pattern={{'1.mlp.up_proj': 3}}]", "lora[r=2]"]),
    ("llama", ["lora[r=2, target_modules=['up_proj', 'embed_tokens']]", "lora[r=3, alpha=2]"]),
    ("gpt2", ["lora[r=2, attn_matrices=['q']]", "lora[r=3, alpha=9, attn_matrices=['k', 'v']]", f"lora[r=2, {ALL}]"]),
    ("gpt2", ["lora[r=2]", "lora[r=2, target_modules=['c_attn']]"]),
    ("t5", ["mtl_lora[r=2, n_up_projection=2]", "lora[r=3]"]),
    ("mixtral", [f"lora[r=2, {ALL}]", f"lora[r=3, alpha=1, {ALL}, rank_pattern={{'0.*.*_proj': 5}}]", "lora[r=2]"]),
    ("vit", ["vera[r=2]", "lora[r=2]|lora[r=3, selfattn_lora=False, output_lora=True]"]),
]
# Two of one configuration: those that are combined parameter by parameter.
VALUES = [
    ("bert", "seq_bn[reduction_factor=4]"),
    ("bert", "compacter[phm_dim=2, reduction_factor=4]"),
    ("bert", "prefix_tuning[prefix_length=3, bottleneck_size=8]"),
    ("bert", "prompt_tuning[prompt_length=3]"),
    ("t5", "noreft[r=2]"),
    ("bert", "loreft"),
    ("llama", "ia3"),
    ("vit", "bitfit"),
    ("bert", "ln_tuning"),
    ("llama", "seq_bn_inv[reduction_factor=4]"),
]
OF_VALUES = ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "slerp"]
OF_CHANGES = ["lora_concat", "lora_svd", *OF_VALUES[1:]]


def added(name: str, presets: Sequence[str], **config: Any) -> nn.Module:
    model = models.adapted(name, **config)
    for adapter, preset in zip("abcd", presets, strict=False):
        model.add_adapter(adapter, preset)
        models.randomise(model, adapter, std=0.1 * ("abcd".index(adapter) + 1))
    return model


def changes(model: nn.Module, adapter: str) -> dict[str, Tensor]:
    """ΔW of all weights, by merging."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.merge_adapter(adapter)
    after = model.state_dict()
    found = {name: after[name] - value for name, value in before.items() if not torch.equal(after[name], value)}
    model.reset_adapter()
    return found


def summed(parts: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    keys = dict.fromkeys(key for part in parts for key in part)
    return {k: sum(w * p[k] for w, p in zip(weights, parts, strict=True) if k in p) for k in keys}  # type: ignore[misc]


def assert_close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert wanted.keys() <= found.keys() | {k for k, v in wanted.items() if v.abs().max() < 1e-6}
    for key, value in found.items():
        torch.testing.assert_close(value, wanted.get(key, torch.zeros_like(value)), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["lora_concat", "task_arithmetic", "lora_svd"])
@pytest.mark.parametrize(("name", "presets"), CHANGES)
def test_changes_of_weights_add_up(name: str, presets: list[str], strategy: str) -> None:
    """ΔW = Σ wᵢ ΔWᵢ, with negative weights too; and what merging shows is what the adapter does."""
    model, weights = added(name, presets), [0.7, -0.4, 1.5, -2.0][: len(presets)]
    names = list("abcd"[: len(presets)])
    rank = {"svd_rank": 32} if strategy == "lora_svd" else {}
    model.average_adapter("new", names, weights, strategy, normalize_weights=False, **rank)
    wanted = summed([changes(model, adapter) for adapter in names], weights)
    assert_close(changes(model, "new"), wanted)
    model.set_active_adapters("new")
    found = models.outputs(model, name)
    exact = models.bare(name)
    exact.load_state_dict({k: v + wanted.get(k, 0) for k, v in exact.state_dict().items()})
    for one, other in zip(found, models.outputs(exact, name), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("strategy", OF_CHANGES)
@pytest.mark.parametrize(("name", "presets"), [CHANGES[1], CHANGES[3], CHANGES[5]])
def test_the_reported_error_is_that_of_the_weights(name: str, presets: list[str], strategy: str) -> None:
    model = added(name, presets[:2])
    options: dict[str, Any] = {"density": 0.5} if strategy in ("ties", "dare_linear", "dare_ties") else {}
    options |= {"seed": 1} if strategy.startswith("dare") else {}
    ranks = {} if strategy == "lora_concat" else {"svd_rank": 2}
    report = combine(model, "new", ["a", "b"], [0.75, 0.25], strategy, **options, **ranks)
    exact = {} if strategy == "lora_concat" else {"svd_rank": 32}
    combine(model, "exact", ["a", "b"], [0.75, 0.25], strategy, **options, **exact)
    found, wanted = changes(model, "new"), changes(model, "exact")
    by_path = {path: f"{path}.weight" for path in report.errors}
    for path, error in report.errors.items():
        if by_path[path] in wanted:
            difference = found[by_path[path]] - wanted[by_path[path]]
            assert abs(float(difference.norm() / wanted[by_path[path]].norm()) - error) < 1e-3
    assert (report.largest_error > 0.01) == (strategy != "lora_concat")


@pytest.mark.parametrize("strategy", OF_VALUES)
@pytest.mark.parametrize(("name", "preset"), VALUES)
def test_combinations_of_equals_are_each(name: str, preset: str, strategy: str, tmp_path: Path) -> None:
    """Of two equal adapters all strategies make the same once more, if nothing is dropped; and it saves and loads."""
    model = added(name, [preset])
    model.save_adapter(tmp_path / "a", "a")
    model.load_adapter(tmp_path / "a", load_as="b")
    options = {"density": 1.0} if strategy in ("ties", "dare_linear", "dare_ties") else {}
    assert model.average_adapter("new", ["a", "b"], [0.5, 0.5], strategy, **options) is None
    found = []
    for adapter in ("a", "new"):
        model.set_active_adapters(adapter)
        found.append(models.outputs(model, name))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    model.save_adapter(tmp_path / "new", "new")
    model.load_adapter(tmp_path / "new", load_as="again", set_active=True)
    assert all(map(torch.equal, models.outputs(model, name), found[1]))


def test_linear_is_the_sum_of_parameters() -> None:
    model = added("bert", ["lora[r=2]", "lora[r=2]"])
    model.average_adapter("sum", ["a", "b"], [3, -1], normalize_weights=False)
    model.average_adapter("once", {"a": 3, "b": -1}, combine_strategy="lora_linear_only_negate_b")
    a, b, found, once = (dict(at(model, adapter).named_parameters()) for adapter in ("a", "b", "sum", "once"))
    for key in a:
        torch.testing.assert_close(found[key], 3 * a[key] - b[key])
    torch.testing.assert_close(once["lora_A"], 1.5 * a["lora_A"] + 0.5 * b["lora_A"])
    torch.testing.assert_close(once["lora_B"], 1.5 * a["lora_B"] - 0.5 * b["lora_B"])


def at(model: nn.Module, adapter: str) -> nn.Module:
    return next(iter(model._adapter_registry[adapter].modules()))  # type: ignore[union-attr, index]


def test_large_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their first singular values are found by iteration, and are the same."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, 300, generator=generator))[0] for size in (400, 300))
    matrix = (u * torch.logspace(0, -2, 300)) @ v.T
    exact = truncated(*as_product(matrix), 8)
    monkeypatch.setattr(products, "_LARGE", 10)
    found = truncated(*as_product(matrix), 8)
    torch.testing.assert_close(found.b @ found.a, exact.b @ exact.a, atol=1e-4, rtol=1e-3)
    assert found.error == pytest.approx(exact.error, rel=1e-3) and found.size == pytest.approx(exact.size)
    difference = matrix - found.b @ found.a
    assert relative_error([found]) == pytest.approx(float(difference.norm() / matrix.norm()), rel=1e-3)


def test_unions_with_other_methods_are_linear_only(caplog: pytest.LogCaptureFixture) -> None:
    model = added("bert", ["lora[r=2]|seq_bn", "lora[r=2]|seq_bn", "vera[r=2]", "vera[r=2]"])
    model.average_adapter("new", ["a", "b"])
    with pytest.raises(ValueError, match="'a' has other modules beside these"):
        model.average_adapter("other", ["a", "b"], combine_strategy="task_arithmetic")
    assert not caplog.text
    model.average_adapter("vera", ["c", "d"])
    assert "differs between 'c' and 'd'" in caplog.text


def test_what_the_strategies_do_to_vectors() -> None:
    v = torch.tensor([3.0, -1.0, 0.5, 0.0])
    assert trimmed(v, 0.5).tolist() == [3.0, -1.0, 0.0, 0.0]
    # Signs are elected by Σ wᵢ vᵢ; those that disagree, and zeros, do not count.
    found = agreed([torch.tensor([2.0, 1.0, 0.0]), torch.tensor([4.0, -3.0, 5.0])], [0.5, 0.5])
    assert found.tolist() == [3.0, -3.0, 5.0]
    model = added("bert", ["ia3", "ia3"])
    model.average_adapter("sum", ["a", "b"], combine_strategy="task_arithmetic")
    a, b, found = (at(model, adapter).lora_B for adapter in ("a", "b", "sum"))  # type: ignore[misc]
    torch.testing.assert_close(found, a + b - 1)  # what training changed adds up
    model = added("bert", ["lora[r=2]", "lora[r=2]"])
    model.average_adapter("arc", ["a", "b"], [1, 3], "slerp")
    one, two, arc = (changes(model, adapter)[PATH].flatten() for adapter in ("a", "b", "arc"))
    angle = torch.arccos(torch.nn.functional.cosine_similarity(one, two, dim=0))
    wanted = (torch.sin(0.25 * angle) * one + torch.sin(0.75 * angle) * two) / torch.sin(angle)
    torch.testing.assert_close(arc, wanted, atol=1e-5, rtol=1e-4)


PATH = "encoder.layer.0.attention.self.query.weight"


def test_dare_keeps_the_mean_and_goes_by_its_seed() -> None:
    model = added("bert", ["lora[r=8]", "lora[r=8]"])
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        model.average_adapter(name, ["a", "b"], None, "dare_linear", svd_rank=32, density=0.5, seed=seed)
    x, y, z = (changes(model, name)[PATH] for name in "xyz")
    assert torch.equal(x, y) and not torch.allclose(x, z)
    wanted = changes(model, "a")[PATH] / 2 + changes(model, "b")[PATH] / 2
    correlation = torch.nn.functional.cosine_similarity(x.flatten(), wanted.flatten(), dim=0)
    assert 0.6 < correlation < 0.85  # of half of all numbers


@pytest.mark.parametrize("strategy", ["lora_svd", "task_arithmetic", "ties"])
def test_dora_is_a_change_of_weights_where_there_is_no_bias(strategy: str) -> None:
    model = added("llama", ["dora[r=2]", "lora[r=3]"])
    options: dict[str, Any] = {"density": 1.0} if strategy == "ties" else {}
    model.average_adapter("new", ["a", "b"], [1, 2], strategy, False, svd_rank=32, **options)
    if strategy != "ties":
        assert_close(changes(model, "new"), summed([changes(model, "a"), changes(model, "b")], [1, 2]))
    with pytest.raises(ValueError, match="low rank"):
        model.average_adapter("other", ["a", "b"], combine_strategy="lora_concat")
    model = added("bert", ["dora[r=2]", "dora[r=2]"])
    nn.init.ones_(model.encoder.layer[1].attention.self.value.bias)
    with pytest.raises(ValueError, match=r"bias of encoder.layer.1.attention.self.value"):
        model.average_adapter("x", ["a", "b"], None, strategy, svd_rank=2, **options)


def test_types_of_numbers_stay_and_results_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = added("bert", ["lora[r=2]", "lora[r=2]"]).to(torch.bfloat16)
    model.adapter_to("a", dtype=torch.float32)
    model.adapter_to("b", dtype=torch.float32)
    with caplog.at_level(logging.INFO, logger="adapters.averaging"):
        model.average_adapter("new", ["a", "b"], combine_strategy="lora_svd", svd_rank=1)
    assert {p.dtype for p in models.parameters(model, "new")} == {torch.float32}
    assert "Relative error of ΔW" in caplog.text and "0.5 · a" in caplog.text
    half = added("bert", ["seq_bn", "seq_bn"]).to(torch.bfloat16)
    half.average_adapter("new", ["a", "b"], set_active=True)
    assert {p.dtype for p in models.parameters(half, "new")} == {torch.bfloat16}
    assert half.active_adapters == adapters.Stack("new")


PRESETS = ["lora[r=2]", "lora[r=4]", "seq_bn", "lora[r=2, use_gating=True]"]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"adapter_list": ["a", "zz"]}, "no adapter named 'zz'"),
    ({"adapter_list": "a"}, "not the string 'a'"),
    ({"adapter_list": []}, "No adapters were given"),
    ({"adapter_list": ["a", "a"], "weights": [1.0]}, "2 adapters .* and 1 weights"),
    ({"adapter_list": {"a": 1.0}, "weights": [1.0]}, "twice"),
    ({"adapter_list": ["a", "a"], "weights": [1, -1]}, "sum of the weights .* is 0"),
    ({"adapter_list": ["a", "a"], "weights": [1, float("nan")]}, "not all finite"),
    ({"adapter_list": ["a", "b"]}, "'a' and 'b' cannot be combined by 'linear': r is 2 and 4"),
    ({"adapter_list": ["a", "c"]}, "'a' and 'c' .* method is 'lora' and 'bottleneck'"),
    ({"adapter_list": ["a", "c"], "combine_strategy": "lora_concat"}, "method is 'lora' and 'bottleneck'"),
    ({"adapter_list": ["c"], "combine_strategy": "lora_concat"}, "changes of weights such as LoRA"),
    ({"adapter_list": ["d"], "combine_strategy": "lora_concat"}, "use_gating"),
    ({"adapter_list": ["a"], "combine_strategy": "lora_delta_w_svd"}, "needs svd_rank"),
    ({"adapter_list": ["a"], "combine_strategy": "ties"}, "needs density"),
    ({"adapter_list": ["a"], "combine_strategy": "slerp"}, "between two adapters"),
    ({"adapter_list": ["a"], "combine_strategy": "mean"}, "not known; there are 'linear'"),
    ({"adapter_list": ["a"], "density": 0.5}, "does not go with"),
    ({"adapter_list": ["a"], "svd_rank": 4}, "does not go with"),
    ({"adapter_list": ["a"], "svd_rank": 0, "combine_strategy": "lora_svd"}, "no rank"),
    ({"adapter_list": ["a"], "adapter_name": "b"}, "already"),
    ({"adapter_list": ["a"], "adapter_name": "x/y"}, "no name"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_cannot_be_is_said_and_changes_nothing(arguments: dict[str, Any], message: str) -> None:
    model = added("bert", PRESETS)
    model.set_active_adapters("a")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.average_adapter(**{"adapter_name": "new", **arguments})
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)
    assert model.active_adapters == adapters.Stack("a")


def test_merged_adapters_are_refused_and_others_replaced() -> None:
    model = added("bert", PRESETS)
    model.average_adapter("a", ["a", "a"], overwrite_ok=True)
    model.merge_adapter("a")
    for arguments in (("new", ["a"]), ("a", ["c"])):
        with pytest.raises(ValueError, match="'a' is merged"):
            model.average_adapter(*arguments, overwrite_ok=True)


def test_heads() -> None:
    torch.manual_seed(0)
    config = models.bare("bert").config
    model = adapters.AutoAdapterModel.from_config(config)
    for name, labels in (("a", 3), ("b", 3), ("c", 4)):
        model.add_classification_head(name, num_labels=labels)
    model.average_head("new", {"a": 1, "b": 3})
    assert model.active_head == "c"
    for one, two, new in zip(*(model.heads[name].parameters() for name in ("a", "b", "new")), strict=True):
        torch.testing.assert_close(new, 0.25 * one + 0.75 * two)
    model.average_head("new", ["a"], overwrite_ok=True, set_active=True)
    assert model.active_head == "new"
    for arguments, message in ((("x", ["a", "c"]), "num_labels is 3 and 4"), (("x", ["a", "z"]), "no head named 'z'")):
        with pytest.raises(ValueError, match=message):
            model.average_head(*arguments)
    with pytest.raises(ValueError, match="already"):
        model.average_head("a", ["b"])
