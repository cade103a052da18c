"""Files of PEFT without that library: what they hold, what they do, and what is refused. Beside peft: tests/interop."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from importlib.util import find_spec
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
from adapters.checkpoints.errors import AdapterFileError, LoadReport
from adapters.interchange import peft_layout
from adapters.interchange.peft_layout import KEYS, PROMPT_TYPES, SHARED_KEYS, PeftFile

BERT = transformers.BertConfig(**models.BERT, num_labels=3)
LEAVES = ("query", "value")


def shaken(model: Any) -> Any:
    """A model whose biases show too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def bert(class_name: str = "BertForSequenceClassification") -> Any:
    """A model of a class; the base models of all are the same."""
    torch.manual_seed(0)
    base = shaken(transformers.BertModel(BERT))
    model = getattr(transformers, class_name)(BERT).eval()
    model.base_model.load_state_dict(base.state_dict(), strict=False)
    adapters.init(model)
    return model


def hidden(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.base_model(**models.inputs("bert")).last_hidden_state  # type: ignore[no-any-return,operator]


def written(
    folder: Path, options: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Write a file as PEFT does, of rank 2 for queries and values, and give its tensors."""
    generator = torch.Generator().manual_seed(0)
    found = {
        f"base_model.model.bert.encoder.layer.{i}.attention.self.{leaf}.lora_{end}.weight": 0.3
        * torch.randn(shape, generator=generator)
        for i in range(2)
        for leaf in LEAVES
        for end, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    found |= tensors or {}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": list(LEAVES), "task_type": "SEQ_CLS"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**config, **(options or {})}))
    save_file(found, folder / "adapter_model.safetensors", {"format": "pt"})
    return found


def expected(tensors: Mapping[str, Tensor], scaling: float = 3.0) -> Tensor:
    """What the base model gives with s · B A added to its weights."""
    model = bert("BertModel")
    with torch.no_grad():
        for key, a in tensors.items():
            if key.endswith("lora_A.weight"):
                path = key.removeprefix("base_model.model.bert.").removesuffix(".lora_A.weight")
                b = tensors[key.replace("lora_A", "lora_B")]
                model.get_submodule(path).weight += scaling * b @ a
    return hidden(model)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


# -- the layout -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peft_type", KEYS)
def test_keys_run_both_ways(peft_type: str) -> None:
    names = iter(range(1000))
    one = lambda: torch.full((1,), float(next(names)))  # noqa: E731
    file = PeftFile({"peft_type": peft_type})
    if peft_type not in PROMPT_TYPES:
        file.modules = {f"model.layers.{i}.q_proj": {part: one() for part in KEYS[peft_type]} for i in range(2)}
        file.whole = {"model.layers.0.q_proj.bias": one(), "score.weight": one()}
    else:
        file.whole = {"score.weight": one()}
    file.shared = {name: one() for name in SHARED_KEYS.get(peft_type, {})}
    formatted = peft_layout.formatted(file)
    read = peft_layout.parsed(file.options, formatted)
    assert (read.modules, read.shared, read.whole) == (file.modules, file.shared, file.whole)
    assert peft_layout.formatted(read) == formatted
    assert len(formatted) == next(names)


def test_keys_of_other_releases() -> None:
    file = peft_layout.parsed(
        {"peft_type": "PeftType.LORA"},
        {
            "base_model.model.a.lora_A.default.weight": torch.ones(1),
            "a.lora_B.weight": torch.ones(2),
            "base_model.model.a.lora_magnitude_vector.weight": torch.ones(3),
            "base_model.model.b.lora_embedding_A.default": torch.ones(4),
            "base_model.model.head.modules_to_save.default.bias": torch.ones(5),
            "base_model.model.head.original_module.bias": torch.zeros(5),
            "base_model.model.a.base_layer.bias": torch.ones(6),
        },
    )
    assert {path: set(parts) for path, parts in file.modules.items()} == {
        "a": {"lora_A", "lora_B", "m.weight"},
        "b": {"lora_embedding_A"},
    }
    assert set(file.whole) == {"head.bias", "a.bias"} and file.whole["head.bias"].all()


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_name", ["BertModel", "BertForSequenceClassification", "BertForMaskedLM"])
def test_lora_in_any_class_of_the_model(class_name: str, tmp_path: Path) -> None:
    tensors = written(tmp_path)
    model = bert(class_name)
    assert model.load_adapter(tmp_path, load_as="a.b", set_active=True) == "a.b"
    assert torch.allclose(hidden(model), expected(tensors), atol=1e-5)
    config = model.adapters_config.get("a.b")
    assert type(config) is adapters.LoRAConfig and (config.r, config.alpha) == (2, 6)
    assert list(config.target_modules) == list(LEAVES)
    model.save_adapter(tmp_path / "ours", "a.b")
    model.load_adapter(tmp_path / "ours", load_as="again", set_active=True)
    assert torch.allclose(hidden(model), expected(tensors), atol=1e-5)


@pytest.mark.parametrize("start", ["", "bert.", "base_model.model.", "base_model.model.roberta."])
def test_paths_are_matched_by_structure(start: str, tmp_path: Path) -> None:
    tensors = written(tmp_path)
    renamed = {f"{start}{key.removeprefix('base_model.model.bert.')}": t for key, t in tensors.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    model = bert()
    model.load_adapter(tmp_path, set_active=True)
    assert torch.allclose(hidden(model), expected(tensors), atol=1e-5)


def test_names_of_before_transformers_5(tmp_path: Path) -> None:
    model = models.adapted("vit")
    old = "base_model.model.vit.encoder.layer.{}.attention.attention.{}.lora_{}.weight"
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    tensors = {old.format(i, n, e): t.clone() for i in range(2) for n in LEAVES for e, t in (("A", a), ("B", b))}
    written(tmp_path)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    model.load_adapter(tmp_path)
    modules = [module for found in model.get_adapter("default").values() for module in found.values()]
    assert len(modules) == 4 and all(torch.equal(module.lora_B, b) for module in modules)


def test_pytorch_files_are_read_too(tmp_path: Path) -> None:
    tensors = written(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    model = bert()
    with pytest.raises(AdapterFileError, match=r"no adapter_model\.safetensors"):
        model.load_adapter(tmp_path, use_safetensors=True)
    model.load_adapter(tmp_path, set_active=True)
    assert torch.allclose(hidden(model), expected(tensors), atol=1e-5)


def test_layers_are_left_out(tmp_path: Path) -> None:
    tensors = written(tmp_path)
    model = bert()
    model.load_adapter(tmp_path, leave_out=[0], set_active=True)
    kept = {key: tensor for key, tensor in tensors.items() if ".layer.1." in key}
    assert torch.allclose(hidden(model), expected(kept), atol=1e-5)


def test_the_head_of_a_static_class(tmp_path: Path) -> None:
    weight, bias = torch.randn(3, 32), torch.randn(3)
    head = {"base_model.model.classifier.weight": weight, "base_model.model.classifier.bias": bias}
    written(tmp_path, {"modules_to_save": ["classifier", "score"]}, head)
    model, other = bert(), bert()
    model.load_adapter(tmp_path)
    assert torch.equal(model.classifier.weight, weight) and torch.equal(model.classifier.bias, bias)
    before = state(other)
    other.load_adapter(tmp_path, with_head=False)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in before.items())
    written(tmp_path, {}, {"base_model.model.classifier.weight": torch.randn(2, 32)})
    with pytest.raises(AdapterFileError, match=r"classifier\.weight: \(2, 32\) in the file, \(3, 32\) in the model"):
        other.load_adapter(tmp_path, load_as="x")
    assert "x" not in other.adapters_config


def test_the_head_becomes_a_flexible_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    static = bert()
    head = {f"base_model.model.classifier.{name}": p.detach() for name, p in static.classifier.named_parameters()}
    written(tmp_path, {"modules_to_save": ["classifier"]}, head)
    static.load_adapter(tmp_path, set_active=True)
    model = adapters.AutoAdapterModel.from_config(BERT).eval()
    model.base_model.load_state_dict(bert("BertForSequenceClassification").base_model.state_dict())
    labels = {0: "good", 1: "bad", 2: "odd"}
    assert model.load_adapter(tmp_path, load_as="task", set_active=True, id2label=labels) == "task"
    assert model.active_head == "task" and model.get_labels() == ["good", "bad", "odd"]
    with torch.no_grad():
        logits = [m(**models.inputs("bert")).logits for m in (model, static)]
    assert torch.allclose(*logits, atol=1e-5)
    plain = bert("BertModel")
    plain.load_adapter(tmp_path)
    assert "classifier.bias, classifier.weight" in caplog.text


def test_embeddings_that_come_with_the_file(tmp_path: Path) -> None:
    """PEFT writes the embeddings beside the adapter: those of the model change nothing, others belong to it."""
    model = bert()
    own = model.bert.embeddings.word_embeddings.weight.detach()
    key = "base_model.model.bert.embeddings.word_embeddings.weight"
    tensors = written(tmp_path, {}, {key: own})
    model.load_adapter(tmp_path, set_active=True)
    assert type(model.adapters_config.get("default")) is adapters.LoRAConfig
    assert torch.allclose(hidden(model), expected(tensors), atol=1e-5)
    written(tmp_path, {}, {key: own.flip(0)})
    model.load_adapter(tmp_path, load_as="other", set_active=True)
    assert not torch.allclose(hidden(model), expected(tensors), atol=1e-1)
    written(tmp_path, {}, {key: torch.randn(101, 32)})
    with pytest.raises(AdapterFileError, match=r"\(101, 32\).*\(100, 32\).*resize_token_embeddings"):
        model.load_adapter(tmp_path)


# -- what is refused ------------------------------------------------------------------------------------------------


def refused(folder: Path, message: str, model: Any = None, **arguments: Any) -> None:
    """That loading raises an error, and leaves the model as it was."""
    model = model or bert()
    before = state(model)
    with pytest.raises(AdapterFileError, match=message):
        model.load_adapter(folder, **arguments)
    after = state(model)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert not model.has_adapters()


def test_all_differences_are_one_error(tmp_path: Path) -> None:
    tensors = written(tmp_path)
    names = list(tensors)
    changed = {**tensors, names[1]: torch.randn(31, 2), "base_model.model.classifier.lora_A.weight": torch.randn(2, 32)}
    del changed[names[2]]
    save_file(changed, tmp_path / "adapter_model.safetensors")
    pattern = r"(?s)Missing \(1\).*Unexpected \(1\).*classifier\.lora_A.*Of another shape \(1\).*without its head"
    refused(tmp_path, pattern)
    report = LoadReport()
    bert().load_adapter(tmp_path, strict=False, report=report)
    assert (len(report.missing), len(report.unexpected), len(report.misshapen)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts.up"], "arrow_config": {"top_k": 1}}, r"(?s)target_parameters.*arrow_config"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"bias": "some"}, "bias='some'"),
        ({"r": 3}, "Of another shape"),
        ({"r": 0}, "should be a whole number above 0|division by zero"),
        ({"target_modules": ["query"]}, "Unexpected"),
        ({"target_modules": ["query", "value", "key"]}, r"(?s)Missing.*key"),
        ({"target_modules": "(a+)+b["}, "no regular expression"),
        ({"target_modules": "nothing"}, "chooses no matrix"),
        ({"target_modules": r"(\w|\w\w|\w\w\w|\.)+[^\w.]"}, "takes too long"),
        ({"modules_to_save": ["pooler"]}, r"(?s)Missing.*pooler"),
        ({"rank_pattern": [1]}, r"rank_pattern=\[1\]"),
    ],
)
def test_options_without_a_method(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    written(tmp_path, options)
    refused(tmp_path, message)


@pytest.mark.skipif(find_spec("peft") is not None, reason="peft is installed, and takes it")
def test_types_without_a_method(tmp_path: Path) -> None:
    written(tmp_path, {"peft_type": "LOHA"})
    refused(tmp_path, r"peft_type='LOHA'.*pip install adapters\[peft\]")


def test_further_options_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = written(tmp_path, {"use_novelty": True, "trained_by": None})
    model = bert()
    model.load_adapter(tmp_path, set_active=True)
    assert "use_novelty=True" in caplog.text and "trained_by" not in caplog.text
    assert torch.allclose(hidden(model), expected(tensors), atol=1e-5)
    with pytest.raises(ValueError, match="its own configuration"):
        model.load_adapter(tmp_path, "lora")


def test_broken_options_are_errors_of_the_file(tmp_path: Path) -> None:
    """Whatever the configuration says, there is a clear error or an adapter, and never half of one."""
    draw = random.Random(0)
    values: list[Any] = [None, True, -1, 0, 2, 10**9, 1.5, "", "x", "(", [], ["query"], {}, {"q": 1}, [[1]], 1e400]
    names = ["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "layers_to_transform", "bias"]
    names += ["lora_dropout", "modules_to_save", "exclude_modules", "init_lora_weights", "use_dora", "peft_type"]
    model = bert()
    before = state(model)
    for _ in range(60):
        written(tmp_path, {name: draw.choice(values) for name in draw.sample(names, 2)})
        try:
            model.load_adapter(tmp_path)
        except AdapterFileError:
            assert not model.has_adapters()
        else:
            model.delete_adapter("default")
        assert state(model).keys() == before.keys()


# -- writing --------------------------------------------------------------------------------------------------------


def test_what_is_written(tmp_path: Path) -> None:
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**models.LLAMA))
    adapters.init(model)
    model.add_adapter("a", adapters.LoRAConfig(r=4, alpha=8, dropout=0.1, leave_out=[0]))
    report = adapters.export_adapter(model, "a", tmp_path / "a")
    assert sorted(path.name for path in report.files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (report.peft_type, report.rank, report.is_served) == ("LORA", 4, True)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"] and config["layers_to_transform"] == [1]
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (4, 8, 0.1, "none")
    with safe_open(tmp_path / "a" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == [
            f"base_model.model.model.layers.1.self_attn.{name}_proj.lora_{end}.weight" for name in "qv" for end in "AB"
        ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("seq_bn", "no method with modules such as Bottleneck"),
        ("loreft", "model.save_adapter"),
        ("lora[use_gating=True]", "use_gating=True"),
        ("prefix_tuning[prefix_length=2, bottleneck_size=4]", r"counts_positions=True"),
        ("prompt_tuning[combine=prefix_after_bos]", "prefix_after_bos"),
        ("mam", r"(?s)Bottleneck.*position"),
        ("bitfit", "biases"),
    ],
)
def test_what_cannot_be_written(config: str, message: str, tmp_path: Path) -> None:
    model = models.adapted("bert")
    model.add_adapter("a", config)
    assert not adapters.check_export(model, "a").is_served
    with pytest.raises(adapters.ExportError, match=message):
        adapters.export_adapter(model, "a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_heads_are_written(tmp_path: Path) -> None:
    static = bert()
    flexible = adapters.AutoAdapterModel.from_config(BERT).eval()
    flexible.add_classification_head("a", num_labels=3, layers=1, activation_function=None, use_pooler=True)
    for model in (static, flexible):
        model.add_adapter("a", "lora")
        adapters.export_adapter(model, "a", tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
        keys = load_file(tmp_path / "adapter_model.safetensors").keys()
        assert {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} <= keys
        assert all(key.startswith(("base_model.model.bert.encoder.", "base_model.model.classifier.")) for key in keys)
        adapters.export_adapter(model, "a", tmp_path, with_head=False)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] is None


# -- for whom -------------------------------------------------------------------------------------------------------


def loaded_again(folder: Path, family: str = "llama") -> list[Tensor]:
    model = shaken(models.adapted(family))
    model.load_adapter(folder, set_active=True)
    with torch.no_grad():
        return models.outputs(model, family)


def with_adapter(config: Any, family: str = "llama", std: float = 0.1) -> Any:
    model = shaken(models.adapted(family))
    model.add_adapter("a", config, set_active=True)
    models.randomise(model, "a", std)
    return model


@pytest.mark.parametrize("consumer", ["peft", "vllm", "lorax", "tgi", "llama.cpp"])
def test_everybody_takes_lora(consumer: str, tmp_path: Path) -> None:
    """Ranks and scalings of all kinds become what each of them reads, and the adapter does the same."""
    config = adapters.LoRAConfig(
        use_rslora=True, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 3}, alpha_pattern={"q_proj": 5}
    )
    model = with_adapter(config)
    report = adapters.export_adapter(model, "a", tmp_path, consumer)
    options = json.loads((tmp_path / "adapter_config.json").read_text())
    if consumer in ("lorax", "tgi", "llama.cpp"):
        assert "scalings are folded into B, and ranks filled up with zeros" in report.notes
        assert not options["rank_pattern"] and not options["alpha_pattern"] and not options["use_rslora"]
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        assert {len(tensor) for key, tensor in tensors.items() if "lora_A" in key} == {8}
    with torch.no_grad():
        expected = models.outputs(model, "llama")
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(loaded_again(tmp_path), expected, strict=True))


@pytest.mark.parametrize(
    ("config", "consumer", "message"),
    [
        ("dora", "vllm", "DoRA"),
        ("vera", "vllm", "VERA"),
        ("ia3", "llama.cpp", "IA3"),
        (adapters.PromptTuningConfig(counts_positions=True), "tgi", "PROMPT_TUNING: serve it"),
        (adapters.LoRAConfig(target_modules=["q_proj", "embed_tokens"]), "tgi", "embedding"),
        (adapters.ConfigUnion(adapters.LoRAConfig(), adapters.ModulesToSaveConfig(["norm"])), "vllm", "whole"),
        ("lora[r=600]", "vllm", "up to 512"),
        ("lora", "ollama", "there are peft, vllm"),
    ],
)
def test_what_cannot_be_served(config: Any, consumer: str, message: str, tmp_path: Path) -> None:
    model = with_adapter(config)
    with pytest.raises(ValueError, match=message):
        adapters.export_adapter(model, "a", tmp_path / "a", consumer)
    assert not (tmp_path / "a").exists()


def test_servers_are_told_of_ranks(tmp_path: Path) -> None:
    report = adapters.check_export(with_adapter("lora[r=20]"), "a", "vllm")
    assert report.notes == ("start the server with --max-lora-rank 32",) and report.is_served
    assert str(report).splitlines()[0] == f"a for vLLM: can be served (LORA, rank 20, {report.parameters:,} parameters)"


@pytest.mark.parametrize("config", ["dora", "vera", "adalora", "ia3", "mtl_lora", "dvora", "lora[r=20]"])
def test_conversion_on_the_way(config: str, tmp_path: Path) -> None:
    model = with_adapter(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = adapters.export_adapter(model, "a", tmp_path, "vllm", rank=16)
    assert report.conversion is not None and report.rank <= 16
    model.load_adapter(tmp_path, load_as="b")
    expected = adapters.convert_to_lora(model, "a", "c", rank=16)
    assert report.conversion.errors == expected.errors
    outputs = []
    for name in "bc":
        model.set_active_adapters(name)
        with torch.no_grad():
            outputs.append(models.outputs(model, "llama")[0])
        model.delete_adapter(name)
    assert torch.allclose(*outputs, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# -- conversion -----------------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "lora": "lora[r=4, alpha=6]",
    "rslora": "lora[r=4, use_rslora=True]",
    "pissa": "lora[r=4, init_weights=pissa]",
    "dora": "dora[r=4]",
    "dora of the paper": adapters.DoRAConfig(r=4, scale_bias=False),
    "vera": "vera[r=4]",
    "dvora": "dvora[r=4]",
    "adalora": "adalora[r=4, target_r=2]",
    "mtl_lora": "mtl_lora[r=4, n_up_projection=2]",
    "ia3": "ia3",
    "ia3 of inputs": adapters.IA3Config(target_modules=["dense", "c_proj"], scale_inputs_of=["dense", "c_proj"]),
}


def part_of(family: str, kind: str) -> Any:
    if kind == "ia3 of inputs":
        names = {"bert": ["attention.output.dense"], "gpt2": ["mlp.c_proj"]}[family]
        return adapters.IA3Config(target_modules=names, scale_inputs_of=names)
    return CHANGES[kind]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_full_rank_is_exact(family: str, kind: str) -> None:
    model = with_adapter(part_of(family, kind), family)
    report = adapters.convert_to_lora(model, "a", "b", rank=128)
    assert report.is_exact and report.error < 1e-6 and set(report.errors) and report.adapter_name == "a"
    outputs = []
    for name in "ab":
        model.set_active_adapters(name)
        with torch.no_grad():
            outputs.append(models.outputs(model, family)[0])
    assert torch.allclose(*outputs, atol=2e-5)
    assert bool(report.biases) == (kind in ("dora", "dvora", "ia3"))


def test_the_error_is_that_of_the_weights() -> None:
    model = with_adapter("dora[r=4]")
    report = adapters.convert_to_lora(model, "a", "b", rank=3)
    changes = []
    for name in "ab":
        model.merge_adapter(name)
        merged = {p: m.weight.detach().clone() for p, m in model.named_modules() if p in report.errors}
        model.reset_adapter(name)
        changes.append({path: merged[path] - model.get_submodule(path).weight.detach() for path in merged})
    squares = [0.0, 0.0]
    for path, error in report.errors.items():
        lost, size = (changes[0][path] - changes[1][path]).norm(), changes[0][path].norm()
        assert error == pytest.approx(float(lost / size), rel=1e-3)
        assert error > 0.05
        squares = [squares[0] + float(lost**2), squares[1] + float(size**2)]
    assert report.error == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-3)
    assert f"{report.error:.3g}" in str(report)


def test_what_cannot_be_converted() -> None:
    model = with_adapter("seq_bn[reduction_factor=4]", "bert")
    model.add_adapter("gated", "lora[use_gating=True]")
    model.add_adapter("dora", "dora")
    for name, arguments, message in (
        ("a", {}, "more than a change of weights"),
        ("gated", {}, "gates"),
        ("dora", {}, "rank=16"),
        ("dora", {"rank": 0}, "rank=0"),
        ("nobody", {}, "nobody"),
    ):
        with pytest.raises(ValueError, match=message):
            adapters.convert_to_lora(model, name, "new", **arguments)
    with pytest.raises(ValueError, match="already"):
        adapters.convert_to_lora(model, "dora", "a", rank=4)
    assert "new" not in model.adapters_config
    models.randomise(model, "dora")
    report = adapters.convert_to_lora(model, "dora", "new", rank=4, keep_biases=False)
    assert report.biases and not report.is_exact and "left as they are" in str(report)
    assert type(model.adapters_config.get("new")) is adapters.LoRAConfig
