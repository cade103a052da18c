"""Embeddings for other tokenizers: sizes, what is taken over, what changes with them, files, and the way back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

import adapters
import models
from adapters import ConfigUnion, ModulesToSaveConfig

SPECIAL = ["[PAD]", "[UNK]"]
NEW_ID = 111  # a token that only the new tokenizer has

# model class: (family, whether the output layer is tied to the embeddings)
LANGUAGE_MODELS = {
    "BertForMaskedLM": ("bert", True),
    "RobertaForMaskedLM": ("roberta", True),
    "GPT2LMHeadModel": ("gpt2", True),
    "LlamaForCausalLM": ("llama", False),
    "Gemma3ForCausalLM": ("gemma3", True),
    "T5ForConditionalGeneration": ("t5", True),
    "BartForConditionalGeneration": ("bart", True),
}
every_model = pytest.mark.parametrize("model_class", LANGUAGE_MODELS)


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    inner = Tokenizer(WordLevel({word: n for n, word in enumerate(SPECIAL + words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")


OLD = tokenizer([f"w{n}" for n in range(98)])  # of 100 tokens, as the tiny models
NEW = tokenizer([f"w{n}" for n in range(50, 160)])  # of 112 tokens: w50 is 52 in the old one, and 2 here


def language_model(model_class: str) -> nn.Module:
    family, is_tied = LANGUAGE_MODELS[model_class]
    config_class, arguments, *_ = models.FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**arguments, tie_word_embeddings=is_tied)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():  # the biases of new heads are zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    adapters.init(model)
    return model


def outputs(model: nn.Module, model_class: str) -> list[Tensor]:
    with torch.no_grad():
        return models.outputs(model, LANGUAGE_MODELS[model_class][0])


def loss(model: nn.Module, model_class: str) -> Any:
    """The loss on rows with a new token, on every side."""
    given = models.inputs(LANGUAGE_MODELS[model_class][0])
    given["input_ids"][0, 1] = NEW_ID
    given["labels"] = given.get("decoder_input_ids", given["input_ids"]).clone()
    given["labels"][0, 1] = NEW_ID
    return model(**given)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


# -- sizes and numbers ----------------------------------------------------------------------------------------------


@every_model
def test_all_that_counts_tokens_changes(model_class: str) -> None:
    """adapters#557: T5's output layer kept its old size; here a loss on a new token is finite, and trains it."""
    model = language_model(model_class)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = outputs(model, model_class)
    model.add_embeddings("new", NEW)
    assert model.active_embeddings == "new" and list(model.loaded_embeddings) == ["default", "new"]
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == len(NEW) == 112
    assert model.get_output_embeddings().out_features == 112
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert is_tied == LANGUAGE_MODELS[model_class][1]
    result = loss(model, model_class)
    assert result.logits.shape[-1] == 112 and result.loss.isfinite()
    result.loss.backward()
    assert model.get_input_embeddings().weight.grad[NEW_ID].abs().sum() > 0
    model.zero_grad()
    model.set_active_embeddings("default")
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 100
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert same(outputs(model, model_class), before)


def test_size_is_that_of_the_tokenizer() -> None:
    """adapters#383: tokens that were added count, whatever a configuration says; and numbers may be left out."""
    model = language_model("BertForMaskedLM")
    grown = copy.deepcopy(NEW)
    grown.add_tokens(["<one>", "<two>"])
    model.add_embeddings("grown", grown)
    assert model.get_input_embeddings().num_embeddings == len(grown) == 114

    class WithGaps:
        pad_token_id = None

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 149}

        def __len__(self) -> int:
            return 2

    model.add_embeddings("gaps", WithGaps())
    assert model.get_input_embeddings().num_embeddings == 150


@pytest.mark.parametrize("model_class", ["BertForMaskedLM", "LlamaForCausalLM", "BartForConditionalGeneration"])
def test_shared_tokens_are_taken_over(model_class: str) -> None:
    model = language_model(model_class)
    own, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    own_output, own_bias = output.weight, output.bias
    model.add_embeddings("new", NEW, reference_embedding="default", reference_tokenizer=OLD)
    pairs = {NEW.get_vocab()[t]: OLD.get_vocab()[t] for t in NEW.get_vocab() if t in OLD.get_vocab()}
    assert len(pairs) == 50
    new, old = torch.tensor(list(pairs)), torch.tensor(list(pairs.values()))
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight[new], own[old])
    assert torch.equal(output.weight[new], own_output[old])
    if own_bias is not None:
        assert torch.equal(output.bias[new], own_bias[old]) and output.bias[50:].abs().sum() == 0
    rest = weight[52:].detach()
    assert rest.std().item() == pytest.approx(model.config.to_dict().get("initializer_range", 0.02), rel=0.2)
    model.add_embeddings("back", OLD, reference_embedding="new", reference_tokenizer=NEW)
    assert torch.equal(model.get_input_embeddings().weight[old], own[old])


def test_padding_is_where_the_tokenizer_has_it() -> None:
    model = language_model("RobertaForMaskedLM")
    assert model.get_input_embeddings().padding_idx == 1
    model.add_embeddings("new", NEW)
    assert model.get_input_embeddings().padding_idx == 0 and not model.get_input_embeddings().weight[0].any()
    model.set_active_embeddings("default")
    assert model.get_input_embeddings().padding_idx == 1


@pytest.mark.parametrize("name", ["bert", "t5", "bart", "clip", "whisper", "custom"])
def test_models_without_a_head(name: str) -> None:
    model = models.adapted(name)
    ids = {k: v.clone() for k, v in models.inputs(name).items()}
    with torch.no_grad():
        before = models.outputs(model, name)
        model.add_embeddings("new", NEW)
        for key in ids.keys() & {"input_ids", "decoder_input_ids"}:
            ids[key][0, 0] = NEW_ID
        assert all(v.isfinite().all() for v in models.tensors(model(**ids)))
        model.set_active_embeddings("default")
        assert same(models.outputs(model, name), before)


def test_models_with_flexible_heads() -> None:
    config = transformers.BertConfig(**models.BERT)
    model = adapters.AutoAdapterModel.from_config(config).eval()
    model.add_classification_head("a", num_labels=3)
    model.add_adapter("a", "seq_bn", set_active=True)
    before = model(**models.inputs("bert")).logits
    model.add_embeddings("new", NEW, "default", OLD)
    ids = models.inputs("bert")["input_ids"]
    known = (ids > 52) & (ids < 100)
    assert model(input_ids=torch.where(known, ids - 50, NEW_ID)).logits.shape == (2, 3)
    model.delete_embeddings("new")
    assert torch.equal(model(**models.inputs("bert")).logits, before)


# -- training -------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("train_embeddings", [False, True])
def test_only_the_active_embeddings_are_trained(model_class: str, train_embeddings: bool) -> None:
    model = language_model(model_class)
    model.add_adapter("a", "seq_bn[reduction_factor=4]")
    model.add_embeddings("other", NEW)
    model.add_embeddings("new", NEW)
    model.train_adapter("a", train_embeddings=train_embeddings)
    base = {id(p) for p in model._adapter_registry.base.parameters()}
    mine = {id(p) for p in models.parameters(model, "a")}
    trained = {id(p) for p in model.parameters() if p.requires_grad and id(p) in base}
    assert trained == mine | ({id(model.get_input_embeddings().weight)} if train_embeddings else set())
    for name in ("default", "other"):
        assert not model.loaded_embeddings[name].weight.requires_grad
        model.set_active_embeddings(name)
        assert not model.get_input_embeddings().weight.requires_grad
    model.set_active_embeddings("new")
    before = {name: e.weight.detach().clone() for name, e in model.loaded_embeddings.items()}
    loss(model, model_class).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=1.0).step()
    moved = {name for name, e in model.loaded_embeddings.items() if not torch.equal(e.weight, before[name])}
    assert moved == ({"new"} if train_embeddings else set())


def test_adapters_reload_with_trained_embeddings(tmp_path: Path) -> None:
    """adapters#372: a reloaded LoRA gave other outputs after the embeddings had been trained."""
    model = language_model("LlamaForCausalLM")
    model.add_embeddings("new", NEW, "default", OLD)
    model.add_adapter("a", "lora[r=2]")
    model.train_adapter("a", train_embeddings=True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        loss(model, "LlamaForCausalLM").loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.save_adapter(tmp_path / "adapter", "a")
    model.save_embeddings(tmp_path / "embeddings", "new", NEW)
    expected = loss(model, "LlamaForCausalLM").logits
    fresh = language_model("LlamaForCausalLM")
    # In either order: an adapter does not depend on the embeddings.
    for load in ((0, 1), (1, 0)):
        for step in load:
            if step == 0:
                fresh.load_adapter(tmp_path / "adapter", set_active=True, with_head=False)
            else:
                read = fresh.load_embeddings(tmp_path / "embeddings", "new")
                assert read.get_vocab() == NEW.get_vocab()
        assert torch.equal(loss(fresh, "LlamaForCausalLM").logits, expected)
        fresh.delete_embeddings("new")
        fresh.delete_adapter("a")


# -- files ----------------------------------------------------------------------------------------------------------


@every_model
def test_save_is_load(model_class: str, tmp_path: Path) -> None:
    model = language_model(model_class)
    model.add_embeddings("new", NEW)
    model.get_input_embeddings().weight.data.normal_()
    expected = loss(model, model_class).logits
    model.set_active_embeddings("default")
    model.save_embeddings(tmp_path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["embedding.safetensors"]
    fresh = language_model(model_class)
    assert fresh.load_embeddings(tmp_path, "loaded") is None and fresh.active_embeddings == "loaded"
    assert torch.equal(loss(fresh, model_class).logits, expected)


def test_files_of_adapterhub(tmp_path: Path) -> None:
    """1.3 writes one bare tensor, `embedding.pt`."""
    rows = torch.randn(112, 32)
    torch.save(nn.Parameter(rows), tmp_path / "embedding.pt")
    model = language_model("T5ForConditionalGeneration")
    model.load_embeddings(tmp_path, "new")
    assert torch.equal(model.get_input_embeddings().weight, rows) and model.get_output_embeddings().out_features == 112
    assert loss(model, "T5ForConditionalGeneration").loss.isfinite()
    with pytest.raises(ValueError, match=r"without an output layer.*not tied"):
        language_model("LlamaForCausalLM").load_embeddings(tmp_path, "new")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, r"no embedding.safetensors or embedding.pt"),
        (lambda folder: torch.save(torch.randn(112, 16), folder / "embedding.pt"), r"of shape \(112, 16\).*\(V, 32\)"),
        (lambda folder: torch.save([1], folder / "embedding.pt"), "holds list"),
        (lambda folder: (folder / "embedding.pt").write_bytes(b"PK cut"), "cannot be read as weights"),
        (lambda folder: (folder / "embedding.pt").write_bytes(pickle.dumps(Evil())), "cannot be read as weights"),
        (lambda folder: (folder / "embedding.safetensors").write_bytes(b"cut"), "cannot be read"),
    ],
    ids=["nothing", "other size", "no tensor", "cut off", "code", "cut off safetensors"],
)
def test_broken_files(write: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    model = models.adapted("bert")
    with pytest.raises(ValueError, match=message):
        model.load_embeddings(tmp_path, "new")
    assert list(model.loaded_embeddings) == ["default"] and "executed" not in capsys.readouterr().out


def test_a_saved_model_has_the_active_embeddings(tmp_path: Path) -> None:
    model = language_model("BertForMaskedLM")
    model.add_embeddings("new", NEW)
    expected = loss(model, "BertForMaskedLM").logits
    model.save_pretrained(tmp_path)
    fresh = adapters.load_model(tmp_path, transformers.BertForMaskedLM).eval()
    assert fresh.config.vocab_size == 112 and torch.equal(loss(fresh, "BertForMaskedLM").logits, expected)


# -- names, and what is refused -------------------------------------------------------------------------------------


def test_names() -> None:
    model = language_model("BertForMaskedLM")
    own = model.get_input_embeddings().weight
    assert model.active_embeddings == "default" and model.loaded_embeddings["default"].weight is own
    model.set_active_embeddings("default")
    model.add_embeddings("new", NEW)
    for call, message in (
        (lambda: model.add_embeddings("new", NEW), "embeddings named 'new' already"),
        (lambda: model.add_embeddings("default", NEW), "embeddings named 'default' already"),
        (lambda: model.add_embeddings("", NEW), "'' is no name"),
        (lambda: model.set_active_embeddings("nwe"), "no embedding named 'nwe'. Did you mean 'new'"),
        (lambda: model.delete_embeddings("other"), "no embedding named 'other'"),
        (lambda: model.delete_embeddings("default"), "the model's own and cannot be deleted"),
        (lambda: model.save_embeddings("folder", "other"), "no embedding named 'other'"),
        (lambda: model.add_embeddings("b", NEW, reference_embedding="default"), "belong together"),
        (lambda: model.add_embeddings("b", NEW, "other", OLD), "no embedding named 'other'"),
        (lambda: model.add_embeddings("b", NEW, embedding_dim=16), "embedding_dim=16.*have size 32"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert list(model.loaded_embeddings) == ["default", "new"] and model.active_embeddings == "new"
    model.delete_embeddings("new")
    assert model.active_embeddings == "default" and model.get_input_embeddings().weight is own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.adapted("vit"), "ViTModel has no embeddings of tokens"),
        (
            lambda: transformers.EncoderDecoderModel(
                encoder=transformers.BertModel(transformers.BertConfig(**models.BERT)),
                decoder=transformers.BertLMHeadModel(
                    transformers.BertConfig(**models.BERT, is_decoder=True, add_cross_attention=True)
                ),
            ),
            "holds more for each of its 100 tokens.*decoder.bert.embeddings.word_embeddings",
        ),
    ],
    ids=["images", "two vocabularies"],
)
def test_models_that_cannot(make: Any, message: str) -> None:
    model = make()
    adapters.init(model)
    keys = model.state_dict().keys()
    with pytest.raises(ValueError, match=message):
        model.add_embeddings("new", NEW)
    assert model.state_dict().keys() == keys and model.active_embeddings == "default"


def test_sizes_that_are_equal_by_chance() -> None:
    config = transformers.BertConfig(**{**models.BERT, "max_position_embeddings": 100, "hidden_size": 100})
    model = transformers.BertForMaskedLM(config).eval()
    adapters.init(model)
    model.add_embeddings("new", NEW)
    assert loss(model, "BertForMaskedLM").logits.shape[-1] == 112
    assert model.cls.predictions.transform.dense.out_features == 100


def test_adapters_of_the_embeddings_themselves() -> None:
    model = language_model("BertForMaskedLM")
    model.add_adapter("a", ConfigUnion("seq_bn", ModulesToSaveConfig(["word_embeddings"])))
    with pytest.raises(ValueError, match="'a' acts on the vectors of the embeddings"):
        model.add_embeddings("new", NEW)
    model.delete_adapter("a")
    model.add_embeddings("new", NEW)
    model.add_adapter("a", ModulesToSaveConfig(["word_embeddings"]), set_active=True)
    assert loss(model, "BertForMaskedLM").loss.isfinite()
    with pytest.raises(ValueError, match="'a' acts on the vectors of the embeddings"):
        model.set_active_embeddings("default")
    assert model.active_embeddings == "new"


# -- with the rest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["seq_bn_inv[reduction_factor=4]", "lora[r=2]"])
def test_adapters_stay_active(preset: str) -> None:
    model = language_model("BertForMaskedLM")
    model.add_adapter("a", preset, set_active=True)
    models.randomise(model, "a")
    before, bare = outputs(model, "BertForMaskedLM"), outputs(language_model("BertForMaskedLM"), "BertForMaskedLM")
    assert not same(before, bare)
    model.add_embeddings("same", OLD, "default", OLD)
    assert same(outputs(model, "BertForMaskedLM"), before)


@every_model
def test_detach_restores(model_class: str) -> None:
    model, bare = language_model(model_class), language_model(model_class)
    model.add_embeddings("new", NEW)
    adapters.detach(model)
    adapters.detach(bare)
    assert type(model) is type(bare) and model.__dict__.keys() == bare.__dict__.keys()
    assert model.config.to_dict() == bare.config.to_dict()
    assert all(torch.equal(v, bare.state_dict()[k]) for k, v in model.state_dict().items())


def test_copies_are_independent() -> None:
    model = language_model("T5ForConditionalGeneration")
    model.add_embeddings("new", NEW)
    expected = loss(model, "T5ForConditionalGeneration").logits
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(loss(copied, "T5ForConditionalGeneration").logits, expected)
        copied.set_active_embeddings("default")
        copied.get_input_embeddings().weight.data.zero_()
        copied.set_active_embeddings("new")
        assert torch.equal(loss(copied, "T5ForConditionalGeneration").logits, expected)
    model.set_active_embeddings("default")
    assert model.get_input_embeddings().weight.abs().sum() > 0


def test_what_is_not_active_follows_the_type_of_numbers() -> None:
    model = language_model("BertForMaskedLM")
    model.add_embeddings("new", NEW)
    model.bfloat16()
    model.set_active_embeddings("default")
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
