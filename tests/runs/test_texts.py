"""Kinds of tasks whose answers are texts: language models that go on, fill gaps, and translate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from adapters.runs import RunConfig, RunError
from adapters.runs.config import TaskSection
from adapters.runs.fitting import train
from adapters.runs.kinds.language_modeling import CausalLM
from adapters.runs.rows import read
from adapters.runs.using import Trained

pytest.importorskip("accelerate")

SIZE = len(tiny.SPECIAL) + len(tiny.TEXT.split())
WIDTH: dict[str, Any] = {"vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 64}
NAMES: dict[str, Any] = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
MODELS: dict[str, Any] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=SIZE, n_positions=64, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0, **NAMES)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDTH, num_hidden_layers=2, num_attention_heads=2, **NAMES)),
    "bert": lambda: BertForMaskedLM(
        BertConfig(**WIDTH, num_hidden_layers=2, num_attention_heads=2, hidden_dropout_prob=0, initializer_range=0.2)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=SIZE, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0, **NAMES)
    ),
}
KINDS = {"gpt2": "causal_lm", "llama": "causal_lm", "bert": "masked_lm", "t5": "seq2seq_lm"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {}
    for name, made in MODELS.items():
        found[name] = tiny.model_folder(tmp_path_factory.mktemp(name))
        tokenizer = AutoTokenizer.from_pretrained(found[name])
        tokenizer.eos_token, tokenizer.model_max_length = "[SEP]", 32
        if name != "bert":
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(found[name])
        torch.manual_seed(0)
        made().save_pretrained(found[name])
    return found


def trained(folders: dict[str, str], name: str, path: Path, rows: list[dict[str, Any]], **changes: Any) -> Trained:
    """A tiny model, whole, trained on some rows."""
    known = {
        "model": folders[name],
        "task.kind": KINDS[name],
        "task.data_dir": str(tiny.splits(path / "data", rows)),
        "task.max_new_tokens": 6,
        "adapter.name": "texts",
        "training.epochs": 1,
        "training.batch_size": 8,
        "training.learning_rate": 0.01,
        "output": str(path / "out"),
    }
    train(RunConfig.read(None, known | {key.replace("__", "."): value for key, value in changes.items()}))
    return Trained.load(path / "out")


@pytest.mark.parametrize("name", KINDS)
def test_the_head_of_the_model_is_used_and_not_saved(name: str, folders: dict[str, str], tmp_path: Path) -> None:
    rows = [{"text": "the film was good", "source": "good film", "target": "the film"}] * 4
    changed = trained(folders, name, tmp_path, rows).model
    assert list(changed.heads) == ["default"] and changed.active_head == "default"
    files = {path.name for path in (tmp_path / "out" / "adapter").iterdir()}
    assert "adapter.safetensors" in files and not any("head" in file for file in files)


def test_a_language_model_goes_on(folders: dict[str, str], tmp_path: Path) -> None:
    rows = [{"text": "the film was good"}] * 40
    found = trained(
        folders, "gpt2", tmp_path, rows, adapter__train_model=True, training__epochs=15, task__max_length=16
    )
    own = [{"text": text} for text in ("the film", "film", "the film was")]
    alone = [found.predict(found.rows_of_texts([row["text"]]))[0] for row in own]
    together = found.predict(found.rows_of_texts([row["text"] for row in own]), 3)
    assert together == alone and together[0]["text"].split()[:2] == ["was", "good"]
    measured = found.evaluate(found.rows(None, "validation"))
    assert measured["perplexity"] < 2 and set(measured) == {"rows", "loss", "perplexity"}
    long = found.rows_of_texts(["the film was good " * 20, ""])
    assert all(len(answer["text"].split()) <= 6 for answer in found.predict(long))


def test_masks_are_filled(folders: dict[str, str], tmp_path: Path) -> None:
    rows = [{"text": "the film was good"}] * 40
    found = trained(folders, "bert", tmp_path, rows, training__epochs=2, task__max_length=16)
    answers = found.predict(found.rows_of_texts(["the [MASK] was good", "oslo was [MASK] the film [MASK] bad"]))
    for answer, text in zip(answers, ("the {} was good", "oslo was {} the film {} bad"), strict=True):
        assert answer["text"] == text.format(*answer["filled"]) and len(answer["filled"]) == text.count("{}")
    one, other = (found.evaluate(found.rows(None, "validation"), size) for size in (64, 64))
    assert one == other and one["perplexity"] > 1
    with pytest.raises(RunError, match=r"there is no \[MASK\] in 'a film'"):
        found.predict(found.rows_of_texts(["a film"]))


def test_texts_are_made_of_texts(folders: dict[str, str], tmp_path: Path) -> None:
    words = ("good", "bad", "fine", "poor")
    rows = [{"source": f"the {a} film", "target": f"{a} film"} for a in words] * 10
    changes = {"adapter__train_model": True, "training__epochs": 20, "training__evaluate": 100}
    found = trained(folders, "t5", tmp_path, rows, **changes, training__metric="exact_match")
    measured = found.evaluate(found.rows(None, "validation"))
    assert measured["exact_match"] > 50 and measured["rouge1"] >= measured["exact_match"] <= measured["chrf"]
    answers = found.predict(found.rows(None, "validation"))
    right = [answer["target"] == row["target"] for answer, row in zip(answers, rows, strict=True)]
    assert measured["exact_match"] == pytest.approx(100 * sum(right) / len(right), abs=0.01)
    metrics = (tmp_path / "out" / "metrics.json").read_text()
    assert f'"exact_match": {measured["exact_match"]}' in metrics and '"bleu"' in metrics


@pytest.mark.parametrize("name", ["bert", pytest.param("t5", marks=pytest.mark.slow)])
def test_what_is_drawn_is_drawn_again(name: str, folders: dict[str, str], tmp_path: Path) -> None:
    rows = [{"text": "the film was good a book", "source": "good film", "target": "film"}] * 24
    changes = {"training__epochs": 3, "training__batch_size": 2, "task__max_length": 16}

    def stop(point: Any) -> None:
        if point["step"] > point["steps"] // 2:
            raise InterruptedError

    whole = trained(folders, name, tmp_path / "whole", rows, **changes)
    config = (tmp_path / "whole" / "out" / "run.yaml", {"output": str(tmp_path / "out")})
    with pytest.raises(InterruptedError):
        train(RunConfig.read(*config), stop)
    train(RunConfig.read(*config), resume=True)
    found = Trained.load(tmp_path / "out")
    one, other = (own.evaluate(own.rows(None, "validation")) for own in (found, whole))
    assert one == other and one["loss"] > 0
    trained_again = dict(found.model.named_parameters())
    assert all(torch.equal(trained_again[key], value) for key, value in whole.model.named_parameters())


def test_a_model_without_a_decoder_cannot_translate(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="BertModel has no encoder with a decoder"):
        trained(folders, "bert", tmp_path, [{"source": "a", "target": "b"}], task__kind="seq2seq_lm")


def test_a_model_that_reads_in_both_directions_has_nothing_to_foretell(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"BertModel sees the tokens that it would have to foretell.*masked_lm"):
        trained(folders, "bert", tmp_path, [{"text": "the film was good"}] * 4, task__kind="causal_lm")


def test_an_adapter_alone_answers_with_the_head_of_its_model(folders: dict[str, str], tmp_path: Path) -> None:
    rows = [{"text": "the film was good"}] * 8
    of_run = trained(folders, "gpt2", tmp_path, rows, adapter__config="lora[r=4]")
    alone = Trained.of_adapter(str(tmp_path / "out" / "adapter"), folders["gpt2"])
    assert (alone.kind.task.kind, alone.model.active_head) == ("causal_lm", "default")
    one, other = (own.evaluate(own.rows(tmp_path / "data" / "train.jsonl", "train")) for own in (of_run, alone))
    assert one == other and one["loss"] > 0
    with pytest.raises(RunError, match="An adapter has no files of its own: give --file"):
        alone.rows(None, "validation")


def test_texts_begin_as_the_model_wants_it(folders: dict[str, str], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])
    rows = read(tiny.write(tmp_path / "rows.jsonl", [{"text": "the film was good"}, {"text": ""}]))
    lengths = {}
    for bos in (None, "[CLS]"):  # which this tokenizer puts in front
        tokenizer.bos_token = bos
        kind = CausalLM(TaskSection(kind="causal_lm", max_new_tokens=2), tokenizer, [])
        asked = [feature["input_ids"] for feature in kind.prepared(rows, is_labelled=False).features]
        learned = kind.prepared(rows, is_labelled=True).features[0]["input_ids"]
        lengths[bos] = [len(learned), *map(len, asked)]
    assert lengths == {None: [6, 4, 1], "[CLS]": [8, 5, 1]} and asked[1] == [2] and learned[:2] == [2, *asked[0][1:2]]
