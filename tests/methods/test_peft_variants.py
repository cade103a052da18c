"""Methods as PEFT has them: DoRA that leaves biases, scaled inputs, and prefixes and prompts that count positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import adapters
import models
from adapters import BatchSplit, IA3Config, LoRAConfig, PrefixTuningConfig, PromptTuningConfig, Stack

INPUTS = {"bert": "output.dense", "gpt2": "mlp.c_proj", "llama": "down_proj"}
VARIANTS: dict[str, Any] = {
    "dora": lambda family: adapters.DoRAConfig(r=2, scale_bias=False),
    "inputs": lambda family: IA3Config(target_modules=[INPUTS[family]], scale_inputs_of=[INPUTS[family]]),
    "both": lambda family: IA3Config(
        target_modules=[INPUTS[family], {"bert": "query", "gpt2": "c_fc", "llama": "q_proj"}[family]],
        scale_inputs_of=[INPUTS[family]],
    ),
}
every_family = pytest.mark.parametrize("family", INPUTS)
every_variant = pytest.mark.parametrize("kind", VARIANTS)


def shaken(family: str) -> Any:
    """A model whose biases show."""
    model = models.adapted(family)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def adapted(family: str, config: Any, std: float = 0.2) -> Any:
    model = shaken(family)
    model.add_adapter("a", config, set_active=True)
    models.randomise(model, "a", std)
    return model


def hidden(model: Any, family: str, **arguments: Any) -> Tensor:
    with torch.no_grad():
        return model(**{**models.inputs(family), **arguments}).last_hidden_state  # type: ignore[no-any-return]


# -- changes of weights ---------------------------------------------------------------------------------------------


@every_family
@every_variant
def test_merged_is_unmerged_and_saved_is_loaded(family: str, kind: str, tmp_path: Path) -> None:
    model = adapted(family, VARIANTS[kind](family))
    expected, before = hidden(model, family), hidden(shaken(family), family)
    assert not torch.allclose(expected, before, atol=1e-2)
    model.save_adapter(tmp_path, "a")
    fresh = shaken(family)
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(hidden(fresh, family), expected)
    model.merge_adapter("a")
    assert torch.allclose(hidden(model, family), expected, atol=2e-5)
    model.reset_adapter("a")
    assert torch.equal(hidden(model, family), expected)


@every_family
@every_variant
def test_rows_go_their_own_ways(family: str, kind: str) -> None:
    model = adapted(family, VARIANTS[kind](family))
    model.add_adapter("b", LoRAConfig(r=2))
    models.randomise(model, "b")
    mixed = hidden(model, family, adapter_names=["a", "b"])
    for row, name in enumerate("ab"):
        model.set_active_adapters(name)
        assert torch.allclose(mixed[row], hidden(model, family)[row], atol=1e-5)


@every_family
@every_variant
def test_nothing_is_changed_at_first(family: str, kind: str) -> None:
    model, bare = shaken(family), hidden(shaken(family), family)
    model.add_adapter("a", VARIANTS[kind](family), set_active=True)
    assert torch.allclose(hidden(model, family), bare, atol=1e-5)


@every_family
def test_training_is_that_of_a_scaled_weight(family: str) -> None:
    model = adapted(family, VARIANTS["inputs"](family))
    model.train_adapter("a")
    model.eval()
    models.loss([model(**models.inputs(family)).last_hidden_state]).backward()
    (first, *_) = models.parameters(model, "a")
    assert first.shape[0] == 1 and first.grad is not None
    eps, at = 1e-3, int(first.grad.abs().argmax())
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            first[0, at] += sign * eps
            values.append(models.loss([model(**models.inputs(family)).last_hidden_state]))
            first[0, at] -= sign * eps
    assert float(first.grad[0, at]) == pytest.approx(float(values[0] - values[1]) / (2 * eps), rel=0.05)


def test_what_has_no_inputs_to_scale() -> None:
    for changes, message in (
        ({"target_modules": ["embed_tokens"], "scale_inputs_of": ["embed_tokens"]}, "embedding"),
        ({"target_modules": ["q_proj"], "scale_inputs_of": ["down_proj"]}, "scale_inputs_of"),
        ({"target_modules": ["q_proj"], "scale_inputs_of": ["q_proj"], "use_gating": True}, "use_gating"),
    ):
        with pytest.raises(ValueError, match=message):
            models.adapted("llama").add_adapter("a", IA3Config(**changes))
    with pytest.raises(ValueError, match="scale_inputs_of"):
        LoRAConfig(scale_inputs_of=["q_proj"])


# -- positions ------------------------------------------------------------------------------------------------------

COUNTED = PrefixTuningConfig(flat=True, prefix_length=3, counts_positions=True)


def with_cache(family: str, prefix: Tensor, **arguments: Any) -> Tensor:
    """What the bare model gives behind a cache that holds the prefixes, as PEFT uses them."""
    model, inputs = shaken(family), models.inputs(family)
    config, layers = model.config, model.config.num_hidden_layers
    heads = {"llama": 2, "qwen3": 2}.get(family, 4)
    given = prefix.view(3, 2 * layers, heads, -1).permute(1, 2, 0, 3)[:, None].expand(-1, 2, -1, -1, -1)
    cache = DynamicCache(config=config)
    for layer in range(layers):
        cache.update(given[2 * layer], given[2 * layer + 1], layer)
    mask = torch.cat([torch.ones(2, 3, dtype=torch.long), inputs["attention_mask"]], dim=1)
    return hidden(model, family, attention_mask=mask, past_key_values=cache, **arguments)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "qwen3"])
def test_prefixes_that_count_are_a_cache(family: str) -> None:
    model = adapted(family, COUNTED)
    (prefix,) = models.parameters(model, "a")
    expected = with_cache(family, prefix.detach())
    seen = models.inputs(family)["attention_mask"].bool()
    assert torch.allclose(hidden(model, family)[seen], expected[seen], atol=1e-5)
    if family != "roberta":  # which counts from another number
        positions = torch.arange(6)[None].flip(1)
        moved = with_cache(family, prefix.detach(), position_ids=positions + 3)
        assert torch.allclose(hidden(model, family, position_ids=positions)[seen], moved[seen], atol=1e-5)
    model.add_adapter("b", COUNTED.replace(counts_positions=False), set_active=True)
    next(iter(models.parameters(model, "b"))).data.copy_(prefix.data)
    assert not torch.allclose(hidden(model, family)[seen], expected[seen], atol=1e-2)


def test_prefixes_that_count_in_generation() -> None:
    import transformers

    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**models.LLAMA)).eval()
    adapters.init(model)
    model.add_adapter("a", COUNTED, set_active=True)
    models.randomise(model, "a", 1.0)
    ids = torch.randint(5, 100, (2, 5))
    texts = [
        model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False, use_cache=c) for c in (True, False)
    ]
    assert torch.equal(*texts)


def test_prefixes_that_count_move_all_rows() -> None:
    model = adapted("llama", COUNTED)
    model.add_adapter("same", COUNTED)
    model.add_adapter("longer", COUNTED.replace(prefix_length=4))
    model.add_adapter("other", COUNTED.replace(counts_positions=False))
    for setup in (Stack("a", "other"), BatchSplit("a", "longer", batch_sizes=[1, 1])):
        with pytest.raises(ValueError, match="count positions"):
            model.set_active_adapters(setup)
    model.set_active_adapters("a")
    with pytest.raises(ValueError, match="count positions"):
        model(**models.inputs("llama"), adapter_names=["a", None])
    mixed = hidden(model, "llama", adapter_names=["same", "a"])
    assert torch.allclose(mixed[1], hidden(model, "llama")[1], atol=1e-5)
    model.set_active_adapters(Stack("a", "longer"))
    assert hidden(model, "llama").shape == (2, 6, 32)
    with pytest.raises(ValueError, match="counts_positions=True cannot be met"):
        models.adapted("vit").add_adapter("a", COUNTED)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_prompts_that_count_are_embeddings_of_tokens(family: str) -> None:
    model = adapted(family, PromptTuningConfig(prompt_length=3, counts_positions=True))
    (vectors,) = models.parameters(model, "a")
    bare, inputs = shaken(family), models.inputs(family)
    with torch.no_grad():
        words = bare.get_input_embeddings()(inputs["input_ids"])
        embeds = torch.cat([vectors.detach().expand(2, -1, -1), words], dim=1)
        mask = torch.cat([torch.ones(2, 3, dtype=torch.long), inputs["attention_mask"]], dim=1)
        expected = bare(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    assert torch.allclose(hidden(model, family)[mask.bool()], expected[mask.bool()], atol=1e-5)
    with pytest.raises(ValueError, match="embeds no tokens"):
        models.adapted("vit").add_adapter("a", PromptTuningConfig(counts_positions=True))
