"""Unions: several methods under one name, as configurations, in models and in files."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import adapters
import models
from adapters import (
    AdapterConfig,
    BnConfig,
    ConfigUnion,
    DiReftConfig,
    DoubleSeqBnConfig,
    IA3Config,
    LoRAConfig,
    LoReftConfig,
    MAMConfig,
    ModulesToSaveConfig,
    MTLLoRAConfig,
    ParBnConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
    Stack,
    UniPELTConfig,
)
from adapters.configuration import AdapterConfigError

UNIONS = {
    "lora|seq_bn": ConfigUnion(LoRAConfig(r=4), SeqBnConfig(reduction_factor=8)),
    "mam": MAMConfig(PrefixTuningConfig(prefix_length=3, bottleneck_size=8), ParBnConfig(reduction_factor=4)),
    "unipelt": UniPELTConfig(PrefixTuningConfig(prefix_length=3, bottleneck_size=8), SeqBnConfig(), LoRAConfig(r=2)),
    "all": ConfigUnion(
        PrefixTuningConfig(prefix_length=3, flat=True),
        PromptTuningConfig(prompt_length=2),
        LoReftConfig(),
        LoRAConfig(r=2),
        DoubleSeqBnConfig(reduction_factor=8),
        "bitfit",
        "ln_tuning",
        ModulesToSaveConfig(["pooler"]),
    ),
}
every_union = pytest.mark.parametrize("union", UNIONS.values(), ids=UNIONS)


# -- configurations -------------------------------------------------------------------------------------------------


@every_union
def test_round_trips(union: ConfigUnion) -> None:
    data = json.loads(json.dumps(union.to_dict()))
    assert data["architecture"] == "union" and len(data["configs"]) == len(union.configs)
    for restored in (AdapterConfig.from_dict(data), AdapterConfig.load(data), ConfigUnion.from_dict(data)):
        assert type(restored) is ConfigUnion and restored == union and hash(restored) == hash(union)
    for same in (copy.deepcopy(union), pickle.loads(pickle.dumps(union)), type(union)(*union.configs), union.replace()):
        assert type(same) is type(union) and same == union and repr(same) == repr(union)


def test_reads_like_a_dictionary() -> None:
    union = UNIONS["lora|seq_bn"]
    assert union["architecture"] == union.architecture == "union"
    assert union["0.r"] == 4 and union["1.reduction_factor"] == 8 and "0.r" in union and "2.r" not in union
    assert union[0] == LoRAConfig(r=4) and union["configs"] == union.configs
    assert list(union) == [f"{n}.{field}" for n in (0, 1) for field in union.configs[n]]
    assert len(union) == len(dict(union)) == sum(map(len, union.configs))
    for absent in ("r", "0", "9.r", "x.r"):
        assert absent not in union


def test_mam_and_unipelt() -> None:
    mam, unipelt = UNIONS["mam"], UNIONS["unipelt"]
    assert mam.prefix_tuning == mam["prefix_tuning"] == mam[0] and mam.adapter == mam["adapter"] == mam[1]
    assert MAMConfig() == ConfigUnion(PrefixTuningConfig(bottleneck_size=800), ParBnConfig())
    assert unipelt.lora["r"] == 2 and all(config["use_gating"] for config in unipelt.configs)
    assert [config["use_gating"] for config in UniPELTConfig().configs] == [True] * 3
    assert UniPELTConfig().prefix_tuning["prefix_length"] == 10 and UniPELTConfig().lora["alpha"] == 2
    assert MAMConfig() != UniPELTConfig() and type(AdapterConfig.load("mam")) is MAMConfig


def test_fields_can_be_changed() -> None:
    changed = AdapterConfig.load("mam", **{"0.prefix_length": 3, "1.reduction_factor": 8})
    assert type(changed) is MAMConfig and changed["0.prefix_length"] == 3 and changed["1.reduction_factor"] == 8
    assert AdapterConfig.load("mam") == MAMConfig()
    without_gate = UniPELTConfig().replace(**{"2.use_gating": False})
    assert type(without_gate) is ConfigUnion and not without_gate["2.use_gating"] and without_gate["1.use_gating"]
    for wrong in ("prefix_length", "0.prefix_len", "2.r"):
        with pytest.raises(AdapterConfigError, match=f"no field '{wrong.rpartition('.')[2]}'|no field '{wrong}'"):
            MAMConfig().replace(**{wrong: 3})


def test_strings_and_nested_unions() -> None:
    assert AdapterConfig.load("lora[r=4]|seq_bn[reduction_factor=8]") == UNIONS["lora|seq_bn"]
    assert ConfigUnion("lora[r=4]", {**SeqBnConfig(reduction_factor=8).to_dict()}) == UNIONS["lora|seq_bn"]
    nested = ConfigUnion(UNIONS["lora|seq_bn"], PromptTuningConfig())
    assert [config.architecture for config in nested.configs] == ["lora", None, "prompt_tuning"]
    with pytest.raises(AdapterConfigError, match="fields are changed in brackets"):
        AdapterConfig.load("lora|seq_bn", r=2)


@pytest.mark.parametrize(
    "configs",
    [
        (SeqBnConfig(), SeqBnConfig()),
        (SeqBnConfig(), DoubleSeqBnConfig()),
        (LoRAConfig(), LoRAConfig(r=2)),
        (LoRAConfig(), IA3Config()),
        (PrefixTuningConfig(), PrefixTuningConfig(flat=True)),
        (PromptTuningConfig(), PromptTuningConfig()),
        (LoReftConfig(), DiReftConfig()),
    ],
    ids=lambda configs: "-".join(type(config).__name__ for config in configs),
)
def test_what_meets_cannot_be_combined(configs: tuple[AdapterConfig, ...]) -> None:
    names = [type(config).__name__ for config in configs]
    with pytest.raises(AdapterConfigError, match=f"{names[0]} and {names[1]} cannot be combined"):
        ConfigUnion(*configs)


def test_empty_and_other_unions_are_refused() -> None:
    with pytest.raises(AdapterConfigError, match="at least one"):
        ConfigUnion()
    with pytest.raises(AdapterConfigError, match="There is no configuration 'lra'"):
        ConfigUnion("lra", "seq_bn")
    with pytest.raises(AdapterConfigError, match="'configs', a list"):
        AdapterConfig.from_dict({"architecture": "union"})


@pytest.mark.parametrize(
    "configs",
    [
        (BnConfig(mh_adapter=True, output_adapter=False, reduction_factor=4, non_linearity="relu"), SeqBnConfig()),
        (SeqBnConfig(leave_out=[0]), SeqBnConfig(leave_out=[1])),
        (LoRAConfig(), LoRAConfig(selfattn_lora=False, intermediate_lora=True)),
        (ModulesToSaveConfig(["layer.0"]), ModulesToSaveConfig(["layer.1"])),
    ],
    ids=["by switch", "by layer", "by matrix", "by name"],
)
def test_what_is_apart_can_be_combined(configs: tuple[AdapterConfig, ...]) -> None:
    model = models.adapted("bert")
    model.add_adapter("a", ConfigUnion(*configs), set_active=True)
    models.randomise(model, "a", 0.1)
    apart = models.adapted("bert")
    for name, config in zip("bc", configs, strict=True):
        apart.add_adapter(name, config)
    parameters = [p for name in "bc" for p in models.parameters(apart, name)]
    with torch.no_grad():
        for own, other in zip(models.parameters(model, "a"), parameters, strict=True):
            other.copy_(own)
    apart.set_active_adapters(Stack("b", "c"))
    for first, second in zip(models.outputs(model, "bert"), models.outputs(apart, "bert"), strict=True):
        assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize(
    "configs",
    [
        (SeqBnConfig(leave_out=[0]), SeqBnConfig(leave_out=[0])),
        (LoRAConfig(), MTLLoRAConfig()),
        (ModulesToSaveConfig(["layer.0"]), ModulesToSaveConfig(["output"])),
    ],
    ids=["by layer", "of other methods", "by name"],
)
def test_what_meets_in_the_model_is_refused_there(configs: tuple[AdapterConfig, ...]) -> None:
    model = models.adapted("bert")
    keys = model.state_dict().keys()
    with pytest.raises(ValueError, match="Two configurations of this union have modules at"):
        model.add_adapter("a", ConfigUnion(*configs))
    assert model.state_dict().keys() == keys


# -- models and files -----------------------------------------------------------------------------------------------


@every_union
@pytest.mark.parametrize("use_safetensors", [True, False])
def test_files(union: ConfigUnion, use_safetensors: bool, tmp_path: Path) -> None:
    """As safetensors too, which 1.3 cannot do with prefixes."""
    model = models.adapted("bert")
    model.add_adapter("a", union, set_active=True)
    models.randomise(model, "a")
    model.save_adapter(tmp_path, "a", use_safetensors=use_safetensors)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["config"] == union.to_dict()
    if use_safetensors:
        with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
        stored = sum(torch.Size(shape).numel() for shape in shapes)
        assert stored <= sum(p.numel() for p in models.parameters(model, "a")) + 32 * 32  # LoReFT may keep its base
    fresh = models.adapted("bert")
    fresh.load_adapter(tmp_path, load_as="b", set_active=True)
    assert fresh.adapters_config.get("b") == union
    for first, second in zip(models.outputs(fresh, "bert"), models.outputs(model, "bert"), strict=True):
        assert torch.equal(first, second)


@every_union
def test_what_is_shown(union: ConfigUnion) -> None:
    model = models.adapted("bert")
    model.add_adapter("a", union, set_active=True)
    row = model.adapter_summary(as_dict=True)[0]
    assert row["architecture"] == "union" and row["active"] and row["train"]
    assert row["#param"] == sum(p.numel() for p in models.parameters(model, "a"))
    assert f"{row['#param']:,}" in adapters.inspect(models.adapted("bert"), union)
    found = [p for places in model.get_adapter("a").values() for m in places.values() for p in m.parameters()]
    assert len(found) == len(set(found)) and set(found) == set(models.parameters(model, "a"))


def test_parts_can_be_left_out_of_layers() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", UNIONS["lora|seq_bn"], layers=[1])
    assert set(model.get_adapter("a")) == {1}
    with pytest.raises(ValueError, match="ModulesToSaveConfig cannot be limited to some layers"):
        model.add_adapter("b", ConfigUnion("lora", ModulesToSaveConfig(["pooler"])), layers=[1])
