"""Prompt tuning: vectors among the embeddings, and all that the model is told of tokens as long as those."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import adapters
import models
from adapters import PromptTuningConfig, Stack
from adapters.runtime.insertion import insertion
from adapters.runtime.progress import calls_in_progress

SPECIAL = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "decoder_start_token_id": 1}


def with_prompt(model: nn.Module, length: int = 3, **fields: object) -> nn.Module:
    adapters.init(model)
    model.add_adapter("a", PromptTuningConfig(prompt_length=length, **fields), set_active=True)
    models.randomise(model, "a", 0.5)
    return model.eval()


def of_class(name: str, class_name: str, **fields: object) -> nn.Module:
    """A tiny model of a class with a head, with weights that show."""
    torch.manual_seed(0)
    config_class, own, _, _ = models.FAMILIES[name]
    model = getattr(transformers, class_name)(getattr(transformers, config_class)(**{**own, **SPECIAL, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def prompt(model: nn.Module) -> Tensor:
    return next(iter(models.parameters(model, "a"))).detach()


def padded(side: str) -> tuple[Tensor, Tensor, slice]:
    """Two rows of tokens with their mask; where the text of the second one is."""
    ids, mask = torch.arange(5, 17).view(2, 6), torch.ones(2, 6, dtype=torch.long)
    mask[1, [4, 5] if side == "right" else [0, 1]] = 0
    return ids, mask, slice(0, 4) if side == "right" else slice(2, 6)


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("name", ["bert", "roberta", "albert", "distilbert", "deberta-v2", "vit"])
def test_behind_all_embeddings(name: str, combine: str) -> None:
    """In encoders, text keeps its positions, and the prompt has none: it is put in behind norm and dropout."""
    model = with_prompt(models.bare(name), combine=combine)
    given = {key: value for key, value in models.inputs(name).items() if key != "attention_mask"}
    with torch.no_grad():
        got = model(**given)[0]
        bare = models.bare(name)
        embedded = bare.embeddings(*given.values())
        first = int(combine == "prefix_after_bos")
        rows = prompt(model).expand(2, -1, -1)
        longer = torch.cat((embedded[:, :first], rows, embedded[:, first:]), 1)
        bare.embeddings.register_forward_hook(lambda m, i, o: longer)
        ids = torch.full(longer.shape[:2], 7)
        expected = bare(**(given if name == "vit" else {"input_ids": ids}))[0]
    assert got.shape[1] == embedded.shape[1] + 3
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("given", ["keywords", "positional", "embeddings"])
@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "modernbert", "mixtral", "t5", "bart"])
def test_among_embedded_tokens(name: str, combine: str, given: str) -> None:
    """In decoders, and encoders of decoders, it is as if the prompt was text that the model has no tokens for."""
    model, bare = with_prompt(models.bare(name), combine=combine), models.bare(name)
    ids, mask, _ = padded("right")
    tail = {"decoder_input_ids": ids[:, :3]} if name in ("t5", "bart") else {}
    with torch.no_grad():
        embedded = (bare.encoder if tail else bare).get_input_embeddings()(ids)
        first = int(combine == "prefix_after_bos")
        longer = torch.cat((embedded[:, :first], prompt(model).expand(2, -1, -1), embedded[:, first:]), 1)
        longer_mask = torch.cat((torch.ones(2, 3, dtype=torch.long), mask), 1)
        expected = bare(inputs_embeds=longer, attention_mask=longer_mask, **tail)[0]
        if given == "embeddings":
            got = model(inputs_embeds=embedded, attention_mask=mask, **tail)[0]
        elif given == "positional" and name != "gpt2":
            got = model(ids, mask, **tail)[0]
        else:
            got = model(input_ids=ids, attention_mask=mask, **tail)[0]
    assert torch.allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "modernbert", "roberta", "t5"])
def test_padded_is_unpadded(name: str, side: str, combine: str) -> None:
    """Text at column c is at c + P afterwards, on whichever side a row is padded."""
    model = with_prompt(models.bare(name), combine=combine)
    ids, mask, text = padded(side)
    if name == "roberta":
        ids = ids.masked_fill(mask == 0, 1)  # from which it counts positions
    batch, alone = {"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[1:, text]}
    if name == "gpt2":
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    columns = slice(text.start + 3, text.stop + 3)
    if name == "t5":
        batch["decoder_input_ids"], alone["decoder_input_ids"] = ids[:, :3], ids[1:, :3]
        columns = slice(0, 3)
    with torch.no_grad():
        both, row = model(**batch)[0][1:], model(**alone)[0]
        first = int(combine == "prefix_after_bos" and name != "t5")
        assert torch.allclose(
            both[:, columns][:, first:], row[:, row.shape[1] - both[:, columns].shape[1] :][:, first:], atol=2e-5
        )
        if side == "left" and name in ("llama", "t5"):
            torch._dynamo.reset()
            compiled = torch.compile(model, fullgraph=True, backend="eager")(**batch)[0]
            assert torch.allclose(compiled[1:, columns], both[:, columns], atol=2e-5)


def test_heads_find_the_last_token() -> None:
    torch.manual_seed(0)
    model = adapters.AutoAdapterModel.from_config(transformers.LlamaConfig(**models.LLAMA))
    model.add_adapter("a", PromptTuningConfig(prompt_length=3), set_active=True)
    model.add_classification_head("a", num_labels=3)
    models.randomise(model.eval(), "a", 0.5)
    for side in ("right", "left"):
        ids, mask, text = padded(side)
        both = model(input_ids=ids, attention_mask=mask, labels=torch.tensor([0, 2]))
        assert torch.allclose(both.logits[1:], model(input_ids=ids[1:, text]).logits, atol=1e-5)


def test_labels_of_tokens() -> None:
    """Labels are those of text; a prompt has none."""
    ids, mask, _ = padded("right")
    labels = ids.masked_fill(mask == 0, -100)
    for name, class_name in (("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel"), ("bert", "BertForMaskedLM")):
        model = with_prompt(of_class(name, class_name))
        out = model(input_ids=ids, attention_mask=mask, labels=labels)
        longer = torch.cat((torch.full((2, 3), -100), labels), 1)
        logits, wanted = (out.logits, longer) if name == "bert" else (out.logits[:, :-1], longer[:, 1:])
        assert out.logits.shape[1] == 9
        expected = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        assert torch.allclose(out.loss, expected)
    model = with_prompt(of_class("bert", "BertForTokenClassification", num_labels=100), combine="prefix_after_bos")
    out = model(ids, mask, labels=labels)
    text = torch.cat((out.logits[:, :1], out.logits[:, 4:]), 1)
    assert torch.allclose(out.loss, nn.functional.cross_entropy(text.flatten(0, 1), labels.flatten()))


def test_labels_of_rows_and_spans() -> None:
    ids, mask, _ = padded("right")
    for side in ("right", "left"):  # the last token is found behind the prompt
        for name, class_name in (
            ("llama", "LlamaForSequenceClassification"),
            ("gpt2", "GPT2ForSequenceClassification"),
        ):
            model = with_prompt(of_class(name, class_name, num_labels=6))
            given, seen, text = padded(side)
            given = given.masked_fill(seen == 0, 0)
            positions = {"position_ids": (seen.cumsum(1) - 1).clamp(min=0)}
            both = model(input_ids=given, attention_mask=seen, labels=torch.tensor([1, 2]), **positions)
            assert torch.allclose(both.logits[1:], model(input_ids=given[1:, text]).logits, atol=1e-5)
    model = with_prompt(of_class("bert", "BertForQuestionAnswering"))
    start, end = torch.tensor([1, 0]), torch.tensor([2, 3])
    out = model(ids, mask, start_positions=start, end_positions=end)
    loss = nn.functional.cross_entropy
    assert torch.allclose(out.loss, (loss(out.start_logits, start + 3) + loss(out.end_logits, end + 3)) / 2)
    for name, class_name in (("bert", "BertForMultipleChoice"), ("deberta-v2", "DebertaV2ForMultipleChoice")):
        model = with_prompt(of_class(name, class_name))
        choices = torch.stack((ids, ids + 1, ids + 2), 1)
        logits = model(choices, attention_mask=mask[:, None].repeat(1, 3, 1), labels=torch.tensor([0, 2])).logits
        alone = model(choices[:, 1:2].contiguous(), attention_mask=mask[:, None]).logits
        assert torch.allclose(logits[:, 1:2], alone, atol=1e-5)
    model = with_prompt(models.bare("clip"))
    one = model(**{**models.inputs("clip"), "input_ids": torch.tensor([[5, 6, 99, 0, 0, 0], [5, 99, 0, 0, 0, 0]])})
    two = model(**{**models.inputs("clip"), "input_ids": torch.tensor([[5, 6, 99, 8, 9, 3], [5, 99, 6, 7, 3, 3]])})
    assert torch.allclose(one.text_embeds, two.text_embeds, atol=1e-5)  # of the end of text, and nothing behind it
    model = with_prompt(of_class("bart", "BartForConditionalGeneration"))
    out = model(
        input_ids=ids, attention_mask=mask, labels=ids[:, :4].clone()
    )  # those of the decoder, which has no prompt
    assert out.logits.shape[1] == 4


@pytest.mark.parametrize(
    "way", [{}, {"num_beams": 3}, {"do_sample": True}, {"num_return_sequences": 2, "do_sample": True}]
)
@pytest.mark.parametrize(("name", "class_name"), [
    ("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("gemma3", "Gemma3ForCausalLM"),
    ("bart", "BartForConditionalGeneration"), ("t5", "T5ForConditionalGeneration"), ("bert", "BertLMHeadModel"),
])  # fmt: skip
def test_cached_is_uncached(name: str, class_name: str, way: dict[str, object]) -> None:
    model = with_prompt(of_class(name, class_name, **({"is_decoder": True} if name == "bert" else {})))
    ids, mask, text = padded("right" if name == "bart" else "left")
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        texts.append(
            model.generate(
                input_ids=ids, attention_mask=mask, use_cache=use_cache, max_new_tokens=5, min_new_tokens=5, **way
            )
        )
    assert torch.equal(*texts)
    texts += [model.generate(ids, use_cache=c, max_new_tokens=3, num_beams=2) for c in (True, False)]  # without a mask
    assert torch.equal(*texts[2:])
    if not way and name not in ("bert", "bart"):  # where the row is padded does not matter either
        alone = model.generate(
            input_ids=ids[1:, text], attention_mask=mask[1:, text], max_new_tokens=5, min_new_tokens=5
        )
        assert torch.equal(alone[0, -5:], texts[0][1, -5:])


def test_speech() -> None:
    """Whisper has the prompt among the frames that its encoder's layers see."""
    model = with_prompt(of_class("whisper", "WhisperForConditionalGeneration"))
    given = models.inputs("whisper")
    out = model(**given)
    assert out.encoder_last_hidden_state.shape[1] == 13
    texts = [
        model.generate(input_features=given["input_features"], max_new_tokens=4, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*texts)


def test_encoder_outputs_are_masked_by_their_length() -> None:
    """The mask of the encoder's output gets as long as that, and only if it is longer."""
    model = with_prompt(models.bare("bart"))
    ids, mask, _ = padded("right")
    given = {"attention_mask": mask, "decoder_input_ids": ids[:, :3]}
    with torch.no_grad():
        expected = model(input_ids=ids, **given)
        memory = model.encoder(input_ids=ids, attention_mask=mask)
        assert torch.equal(model(encoder_outputs=memory, **given)[0], expected[0])
        bare = models.bare("bart")
        memory = bare.encoder(input_ids=ids, attention_mask=mask)
        assert torch.equal(model(encoder_outputs=memory, **given)[0], bare(encoder_outputs=memory, **given)[0])


def test_two_prompts_are_one_behind_the_other() -> None:
    for name in ("bert", "llama"):
        model = with_prompt(models.bare(name), 2)
        model.add_adapter("b", PromptTuningConfig(prompt_length=1))
        model.add_adapter("ab", PromptTuningConfig(prompt_length=3))
        both = torch.cat([prompt(model), *(p.detach() for p in models.parameters(model, "b"))])
        with torch.no_grad():
            models.parameters(model, "ab")[0].copy_(both)
        model.set_active_adapters(Stack("a", "b"))
        expected = models.outputs(model, name)
        model.set_active_adapters("ab")
        assert all(map(torch.equal, models.outputs(model, name), expected))
        model.add_adapter("after", PromptTuningConfig(combine="prefix_after_bos"))
        with pytest.raises(ValueError, match="cannot be used together"):
            model.set_active_adapters(Stack("a", "after"))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_positions_of_reft_count_prompts(name: str) -> None:
    """In one setup, the first positions are the prompt's."""
    model = with_prompt(models.bare(name), 2)
    model.add_adapter("b", "noreft[prefix_positions=2, suffix_positions=1]")
    model.set_active_adapters(Stack("a", "b"))
    given = models.inputs(name)
    seen: list[Tensor] = []
    layer = model.encoder.layer[0] if name == "bert" else model.layers[0]
    layer.register_forward_hook(lambda m, i, o: seen.append(o))
    model(**given)
    model.set_active_adapters("a")
    model(**given)
    changed = (seen[0] != seen[1]).any(-1)
    assert changed.nonzero().tolist() == [[0, 0], [0, 1], [0, 7], [1, 0], [1, 1], [1, 5]]


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"])}
    made = Tokenizer(kinds.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)


@pytest.mark.parametrize("length", [2, 5, 8])
def test_prompt_from_a_text(length: int, tmp_path: Path) -> None:
    """The embeddings of its tokens, with the special ones, cut or repeated to fit."""
    tokenizer(tmp_path / "model")
    models.bare("bert").save_pretrained(tmp_path / "model")
    model = transformers.BertModel.from_pretrained(tmp_path / "model")
    adapters.init(model)
    model.add_adapter(
        "a", PromptTuningConfig(prompt_length=length, prompt_init="from_string", prompt_init_text="a c b")
    )
    ids = torch.tensor([2, 4, 6, 5, 3, 2, 4, 6])[:length]
    assert torch.equal(prompt(model), model.embeddings.word_embeddings.weight[ids])
    model.save_adapter(tmp_path / "adapter", "a")
    fresh = models.adapted("bert")
    fresh.load_adapter(tmp_path / "adapter")  # without any tokenizer
    assert torch.equal(prompt(fresh), prompt(model))
    assert fresh.adapters_config.get("a")["prompt_init_text"] == "a c b"
    with pytest.raises(ValueError, match="tokenizer_name_or_path"):
        models.adapted("bert").add_adapter("a", fresh.adapters_config.get("a"))
    other = models.adapted("gpt2")
    other.config.tokenizer_name_or_path = str(tmp_path / "model")
    other.add_adapter("a", model.adapters_config.get("a"))
    assert torch.equal(prompt(other), other.wte.weight[ids])
    with pytest.raises(ValueError, match="takes a model of text"):
        models.adapted("vit").add_adapter("a", model.adapters_config.get("a"))
    model.save_pretrained(tmp_path / "whole")
    whole = adapters.load_model(tmp_path / "whole", transformers.BertModel)
    assert torch.equal(prompt(whole), prompt(model))


def test_files(tmp_path: Path) -> None:
    """One tensor, under the name that 1.3 gives it; P · E parameters."""
    for name, size in (("bert", 32), ("albert", 16), ("llama", 32), ("t5", 32), ("vit", 32)):
        model = with_prompt(models.bare(name), 4)
        model.save_adapter(tmp_path / name, "a")
        tensors = load_file(tmp_path / name / "adapter.safetensors")
        assert {key: tuple(t.shape) for key, t in tensors.items()} == {
            "prompt_tuning.prompt_tunings.a.prompt_embedding.weight": (4, size)
        }
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())["config"]
        assert (config["architecture"], config["combine"]) == ("prompt_tuning", "prefix")
        fresh = models.adapted(name)
        fresh.load_adapter(tmp_path / name, load_as="b")
        assert torch.equal(fresh.state_dict()["prompt_tuning.prompt_tunings.b.prompt_embedding.weight"], prompt(model))


def test_positions_of_several_kinds() -> None:
    """Models of images and text have three positions per token."""
    kinds = torch.arange(24).view(3, 2, 4)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    got = insertion(mask, 2, follows_first=False).positions(kinds)
    for kind in range(3):
        first = 8 * kind
        assert got[kind, 0].tolist() == [first, first + 1, *range(first + 2, first + 6)]
        assert got[kind, 1].tolist() == [first + 4, first + 5, first + 6, first + 7, first + 8, first + 9]
    shared = insertion(mask, 2, follows_first=True).positions(torch.arange(4)[None])
    assert shared.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]


def test_initial_weights() -> None:
    model = models.adapted("bert")
    model.add_adapter("a", PromptTuningConfig(prompt_length=500, init_weights_seed=3))
    weight = prompt(model)
    assert weight.abs().max() <= 0.5
    assert abs(weight.std().item() - 1 / 12**0.5) < 0.01
    again = models.adapted("bert")
    again.add_adapter("a", PromptTuningConfig(prompt_length=500, init_weights_seed=3))
    assert torch.equal(prompt(again), weight)


def test_cache_is_gone_on_with() -> None:
    model = with_prompt(of_class("llama", "LlamaForCausalLM"))
    ids, length = torch.arange(5, 11)[None], {"max_new_tokens": 3, "do_sample": False}
    first = model.generate(ids, **length, return_dict_in_generate=True)
    text = torch.cat((first.sequences, ids), 1)
    expected = model.generate(text, **length)[:, 15:]
    with pytest.raises(ValueError, match="new tokens alone"):  # of which generate would lose some
        model.generate(text, past_key_values=copy.deepcopy(first.past_key_values), **length)
    new, mask = text[:, 8:], torch.ones_like(text)
    again = model.generate(new, attention_mask=mask, past_key_values=first.past_key_values, **length)
    assert torch.equal(again[:, new.shape[1] :], expected)
    text = ids.repeat(1, 2)
    with contextlib.suppress(ValueError):  # some releases cut the cache to the length of the text: refused
        assert torch.equal(model.generate(text, prompt_lookup_num_tokens=2, **length), model.generate(text, **length))


def test_failed_calls_leave_nothing() -> None:
    model = with_prompt(of_class("llama", "LlamaForCausalLM"))
    ids, mask, _ = padded("right")
    expected = model(input_ids=ids, attention_mask=mask).logits
    for wrong in (
        {"input_ids": torch.tensor([[1000]])},
        {"input_ids": ids, "attention_mask": torch.ones(2, 1, 6, 6)},
        {"input_ids": ids, "attention_mask": torch.ones(2, 99)},
    ):
        with pytest.raises((ValueError, IndexError, RuntimeError)):
            model(**wrong)
        assert not calls_in_progress()
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)
    assert torch.equal(model.model(input_ids=ids, attention_mask=mask)[0], model.model(ids, mask)[0])


def test_errors() -> None:
    ids, mask, _ = padded("right")
    model = with_prompt(of_class("llama", "LlamaForCausalLM"))
    with pytest.raises(ValueError, match="static cache"):
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, cache_implementation="static")
    with adapters.AdapterSetup(None):
        cache = model(input_ids=ids).past_key_values
    with pytest.raises(ValueError, match="cache has 6 positions, those of a prompt of 3"):
        model(input_ids=ids[:, :1], attention_mask=torch.ones(2, 7), past_key_values=cache)
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    swin = transformers.SwinModel(config)
    adapters.init(swin)
    with pytest.raises(ValueError, match="no row of embeddings"):
        swin.add_adapter("a", "prompt_tuning")
    assert not swin.supports_adapter("prompt_tuning")
    with pytest.raises(ValueError, match="at the same places"):
        models.adapted("bert").add_adapter("a", "prompt_tuning|prompt_tuning")
