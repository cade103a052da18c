"""Configurations: presets, hashes, round trips, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from adapters import (
    ADAPTER_CONFIG_MAP,
    DEFAULT_ADAPTER_CONFIG,
    AdaLoRAConfig,
    AdapterConfig,
    AdapterFusionConfig,
    AdapterPlusConfig,
    AutoAdapterModel,
    BitFitConfig,
    BnConfig,
    CompacterConfig,
    CompacterPlusPlusConfig,
    ConfigUnion,
    DiReftConfig,
    DoRAConfig,
    DoubleSeqBnConfig,
    DoubleSeqBnInvConfig,
    DvoRAConfig,
    HoulsbyConfig,
    HoulsbyInvConfig,
    IA3Config,
    LayerNormTuningConfig,
    LoRAConfig,
    LoReftConfig,
    MAMConfig,
    ModelAdaptersConfig,
    ModulesToSaveConfig,
    MTLLoRAConfig,
    NoReftConfig,
    ParallelConfig,
    ParBnConfig,
    PfeifferConfig,
    PfeifferInvConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
    SeqBnInvConfig,
    Stack,
    UniPELTConfig,
    VeraConfig,
    get_adapter_config_hash,
)
from adapters.configuration import AdapterConfigError, presets, resolve_adapter_config
from models import BERT

# As listed in shared/reference/formats.md, A1; those of adapter_plus and prefix_tuning_flat, which have no entry there,
# and those with changed fields were computed by `adapters` 1.3.0: get_adapter_config_hash(AdapterPlusConfig()).
HASHES = {
    "seq_bn": "9076f36a74755ac4",
    "double_seq_bn": "b1017368d7a97b11",
    "par_bn": "211b85d66ae909db",
    "scaled_par_bn": "4197b24ec21c92f8",
    "seq_bn_inv": "9ed5b5a29de19b71",
    "double_seq_bn_inv": "bcdbfdc759d7abf1",
    "compacter": "934efc0c1022a56f",
    "compacter++": "cfa13994accfb5f4",
    "adapter_plus": "fd517df084609354",
    "prefix_tuning": "648bf22f5afeaaa6",
    "prefix_tuning_flat": "d61d9a6e9c3974ea",
    "prompt_tuning": "8e35d5049bb12364",
    "lora": "625403edad0bf919",
    "ia3": "1ebb5af107e576c0",
    "vera": "2be4e8738bf1b672",
    "dora": "045575c920686296",
    "dvora": "54bac59257d09af0",
    "mtl_lora": "b37172df6259ff89",
    "loreft": "141e29e6c21f7261",
    "noreft": "df69f184fdb72464",
    "seq_bn[reduction_factor=32]": "d67207b1275a4536",
    "pfeiffer[reduction_factor=12]": "fbcd3ea118026d02",
    "seq_bn[leave_out=[0, 1]]": "f3569854fb6a62c4",
    "seq_bn[reduction_factor={'1': 8, 'default': 16}]": "f281ead79424585d",
}
OLD_NAMES = {
    "pfeiffer": "seq_bn",
    "pfeiffer+inv": "seq_bn_inv",
    "houlsby": "double_seq_bn",
    "houlsby+inv": "double_seq_bn_inv",
    "parallel": "par_bn",
    "scaled_parallel": "scaled_par_bn",
}
UNION_HASHES = {"mam": "97453c0dbc2dbc97", "unipelt": "67ac4937c601ad56"}
BOTTLENECKS: dict[str, type[BnConfig]] = {
    "seq_bn": SeqBnConfig,
    "seq_bn_inv": SeqBnInvConfig,
    "double_seq_bn": DoubleSeqBnConfig,
    "double_seq_bn_inv": DoubleSeqBnInvConfig,
    "par_bn": ParBnConfig,
    "adapter_plus": AdapterPlusConfig,
    "compacter": CompacterConfig,
    "compacter++": CompacterPlusPlusConfig,
}
CLASSES: dict[str, type[AdapterConfig]] = {
    **BOTTLENECKS,
    "prefix_tuning": PrefixTuningConfig,
    "prompt_tuning": PromptTuningConfig,
    "lora": LoRAConfig,
    "ia3": IA3Config,
    "vera": VeraConfig,
    "dora": DoRAConfig,
    "dvora": DvoRAConfig,
    "mtl_lora": MTLLoRAConfig,
    "adalora": AdaLoRAConfig,
    "loreft": LoReftConfig,
    "noreft": NoReftConfig,
    "direft": DiReftConfig,
    "bitfit": BitFitConfig,
    "ln_tuning": LayerNormTuningConfig,
    "mam": MAMConfig,
    "unipelt": UniPELTConfig,
}
# The dictionaries of shared/reference/formats.md, A4, in full: these keys and no others, as long as fields that are new
# say nothing.
BOTTLENECK_FIELDS = [
    "adapter_residual_before_ln",
    "cross_adapter",
    "dropout",
    "factorized_phm_W",
    "factorized_phm_rule",
    "hypercomplex_nonlinearity",
    "init_weights",
    "init_weights_seed",
    "inv_adapter",
    "inv_adapter_reduction_factor",
    "is_parallel",
    "learn_phm",
    "leave_out",
    "ln_after",
    "ln_before",
    "mh_adapter",
    "non_linearity",
    "original_ln_after",
    "original_ln_before",
    "output_adapter",
    "phm_bias",
    "phm_c_init",
    "phm_dim",
    "phm_init_range",
    "phm_layer",
    "phm_rank",
    "reduction_factor",
    "residual_before_ln",
    "scaling",
    "shared_W_phm",
    "shared_phm_rule",
    "stochastic_depth",
    "use_gating",
]
FIELDS = {
    "lora": "alpha architecture attn_matrices composition_mode dropout dtype init_weights init_weights_seed "
    "intermediate_lora leave_out output_lora r selfattn_lora use_dora use_gating vera_b vera_d",
    "prefix_tuning": "architecture bottleneck_size cross_prefix encoder_prefix dropout flat leave_out non_linearity "
    "prefix_length shared_gating use_gating init_weights_seed",
    "prompt_tuning": "architecture combine prompt_init prompt_init_text prompt_length init_weights_seed",
    "reft": "architecture layers prefix_positions suffix_positions r orthogonality tied_weights dropout non_linearity "
    "dtype output_reft init_weights_seed",
    "mtl_lora": "n_up_projection task_specific_matrix_type weights_sharpness",
    "direft": "subtract_projection",
    "adalora": "target_r warmup_steps final_steps interval beta1 beta2 orthogonality_weight",
    "partial": "architecture leave_out",
}
FIELDS_OF: dict[str, list[str]] = {
    **dict.fromkeys(BOTTLENECKS, BOTTLENECK_FIELDS),
    **{name: FIELDS["lora"].split() for name in ("lora", "ia3", "vera", "dora", "dvora")},
    **{name: f"{FIELDS['lora']} {FIELDS[name]}".split() for name in ("mtl_lora", "adalora")},
    **dict.fromkeys(("prefix_tuning", "prefix_tuning_flat"), FIELDS["prefix_tuning"].split()),
    "prompt_tuning": FIELDS["prompt_tuning"].split(),
    **dict.fromkeys(("loreft", "noreft"), FIELDS["reft"].split()),
    "direft": f"{FIELDS['reft']} {FIELDS['direft']}".split(),
    **dict.fromkeys(("bitfit", "ln_tuning"), FIELDS["partial"].split()),
    **{name: ["architecture", "configs"] for name in ("mam", "unipelt")},
}

every_preset = pytest.mark.parametrize("preset", presets())


@pytest.mark.parametrize(("preset", "expected"), HASHES.items())
def test_hash_is_that_of_adapterhub(preset: str, expected: str) -> None:
    config = AdapterConfig.load(preset)
    assert get_adapter_config_hash(config) == expected
    assert get_adapter_config_hash(config.to_dict()) == expected
    assert get_adapter_config_hash(json.loads(json.dumps(config.to_dict()))) == expected
    assert get_adapter_config_hash(config, length=6) == expected[:6]


def test_hash_without_some_fields() -> None:
    changed = AdapterConfig.load("seq_bn", leave_out=[3])
    assert get_adapter_config_hash(changed) != HASHES["seq_bn"]
    assert get_adapter_config_hash(changed, ignore_params=["leave_out"]) == HASHES["seq_bn"]


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_old_names(old: str, new: str) -> None:
    assert AdapterConfig.load(old) == AdapterConfig.load(new) == ADAPTER_CONFIG_MAP[old]


def test_old_classes() -> None:
    assert PfeifferConfig() == SeqBnConfig() and PfeifferInvConfig() == SeqBnInvConfig()
    assert HoulsbyConfig() == DoubleSeqBnConfig() and HoulsbyInvConfig() == DoubleSeqBnInvConfig()
    assert ParallelConfig() == ParBnConfig()
    assert DEFAULT_ADAPTER_CONFIG == "seq_bn"


@pytest.mark.parametrize(("preset", "expected"), UNION_HASHES.items())
def test_hash_of_unions_is_that_of_adapterhub(preset: str, expected: str) -> None:
    """In 1.3 the hash of a union is not that of its dictionary, and stands in the `config.json` of models."""
    assert get_adapter_config_hash(AdapterConfig.load(preset)) == expected
    assert get_adapter_config_hash(AdapterConfig.load(AdapterConfig.load(preset).to_dict())) == expected


def test_presets_differ_in_their_hashes() -> None:
    """In 1.3 NoReFT and DiReFT have one hash, and so one configuration in the `config.json` of a model."""
    names = [name for name in presets() if name not in OLD_NAMES]
    assert len({get_adapter_config_hash(AdapterConfig.load(name)) for name in names}) == len(names)


@pytest.mark.parametrize(("preset", "config_class"), CLASSES.items())
def test_preset_is_of_its_class(preset: str, config_class: type[AdapterConfig]) -> None:
    assert AdapterConfig.load(preset) == config_class()
    assert type(AdapterConfig.load(preset)) is config_class


@pytest.mark.parametrize(("preset", "config_class"), BOTTLENECKS.items())
def test_fields_of_presets_can_be_changed(preset: str, config_class: type[BnConfig]) -> None:
    by_class = config_class(reduction_factor=7, dropout=0.25)
    assert AdapterConfig.load(f"{preset}[reduction_factor=7, dropout=0.25]") == by_class
    assert AdapterConfig.load(preset, reduction_factor=7, dropout=0.25) == by_class
    assert AdapterConfig.load(by_class) is by_class


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seq_bn[]", {}),
        ("  seq_bn  ", {}),
        ("seq_bn [reduction_factor=8]", {"reduction_factor": 8}),
        ("seq_bn[non_linearity=gelu]", {"non_linearity": "gelu"}),
        ("seq_bn[non_linearity='gelu',use_gating=True]", {"non_linearity": "gelu", "use_gating": True}),
        ("seq_bn[leave_out=[1, 2]]", {"leave_out": [1, 2]}),
        ("seq_bn[init_weights_seed=None]", {"init_weights_seed": None}),
        ("seq_bn[scaling=learned]", {"scaling": "learned"}),
        ("seq_bn[scaling=-1.5]", {"scaling": -1.5}),
        ("seq_bn[reduction_factor={'0': 4, 'default': 8}]", {"reduction_factor": {"0": 4, "default": 8}}),
    ],
)
def test_strings_with_overrides(text: str, expected: dict[str, Any]) -> None:
    assert AdapterConfig.load(text) == SeqBnConfig().replace(**expected)


def test_keywords_win_over_the_string() -> None:
    assert AdapterConfig.load("seq_bn[reduction_factor=8]", reduction_factor=4).reduction_factor == 4


@every_preset
def test_round_trips(preset: str) -> None:
    config = AdapterConfig.load(preset)
    assert sorted(config.to_dict()) == sorted(FIELDS_OF[OLD_NAMES.get(preset, preset).replace("scaled_", "")])
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    for restored in (
        AdapterConfig.from_dict(config.to_dict()),
        AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))),
        type(config).from_dict(config.to_dict()),
        AdapterConfig.load(config.to_dict()),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        config.replace(),
    ):
        assert restored.to_dict() == config.to_dict()
        assert get_adapter_config_hash(restored) == get_adapter_config_hash(config)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a JSON file names a configuration, as in 1.3: its fields, or what an `adapter_config.json` holds."""
    monkeypatch.chdir(tmp_path)
    plain, of_adapter, of_fusion = (
        tmp_path / "my configs@work" / "lora.json",
        Path("adapter_config.json"),
        Path("fusion"),
    )
    plain.parent.mkdir()
    plain.write_text(json.dumps(AdapterConfig.load("lora[r=2]").to_dict()))
    of_adapter.write_text(json.dumps({"config": AdapterConfig.load("mam").to_dict(), "name": "a"}))
    of_fusion.write_text(json.dumps({"config": "static"}))
    assert AdapterConfig.load(str(plain)) == AdapterConfig.load("lora[r=2]")
    assert AdapterConfig.load(str(plain), alpha=3) == AdapterConfig.load("lora[r=2]", alpha=3)
    assert AdapterConfig.load("adapter_config.json") == AdapterConfig.load("mam")
    assert AdapterFusionConfig.load("fusion", key=False) == AdapterFusionConfig.load("static", key=False)
    assert resolve_adapter_config(str(plain)) == AdapterConfig.load("lora[r=2]").to_dict()
    assert resolve_adapter_config("mine", {"mine": "lora[r=2]"}) == resolve_adapter_config("lora[r=2]")
    model = AutoAdapterModel.from_config(BertConfig(**BERT))
    model.add_adapter("a", config=str(plain))
    assert model.adapters_config.get("a") == AdapterConfig.load("lora[r=2]")
    long = f"lora[leave_out={list(range(200))}]"  # longer than names of files may be
    assert AdapterConfig.load(long)["leave_out"] == list(range(200))
    Path("lora").write_text("{}")
    assert AdapterConfig.load("lora").architecture == "lora"  # no file hides a preset


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON"),
        ("[1]", r"holds no configuration, which is an object of fields, but \[1\]"),
        ('{"config": "own.json"}', "There is no configuration 'own.json'"),  # files do not name files
        ('{"config": {"architecture": "union", "configs": ["own.json"]}}', "There is no configuration 'own.json'"),
        ('{"reduction": 2}', "no field 'reduction'"),
    ],
)
def test_files_that_hold_none(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("own.json").write_text(content)
    with pytest.raises(AdapterConfigError, match=message):
        AdapterConfig.load("own.json")


def test_plain_dictionaries() -> None:
    """A dictionary may leave out what has a default, name the architecture, and be changed by keywords."""
    least = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 16, "non_linearity": "relu"}
    assert AdapterConfig.load(least) == BnConfig(**least)
    assert AdapterConfig.load({**least, "architecture": None}) == BnConfig(**least)
    assert AdapterConfig.load(least, dropout=0.5) == BnConfig(**least, dropout=0.5)
    assert least.keys() == {"mh_adapter", "output_adapter", "reduction_factor", "non_linearity"}


def test_a_dictionary_that_is_changed_later_does_not_change_the_configuration() -> None:
    given = {**SeqBnConfig().to_dict(), "reduction_factor": {"0": 4, "default": 8}, "leave_out": [1]}
    config = AdapterConfig.load(given)
    before = copy.deepcopy(config.to_dict())
    given["reduction_factor"]["0"] = 2
    given["leave_out"].append(0)
    assert config.to_dict() == before
    config.to_dict()["leave_out"].append(0)
    config.to_dict()["reduction_factor"]["0"] = 2
    assert config.to_dict() == before


@every_preset
def test_reads_like_a_dictionary(preset: str) -> None:
    config = AdapterConfig.load(preset)
    assert isinstance(config, Mapping)
    assert dict(config) == {**config}
    assert len(config) == len(list(config)) == len(dict(config))
    assert all(config[name] == config.get(name) for name in config)
    assert all(config[name] == getattr(config, name) for name in config.to_dict() if name != "configs")
    assert next(iter(config)) in config and "nothing" not in config and config.get("nothing", 3) == 3
    with pytest.raises(KeyError):
        config["to_dict"]


@every_preset
def test_cannot_be_changed(preset: str) -> None:
    config = AdapterConfig.load(preset)
    before = config.to_dict()
    field = "configs" if isinstance(config, ConfigUnion) else next(name for name in config if name != "architecture")
    for change in (
        lambda: setattr(config, field, 2),
        lambda: delattr(config, field),
        lambda: config.__setitem__(field, 2),
    ):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
            change()
    assert config.to_dict() == before == presets()[preset].to_dict()


def test_replacing_makes_another() -> None:
    config = SeqBnConfig()
    changed = config.replace(reduction_factor=3)
    assert changed is not config and changed.reduction_factor == 3 and config.reduction_factor == 16


def test_presets_do_not_share_lists() -> None:
    first, second = SeqBnConfig(), SeqBnConfig()
    assert first.leave_out is not second.leave_out
    assert AdapterConfig.load("seq_bn", leave_out=[0]).leave_out == [0]
    assert AdapterConfig.load("seq_bn").leave_out == []


def test_equal_configurations_are_equal() -> None:
    assert AdapterConfig.load("seq_bn") == SeqBnConfig() != SeqBnConfig(reduction_factor=8)


@pytest.mark.parametrize(
    ("layer", "factor"), [(0, 4), (1, 8), (5, 8)], ids=["named", "by default", "by default, far away"]
)
def test_reduction_factor_per_layer(layer: int, factor: float) -> None:
    for key in ("0", 0):  # keys are strings in files, and numbers where people write them
        assert SeqBnConfig(reduction_factor={key: 4, "default": 8}).reduction_factor_at(layer) == factor


def test_reduction_factor_without_default() -> None:
    with pytest.raises(AdapterConfigError, match=r"no entry for layer 1.*'default'"):
        SeqBnConfig(reduction_factor={"0": 4}).reduction_factor_at(1)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("seq_bm", "'seq_bm'.*did you mean.*'seq_bn'"),
        ("pfeifer", "'pfeifer'.*did you mean.*'pfeiffer'"),
        ("compactor", "'compactor'.*did you mean.*'compacter'"),
        ("something else entirely", "Cannot read|There is no configuration"),
        ("zzz", "'zzz'.*there are.*seq_bn"),
        ("", "Cannot read"),
        ("seq_bn[reduction_facto=32]", "SeqBnConfig has no field 'reduction_facto'.*did you mean 'reduction_factor'"),
        ("seq_bn[32]", r"Cannot read 'seq_bn\[32\]'"),
        ("seq_bn[reduction_factor=]", "Cannot read"),
        ("seq_bn[reduction_factor=32", "Cannot read"),
        ("seq_bn[reduction_factor=print(1)]", "Cannot read"),
        (None, "not None"),
        (3, "not 3"),
        ({}, "BnConfig needs mh_adapter, non_linearity, output_adapter, reduction_factor"),
        ({**SeqBnConfig().to_dict(), "drop_out": 0.1}, "no field 'drop_out'.*did you mean 'dropout'"),
        ({"architecture": "loar"}, "no adaptation method 'loar'"),
    ],
)
def test_unknown_presets_and_fields(config: Any, message: str) -> None:
    with pytest.raises(AdapterConfigError, match=message):
        AdapterConfig.load(config)


WRONG: list[tuple[str, Any]] = [
    ("reduction_factor", 0),
    ("reduction_factor", -4),
    ("reduction_factor", "16"),
    ("reduction_factor", True),
    ("reduction_factor", float("nan")),
    ("reduction_factor", {"0": 0}),
    ("reduction_factor", {"0": "4"}),
    ("reduction_factor", {"first": 4, "default": 8}),
    ("non_linearity", "relus"),
    ("non_linearity", None),
    ("init_weights", "xavier"),
    ("init_weights_seed", "one"),
    ("scaling", "learnt"),
    ("scaling", None),
    ("residual_before_ln", "pre_add"),
    ("residual_before_ln", None),
    ("inv_adapter", "real_nvp"),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("dropout", "0.1"),
    ("stochastic_depth", 1.0),
    ("leave_out", ["0"]),
    ("leave_out", 3),
    ("leave_out", [-1]),
    ("mh_adapter", "yes"),
    ("is_parallel", "no"),
    ("use_gating", 3),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_wrong_values(field: str, value: Any) -> None:
    """Every way to a configuration refuses a value without meaning, naming the field and the value."""
    for make in (
        lambda: SeqBnConfig(**{field: value}),
        lambda: SeqBnConfig().replace(**{field: value}),
        lambda: AdapterConfig.load("seq_bn", **{field: value}),
        lambda: AdapterConfig.from_dict({**SeqBnConfig().to_dict(), field: value}),
    ):
        with pytest.raises(AdapterConfigError) as caught:
            make()
        assert field in str(caught.value) and repr(value) in str(caught.value)


WRONG_ELSEWHERE: list[tuple[str, str, Any]] = [
    ("lora", "r", 0),
    ("lora", "alpha", "8"),
    ("lora", "attn_matrices", ["query"]),
    ("lora", "composition_mode", "multiply"),
    ("lora", "dtype", "float8"),
    ("lora", "use_gating", "yes"),
    ("prefix_tuning", "prefix_length", 0),
    ("prefix_tuning", "flat", "no"),
    ("prompt_tuning", "combine", "suffix"),
    ("prompt_tuning", "prompt_init", "from_nothing"),
    ("loreft", "layers", "some"),
    ("loreft", "prefix_positions", -1),
    ("direft", "subtract_projection", "no"),
    ("bitfit", "leave_out", [-1]),
    ("bitfit", "leave_out", 3),
    ("ln_tuning", "leave_out", ["0"]),
]


@pytest.mark.parametrize(("preset", "field", "value"), WRONG_ELSEWHERE)
def test_wrong_values_of_other_methods(preset: str, field: str, value: Any) -> None:
    with pytest.raises(AdapterConfigError) as caught:
        AdapterConfig.load(preset, **{field: value})
    assert field in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize("modules", [[], [""], [3], None, ""], ids=repr)
def test_modules_to_save_needs_names(modules: Any) -> None:
    with pytest.raises(AdapterConfigError, match=r"modules is .*; it should be a list of names"):
        ModulesToSaveConfig(modules)


def test_modules_to_save() -> None:
    config = ModulesToSaveConfig("pooler")
    assert config.modules == ["pooler"] and config == ModulesToSaveConfig(["pooler"])
    assert config.to_dict() == {"modules": ["pooler"], "architecture": "modules_to_save"}
    assert AdapterConfig.load(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(AdapterConfigError, match="ModulesToSaveConfig needs modules"):
        AdapterConfig.load({"architecture": "modules_to_save"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phm_dim", 0),
        ("phm_dim", 2.5),
        ("phm_rank", 0),
        ("phm_c_init", "ones"),
        ("hypercomplex_nonlinearity", "relu"),
    ],
)
def test_wrong_hypercomplex_values(field: str, value: Any) -> None:
    with pytest.raises(AdapterConfigError, match=field):
        AdapterConfig.load("compacter", **{field: value})


def test_fields_that_need_each_other() -> None:
    with pytest.raises(AdapterConfigError, match=r"residual_before_ln is 'post_add'.*original_ln_before"):
        DoubleSeqBnConfig(residual_before_ln="post_add")
    with pytest.raises(AdapterConfigError, match=r"inv_adapter_reduction_factor is None.*inv_adapter is set"):
        SeqBnConfig(inv_adapter="nice")
    with pytest.raises(AdapterConfigError, match="inv_adapter_reduction_factor"):
        SeqBnConfig(inv_adapter="nice", inv_adapter_reduction_factor=0)


@pytest.mark.parametrize("word", ["false", "no", "off", "0"])
def test_switches_that_are_spelt_otherwise_are_not_on(word: str) -> None:
    """Bare words in brackets are strings, and strings are true."""
    try:
        config = AdapterConfig.load(f"double_seq_bn[mh_adapter={word}]")
    except AdapterConfigError as error:
        assert "mh_adapter" in str(error)
    else:
        assert not config.mh_adapter


def test_the_error_is_a_value_error() -> None:
    assert issubclass(AdapterConfigError, ValueError)


# -- the configurations of a model ---------------------------------------------------------------------------


def test_model_adapters_config() -> None:
    configs = ModelAdaptersConfig()
    configs.add("a", "seq_bn")
    configs.add("b", SeqBnConfig())
    configs.add("c", {**SeqBnConfig().to_dict(), "reduction_factor": 4})
    configs.add("d")
    assert list(configs) == ["a", "b", "c", "d"] and len(configs) == 4 and "a" in configs and "e" not in configs
    assert configs.get("c")["reduction_factor"] == 4 and configs.get("e") is None
    data = configs.to_dict()
    assert data["adapters"]["a"] == data["adapters"]["b"] == data["adapters"]["d"] == HASHES["seq_bn"]
    assert data["config_map"].keys() == set(data["adapters"].values())
    assert data.keys() == {"adapters", "config_map", "fusions", "fusion_config_map", "fusion_name_map"}
    restored = ModelAdaptersConfig(**json.loads(json.dumps(data)))
    assert restored.to_dict() == data
    assert list(configs.config_map.values()) == [configs.get("a"), configs.get("c")]
    with pytest.raises(ValueError, match="'a' already"):
        configs.add("a")


def test_configurations_of_a_model_tell_kinds_and_what_is_active() -> None:
    model = AutoAdapterModel.from_config(BertConfig(**BERT))
    model.add_adapter("a", config="double_seq_bn[leave_out=[1]]")
    model.add_adapter("u", config="prefix_tuning|seq_bn")
    found = model.adapters_config
    assert (found.active_setup, found.skip_layers) == (None, None)
    assert found.match("a", BnConfig, 0, "mh_adapter") == found.get("a")
    assert found.match("u", BnConfig, location_key="output_adapter") == SeqBnConfig()
    none = [("a", LoRAConfig, 0, None), ("a", BnConfig, 1, None), ("u", BnConfig, 0, "mh_adapter"), ("e", BnConfig)]
    assert [found.match(*asked) for asked in none] == [None] * 4
    model.set_active_adapters(["a", "u"], skip_layers=[0])
    assert (model.adapters_config.active_setup, model.adapters_config.skip_layers) == (Stack("a", "u"), [0])


@pytest.mark.parametrize("where", ["adapters", "fusions"])
def test_configurations_of_a_model_name_no_files(where: str, tmp_path: Path) -> None:
    """They are read from the `config.json` of models, which may come from anywhere."""
    (tmp_path / "own.json").write_text(json.dumps(SeqBnConfig().to_dict()))
    with pytest.raises(AdapterConfigError, match="There is no configuration"):
        ModelAdaptersConfig(**{where: {"a": str(tmp_path / "own.json")}})
