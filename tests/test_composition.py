"""Law 6 and 7: rows and copies of a batch that go through adapters of their own give what these give alone."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from adapters import AdapterSetup, Average, BatchSplit, MultiTask, Parallel, Split, Stack
from test_laws import close, same

PREFIX = "prefix_tuning[prefix_length=3, bottleneck_size=8]"
# Two configurations of each method: rows of one batch go through both.
METHODS: dict[str, tuple[str, str]] = {
    "seq_bn": ("seq_bn[reduction_factor=4]", "seq_bn[reduction_factor=8]"),
    "double_seq_bn": ("double_seq_bn[reduction_factor=4]", "double_seq_bn[reduction_factor=8]"),
    "par_bn": ("par_bn[reduction_factor=4]", "par_bn[reduction_factor=8, scaling=2.0]"),
    "adapter_plus": ("adapter_plus[reduction_factor=4]", "adapter_plus[reduction_factor=8]"),
    "gated": ("seq_bn[use_gating=True, ln_before=True]", "seq_bn[use_gating=True, ln_before=True]"),
    "seq_bn_inv": ("seq_bn_inv[reduction_factor=4]", "seq_bn_inv[reduction_factor=8]"),
    "compacter": ("compacter[phm_dim=2, reduction_factor=4]", "compacter[phm_dim=4, reduction_factor=4]"),
    "lora": ("lora[r=2]", "lora[r=4, alpha=16, attn_matrices=['q', 'k', 'v', 'o'], intermediate_lora=True]"),
    "lora_gated": ("lora[r=2, use_gating=True]", "lora[r=2]"),
    "ia3": ("ia3", "ia3"),
    "vera": ("vera[r=2]", "vera[r=4]"),
    "dora": ("dora[r=2]", "dora[r=4]"),
    "mtl_lora": ("mtl_lora[r=2, n_up_projection=2]", "mtl_lora[r=2, n_up_projection=3]"),
    "adalora": ("adalora[r=3, target_r=2]", "adalora[r=4, target_r=2]"),
    "loreft": ("loreft", "loreft[r=2]"),
    "direft": ("direft[suffix_positions=2]", "noreft[r=2]"),
    "prefix": (PREFIX, "prefix_tuning_flat[prefix_length=5]"),
    "prefix_gated": (f"{PREFIX[:-1]}, use_gating=True]", PREFIX),
    "prompt": ("prompt_tuning[prompt_length=3]", "prompt_tuning[prompt_length=3]"),
    "bitfit": ("bitfit", "bitfit"),
    "ln_tuning": ("ln_tuning", "ln_tuning"),
    "mam": (f"{PREFIX}|par_bn[reduction_factor=4]", f"{PREFIX}|par_bn[reduction_factor=8]"),
    "mixed": ("lora[r=2]", "double_seq_bn[reduction_factor=4]"),
    "mixed_matrix": ("dora[r=2]", "ia3"),
    "mixed_all": (f"{PREFIX}|seq_bn[reduction_factor=4]", "loreft|ia3"),
}
NAMES = ["bert", "gpt2", "llama", "t5", "vit"]
WITHOUT_BIAS = ("llama", "t5")
CASES = [(n, m) for n in NAMES for m in METHODS if not (m == "bitfit" and n in WITHOUT_BIAS)]
# The bare model's rows are compared bit by bit, but where their attention is computed with masked positions beside.
INEXACT = ("prefix", "prefix_gated", "mam", "mixed_all")
ROWS = ["b", None, "a", "b"]
every_case = pytest.mark.parametrize(("name", "method"), CASES, ids=[f"{n}-{m}" for n, m in CASES])


def randomised(model: Any, *names: str) -> Any:
    """Give each adapter weights of its own that show."""
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with torch.no_grad():
            for parameter in dict.fromkeys(model._adapter_registry[name].parameters()):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def with_two(name: str, method: str, **config: object) -> Any:
    model: Any = models.adapted(name, **config)
    for adapter, preset in zip("ab", METHODS[method], strict=True):
        model.add_adapter(adapter, preset)
    return randomised(model, "a", "b")


def batch(name: str, rows: int = 4) -> dict[str, Tensor]:
    """A batch, of which some rows are padded."""
    found = {}
    for key, value in models.inputs(name).items():
        repeated = torch.cat([value] * (rows // 2 + 1))[:rows]
        is_text = key.endswith("input_ids")
        shift = torch.arange(rows).view(-1, *[1] * (value.ndim - 1))
        found[key] = (repeated + 7 * shift) % 95 + 5 if is_text else repeated + shift * (key != "attention_mask")
    return found


def alone(model: Any, name: str, setup: Any, given: dict[str, Tensor] | None = None) -> list[Tensor]:
    """What all rows give with one setup."""
    model.set_active_adapters(setup)
    found = models.tensors(model(**(given or batch(name))))
    model.set_active_adapters(None)
    return found


def rows_of(outputs: Sequence[Tensor], rows: slice | int) -> list[Tensor]:
    return [output[rows] for output in outputs]


@contextlib.contextmanager
def in_evaluation() -> Iterator[None]:
    with torch.no_grad():
        yield


@every_case
def test_rows(name: str, method: str) -> None:
    """Each row gives what it gives alone, in any order; rows of the bare model too."""
    model = with_two(name, method)
    names = [n or "a" for n in ROWS] if method == "prompt" else ROWS
    wanted = {setup: alone(model, name, setup) for setup in ("a", "b", None)}
    for order in (names, names[::-1]):
        for gradients in (torch.no_grad(), torch.enable_grad()):
            with gradients:
                got = models.tensors(model(**batch(name), adapter_names=order))
            for row, adapter in enumerate(order):
                single = rows_of(wanted[adapter], row)
                assert close(rows_of(got, row), single, 1e-4)
                if adapter is None and method not in INEXACT:
                    assert close(rows_of(got, row), single, 1e-6)
    assert model.active_adapters is None
    assert same(models.tensors(model(**batch(name))), wanted[None])


@every_case
def test_copies_and_groups(name: str, method: str) -> None:
    """`Parallel` gives the single runs one after the other, `BatchSplit` and `MultiTask` their rows."""
    model = with_two(name, method)
    runs = {setup: alone(model, name, setup) for setup in ("a", "b", None)}
    setup = Parallel("b", "a") if method == "prompt" else Parallel("b", None, "a")
    wanted = [torch.cat(parts) for parts in zip(*(runs[child] for child in setup), strict=True)]
    assert close(alone(model, name, setup), wanted, 1e-4)
    wanted = [torch.cat([a[:3], b[3:]]) for a, b in zip(runs["a"], runs["b"], strict=True)]
    assert close(alone(model, name, BatchSplit("a", "b", batch_sizes=[3, 1])), wanted, 1e-4)
    model.set_active_adapters(MultiTask("a", "b"))
    for tasks in ([0, 0, 0, 1], ["a", "a", "a", "b"], torch.tensor([0, 0, 0, 1])):
        assert close(models.tensors(model(**batch(name), task_ids=tasks)), wanted, 1e-4)


@every_case
def test_blocks_of_one(name: str, method: str) -> None:
    """`Stack(a)`, the mean of equals, and pieces of one adapter are that adapter."""
    model = with_two(name, method)
    wanted = alone(model, name, "a")
    assert same(alone(model, name, Stack("a")), wanted)
    assert close(alone(model, name, Average("a", "a", weights=[1.0, 3.0])), wanted, 1e-4)
    assert close(alone(model, name, Average("a", "b", weights=[1.0, 0.0])), wanted, 1e-4) or method in (
        *("prefix", "mixed", "mam"),
        "",
    )
