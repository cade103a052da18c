"""Adapters on disk: the layout of AdapterHub, written whole or not at all, read strictly, equal when read again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adapters
import models
from adapters import AdapterConfig, AutoAdapterModel, SeqBnConfig, Stack
from adapters.checkpoints.files import AdapterFileError
from test_api import auto, large, refused, run, same, static

PRESET = "double_seq_bn_inv[reduction_factor=4]"
CONFIG, SAFE, BIN = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
HEAD, SAFE_HEAD, BIN_HEAD = "head_config.json", "model_head.safetensors", "pytorch_model_head.bin"
NAMES = [
    "a.b",
    "lora",
    "default",
    "weight",
    "bias",
    "adapters",
    "encoder",
    "training",
    "0",
    "a,b",
    "a b",
    "__class__",
    "adapter_down.0.weight",
    "ünïcödé 日本語",
    "x" * 200,
]


def trained(name: str = "a", preset: str = PRESET, family: str = "bert") -> Any:
    """A model with one adapter, active, whose effect shows."""
    model = models.adapted(family)
    model.add_adapter(name, preset, set_active=True)
    models.randomise(model, name)
    return model


def saved(folder: Path, name: str = "a", preset: str = PRESET, **options: Any) -> list[Tensor]:
    """Writes an adapter; gives the outputs of its model."""
    model = trained(name, preset)
    model.save_adapter(folder, name, **options)
    return run(model)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def change(folder: Path, **entries: Any) -> None:
    """Change entries of `adapter_config.json`; those that are None are taken off."""
    data = {**json.loads((folder / CONFIG).read_text()), **entries}
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


# -- what is written -----------------------------------------------------------------------------------------


def test_files_are_those_of_adapterhub(tmp_path: Path) -> None:
    """Names and keys as in shared/reference/formats.md, A4."""
    model = trained(preset="double_seq_bn_inv")
    assert model.save_adapter(tmp_path / "new" / "folder", "a") is None
    folder = tmp_path / "new" / "folder"
    assert files(folder) == [SAFE, CONFIG]
    text = (folder / CONFIG).read_text()
    data = json.loads(text)
    assert text == json.dumps(data, indent=2, sort_keys=True)
    assert data == {
        "config": AdapterConfig.load("double_seq_bn_inv").to_dict(),
        "hidden_size": 32,
        "model_class": "BertModel",
        "model_name": "",
        "model_type": "bert",
        "name": "a",
        "version": f"adapters.{adapters.__version__}",
    }
    with safe_open(folder / SAFE, "pt") as file:
        assert file.metadata() is None
        found = set(file.keys())
    linears = ("adapter_down.0", "adapter_up")
    places = ("attention.output.adapters", "output.adapters")
    expected = {
        f"encoder.layer.{n}.{p}.a.{m}.{w}" for n in (0, 1) for p in places for m in linears for w in ("weight", "bias")
    }
    expected |= {f"invertible_adapters.a.{m}.{i}.{w}" for m in "FG" for i in (0, 2) for w in ("weight", "bias")}
    assert found == expected


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("distilbert", "transformer.layer.0.output_adapters.adapters.a.adapter_down.0.weight"),
        ("llama", "layers.1.output_adapters.adapters.a.adapter_up.bias"),
        ("t5", "decoder.block.0.layer.2.adapters.a.adapter_up.weight"),
        ("gpt2", "h.0.output_adapters.adapters.a.adapter_up.weight"),
        ("bart", "encoder.layers.0.output_adapters.adapters.a.adapter_up.weight"),
        ("vit", "layers.0.output_adapters.adapters.a.adapter_up.weight"),
        ("custom", "blocks.1.output_adapters.adapters.a.adapter_up.weight"),
    ],
)
def test_keys_of_other_architectures(family: str, key: str, tmp_path: Path) -> None:
    trained(family=family, preset="seq_bn[reduction_factor=4]").save_adapter(tmp_path, "a")
    assert key in load_file(tmp_path / SAFE)


def test_hypercomplex_keys(tmp_path: Path) -> None:
    trained(preset="compacter[phm_dim=2, reduction_factor=4]").save_adapter(tmp_path, "a")
    found = load_file(tmp_path / SAFE)
    assert found["shared_parameters.a.phm_rule"].shape == (2, 2, 2)
    weights = {"W_left", "W_right", "b"}
    assert {key.rpartition(".")[2] for key in found if "adapter_down.0" in key} == weights


@pytest.mark.parametrize(
    "preset", ["double_seq_bn[ln_before=True, ln_after=True]", "compacter[phm_dim=2, use_gating=True]"]
)
@pytest.mark.parametrize("use_safetensors", [True, False])
def test_formats(preset: str, use_safetensors: bool, tmp_path: Path) -> None:
    """Both formats hold the same; what 1.3 could not write as safetensors is written."""
    expected = saved(tmp_path, preset=f"{preset[:-1]}, reduction_factor=4]", use_safetensors=use_safetensors)
    assert files(tmp_path) == sorted([CONFIG, SAFE if use_safetensors else BIN])
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)


def test_the_other_format_is_not_left_behind(tmp_path: Path) -> None:
    """It would be out of date, and whichever is read would depend on the reader."""
    for use_safetensors in (True, False, True):
        saved(tmp_path, use_safetensors=use_safetensors)
        assert files(tmp_path) == sorted([CONFIG, SAFE if use_safetensors else BIN])


def test_further_entries(tmp_path: Path) -> None:
    saved(tmp_path, meta_dict={"license": "mit", "type": "text_task", "scores": [1, 2]})
    data = json.loads((tmp_path / CONFIG).read_text())
    assert (data["license"], data["type"], data["scores"]) == ("mit", "text_task", [1, 2])
    assert models.adapted("bert").load_adapter(tmp_path) == "a"


def test_all_adapters(tmp_path: Path) -> None:
    """A folder each, with the hash of the configuration."""
    model = trained()
    model.add_adapter("b.c", "seq_bn")
    model.save_all_adapters(tmp_path, meta_dict={"x": 1})
    assert files(tmp_path) == ["a", "b.c"]
    data = json.loads((tmp_path / "b.c" / CONFIG).read_text())
    assert (data["config_id"], data["name"], data["x"]) == ("9076f36a74755ac4", "b.c", 1)
    fresh = models.adapted("bert")
    for name in files(tmp_path):
        assert fresh.load_adapter(tmp_path / name) == name
    fresh.set_active_adapters("a")
    assert same(run(fresh), run(model))


def test_size_on_disk(tmp_path: Path) -> None:
    """Of seq_bn in a model as deep and wide as bert-base: at most 3.6 MB."""
    shape = {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    model = transformers.BertModel(transformers.BertConfig(**shape))
    adapters.init(model)
    model.add_adapter("a")
    model.save_adapter(tmp_path, "a")
    assert 3.5e6 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3.6e6


def test_only_its_own_weights(tmp_path: Path) -> None:
    """Also of names that are the beginning of another's."""
    model = trained("a")
    for name in ("a.b", "a.b.c", "b"):
        model.add_adapter(name, "seq_bn")
        models.randomise(model, name)
    for name in ("a", "a.b", "a.b.c", "b"):
        model.save_adapter(tmp_path / name, name)
        size = sum(t.numel() for t in load_file(tmp_path / name / SAFE).values())
        assert size == sum(p.numel() for p in model._adapter_registry[name].parameters())
        fresh = models.adapted("bert")
        assert fresh.load_adapter(tmp_path / name, set_active=True) == name
        model.set_active_adapters(name)
        assert same(run(fresh), run(model))


# -- whole or not at all -------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_safetensors", [True, False])
@pytest.mark.parametrize("fails", ["before", "in the middle"])
def test_a_failed_save_leaves_the_old_file(
    fails: str, use_safetensors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = saved(tmp_path, use_safetensors=use_safetensors)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(tensors: Any, path: Path, *options: Any) -> None:
        if fails == "in the middle":
            Path(path).write_bytes(b"half of a file")
        raise OSError("no space left on device")

    monkeypatch.setattr("adapters.checkpoints.files.save_file", broken)
    monkeypatch.setattr("adapters.checkpoints.files.torch.save", broken)
    with pytest.raises(OSError, match="no space left"):
        saved(tmp_path, preset="double_seq_bn_inv[reduction_factor=2]", use_safetensors=use_safetensors)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)


def test_tensors_without_numbers_are_not_saved(tmp_path: Path) -> None:
    """Sharded or offloaded parameters would give a file that holds nothing."""
    model = trained()
    model.adapter_to("a", device="meta")
    with pytest.raises(AdapterFileError, match="hold no numbers"):
        model.save_adapter(tmp_path / "a", "a")
    assert not (tmp_path / "a").exists() or not files(tmp_path / "a")


# -- read again ----------------------------------------------------------------------------------------------

FRESH = """
import sys
sys.path.insert(0, sys.argv[2])
import conftest, test_checkpoints
test_checkpoints.read_again(test_checkpoints.Path(sys.argv[1]))
"""


def read_again(folder: Path) -> None:
    """In a new process: load all, and write the outputs down."""
    found = {}
    for number, family in enumerate(models.NAMES):
        model = models.adapted(family)
        model.load_adapter(folder / str(number), set_active=True)
        found |= {f"{number}.{i}": t.contiguous() for i, t in enumerate(run(model, family))}
    model = static("classification")
    adapters.init(model)
    model.load_adapter(folder / "static", set_active=True)
    found["static"] = run(model)[0]
    model = auto()
    model.load_adapter(folder / "head", set_active=True)
    found["head"] = run(model)[0]
    save_file({key: t.clone() for key, t in found.items()}, folder / "outputs.safetensors")


def test_a_new_process_gives_the_same_bits(tmp_path: Path) -> None:
    expected = {}
    for number, family in enumerate(models.NAMES):
        model = trained(f"ä {number}", "compacter[phm_dim=2, reduction_factor=4]" if number % 2 else PRESET, family)
        model.save_adapter(tmp_path / str(number), f"ä {number}")
        expected |= {f"{number}.{i}": t for i, t in enumerate(run(model, family))}
    model = static("classification")
    adapters.init(model)
    model.add_adapter("a", PRESET, set_active=True)
    models.randomise(model, "a")
    nn.init.normal_(model.classifier.weight)
    model.save_adapter(tmp_path / "static", "a")
    expected["static"] = run(model)[0]
    model = auto()
    model.add_adapter("a", PRESET)
    model.add_classification_head("a", num_labels=3)
    model.set_active_adapters("a")
    models.randomise(model, "a")
    model.save_adapter(tmp_path / "head", "a")
    expected["head"] = run(model)[0]
    command = [sys.executable, "-c", FRESH, str(tmp_path), str(Path(__file__).parent)]
    subprocess.run(command, check=True, capture_output=True)
    found = load_file(tmp_path / "outputs.safetensors")
    assert found.keys() == expected.keys()
    assert not [key for key in found if not torch.equal(found[key], expected[key])]


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, tmp_path: Path) -> None:
    """Any name that a folder can have comes back, under its own name and under another's."""
    model = trained(name)
    model.save_adapter(tmp_path, name)
    expected = run(model)
    assert json.loads((tmp_path / CONFIG).read_text())["name"] == name
    fresh = models.adapted("bert")
    assert fresh.load_adapter(tmp_path, set_active=True) == name
    assert same(run(fresh), expected)
    assert fresh.load_adapter(tmp_path, load_as="other") == "other"
    fresh.set_active_adapters("other")
    assert same(run(fresh), expected)
    fresh.save_adapter(tmp_path / "again", "other")
    assert fresh.load_adapter(tmp_path / "again", load_as=name, set_active=True) == name
    assert same(run(fresh), expected)
    fresh.delete_adapter(name)
    fresh.delete_adapter("other")
    assert fresh.state_dict().keys() == models.bare("bert").state_dict().keys()


@pytest.mark.parametrize("name", ["", "a/b", "../a", "..", "a\\b"])
def test_names_in_files_are_checked(name: str, tmp_path: Path) -> None:
    """A file from elsewhere cannot make a later `save_all_adapters` write outside its folder."""
    saved(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    save_file({key.replace(".a.", f".{name}."): t for key, t in tensors.items()}, tmp_path / SAFE)
    change(tmp_path, name=name)
    with refused(model := trained("b"), ValueError, "is no name for an adapter"):
        model.load_adapter(tmp_path)
    with refused(model, ValueError, "is no name for an adapter"):
        model.load_adapter(tmp_path, load_as=name)
    assert model.load_adapter(tmp_path, load_as="c") == "c"


def test_loading_twice(tmp_path: Path) -> None:
    """The second takes the place of the first; weights are those of the file each time."""
    expected = saved(tmp_path)
    model = models.adapted("bert")
    for _ in range(2):
        assert model.load_adapter(tmp_path, set_active=True) == "a"
        assert same(run(model), expected) and list(model.adapters_config) == ["a"]
        models.randomise(model, "a")


def test_what_is_active_stays(tmp_path: Path) -> None:
    saved(tmp_path)
    model = trained("b")
    before = run(model)
    model.load_adapter(tmp_path)
    assert model.active_adapters == Stack("b") and same(run(model), before)


def test_formats_are_found_out(tmp_path: Path) -> None:
    """Safetensors are read where both are; only they are, if that is asked for."""
    model = models.adapted("bert")
    saved(tmp_path, use_safetensors=False)
    with refused(model, AdapterFileError, rf"There is no {SAFE} in .*; it holds {CONFIG}, {BIN}"):
        model.load_adapter(tmp_path, use_safetensors=True)
    first = saved(tmp_path, use_safetensors=True)
    torch.save({}, tmp_path / BIN)
    for use_safetensors in (True, False):
        model.load_adapter(tmp_path, set_active=True, use_safetensors=use_safetensors)
        assert same(run(model), first)


def test_leaving_layers_out(tmp_path: Path) -> None:
    model = trained()
    model.save_adapter(tmp_path, "a")
    fresh = models.adapted("bert")
    fresh.load_adapter(tmp_path, leave_out=[1], set_active=True)
    assert sorted(fresh.get_adapter("a")) == [-1, 0] and fresh.adapters_config.get("a")["leave_out"] == [1]
    model.set_active_adapters("a", skip_layers=[1])
    assert same(run(fresh), run(model))
    fresh.save_adapter(tmp_path / "less", "a")
    assert fresh.load_adapter(tmp_path / "less", load_as="b", set_active=True) == "b"
    assert same(run(fresh), run(model))


def test_another_configuration(tmp_path: Path) -> None:
    """For files that say less than the truth: `config=` is used instead of theirs."""
    saved(tmp_path, preset="seq_bn[reduction_factor=4]")
    model = models.adapted("bert")
    model.load_adapter(tmp_path, config="seq_bn[reduction_factor=4, non_linearity=gelu]", set_active=True)
    assert model.adapters_config.get("a")["non_linearity"] == "gelu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_of_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    """Files keep the type of numbers; a model reads them in its own."""
    model = trained()
    model.to(dtype)
    model.save_adapter(tmp_path, "a")
    assert {t.dtype for t in load_file(tmp_path / SAFE).values()} == {dtype}
    fresh = models.adapted("bert")
    fresh.load_adapter(tmp_path)
    assert {p.dtype for p in fresh._adapter_registry["a"].parameters()} == {torch.float32}


def test_loading_makes_no_noise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """No record, no line, no warning (adapter-hub/adapters#815); warnings are errors in these tests."""
    saved(tmp_path)
    models.adapted("bert").load_adapter(tmp_path, set_active=True)
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_loading_takes_no_random_numbers_of_others(tmp_path: Path) -> None:
    """Nor does it leave a weight as it was initialised (huggingface/peft#1678)."""
    saved(tmp_path)
    model = models.adapted("bert")
    model.load_adapter(tmp_path)
    assert same(list(load_file(tmp_path / SAFE).values()), _in_order(model, tmp_path))


def _in_order(model: Any, folder: Path) -> list[Tensor]:
    found = model.state_dict()
    return [found[key] for key in load_file(folder / SAFE)]


# -- between classes, and from the past ----------------------------------------------------------------------

CLASSES: dict[str, list[Any]] = {
    "bert": [transformers.BertModel, transformers.BertForSequenceClassification, AutoAdapterModel],
    "llama": [transformers.LlamaModel, transformers.LlamaForCausalLM, AutoAdapterModel],
    "t5": [transformers.T5Model, transformers.T5ForConditionalGeneration, AutoAdapterModel],
    "vit": [transformers.ViTModel, transformers.ViTForImageClassification, AutoAdapterModel],
}


def of_class(family: str, number: int) -> Any:
    """A model of one of the classes of a family, with equal weights of the base model."""
    config_class, arguments, _, _ = models.FAMILIES[family]
    config = getattr(transformers, config_class)(**arguments)
    model_class = CLASSES[family][number]
    model = model_class.from_config(config) if model_class is AutoAdapterModel else model_class(config)
    adapters.init(model)
    base = model._adapter_registry.base
    base.load_state_dict(models.bare(family).state_dict(), strict=False)
    return model.eval()


# The modules of a base model that give its last states.
LAST = {"bert": ["encoder"], "llama": ["norm"], "t5": ["encoder", "decoder"], "vit": ["layernorm"]}


def states(model: Any, family: str) -> list[Tensor]:
    """The last hidden states, which all classes of a family have in common."""
    found: list[Tensor] = []
    base = model._adapter_registry.base
    hooks = [
        base.get_submodule(path).register_forward_hook(lambda m, i, o: found.append(models.tensors(o)[0]))
        for path in LAST[family]
    ]
    run(base, family)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("source", range(3))
def test_classes_of_a_model_read_each_other(family: str, source: int, tmp_path: Path) -> None:
    model = of_class(family, source)
    model.add_adapter("a", "double_seq_bn_inv[reduction_factor=4]", set_active=True)
    models.randomise(model, "a")
    model.save_adapter(tmp_path, "a")
    expected = states(model, family)
    for target in range(3):
        other = of_class(family, target)
        before = states(other, family)
        assert other.load_adapter(tmp_path, set_active=True) == "a"
        assert same(states(other, family), expected) and not same(before, expected)


def test_names_of_the_past(tmp_path: Path) -> None:
    """Containers were named after the type of an adapter, and files had no version."""
    expected = saved(tmp_path)
    old = {
        key.replace("attention.output.adapters.", "attention.output.attention_text_task_adapters.")
        .replace("output.adapters.", "output.layer_text_lang_adapters.")
        .replace("invertible_adapters.", "invertible_lang_adapters."): t
        for key, t in load_file(tmp_path / SAFE).items()
    }
    assert not any(".adapters." in key for key in old)
    (tmp_path / SAFE).unlink()
    torch.save({f"bert.{key}": t for key, t in old.items()}, tmp_path / BIN)
    change(tmp_path, version=None, type="text_task")
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)


@pytest.mark.parametrize(
    ("version", "activation"),
    [(None, "gelu_new"), ("2.1.0", "gelu_new"), ("adapters.0.1.0", "gelu"), ("adapters.1.3.0", "gelu")],
)
def test_activations_of_the_past(version: str | None, activation: str, tmp_path: Path) -> None:
    """`gelu` was what is `gelu_new` now, in files from before `adapters`."""
    saved(tmp_path, preset="seq_bn[non_linearity=gelu]")
    change(tmp_path, version=version)
    model = models.adapted("bert")
    model.load_adapter(tmp_path)
    assert model.adapters_config.get("a")["non_linearity"] == activation


def test_configurations_of_the_past(tmp_path: Path) -> None:
    """A name instead of a dictionary; an invertible adapter as a dictionary of its own."""
    expected = saved(tmp_path, preset="seq_bn")
    change(tmp_path, config="pfeiffer")
    model = models.adapted("bert")
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)
    expected = saved(tmp_path, preset="seq_bn_inv")
    old = {key: value for key, value in AdapterConfig.load("seq_bn").to_dict().items() if not key.startswith("inv_")}
    change(tmp_path, config={**old, "invertible_adapter": {"block_type": "nice", "reduction_factor": 2}})
    model.load_adapter(tmp_path, set_active=True)
    assert same(run(model), expected)


# -- heads ---------------------------------------------------------------------------------------------------


def with_static_head() -> Any:
    model = static("classification")
    adapters.init(model)
    model.add_adapter("a", PRESET, set_active=True)
    models.randomise(model, "a")
    with torch.no_grad():
        model.classifier.weight.normal_()
    return model


def with_flexible_head(**options: Any) -> Any:
    model = auto()
    model.add_adapter("a", PRESET)
    models.randomise(model, "a")
    model.add_classification_head("a", num_labels=3, id2label={0: "x", 1: "y", 2: "z"}, **options)
    model.set_active_adapters("a")
    return model


@pytest.mark.parametrize("use_safetensors", [True, False])
def test_static_head(use_safetensors: bool, tmp_path: Path) -> None:
    """It is saved with an adapter, and read into models of the same class."""
    model = with_static_head()
    model.save_adapter(tmp_path, "a", use_safetensors=use_safetensors)
    names = [SAFE, SAFE_HEAD] if use_safetensors else [BIN, BIN_HEAD]
    assert files(tmp_path) == sorted([CONFIG, HEAD, *names])
    assert json.loads((tmp_path / HEAD).read_text()) == {
        "config": None,
        "hidden_size": 32,
        "label2id": {f"LABEL_{i}": i for i in range(3)},
        "model_class": "BertForSequenceClassification",
        "model_name": "",
        "model_type": "bert",
        "name": None,
        "num_labels": 3,
        "version": f"adapters.{adapters.__version__}",
    }
    fresh = static("classification")
    adapters.init(fresh)
    before = fresh.classifier.weight.clone()
    fresh.load_adapter(tmp_path, with_head=False, set_active=True)
    assert torch.equal(fresh.classifier.weight, before)
    fresh.load_adapter(tmp_path, set_active=True)
    assert same(run(fresh), run(model))
    other = models.adapted("bert")
    assert other.load_adapter(tmp_path) == "a"


def test_no_head_is_saved_if_none_is_wanted(tmp_path: Path) -> None:
    for model in (with_static_head(), with_flexible_head()):
        model.save_adapter(tmp_path / type(model).__name__, "a", with_head=False)
        assert files(tmp_path / type(model).__name__) == [SAFE, CONFIG]


def test_tied_heads_are_not_copied(tmp_path: Path) -> None:
    """A language model's head that is its embeddings does not swell every adapter."""
    config = transformers.LlamaConfig(**models.LLAMA, tie_word_embeddings=True)
    model = large(transformers.LlamaForCausalLM(config))
    adapters.init(model)
    model.add_adapter("a")
    model.save_adapter(tmp_path, "a")
    assert files(tmp_path) == [SAFE, CONFIG]


@pytest.mark.parametrize("use_safetensors", [True, False])
def test_flexible_head(use_safetensors: bool, tmp_path: Path) -> None:
    """With its adapter, under the names of AdapterHub."""
    model = with_flexible_head()
    model.save_adapter(tmp_path, "a", use_safetensors=use_safetensors)
    names = [SAFE, SAFE_HEAD] if use_safetensors else [BIN, BIN_HEAD]
    assert files(tmp_path) == sorted([CONFIG, HEAD, *names])
    data = json.loads((tmp_path / HEAD).read_text())
    assert data["config"] == {
        "activation_function": "tanh",
        "bias": True,
        "dropout_prob": None,
        "head_type": "classification",
        "label2id": {"x": 0, "y": 1, "z": 2},
        "layers": 2,
        "num_labels": 3,
        "use_pooler": False,
    }
    assert (data["name"], data["model_class"], data["hidden_size"]) == ("a", "BertAdapterModel", 32)
    if use_safetensors:
        assert load_file(tmp_path / SAFE_HEAD).keys() == {
            f"heads.a.{i}.{w}" for i in (1, 4) for w in ("weight", "bias")
        }
    fresh = auto()
    assert fresh.load_adapter(tmp_path, set_active=True) == "a"
    assert fresh.active_head == "a" and fresh.get_labels() == ["x", "y", "z"] and same(run(fresh), run(model))
    assert fresh.load_adapter(tmp_path, load_as="b.c", set_active=True) == "b.c"
    assert list(fresh.heads) == ["a", "b.c"] and same(run(fresh), run(model))
    fresh.load_adapter(tmp_path, load_as="d", with_head=False)
    assert "d" not in fresh.heads


def test_labels_are_chosen_when_reading(tmp_path: Path) -> None:
    model = with_flexible_head()
    model.save_adapter(tmp_path, "a")
    fresh = auto()
    fresh.load_adapter(tmp_path, id2label={0: "p", 1: "q", 2: "r"}, set_active=True)
    assert fresh.get_labels() == ["p", "q", "r"] and same(run(fresh), run(model))
    with refused(fresh, ValueError, "id2label"):
        fresh.load_adapter(tmp_path, id2label={0: "p"})


def test_a_head_alone(tmp_path: Path) -> None:
    model = with_flexible_head(layers=1)
    model.save_head(tmp_path)
    assert files(tmp_path) == sorted([HEAD, SAFE_HEAD])
    fresh = auto()
    assert fresh.load_head(tmp_path, load_as="b") == fresh.active_head == "b"  # in use at once, as in 1.3
    assert all(map(torch.equal, fresh.heads["b"].parameters(), model.heads["a"].parameters()))


@pytest.mark.parametrize("make", [with_static_head, with_flexible_head])
@pytest.mark.parametrize("damage", ["empty", "truncated", "missing", "shape"])
def test_damaged_heads_leave_the_model_as_it_was(make: Any, damage: str, tmp_path: Path) -> None:
    """Neither the head nor the adapter beside it is loaded."""
    make().save_adapter(tmp_path, "a")
    tensors = load_file(tmp_path / SAFE_HEAD)
    key = next(iter(tensors))
    damaged: dict[str, Any] = {
        "missing": lambda: save_file({k: t for k, t in tensors.items() if k != key}, tmp_path / SAFE_HEAD),
        "shape": lambda: save_file({**tensors, key: torch.zeros(7)}, tmp_path / SAFE_HEAD),
        "empty": lambda: (tmp_path / SAFE_HEAD).write_bytes(b""),
        "truncated": lambda: (tmp_path / SAFE_HEAD).write_bytes((tmp_path / SAFE_HEAD).read_bytes()[:-9]),
    }
    damaged[damage]()
    fresh = make()
    fresh.delete_adapter("a")
    said = key if damage in ("missing", "shape") else SAFE_HEAD
    with refused(fresh, AdapterFileError, said.replace(".", r"\.")):
        fresh.load_adapter(tmp_path)


# -- what is refused -----------------------------------------------------------------------------------------


class Executes:
    """A pickle that does something when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_that_execute_code_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, use_safetensors=False)
    tensors = torch.load(tmp_path / BIN, weights_only=True)
    torch.save({**tensors, "trap": Executes(tmp_path / "trapped")}, tmp_path / BIN)
    with refused(model := trained("b"), AdapterFileError, f"{BIN} cannot be read as weights"):
        model.load_adapter(tmp_path)
    assert not (tmp_path / "trapped").exists()
    torch.load(tmp_path / BIN, weights_only=False)
    assert (tmp_path / "trapped").exists()


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


DAMAGES: dict[str, tuple[Any, str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder), rf"There is no {CONFIG} in .*does not exist"),
    "a file instead of a folder": (
        lambda folder: (shutil.rmtree(folder), folder.write_text("")),
        rf"{CONFIG}|is no folder",
    ),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), rf"There is no {CONFIG} in .*; it holds {SAFE}"),
    "no weights": (lambda folder: (folder / SAFE).unlink(), rf"There is no {SAFE} or {BIN} in .*; it holds {CONFIG}"),
    "empty configuration": (lambda folder: (folder / CONFIG).write_text(""), rf"{CONFIG} cannot be read as JSON"),
    "cut configuration": (lambda folder: cut(folder / CONFIG, 0.5), rf"{CONFIG} cannot be read as JSON.*cut off"),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), f"{CONFIG} holds list instead of a JSON object"),
    "binary configuration": (
        lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\x00"),
        rf"{CONFIG} cannot be read",
    ),
    "another configuration": (
        lambda folder: (folder / CONFIG).write_text("{}"),
        f"{CONFIG} has no 'config' and 'name'",
    ),
    "no name": (lambda folder: change(folder, name=None), f"{CONFIG} has no 'config' and 'name'"),
    "a number for a name": (lambda folder: change(folder, name=3), f"{CONFIG} has no 'config' and 'name'"),
    "that of peft": (
        lambda folder: (folder / CONFIG).write_text('{"peft_type": "LORA", "r": 8}'),
        r"There is no adapter_model\.safetensors",
    ),
    "unknown preset": (lambda folder: change(folder, config="seq_bm"), "did you mean 'seq_bn'"),
    "unknown field": (lambda folder: change(folder, config={**SeqBnConfig(), "x_y": 1}), "no field 'x_y'"),
    "unknown method": (lambda folder: change(folder, config={"architecture": "lota", "r": 8}), "method 'lota'"),
    "wrong value": (lambda folder: change(folder, config={**SeqBnConfig(), "dropout": 7}), "dropout is 7"),
    "empty weights": (lambda folder: (folder / SAFE).write_bytes(b""), f"{SAFE} cannot be read.*cut off"),
    "cut weights": (lambda folder: cut(folder / SAFE, 0.9), f"{SAFE} cannot be read.*cut off"),
    "cut header": (lambda folder: cut(folder / SAFE, 0.01), f"{SAFE} cannot be read.*cut off"),
    "noise": (lambda folder: (folder / SAFE).write_bytes(bytes(range(256)) * 9), f"{SAFE} cannot be read"),
    "no tensors": (lambda folder: save_file({}, folder / SAFE), r"Missing \(24\)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    saved(folder)
    make, message = DAMAGES[damage]
    make(folder)
    with refused(model := trained("b"), ValueError, message):
        model.load_adapter(folder)
    with refused(model := trained("a"), ValueError, message):  # the adapter of that name stays
        model.load_adapter(folder, set_active=True)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_damaged_bin_files(content: bytes | None, tmp_path: Path) -> None:
    saved(tmp_path, use_safetensors=False)
    path = tmp_path / BIN
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with refused(model := trained("b"), AdapterFileError, f"{BIN} cannot be read as weights"):
        model.load_adapter(tmp_path)


@pytest.mark.parametrize("data", [[torch.zeros(2)], {"x": 3}, torch.zeros(2)], ids=["list", "numbers", "tensor"])
def test_bin_files_of_something_else(data: Any, tmp_path: Path) -> None:
    saved(tmp_path, use_safetensors=False)
    torch.save(data, tmp_path / BIN)
    with refused(model := trained("b"), AdapterFileError, "does not hold tensors by name"):
        model.load_adapter(tmp_path)


def test_all_differences_are_one_message(tmp_path: Path) -> None:
    """Each tensor that is missing, unexpected or of another shape is in it, by the name that it has in the model."""
    saved(tmp_path)
    tensors = load_file(tmp_path / SAFE)
    prefix = "encoder.layer.{}.output.adapters.a."
    missing = [prefix.format(0) + "adapter_up.bias", prefix.format(1) + "adapter_up.bias"]
    misshapen = [prefix.format(0) + "adapter_down.0.weight", "invertible_adapters.a.F.0.bias"]
    unexpected = ["encoder.layer.7.output.adapters.a.adapter_up.bias", "something"]
    for key in missing:
        del tensors[key]
    tensors |= {key: torch.zeros(3) for key in [*misshapen, *unexpected]}
    save_file(tensors, tmp_path / SAFE)
    with refused(model := trained("b"), AdapterFileError, "does not fit this model, which is left as it was"):
        model.load_adapter(tmp_path)
    with pytest.raises(AdapterFileError) as caught:
        model.load_adapter(tmp_path, load_as="c")
    text = str(caught.value)
    assert "Missing (2)" in text and "Unexpected (2)" in text and "Of another shape (2)" in text
    assert all(f"  {key}" in text for key in [*missing, *unexpected, *misshapen])
    assert f"{misshapen[0]}: (3,) in the file, (8, 32) in the model" in text
    assert str(tmp_path) in text


def test_files_of_another_model(tmp_path: Path) -> None:
    """Of another architecture nothing fits; of another size, no shape does."""
    saved(tmp_path)
    with pytest.raises(AdapterFileError, match=r"(?s)Missing \(16\).*layers\.0.*Unexpected \(16\).*encoder\.layer\.0"):
        models.adapted("llama").load_adapter(tmp_path)
    wide = transformers.BertModel(transformers.BertConfig(**{**models.BERT, "hidden_size": 64})).eval()
    adapters.init(wide)
    with refused(wide, AdapterFileError, r"Of another shape \(24\)"):
        wide.load_adapter(tmp_path)
    deep = transformers.BertModel(transformers.BertConfig(**{**models.BERT, "num_hidden_layers": 3})).eval()
    adapters.init(deep)
    with refused(deep, AdapterFileError, r"(?s)Missing \(8\).*encoder\.layer\.2"):
        deep.load_adapter(tmp_path)
    flat = transformers.BertModel(transformers.BertConfig(**{**models.BERT, "num_hidden_layers": 1})).eval()
    adapters.init(flat)
    with refused(flat, AdapterFileError, r"(?s)Unexpected \(8\).*encoder\.layer\.1"):
        flat.load_adapter(tmp_path)


def test_weights_that_are_partly_of_another_adapter(tmp_path: Path) -> None:
    """Two adapters in one file are one too many."""
    saved(tmp_path, "a")
    tensors = load_file(tmp_path / SAFE)
    save_file({**tensors, **{key.replace(".a.", ".b."): t.clone() for key, t in tensors.items()}}, tmp_path / SAFE)
    with refused(model := models.adapted("bert"), AdapterFileError, r"Unexpected \(24\)"):
        model.load_adapter(tmp_path)


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    saved(tmp_path)
    model = trained("b")
    with refused(model, ValueError, "version"):
        model.load_adapter(tmp_path, version="1")
    for call in (model.load_adapter, lambda folder, **k: model.save_adapter(folder, "b", **k)):
        with refused(model, NotImplementedError, "custom_weights_loaders"):
            call(tmp_path, custom_weights_loaders=[object()])
    (tmp_path / "file").write_text("here")
    with refused(model, ValueError, "is a file; an adapter is saved to a folder"):
        model.save_adapter(tmp_path / "file", "b")
    assert (tmp_path / "file").read_text() == "here"


def test_strings_are_paths_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that begin at home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    model = trained()
    model.save_adapter("~/mine", "a")
    assert files(tmp_path / "mine") == [SAFE, CONFIG]
    assert models.adapted("bert").load_adapter(str(tmp_path / "mine")) == models.adapted("bert").load_adapter("~/mine")
