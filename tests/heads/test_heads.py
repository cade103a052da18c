"""Every type of head: its loss is transformers' own for the same weights, and its files give it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import CASES, IDS, ROWS, TEXT, TOKENS, fill, pair
from torch import Tensor, nn

import models
from adapters import AutoAdapterModel
from adapters.heads import ClassificationHead, PredictionHead, TaggingHead


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[3]}")
def test_like_transformers(case: Any, tmp_path: Path) -> None:
    name, static_class, config, method, options, layers, given, labels = case
    static, model = pair(name, static_class, **config)
    getattr(model, f"add_{method}_head")("task", **options)
    fill(model.heads["task"], *(static.get_submodule(layer) for layer in layers))
    if name == "bart":
        static.final_logits_bias = torch.zeros_like(static.final_logits_bias) if method == "seq2seq_lm" else None
    wanted, found = static(**given, **labels), model(**given, **labels)
    assert type(found) is type(wanted)
    torch.testing.assert_close(found.loss, wanted.loss)
    logits = "start_logits" if method == "qa" else "logits"
    torch.testing.assert_close(found[logits], wanted[logits])
    model.save_head(tmp_path, "task")
    assert model.load_head(tmp_path, load_as="again") == "again"
    assert torch.equal(model(**given, **labels, head="again").loss, found.loss)
    assert model.heads["again"].config == model.heads["task"].config


def test_causal_language_model() -> None:
    static, model = pair("gpt2", "GPT2LMHeadModel")
    model.add_prediction_head_from_config("task", {"head_type": "causal_lm"})
    torch.testing.assert_close(model(**TEXT, labels=TOKENS).loss, static(**TEXT, labels=TOKENS).loss)


def test_tied_to_the_embeddings(tmp_path: Path) -> None:
    _, model = pair("bert", "BertForMaskedLM")
    model.add_masked_lm_head("task")
    embeddings = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is embeddings
    wanted = model(**TEXT).logits
    model.save_pretrained(tmp_path)
    again = AutoAdapterModel.from_pretrained(tmp_path).eval()
    assert again.active_head == "task" and again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again(**TEXT).logits, wanted)
    model.save_head(tmp_path / "head", "task")
    _, other = pair("bert", "BertForMaskedLM")
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(1.0)
    other.load_head(tmp_path / "head")  # made with other embeddings, and keeps them
    assert torch.equal(other.heads["task"][-1].weight, embeddings)
    model.heads["task"][-1].weight.data.zero_()
    assert not model.get_input_embeddings().weight.any()


class Own(PredictionHead):
    """A head as users of AdapterHub's `adapters` write them."""

    def __init__(self, model: Any, head_name: str, **config: Any) -> None:
        super().__init__(head_name)
        self.config = {"num_labels": 2, "layers": 1, "activation_function": "tanh", **config}
        self.build(model)

    def forward(self, outputs: Any, cls_output: Any = None, attention_mask: Any = None, return_dict: bool = False,
                **kwargs: Any) -> Any:  # fmt: skip
        return super().forward(outputs[0]) * kwargs.get("factor", 1)


def test_custom_heads(tmp_path: Path) -> None:
    _, model = pair("bert", "BertModel")
    model.register_custom_head("own", Own)
    model.register_custom_head("plain", nn.Linear)
    model.add_custom_head("own", "a", num_labels=4)
    logits = model(**TEXT)
    assert logits.shape == (4, 6, 4) and torch.equal(model(**TEXT, factor=2), 2 * logits)
    model.add_custom_head("plain", "b", in_features=32, out_features=5)
    assert model(**TEXT).logits.shape == (4, 6, 5)
    model.save_pretrained(tmp_path)
    again = AutoAdapterModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**TEXT, head="a"), logits)
    with pytest.raises(ValueError, match="type of heads of this library"):
        model.register_custom_head("tagging", Own)


def test_heads_are_added_listed_and_removed(tmp_path: Path) -> None:
    _, model = pair("bert", "BertModel")
    model.add_prediction_head(ClassificationHead(model, "a", num_labels=2, id2label={0: "no", 1: "yes"}))
    model.add_prediction_head(TaggingHead(model, "b"), set_active=False)
    assert model.active_head == "a" and model.get_labels() == ["no", "yes"]
    model.save_all_heads(tmp_path)
    model.delete_head("a")
    assert model.load_head(tmp_path / "a") == "a" and model.get_labels_dict("a") == {0: "no", 1: "yes"}
    with pytest.raises(ValueError, match="named 'a' already"):
        model.add_tagging_head("a")
    model.add_tagging_head("a", overwrite_ok=True)
    assert list(model.get_prediction_heads_config()) == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("bert", "image_classification", "reads no images"),
        ("bert", "seq2seq_lm", "no decoder"),
        ("gpt2", "masked_lm", "do not see those behind"),
        ("bart", "causal_lm", "encoder with a decoder"),
        ("vit", "classification", "reads images"),
        ("whisper", "classification", "input_features"),
        ("clip", "classification", "compares images with texts"),
    ],
)
def test_heads_without_meaning(name: str, method: str, message: str) -> None:
    model = AutoAdapterModel.from_config(models.bare(name).config)
    with pytest.raises(ValueError, match=message):
        getattr(model, f"add_{method}_head")("task")
    assert not len(model.heads)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("classification", {"labels": ROWS[:, None, None]}, "needs labels of shape"),
        ("tagging", {"labels": ROWS}, "needs labels of shape .4, 6., not .4,"),
        ("qa", {"start_positions": ROWS}, "end_positions is missing"),
        ("dependency_parsing", {"labels_arcs": IDS}, "needs word_starts"),
        ("multiple_choice", {"labels": ROWS[:1]}, "labels has 1 rows"),
    ],
)
def test_wrong_labels(method: str, arguments: dict[str, Tensor], message: str) -> None:
    _, model = pair("bert", "BertModel")
    getattr(model, f"add_{method}_head")("task")
    with pytest.raises(ValueError, match=message):
        model(**TEXT, **arguments)
