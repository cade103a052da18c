"""Texts from language model heads: those of transformers' own models, with and without a cache, and in parallel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_heads import pair
from torch import Tensor

import models
from adapters import BatchSplit, Parallel

GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
BEAMS = {**GREEDY, "num_beams": 3}
IDS = {"decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
# family, static class, type of head, last layer of the static class
FAMILIES = [
    ("gpt2", "GPT2LMHeadModel", "causal_lm", "lm_head"),
    ("llama", "LlamaForCausalLM", "causal_lm", "lm_head"),
    ("bart", "BartForConditionalGeneration", "seq2seq_lm", "lm_head"),
    ("t5", "T5ForConditionalGeneration", "seq2seq_lm", "lm_head"),
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=[family[0] for family in FAMILIES])


def batch() -> dict[str, Tensor]:
    """Two rows, one of them padded on the left."""
    ids = models.inputs("bert")["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def built(family: tuple[str, str, str, str]) -> tuple[Any, Any]:
    """The static model, and a flexible one with adapters and heads a and b."""
    name, static_class, head_type, last = family
    static, model = pair(name, static_class, **IDS)
    if name == "bart":
        static.final_logits_bias.zero_()
    generator = torch.Generator().manual_seed(1)
    for head in "ab":
        model.add_prediction_head_from_config(head, {"head_type": head_type})
        weight = static.get_submodule(last).weight
        noise = torch.randn(weight.shape, generator=generator) if head == "b" else torch.zeros(weight.shape)
        model.heads[head][-1].weight = torch.nn.Parameter(weight + noise)
        model.add_adapter(head, "seq_bn[reduction_factor=4]")
        models.randomise(model, head)
    return static, model


@every_family
@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_as_transformers_do(family: Any, options: dict[str, Any]) -> None:
    static, model = built(family)
    model.active_head = "a"
    wanted = static.generate(**batch(), **options)
    assert torch.equal(model.generate(**batch(), **options), wanted)
    assert torch.equal(model.generate(**batch(), **options, use_cache=False), wanted)


@every_family
@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_in_parallel_and_by_rows(family: Any, options: dict[str, Any]) -> None:
    _, model = built(family)
    alone = {}
    for name in "ab":
        model.set_active_adapters(name)
        assert model.active_head == name
        alone[name] = model.generate(**batch(), **options)
    assert not torch.equal(alone["a"], alone["b"])
    model.set_active_adapters(Parallel("a", "b"))
    assert torch.equal(model.generate(**batch(), **options), torch.cat([alone["a"], alone["b"]]))
    mixed = torch.stack([alone["b"][0], alone["a"][1]])
    model.set_active_adapters(BatchSplit("b", "a", batch_sizes=1))
    assert torch.equal(model.generate(**batch(), **options), mixed)
    assert torch.equal(model.generate(**batch(), **options, adapter_names=["b", "a"]), mixed)


def test_heads_that_generate_nothing() -> None:
    _, model = pair("gpt2", "GPT2LMHeadModel")
    model.add_classification_head("topics")
    with pytest.raises(ValueError, match=r"'topics' .classification. does not generate"):
        model.generate(**batch(), **GREEDY)
    model.active_head = None
    with pytest.raises(ValueError, match="no head is active"):
        model.generate(**batch(), **GREEDY)
