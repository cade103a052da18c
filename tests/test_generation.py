"""Generation with every method: a cache changes nothing, in any way of decoding, and each method has its effect."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor

import adapters
import models
from test_laws import PRESETS

MODELS = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "bart": "BartForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
}
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "num_beams": 1},
}
STARTS = ("seq_bn[", "lora", "ia3", "dora", "loreft", "noreft", "prefix", "prompt", "ln")
# A gate is the mean over the tokens of a call, so what it lets through depends on how many there are.
USED = [preset for preset in PRESETS if preset.startswith(STARTS) and "use_gating" not in preset]


def generator(name: str, preset: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config_class, arguments, _, _ = models.FAMILIES[name]
    special = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "decoder_start_token_id": 1}
    config = getattr(transformers, config_class)(**{**arguments, **special})
    model = getattr(transformers, MODELS[name])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    adapters.init(model)
    model.add_adapter("a", preset)
    models.randomise(model, "a", std=0.3)
    return model


def generated(model: torch.nn.Module, way: str, use_cache: bool) -> tuple[Tensor, Tensor]:
    """The tokens, and the scores of the first of them."""
    ids = models.inputs("bert")["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :2] = 0  # decoders are padded on the left
    torch.manual_seed(0)
    length = {"max_new_tokens": 8, "min_new_tokens": 8}
    wanted = {"return_dict_in_generate": True, "output_logits": True}
    found = model.generate(input_ids=ids, attention_mask=mask, use_cache=use_cache, **length, **wanted, **WAYS[way])
    return found.sequences, found.logits[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("preset", USED)
@pytest.mark.parametrize("name", MODELS)
def test_cached_is_uncached(name: str, preset: str, way: str) -> None:
    model = generator(name, preset)
    _, bare = generated(model, way, use_cache=True)
    model.set_active_adapters("a")
    cached, logits = generated(model, way, use_cache=True)
    assert torch.equal(cached, generated(model, way, use_cache=False)[0])
    assert not torch.allclose(logits, bare, atol=1e-3)
