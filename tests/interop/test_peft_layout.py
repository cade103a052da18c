"""Files of PEFT, read and written without it, beside what the peft library itself makes of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import adapters
import models

pytestmark = [
    pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed: pip install adapters[peft]"),
    pytest.mark.filterwarnings("ignore"),  # peft and what it imports warn of much
]

# family: (class, task, matrices, matrices whose inputs IA³ scales, norms, a module to train whole)
FAMILIES: dict[str, tuple[str, str, list[str], list[str], list[str], str]] = {
    "bert": (
        *("BertForSequenceClassification", "SEQ_CLS", ["query", "value"], ["output.dense"], ["LayerNorm"]),
        "pooler",
    ),
    "gpt2": ("GPT2LMHeadModel", "CAUSAL_LM", ["c_attn"], ["mlp.c_proj"], ["ln_1", "ln_f"], "h.1.mlp"),
    "llama": (
        *("LlamaForCausalLM", "CAUSAL_LM", ["q_proj", "v_proj"], ["down_proj"]),
        *(["input_layernorm", "post_attention_layernorm"], "layers.0.mlp.up_proj"),
    ),
    "t5": (
        *("T5ForConditionalGeneration", "SEQ_2_SEQ_LM", ["q", "v"], ["wo"], ["layer_norm"]),
        "encoder.block.0.layer.0.SelfAttention.o",
    ),
}

# name: (configuration class, its arguments); "T", "F", "N" and "W" stand for what a family has.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"target_modules": "T", "r": 4, "lora_alpha": 6}),
    "rslora": ("LoraConfig", {"target_modules": "T", "r": 4, "use_rslora": True}),
    "dora": ("LoraConfig", {"target_modules": "T", "r": 4, "lora_alpha": 12, "use_dora": True}),
    "pissa": ("LoraConfig", {"target_modules": "T", "r": 4, "init_lora_weights": "pissa"}),
    "olora": ("LoraConfig", {"target_modules": "T", "r": 4, "init_lora_weights": "olora"}),
    "all-linear": ("LoraConfig", {"target_modules": "all-linear", "r": 2}),
    "whole": ("LoraConfig", {"target_modules": "T", "r": 2, "modules_to_save": "W"}),
    "adalora": ("AdaLoraConfig", {"target_modules": "T", "total_step": 10, "init_r": 5, "target_r": 3}),
    "ia3": ("IA3Config", {"target_modules": "T+F", "feedforward_modules": "F"}),
    "vera": ("VeraConfig", {"target_modules": "T", "r": 5}),
    "vera without projection": ("VeraConfig", {"target_modules": "T", "r": 5, "save_projection": False}),
    "norms": ("LNTuningConfig", {"target_modules": "N"}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 3}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 3, "encoder_hidden_size": 8}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
    "projected prefix": (
        "PrefixTuningConfig",
        {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 8},
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_kind = pytest.mark.parametrize("kind", KINDS)


def built(family: str, class_name: str | None = None) -> nn.Module:
    """A tiny model with a head, whose biases show too."""
    torch.manual_seed(0)
    config_class, arguments, _, _ = models.FAMILIES[family]
    special = {"gpt2": {"bos_token_id": 1, "eos_token_id": 2}, "t5": {"decoder_start_token_id": 0}}.get(family, {})
    config = getattr(transformers, config_class)(**{**arguments, **special})
    model: nn.Module = getattr(transformers, class_name or FAMILIES[family][0])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def logits(model: nn.Module, family: str) -> Tensor:
    with torch.no_grad():
        return model(**models.inputs(family)).logits  # type: ignore[no-any-return]


def config(family: str, kind: str, **changes: Any) -> Any:
    """A configuration of peft."""
    import peft

    class_name, arguments = KINDS[kind]
    _, task, targets, inputs, norms, whole = FAMILIES[family]
    words = {"T": targets, "F": inputs, "T+F": [*targets, *inputs], "N": norms, "W": [whole]}
    given = {k: words.get(v, v) if isinstance(v, str) else v for k, v in arguments.items()}
    fan = {"fan_in_fan_out": True} if family == "gpt2" and "target_modules" in given and kind != "norms" else {}
    return getattr(peft, class_name)(task_type=task, **{**given, **fan, **changes})


def saved_by_peft(family: str, folder: Path, given: Any, model: nn.Module | None = None, std: float = 0.1) -> Tensor:
    """Save an adapter with weights that show, by peft; what the model gives with it."""
    import peft

    model = peft.get_peft_model(model or built(family), given)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    del model
    return by_peft(family, folder)


def by_peft(family: str, folder: Path, model: nn.Module | None = None) -> Tensor:
    """What a bare model gives with the adapter of a folder, by peft."""
    import peft

    return logits(peft.PeftModel.from_pretrained(model or built(family), folder).eval(), family)


def by_ours(family: str, folder: Path, model: nn.Module | None = None) -> Tensor:
    """The same by this library."""
    model = model or built(family)
    adapters.init(model)
    name = model.load_adapter(folder, set_active=True)
    assert name == "default" and not model._adapter_registry.peft.trained
    return logits(model, family)


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((one - other).abs().max() / other.abs().max())


def check(one: Tensor, other: Tensor, bare: Tensor) -> None:
    assert one.shape == other.shape
    if bare.shape == other.shape:
        assert difference(bare, other) > 1e-3
    assert difference(one, other) < 5e-6


def skip_what_peft_cannot(family: str, kind: str) -> None:
    if (family, kind) == ("gpt2", "olora"):
        pytest.skip("peft cannot use OLoRA with Conv1D: the shapes do not fit")


@every_family
@every_kind
def test_read(family: str, kind: str, tmp_path: Path) -> None:
    skip_what_peft_cannot(family, kind)
    expected = saved_by_peft(family, tmp_path, config(family, kind))
    check(by_ours(family, tmp_path), expected, logits(built(family), family))


# -- options of PEFT ------------------------------------------------------------------------------------------------

LLAMA_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "patterns": (
        "lora",
        {
            "target_modules": ["q_proj", "up_proj", "down_proj"],
            "rank_pattern": {"layers.0.*q_proj": 2, "up_proj": 3},
            "alpha_pattern": {"down_proj": 5, r"layers\.1\.self_attn\.q_proj": 7},
        },
    ),
    "stable patterns": ("rslora", {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
    "expression": ("lora", {"target_modules": r".*layers\.(0|1)\.(self_attn\.q|mlp\.up)_proj"}),
    "some layers": ("lora", {"layers_to_transform": [1]}),
    "one layer": ("lora", {"layers_to_transform": 0, "layers_pattern": "layers"}),
    "excluded": ("lora", {"exclude_modules": ["layers.0.self_attn.v_proj"]}),
    "excluded by expression": ("lora", {"exclude_modules": r".*\.0\.self_attn\.q_proj"}),
    "whole paths": ("lora", {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]}),
    "embeddings": ("lora", {"target_modules": ["q_proj", "embed_tokens"]}),
    "embeddings kept": ("lora", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "dora of one layer": ("dora", {"layers_to_transform": [0], "use_rslora": True}),
    "dora patterns": ("dora", {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
    "tokens": ("lora", {"trainable_token_indices": [5, 6, 7, 8, 9, 20, 40, 60, 80]}),
    "normal": ("lora", {"init_lora_weights": "gaussian"}),
    "adalora ranks": ("adalora", {"lora_alpha": 5}),
}
BERT_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "all biases": ("lora", {"bias": "all"}),
    "own biases": ("lora", {"bias": "lora_only"}),
    "biases behind B": ("lora", {"lora_bias": True, "lora_alpha": 12}),
    "biases and DoRA": ("dora", {"bias": "lora_only"}),
    "whole": ("lora", {"modules_to_save": ["embeddings.LayerNorm", "pooler", "classifier"]}),
    "head adapted": ("lora", {"target_modules": ["dense"]}),
}
OPTIONS = {("llama", name): value for name, value in LLAMA_OPTIONS.items()}
OPTIONS |= {("bert", name): value for name, value in BERT_OPTIONS.items()}
every_option = pytest.mark.parametrize(("family", "option"), OPTIONS)


@every_option
def test_options(family: str, option: str, tmp_path: Path) -> None:
    kind, changes = OPTIONS[family, option]
    expected = saved_by_peft(family, tmp_path / "theirs", config(family, kind, **changes))
    model = built(family)
    check(by_ours(family, tmp_path / "theirs", model), expected, logits(built(family), family))
    adapters.export_adapter(model, "default", tmp_path / "ours")
    check(by_peft(family, tmp_path / "ours"), expected, logits(built(family), family))
    check(by_ours(family, tmp_path / "ours"), expected, logits(built(family), family))


def test_learned_ranks(tmp_path: Path) -> None:
    """AdaLoRA with a rank of its own for every matrix, as it is after training."""
    import peft

    model = peft.get_peft_model(built("llama"), config("llama", "adalora", lora_alpha=6, init_r=4, target_r=1))
    inner = model.base_model
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    ids = models.inputs("llama")["input_ids"]
    for step in range(10):
        loss = model(input_ids=ids, labels=ids).loss + torch.rand((), generator=generator)
        loss.backward()
        optimizer.step()
        inner.update_and_allocate(step)
        optimizer.zero_grad()
    assert model.peft_config["default"].rank_pattern
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(10 if "lora_B" in name else 1)
    model.save_pretrained(tmp_path)
    ranks = {sum(kept) for kept in json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"].values()}
    assert len(ranks) > 1
    check(by_ours("llama", tmp_path), by_peft("llama", tmp_path), logits(built("llama"), "llama"))


# -- writing --------------------------------------------------------------------------------------------------------

# name: (configuration, what a family needs instead)
OWN: dict[str, Any] = {
    "lora": adapters.LoRAConfig(r=4, alpha=6, attn_matrices=["q", "k", "v", "o"], intermediate_lora=True),
    "lora of some parts": adapters.LoRAConfig(r=4, alpha=6, attn_matrices=["q", "v"]),
    "lora of one layer": adapters.LoRAConfig(r=4, leave_out=[0]),
    "rslora": adapters.LoRAConfig(r=4, use_rslora=True, output_lora=True),
    "dora": adapters.DoRAConfig(r=4, alpha=12),
    "dora of the paper": adapters.DoRAConfig(r=4, scale_bias=False),
    "pissa": adapters.LoRAConfig(r=4, init_weights="pissa"),
    "dvora": adapters.DvoRAConfig(r=4),
    "mtl_lora": adapters.MTLLoRAConfig(r=4, n_up_projection=2),
    "vera": adapters.VeraConfig(r=4, alpha=6, attn_matrices=["q"]),
    "adalora": adapters.AdaLoRAConfig(r=4, target_r=2, attn_matrices=["o"]),
    "ia3": adapters.IA3Config(),
    "lora and biases": adapters.ConfigUnion(adapters.LoRAConfig(r=4), adapters.BitFitConfig()),
    "norms": adapters.LayerNormTuningConfig(),
    "prompt": adapters.PromptTuningConfig(prompt_length=3, counts_positions=True),
    "prefix": adapters.PrefixTuningConfig(
        prefix_length=3, bottleneck_size=8, counts_positions=True, cross_prefix=False, encoder_prefix=False
    ),
    "flat prefix": adapters.PrefixTuningConfig(
        flat=True, prefix_length=3, counts_positions=True, cross_prefix=False, encoder_prefix=False
    ),
}


def own(family: str, kind: str, model: nn.Module | None = None) -> nn.Module:
    """A model with an adapter of ours whose weights show."""
    given = OWN[kind]
    if family == "gpt2" and kind in ("vera", "adalora"):
        given = given.replace(target_modules=["c_attn"])
    model = model or built(family)
    adapters.init(model)
    model.add_adapter("a", given, set_active=True)
    models.randomise(model, "a", std=0.05 if "vera" in kind or "vora" in kind else 0.1)
    return model


@every_family
@pytest.mark.parametrize("kind", OWN)
def test_written(family: str, kind: str, tmp_path: Path) -> None:
    """What we write, peft loads with equal outputs, and so do we."""
    if (family, kind) in (("llama", "lora and biases"), ("t5", "lora and biases")):
        pytest.skip("there are no biases")
    model = own(family, kind)
    expected, bare = logits(model, family), logits(built(family), family)
    report = adapters.export_adapter(model, "a", tmp_path)
    assert report.is_served and report.parameters and all(file.is_file() for file in report.files)
    check(by_peft(family, tmp_path), expected, bare)
    check(by_ours(family, tmp_path), expected, bare)
    assert torch.equal(logits(model, family), expected)


# -- in use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("kind", ["lora", "dora", "prefix", "prompt"])
def test_generation(family: str, kind: str, tmp_path: Path) -> None:
    """The same texts, with a cache."""
    import peft

    std = 1.0 if kind in ("prefix", "prompt") else 0.1
    saved_by_peft(family, tmp_path, config(family, kind), std=std)
    ids = models.inputs(family)["input_ids"]
    arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "min_new_tokens": 6}
    theirs = peft.PeftModel.from_pretrained(built(family), tmp_path).eval().generate(**arguments, do_sample=False)
    ours: Any = built(family)
    bare = ours.generate(**arguments, do_sample=False)
    by_ours(family, tmp_path, ours)
    texts = ours.generate(**arguments, do_sample=False)
    assert torch.equal(texts, theirs) and not torch.equal(texts, bare)


@pytest.mark.parametrize("kind", ["prefix", "prompt", "lora"])
@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_further_encoders(family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (family, kind) == ("distilbert", "prefix"):
        pytest.skip("it takes no cache, which PEFT's prefixes are in")
    names = {"roberta": "RobertaForSequenceClassification", "distilbert": "DistilBertForSequenceClassification"}
    targets = {"roberta": ["query"], "distilbert": ["q_lin"]}[family]
    monkeypatch.setitem(FAMILIES, family, (names[family], "SEQ_CLS", targets, [], [], ""))
    # PEFT does not know DistilBERT's names of these.
    sizes = {"token_dim": 32, "num_layers": 2, "num_attention_heads": 4} if kind == "prompt" else {}
    expected = saved_by_peft(family, tmp_path, config(family, kind, **sizes))
    check(by_ours(family, tmp_path), expected, logits(built(family), family))


@pytest.mark.parametrize("class_name", ["BertModel", "BertForTokenClassification"])
def test_other_classes_of_the_model(class_name: str, tmp_path: Path) -> None:
    """An adapter of one class, exported from another, is one of that."""
    import peft

    saved_by_peft("bert", tmp_path / "theirs", config("bert", "lora"))
    model: Any = built("bert", class_name)
    adapters.init(model)
    model.load_adapter(tmp_path / "theirs", set_active=True)
    adapters.export_adapter(model, "default", tmp_path / "ours")
    bare = built("bert", class_name)
    inner = peft.PeftModel.from_pretrained(bare, tmp_path / "ours").eval()
    with torch.no_grad():
        one, other = (models.tensors(m(**models.inputs("bert")))[0] for m in (model, inner))
    assert difference(one, other) < 5e-6
    assert not any(m.startswith("base_model.model.bert.bert") for m, _ in inner.named_modules())


def test_flexible_heads(tmp_path: Path) -> None:
    """A model with a head of ours, as the static class that PEFT knows; and back."""
    torch.manual_seed(0)
    model: Any = adapters.AutoAdapterModel.from_config(transformers.BertConfig(**models.BERT)).eval()
    model.base_model.load_state_dict(built("bert").base_model.state_dict())  # type: ignore[operator,union-attr]
    model.add_adapter("task", adapters.LoRAConfig(r=4), set_active=True)
    model.add_classification_head("task", num_labels=2, layers=1, activation_function=None, use_pooler=True)
    models.randomise(model, "task", 0.1)
    expected = logits(model, "bert")
    adapters.export_adapter(model, "task", tmp_path)
    assert difference(by_peft("bert", tmp_path), expected) < 5e-6
    model.load_adapter(tmp_path, load_as="again", set_active=True)
    assert model.active_head == "again" and difference(logits(model, "bert"), expected) < 5e-6


@every_family
def test_plain_files_load_by_transformers(family: str, tmp_path: Path) -> None:
    """`from_pretrained` of a folder of ours, which names its base model."""
    built(family).save_pretrained(tmp_path / "base")  # type: ignore[operator]
    class_ = getattr(transformers, FAMILIES[family][0])
    model = own(family, "lora", class_.from_pretrained(tmp_path / "base").eval())
    expected = logits(model, family)
    adapters.export_adapter(model, "a", tmp_path / "a")
    loaded = class_.from_pretrained(tmp_path / "a").eval()
    assert difference(logits(loaded, family), expected) < 5e-6


def test_what_is_handed_over(tmp_path: Path) -> None:
    """Kinds that there is no method for, and files of which a user says so."""
    import peft

    for kind, given in (("loha", peft.LoHaConfig(r=2, target_modules=["q_proj"])), ("lora", config("llama", "lora"))):
        expected = saved_by_peft("llama", tmp_path / kind, given)
        model: Any = built("llama")
        adapters.init(model)
        asked = None if kind == "loha" else peft.PeftConfig.from_pretrained(tmp_path / kind)
        assert model.load_adapter(tmp_path / kind, asked, set_active=True) == "default"
        assert list(model._adapter_registry.peft.trained) == ["default"]
        assert difference(logits(model, "llama"), expected) < 5e-6
        with pytest.raises(ValueError, match="peft library"):
            adapters.export_adapter(model, "default", tmp_path / "x")
