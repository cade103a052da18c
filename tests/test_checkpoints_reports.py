"""Loading: all that is wrong is said at once, and the model stays as it was; or, if asked for, what fits is loaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from adapters import Fuse, Parallel, Stack
from adapters.checkpoints.errors import AdapterFileError, AdapterMismatchError, LoadReport
from test_api import auto, refused, run, same
from test_checkpoints import BIN, CONFIG, SAFE, SAFE_HEAD, change, files, saved, trained, with_flexible_head

DOWN, UP = "output.adapters.a.adapter_down.0.weight", "output.adapters.a.adapter_up.weight"


def damage(path: Path, part: str, shape: int | None = None) -> str:
    """Take off a tensor of a file, or give it another shape; its name."""
    tensors = load_file(path)
    key = next(key for key in tensors if part in key)
    del tensors[key]
    if shape is not None:
        tensors[key] = torch.zeros(shape)
    save_file(tensors, path)
    return key


# -- strict ---------------------------------------------------------------------------------------------------------


def test_problems_of_all_files_are_one_error(tmp_path: Path) -> None:
    with_flexible_head().save_adapter(tmp_path, "a")
    first = damage(tmp_path / SAFE, DOWN)
    second = damage(tmp_path / SAFE_HEAD, "weight", shape=7)
    with refused(model := with_flexible_head(), AdapterMismatchError, "(?s)Missing.*adapter_down.*Of another shape"):
        model.load_adapter(tmp_path)
    with pytest.raises(AdapterMismatchError) as caught:
        model.load_adapter(tmp_path)
    assert first.removeprefix("bert.") in str(caught.value) and second in str(caught.value)
    (tmp_path / CONFIG).write_text("")
    with refused(model, AdapterFileError, f"(?s){CONFIG}.*{second}"):
        model.load_adapter(tmp_path)


def test_problems_of_a_setup_are_one_error(tmp_path: Path) -> None:
    model = auto()
    for name in ("a", "b", "c"):
        model.add_adapter(name, "seq_bn[reduction_factor=8]")
        model.add_classification_head(name)
    model.add_adapter_fusion(["a", "b"])
    model.save_adapter_setup(tmp_path, Stack(Fuse("a", "b"), "c"), head_setup="c")
    for name in ("a", "c"):
        damage(tmp_path / name / SAFE, "adapter_up.weight")
    damage(tmp_path / "b" / SAFE_HEAD, "weight")
    with refused(fresh := trained("b"), AdapterMismatchError, r"(?s)x?/a does not.*/c does not"):
        fresh.load_adapter_setup(tmp_path)
    with pytest.raises(AdapterMismatchError, match=r"(?s)/a does not fit.*/b does not fit.*/c does not fit"):
        auto().load_adapter_setup(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind(dtype: torch.dtype, tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    key = next(key for key in tensors if DOWN in key)
    save_file({**tensors, key: tensors[key].to(dtype)}, tmp_path / SAFE)
    with refused(model := trained("b"), AdapterMismatchError, rf"\(8, 32\) of {dtype} in the file, \(8, 32\) of"):
        model.load_adapter(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_numbers_of_another_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """They are taken as the model has its own."""
    expected = saved(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    save_file({key: t.to(dtype) for key, t in tensors.items()}, tmp_path / SAFE)
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert all(torch.allclose(a, b, atol=0.1) for a, b in zip(run(model), expected, strict=True))
    assert {p.dtype for p in models.parameters(model, "a")} == {torch.float32}


def test_safetensors_may_be_required(tmp_path: Path) -> None:
    saved(tmp_path, use_safetensors=False)
    with refused(model := trained("b"), AdapterFileError, f"There is no {SAFE} in .*it holds .*{BIN}"):
        model.load_adapter(tmp_path, use_safetensors=True)
    assert model.load_adapter(tmp_path) == "a"


DRAWN = ["double_seq_bn_inv", "compacter[phm_dim=2, reduction_factor=8]", "loreft", "unipelt", "adapter_plus"]


@pytest.mark.parametrize("preset", DRAWN)
def test_nothing_is_drawn(preset: str, tmp_path: Path) -> None:
    """What a user draws next does not depend on whether something was loaded."""
    model = auto()
    model.add_adapter("a", preset)
    model.add_classification_head("a")
    model.save_adapter(tmp_path, "a")
    before = torch.get_rng_state()
    fresh = auto()
    torch.set_rng_state(before)
    fresh.load_adapter(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_setup_that_has_no_meaning_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """That shows only when it is to be activated."""
    model = models.adapted("bert")
    model.add_adapter("a", "prompt_tuning[prompt_length=2]")
    model.add_adapter("b", "prompt_tuning[prompt_length=3]")
    model.save_adapter_setup(tmp_path, Stack("a", "b"))
    (tmp_path / "adapter_setup.json").write_text(
        json.dumps({"adapter_setup": Parallel("a", Stack("a", Parallel("a", "b"))).to_dict(), "head_setup": None})
    )
    with refused(fresh := trained("b"), ValueError, "prompts of different lengths"):
        fresh.load_adapter_setup(tmp_path, set_active=True)


# -- not strict -----------------------------------------------------------------------------------------------------


def test_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What fits is loaded, the rest is as in a new adapter, and all is said."""
    with_flexible_head().save_adapter(tmp_path, "a")
    missing, misshapen = damage(tmp_path / SAFE, DOWN), damage(tmp_path / SAFE, UP, shape=3)
    tensors = load_file(tmp_path / SAFE)
    save_file({**tensors, "some.thing": torch.zeros(2)}, tmp_path / SAFE)
    head = damage(tmp_path / SAFE_HEAD, "weight")
    fresh, report = auto(), LoadReport()
    with caplog.at_level(logging.WARNING):
        assert fresh.load_adapter(tmp_path, strict=False, report=report) == "a"
    assert report.missing == [missing.removeprefix("bert."), head]
    assert [text.partition(":")[0] for text in report.misshapen] == [misshapen.removeprefix("bert.")]
    assert len(report.unexpected) == 1 and report.unexpected[0].endswith("thing")
    assert "what fits was loaded" in caplog.text and missing.removeprefix("bert.") in caplog.text
    loaded = {f"bert.{key}" if key in report.missing else key: p for key, p in fresh.named_parameters()}
    fitting = next(key for key in tensors if "bias" in key)
    assert torch.equal(loaded[fitting], tensors[fitting])
    assert all(bool(p.isfinite().all()) for p in fresh.parameters()) and loaded[missing].std() > 0
    fresh.set_active_adapters("a")
    run(fresh)


def test_report_of_what_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = saved(tmp_path)
    model, report = models.adapted("bert"), LoadReport()
    model.load_adapter(tmp_path, strict=False, report=report, set_active=True)
    assert not report and not caplog.text and same(run(model), expected)
    with refused(model, ValueError, "strict=False"):
        model.load_adapter(tmp_path, report=report)


def test_files_that_are_none_are_errors_in_any_case(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / SAFE).write_bytes(b"nonsense")
    with refused(model := trained("b"), AdapterFileError, "cannot be read"):
        model.load_adapter(tmp_path, strict=False)


# -- names ----------------------------------------------------------------------------------------------------------

LONG = ["ü" * 200, "x" * 300, "日本語" * 100]


def test_long_names(tmp_path: Path) -> None:
    """File systems allow 255 bytes; folders of longer names get another one, which is found again."""
    model = auto()
    for name in LONG:
        model.add_adapter(name, "seq_bn[reduction_factor=8]")
        models.randomise(model, name)
        model.add_classification_head(name)
    model.add_adapter_fusion(LONG)
    setup = Stack(*LONG)
    model.save_adapter_setup(tmp_path / "setup", setup, head_setup=LONG[0])
    model.save_adapter_setup(tmp_path / "fused", Fuse(*LONG))
    model.save_all_adapters(tmp_path / "all")
    model.set_active_adapters(setup)
    fresh = auto()
    found, heads = fresh.load_adapter_setup(tmp_path / "setup", set_active=True)
    assert found == setup and heads == LONG[0]
    model.active_head = LONG[0]
    assert same(run(fresh), run(model))
    assert fresh.load_adapter_setup(tmp_path / "fused")[0] == Fuse(*LONG)
    assert {fresh.load_adapter(tmp_path / "all" / name) for name in files(tmp_path / "all")} == set(LONG)


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\\b", "a\0b"])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    save_file({key.replace(".a.", f".{name}."): t for key, t in tensors.items()}, tmp_path / SAFE)
    change(tmp_path, name=name)
    with refused(model := trained("b"), AdapterFileError, "is no name for an adapter"):
        model.load_adapter(tmp_path)
