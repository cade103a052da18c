"""transformers' pipelines with models of this library: what they give is what calls by hand give, with labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

import adapters
from adapters import AutoAdapterModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "was", "good", "bad", "rain", "falls", "."]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = BertConfig(**SIZES, intermediate_size=16, max_position_embeddings=32)
SENTENCE = "the film was good ."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=own, **{f"{key}_token": name for key, name in names.items()})


def flexible() -> Any:
    """A model with an adapter and a head of each kind, all of them random."""
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(BertConfig.from_dict(BERT.to_dict()))
    model.add_adapter("a", set_active=True)
    model.add_classification_head("mood", num_labels=2, id2label={0: "sad", 1: "glad"})
    model.add_classification_head("marks", num_labels=3, multilabel=True, id2label={0: "x", 1: "y", 2: "z"})
    model.add_tagging_head("words", num_labels=3, id2label={0: "THING", 1: "DEED", 2: "OTHER"})
    model.add_masked_lm_head("gaps")
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0]


def test_labels_follow_the_active_head(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = flexible()
    model.active_head = "mood"
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    wanted = logits(model, tokenizer, SENTENCE).softmax(-1)
    assert classify(SENTENCE) == [
        {"label": ["sad", "glad"][int(wanted.argmax())], "score": pytest.approx(float(wanted.max()), abs=1e-6)}
    ]
    model.active_head = "marks"
    scores = {each["label"]: each["score"] for each in classify(SENTENCE, top_k=None)}
    wanted = logits(model, tokenizer, SENTENCE).sigmoid()  # a row may have several of these labels
    assert scores == {name: pytest.approx(float(wanted[i]), abs=1e-6) for i, name in enumerate("xyz")}
    model.active_head = "mood"
    assert set(each["label"] for each in classify(SENTENCE, top_k=None)) == {"sad", "glad"}
    assert "not supported" not in caplog.text


def test_a_model_of_transformers_that_does_not_fit_is_still_told_of(tokenizer: Any) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    try:
        pipeline("text-classification", model=flexible(), tokenizer=tokenizer)
        assert not records
        pipeline("text-classification", model=flexible().bert, tokenizer=tokenizer)
        assert "not supported" in records[0].getMessage()
    finally:
        logging.getLogger("transformers").removeHandler(handler)


def test_token_classification(tokenizer: Any) -> None:
    model = flexible()
    model.active_head = "words"
    found = pipeline("token-classification", model=model, tokenizer=tokenizer)(SENTENCE)
    wanted = logits(model, tokenizer, SENTENCE)[1:-1].argmax(-1)
    assert [each["entity"] for each in found] == [["THING", "DEED", "OTHER"][i] for i in wanted]


def test_fill_mask(tokenizer: Any) -> None:
    model = flexible()
    model.active_head = "gaps"
    found = pipeline("fill-mask", model=model, tokenizer=tokenizer)("the film was [MASK] .", top_k=2)
    wanted = logits(model, tokenizer, "the film was [MASK] .")[4].softmax(-1).topk(2)
    assert [each["token"] for each in found] == wanted.indices.tolist()
    assert [each["score"] for each in found] == pytest.approx(wanted.values.tolist(), abs=1e-6)


@pytest.mark.parametrize("is_static", [True, False])
def test_text_generation(tokenizer: Any, tmp_path: Path, is_static: bool) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=0)
    config.eos_token_id = config.bos_token_id = 3
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path) if is_static else AutoAdapterModel.from_pretrained(tmp_path)
    if is_static:
        adapters.init(model)
    model.add_adapter("a", set_active=True)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    found = write("the film", return_tensors=True, **options)[0]["generated_token_ids"]
    wanted = model.generate(**tokenizer("the film", return_tensors="pt"), **options)[0].tolist()
    assert wanted[-4:] == list(found)[-4:]


def test_static_classes(tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = BertConfig(**BERT.to_diff_dict(), id2label={0: "sad", 1: "glad"}, label2id={"sad": 0, "glad": 1})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    adapters.init(model)
    model.add_adapter("a", set_active=True)
    (found,) = pipeline("text-classification", model=model, tokenizer=tokenizer)(SENTENCE)
    wanted = logits(model, tokenizer, SENTENCE).softmax(-1)
    assert found == {"label": ["sad", "glad"][int(wanted.argmax())], "score": pytest.approx(float(wanted.max()))}


def test_image_classification(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from transformers import ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    config.id2label, config.label2id = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
    ViTForImageClassification(config).save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    picture = image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), 20).convert("RGB")
    found = pipeline("image-classification", model=model, image_processor=processor)(picture)
    with torch.no_grad():
        wanted = model(**processor(picture, return_tensors="pt")).logits[0].softmax(-1)
    assert found[0] == {"label": ["cat", "dog"][int(wanted.argmax())], "score": pytest.approx(float(wanted.max()))}
