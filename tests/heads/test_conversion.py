"""Heads of classes of transformers become flexible heads, and the other way round, with equal predictions."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from statics import OTHER_INPUTS, built, classes, run
from transformers import BertConfig, BertForSequenceClassification, BertLMHeadModel

import adapters
from adapters import AutoAdapterModel
from adapters.checkpoints.files import AdapterFileError
from adapters.heads import StaticHeadError
from places import SHARED
from zoo import CannotShrink

# Task, model type, class, and the type of the flexible head.
FAMILIES = [
    ("classification", "bert", "BertForSequenceClassification", "classification"),  # a pooler
    ("classification", "roberta", "RobertaForSequenceClassification", "classification"),  # two layers, tanh
    ("classification", "distilbert", "DistilBertForSequenceClassification", "classification"),  # two layers, relu
    ("classification", "deberta-v2", "DebertaV2ForSequenceClassification", "classification"),  # a pooler of its own
    ("classification", "llama", "LlamaForSequenceClassification", "classification"),  # the last token, no bias
    ("classification", "t5", "T5ForSequenceClassification", "classification"),  # the last eos
    ("classification", "modernbert", "ModernBertForSequenceClassification", "static_class"),  # a norm between
    ("tagging", "bert", "BertForTokenClassification", "tagging"),
    ("question_answering", "llama", "LlamaForQuestionAnswering", "question_answering"),  # another prefix
    ("question_answering", "t5", "T5ForQuestionAnswering", "question_answering"),
    ("multiple_choice", "albert", "AlbertForMultipleChoice", "multiple_choice"),
    ("multiple_choice", "modernbert", "ModernBertForMultipleChoice", "static_class"),
    ("masked_lm", "bert", "BertForMaskedLM", "masked_lm"),
    ("masked_lm", "albert", "AlbertForMaskedLM", "masked_lm"),  # smaller embeddings
    ("masked_lm", "mobilebert", "MobileBertForMaskedLM", "static_class"),
    ("causal_lm", "gpt2", "GPT2LMHeadModel", "causal_lm"),
    ("causal_lm", "gemma2", "Gemma2ForCausalLM", "causal_lm"),  # bounded logits
    ("causal_lm", "granite", "GraniteForCausalLM", "causal_lm"),  # divided logits
    ("seq2seq_lm", "marian", "MarianMTModel", "seq2seq_lm"),  # a bias beside the layer
    ("seq2seq_lm", "t5", "T5ForConditionalGeneration", "seq2seq_lm"),
    ("image_classification", "vit", "ViTForImageClassification", "image_classification"),
    ("image_classification", "dinov2", "Dinov2ForImageClassification", "static_class"),  # twice the hidden size
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=[family[2] for family in FAMILIES])


def saved(family: tuple[str, ...], folder: Path) -> Any:
    """A static model, as it is when it was written to a folder and read again."""
    model = built(*family[:3])
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias":
            buffer.normal_()
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


@every_family
def test_checkpoints(family: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    static = saved(family, tmp_path / "static")
    model = AutoAdapterModel.from_pretrained(tmp_path / "static").eval()
    assert model.active_head == "default" and model.heads["default"].config["head_type"] == family[3]
    wanted = run(static, family[0])
    assert torch.allclose(run(model, family[0]), wanted, atol=1e-5)
    assert not caplog.records and not [name for name, p in model.named_parameters() if p.is_meta]
    model.add_adapter("a", set_active=True)  # it does nothing yet
    model.save_pretrained(tmp_path / "flexible")
    again = type(model).from_pretrained(tmp_path / "flexible").eval()
    again.set_active_adapters("a")
    assert torch.equal(run(again, family[0]), run(model, family[0]))
    assert torch.equal(run(copy.deepcopy(again), family[0]), run(model, family[0]))


@every_family
def test_files_of_adapters_and_back(family: tuple[str, ...], tmp_path: Path) -> None:
    task, static = family[0], saved(family, tmp_path / "static")
    wanted = run(static, task)
    adapters.init(static)
    static.add_adapter("a", "lora[r=2]")  # it does nothing yet
    static.save_adapter(tmp_path / "a", "a")
    model = AutoAdapterModel.from_pretrained(tmp_path / "static").eval()
    model.delete_head("default")
    if not (tmp_path / "a" / "head_config.json").is_file():  # all of it is tied
        return
    assert model.load_adapter(tmp_path / "a", set_active=True) == "a"
    assert model.active_head == "a"
    assert torch.allclose(run(model, task), wanted, atol=1e-5)
    model.save_head(tmp_path / "head", "a")
    other = built(*family[:3], seed=1)
    base = static.base_model.state_dict()
    if other.base_model is other:
        base = {name: tensor for name, tensor in base.items() if name.split(".")[0] in ("shared", "encoder", "decoder")}
    other.base_model.load_state_dict({k: t for k, t in base.items() if "adapter" not in k}, strict=False)
    adapters.init(other)
    other.load_head(tmp_path / "head")
    assert torch.allclose(run(other, task), wanted, atol=1e-5)


def labelled(folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    names = ["text", "files", "network"]
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    config.update(options)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return model


def test_labels_and_losses(tmp_path: Path) -> None:
    for problem, labels in (
        (None, torch.tensor([2, 0])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 1, 0]])),
    ):
        static = labelled(tmp_path, problem_type=problem)
        model = AutoAdapterModel.from_pretrained(tmp_path)
        ids = torch.arange(10).view(2, 5)
        assert torch.allclose(model(ids, labels=labels).loss, static(ids, labels=labels).loss)
        assert model.get_labels() == ["text", "files", "network"] == [model.config.id2label[i] for i in range(3)]


def test_heads_without_a_name_need_one(tmp_path: Path) -> None:
    static = labelled(tmp_path / "static")
    adapters.init(static)
    static.save_head(tmp_path / "head")
    model = AutoAdapterModel.from_config(static.config)
    with pytest.raises(ValueError, match="BertForSequenceClassification, which has no name: give load_as="):
        model.load_head(tmp_path / "head")
    assert model.load_head(tmp_path / "head", load_as="topics", id2label={0: "x", 1: "y", 2: "z"}) == "topics"
    assert model.get_labels("topics") == ["x", "y", "z"]
    with pytest.raises(ValueError, match="id2label numbers"):
        model.load_head(tmp_path / "head", load_as="topics", id2label={0: "x"})


def test_what_does_not_fit_a_static_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    static = labelled(tmp_path / "static")
    adapters.init(static)
    model = AutoAdapterModel.from_config(copy.deepcopy(static.config))
    model.add_adapter("a")
    for add, message in (
        (lambda: model.add_tagging_head("a", num_labels=3, overwrite_ok=True), "'classification' there, 'tagging'"),
        (lambda: model.add_classification_head("a", 3, layers=2, overwrite_ok=True), "layers is 1 there, 2"),
        (lambda: model.add_classification_head("a", 4, 1, use_pooler=True, overwrite_ok=True), "num_labels=4"),
    ):
        add()
        model.save_adapter(tmp_path / "a", "a")
        before = copy.deepcopy(static.state_dict())
        with pytest.raises(AdapterFileError, match=message):
            static.load_head(tmp_path / "a")
        caplog.clear()
        assert static.load_adapter(tmp_path / "a") == "a"  # it is of use without its head
        assert "The head was left out." in caplog.text
        static.delete_adapter("a")
        assert all(torch.equal(tensor, before[name]) for name, tensor in static.state_dict().items())


def test_damaged_files(tmp_path: Path) -> None:
    static = labelled(tmp_path / "static")
    adapters.init(static)
    model = AutoAdapterModel.from_config(static.config)
    path = tmp_path / "head" / "model_head.safetensors"
    static.save_head(tmp_path / "head")
    whole = load_file(path)
    for tensors in (
        {},
        {"classifier.weight": whole["classifier.weight"][:2], "classifier.bias": whole["classifier.bias"]},
    ):
        save_file(tensors or {"else": torch.ones(1)}, path)
        with pytest.raises(AdapterFileError):
            model.load_head(tmp_path / "head", load_as="x")
    facts = json.loads((tmp_path / "head" / "head_config.json").read_text())
    for name, message in (("BertForNothing", "no class 'BertForNothing'"), ("ViTForImageClassification", "ViTConfig")):
        (tmp_path / "head" / "head_config.json").write_text(json.dumps(facts | {"model_class": name}))
        with pytest.raises(AdapterFileError, match=message):
            model.load_head(tmp_path / "head", load_as="x")
    assert not len(model.heads)


@pytest.mark.parametrize(
    ("task", "model_type", "name", "reason"),
    [
        ("tagging", "t5", "T5ForTokenClassification", "has a T5EncoderModel as its base model"),
        ("causal_lm", "bart", "BartForCausalLM", "has a BartDecoderWrapper as its base model"),
        ("image_classification", "clip", "CLIPForImageClassification", "only some parts of a base model"),
    ],
)
def test_what_is_not_converted_is_told(
    task: str, model_type: str, name: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built(task, model_type, name).save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    assert not len(model.heads) and reason in caplog.text


def test_a_checkpoint_without_the_head_it_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    static = labelled(tmp_path)
    static.bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    model = AutoAdapterModel.from_pretrained(tmp_path)
    assert not len(model.heads) and "The checkpoint has no classifier.bias, classifier.weight" in caplog.text


def test_own_code_is_for_its_model() -> None:
    model = AutoAdapterModel.from_config(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(StaticHeadError, match="ModernBertConfig"):
        model.add_prediction_head_from_config(
            "x", {"head_type": "static_class", "model_class": "ModernBertForMaskedLM"}
        )


def test_embeddings_of_a_converted_language_model(tmp_path: Path) -> None:
    static = saved(("causal_lm", "bert", "BertLMHeadModel"), tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    assert isinstance(static, BertLMHeadModel)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + 4)
    model.tie_weights()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert run(model, "causal_lm").shape[-1] == rows + 4 == model.heads["default"].config["vocab_size"]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there; set ADAPTERS_SHARED")
def test_heads_are_read_as_release_1_3_says() -> None:
    """That release has a table of classes; here their code is read."""
    table = json.loads((SHARED / "reference" / "api-1.3.json").read_text())["STATIC_TO_FLEX_HEAD_MAP"]
    for task, _, name, _ in FAMILIES:
        if name not in table:
            continue
        static = built(task, getattr(transformers, name).config_class.model_type, name)
        wanted = table[name]["config"]
        model = AutoAdapterModel.from_config(static.config)
        own = {key: tensor for key, tensor in static.state_dict().items()}
        head = adapters.heads.conversion.from_static(model, "x", name, own)
        left_out = {"dropout_prob"} | ({"activation_function"} if head.config["layers"] == 1 else set())
        assert {k: head.config[k] for k in wanted.keys() - left_out} == {k: wanted[k] for k in wanted.keys() - left_out}


@pytest.mark.slow
@pytest.mark.parametrize("family", classes(), ids=lambda family: family[2])
def test_every_class(family: tuple[str, str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, model_type, _ = family
    if model_type in OTHER_INPUTS:
        pytest.skip("it reads other inputs")
    try:
        static = built(*family)
        run(static, task)
    except (CannotShrink, RuntimeError, ValueError, AttributeError, TypeError, LookupError) as error:
        pytest.skip(f"the static class does not run on such inputs: {error}")
    if type(static.config) not in adapters.ADAPTER_MODEL_MAPPING:
        pytest.skip("transformers has no base model of this kind")
    static = saved(family, tmp_path)
    wanted = run(static, task)
    model = AutoAdapterModel.from_pretrained(tmp_path).eval()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    if not len(model.heads):
        assert told
    elif not told:  # else it says what to give in calls
        assert torch.allclose(run(model, task), wanted, atol=1e-5, equal_nan=True)
