"""Files of early releases are read, and files are written that release 1.3 of AdapterHub's library reads."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import adapters
import models
from adapters import AdapterConfig, ConfigUnion, LoRAConfig
from adapters.checkpoints.keys import matched, under_former_names
from adapters.checkpoints.native import named_tensors
from test_api import run, same
from test_checkpoints import BIN, CONFIG, SAFE, change, saved, trained

# -- early releases -------------------------------------------------------------------------------------------------

FIRST_RELEASE = {
    "LN_after": False,
    "LN_before": False,
    "MH_Adapter": False,
    "Output_Adapter": True,
    "adapter_residual_before_ln": False,
    "attention_type": "sent-lvl-dynamic",
    "invertible_adapter": None,
    "new_attention_norm": False,
    "non_linearity": "relu",
    "original_ln_after": True,
    "original_ln_before": True,
    "reduction_factor": 16,
    "residual_before_ln": True,
}


@pytest.mark.parametrize(
    ("changes", "preset"),
    [
        ({}, "seq_bn"),
        ({"MH_Adapter": True, "original_ln_before": False, "non_linearity": "swish"}, "double_seq_bn"),
        (
            {"invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2}},
            "seq_bn_inv",
        ),
    ],
)
def test_configurations_of_the_first_release(changes: dict[str, Any], preset: str, tmp_path: Path) -> None:
    expected = saved(tmp_path, preset=preset)
    change(tmp_path, config={**FIRST_RELEASE, **changes}, version=None, type="text_task")
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)


@pytest.mark.parametrize("name", ["pfeiffer", "houlsby", "houlsby+inv", "pfeiffer[reduction_factor=8]"])
def test_names_of_configurations(name: str, tmp_path: Path) -> None:
    expected = saved(tmp_path, preset=name)
    change(tmp_path, config=name)
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)


@pytest.mark.parametrize(("version", "alpha"), [(None, 8), ("adapters.1.0.1", 2), ("adapters.1.1.0", 8)])
def test_scaling_of_lora(version: str | None, alpha: int, tmp_path: Path) -> None:
    """Releases before 1.1 of `adapters` had α, and did not divide by r."""
    saved(tmp_path, preset="lora[r=2, alpha=8]")
    change(tmp_path, version=version)
    model = models.adapted("bert")
    model.load_adapter(tmp_path)
    assert model.adapters_config.get("a")["alpha"] == alpha


def test_files_that_were_saved_on_a_gpu(tmp_path: Path) -> None:
    """Their tensors say that they are on a device that is not here."""
    expected = saved(tmp_path, use_safetensors=False)
    with zipfile.ZipFile(tmp_path / BIN) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    here, there = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    name = next(name for name in parts if name.endswith("data.pkl"))
    assert here in parts[name]
    with zipfile.ZipFile(tmp_path / BIN, "w") as packed:
        for part, content in {**parts, name: parts[name].replace(here, there)}.items():
            packed.writestr(part, content)
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)


# -- files for release 1.3 ------------------------------------------------------------------------------------------

IMAGE = {**models.SIZES, "image_size": 16, "patch_size": 4}
RENAMED = {
    "vit": ("ViTModel", transformers.ViTConfig(**IMAGE)),
    "beit": ("BeitModel", transformers.BeitConfig(**IMAGE)),
    "clip_text_model": ("CLIPTextModel", transformers.CLIPTextConfig(**models.SIZES, vocab_size=100)),
    "clip_vision_model": ("CLIPVisionModel", transformers.CLIPVisionConfig(**IMAGE)),
}
EVERYWHERE = ConfigUnion(
    AdapterConfig.load("double_seq_bn"),
    LoRAConfig(attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True),
    AdapterConfig.load("noreft"),
)


@pytest.mark.parametrize("kind", RENAMED)
@pytest.mark.parametrize("base_path", ["", "path"])
def test_renamed_paths_run_both_ways(kind: str, base_path: str) -> None:
    """Paths that changed between transformers 4 and 5."""
    name, config = RENAMED[kind]
    model: Any = getattr(transformers, name)(config)
    adapters.init(model)
    model.add_adapter("a", EVERYWHERE)
    tensors = named_tensors(model._adapter_registry["a"], base_path)
    prefix = f"{base_path}." if base_path else ""
    former = under_former_names(tensors, prefix, kind)
    assert not former.keys() & {key for key in tensors if "layers." in key}
    plain = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    assert matched(former, plain, kind).keys() == plain.keys()
    assert matched(tensors, plain, kind).keys() == plain.keys()


class Rows(nn.Module):
    """What release 1.3 makes of the tensors of a LoReFT."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.projection = torch.nn.utils.parametrizations.orthogonal(nn.Linear(size, rows, bias=False))


def test_loreft_for_1_3(tmp_path: Path) -> None:
    model = trained(preset="loreft[r=3]")
    model.save_adapter(tmp_path / "small", "a")
    model.save_adapter(tmp_path / "large", "a", for_release="1.3")
    small, large = (load_file(tmp_path / name / SAFE) for name in ("small", "large"))
    size = sum(tensor.numel() for tensor in small.values())
    assert sum(tensor.numel() for tensor in large.values()) > 5 * size
    projections = [key.removesuffix(".weight") for key in small if key.endswith("projection.weight")]
    assert projections and not any(f"{key}.weight" in large for key in projections)
    for key in projections:
        rows = Rows(3, 32)
        own = {name.removeprefix(f"{key}."): t for name, t in large.items() if name.startswith(key)}
        rows.projection.load_state_dict(own)
        assert torch.allclose(rows.projection.weight, small[f"{key}.weight"], atol=1e-6)
    fresh = models.adapted("bert")
    for name in ("small", "large"):
        fresh.load_adapter(tmp_path / name, set_active=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(run(fresh), run(model), strict=True))


def test_llama_for_1_3(tmp_path: Path) -> None:
    """There, the two projections of a LoRA have each other's names."""
    model = trained(preset="lora[intermediate_lora=True, r=2]", family="llama")
    model.save_adapter(tmp_path, "a", for_release="1.3")
    config = json.loads((tmp_path / CONFIG).read_text())["config"]
    assert (config["intermediate_lora"], config["output_lora"]) == (False, True)
    fresh = models.adapted("llama")
    fresh.load_adapter(tmp_path, set_active=True)
    assert same(run(fresh, "llama"), run(model, "llama"))


@pytest.mark.parametrize("preset", ["bitfit", "ln_tuning", "adalora", "lora[attn_matrices=['q', 'o']]"])
def test_what_1_3_cannot_read(preset: str, tmp_path: Path) -> None:
    model = models.adapted("bert")
    model.add_adapter("a", preset)
    with pytest.raises(ValueError, match=r"adapters 1\.3 cannot read this adapter: it does not have"):
        model.save_adapter(tmp_path / "x", "a", for_release="1.3")
    with pytest.raises(ValueError, match=r"for_release='1\.2'"):
        model.save_adapter(tmp_path / "x", "a", for_release="1.2")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("preset", ["double_seq_bn_inv", "lora", "dora", "prefix_tuning", "mtl_lora", "mam", "unipelt"])
def test_nearly_all_files_are_the_same(preset: str, tmp_path: Path) -> None:
    model = trained(preset=preset)
    model.save_adapter(tmp_path / "ours", "a")
    model.save_adapter(tmp_path / "theirs", "a", for_release="1.3")

    def content(name: str) -> tuple[str, dict[str, Tensor]]:
        return (tmp_path / name / CONFIG).read_text(), load_file(tmp_path / name / SAFE)

    (ours, tensors), (theirs, others) = content("ours"), content("theirs")
    assert ours == theirs and tensors.keys() == others.keys()
