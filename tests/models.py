"""Tiny random models of every family that the laws are tested on, with inputs that have padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from adapters import AdapterModelInterface

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BERT = {**SIZES, "vocab_size": 100, "max_position_embeddings": 32}
LLAMA = {**BERT, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BART = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 32,
}
IMAGE = {**SIZES, "image_size": 16, "patch_size": 4}

# name: (configuration class, its arguments, model class, kind of inputs)
FAMILIES: dict[str, tuple[str, dict[str, object], str, str]] = {
    "bert": ("BertConfig", BERT, "BertModel", "text"),
    "roberta": ("RobertaConfig", {**BERT, "pad_token_id": 1}, "RobertaModel", "text"),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": 100, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32},
        "DistilBertModel",
        "text",
    ),
    "deberta-v2": (
        "DebertaV2Config",
        {**BERT, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]},
        "DebertaV2Model",
        "text",
    ),
    "albert": ("AlbertConfig", {**BERT, "embedding_size": 16, "num_hidden_layers": 3}, "AlbertModel", "text"),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
        "GPT2Model",
        "text",
    ),
    "llama": ("LlamaConfig", LLAMA, "LlamaModel", "text"),
    "qwen3": ("Qwen3Config", LLAMA, "Qwen3Model", "text"),
    "gemma3": ("Gemma3TextConfig", {**LLAMA, "sliding_window": 4}, "Gemma3TextModel", "text"),
    "modernbert": (
        "ModernBertConfig",
        {**BERT, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4},
        "ModernBertModel",
        "text",
    ),
    "mixtral": ("MixtralConfig", {**LLAMA, "num_local_experts": 4}, "MixtralModel", "text"),
    "bart": ("BartConfig", BART, "BartModel", "seq2seq"),
    "t5": (
        "T5Config",
        {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "T5Model",
        "seq2seq",
    ),
    "whisper": (
        "WhisperConfig",
        {
            **{key: value for key, value in BART.items() if key != "max_position_embeddings"},
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 16,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
        },
        "WhisperModel",
        "audio",
    ),
    "vit": ("ViTConfig", IMAGE, "ViTModel", "image"),
    "clip": (
        "CLIPConfig",
        {
            "text_config": {**SIZES, "vocab_size": 100, "max_position_embeddings": 32, "eos_token_id": 2},
            "vision_config": IMAGE,
            "projection_dim": 16,
        },
        "CLIPModel",
        "clip",
    ),
}

NAMES = [*FAMILIES, "custom"]


@dataclass
class Block(nn.Module):
    """One pre-norm layer of the custom model."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.before_attention, self.before_ffn = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attend = nn.ModuleDict({role: nn.Linear(size, size) for role in ("query", "key", "value", "result")})
        self.expand, self.contract = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    __hash__ = nn.Module.__hash__  # a dataclass would compare by value
    __eq__ = nn.Module.__eq__

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, T, D), kept."""
        h = self.before_attention(x)
        q, k, v = (self.attend[role](h) for role in ("query", "key", "value"))
        x = x + self.attend["result"](nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.contract(torch.relu(self.expand(self.before_ffn(x))))


class CustomModel(nn.Module):
    """A Transformer that no library knows."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 32)
        self.blocks = nn.ModuleList([Block(32) for _ in range(2)])

    def forward(self, input_ids: Tensor) -> Tensor:
        """Shape: (B, T) to (B, T, D)."""
        x = self.words(input_ids)
        for block in self.blocks:
            x = block(x)
        return x


CUSTOM_INTERFACE = AdapterModelInterface(
    adapter_methods=[
        *("bottleneck", "invertible", "lora", "prefix_tuning", "prompt_tuning", "reft", "bitfit", "ln_tuning"),
        *("modules_to_save", "scaling"),
    ],
    model_embeddings="words",
    model_layers="blocks",
    layer_self_attn="attend",
    layer_cross_attn=None,
    attn_q_proj="query",
    attn_k_proj="key",
    attn_v_proj="value",
    attn_o_proj="result",
    layer_intermediate_proj="expand",
    layer_output_proj="contract",
    layer_pre_self_attn="before_attention",
    layer_pre_ffn="before_ffn",
)


def bare(name: str, seed: int = 0, **config: object) -> nn.Module:
    """A tiny model of a family, in evaluation mode, without adapters."""
    torch.manual_seed(seed)
    if name == "custom":
        return CustomModel().eval()
    config_class, arguments, model_class, _ = FAMILIES[name]
    built = getattr(transformers, config_class)(**arguments, **config)
    model: nn.Module = getattr(transformers, model_class)(built).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # the weights of new models are so small that nothing would show
                parameter.normal_(std=0.2)
    return model


def inputs(name: str) -> dict[str, Tensor]:
    """Inputs of a family: a batch of 2, of which one row is padded where there can be padding."""
    generator = torch.Generator().manual_seed(0)
    kind = "custom" if name == "custom" else FAMILIES[name][3]
    ids = torch.randint(5, 100, (2, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    image = torch.randn(2, 3, 16, 16, generator=generator)
    text = {"input_ids": ids, "attention_mask": mask}
    return {
        "custom": {"input_ids": ids},
        "text": text,
        "seq2seq": {**text, "decoder_input_ids": ids[:, :4]},
        "audio": {"input_features": torch.randn(2, 8, 20, generator=generator), "decoder_input_ids": ids[:, :4]},
        "image": {"pixel_values": image},
        "clip": {**text, "pixel_values": image},
    }[kind]


def outputs(model: nn.Module, name: str, **changes: Tensor) -> list[Tensor]:
    """All tensors that a forward pass gives, in a fixed order."""
    return tensors(model(**{**inputs(name), **changes}))


def tensors(output: object) -> list[Tensor]:
    """The tensors in a model's output, but for caches."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [t for key, value in output.items() if key != "past_key_values" for t in tensors(value)]
    if isinstance(output, (tuple, list)):
        return [t for value in output for t in tensors(value)]
    return []


def adapted(name: str, seed: int = 0, **config: object) -> nn.Module:
    """A tiny model of a family, with the methods of adapters."""
    import adapters

    model = bare(name, seed, **config)
    adapters.init(model, interface=CUSTOM_INTERFACE if name == "custom" else None)
    return model


def randomise(model: nn.Module, adapter: str, std: float = 0.2) -> None:
    """Give an adapter weights that show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for modules in model.get_adapter(adapter).values():  # type: ignore[operator]
            for module in modules.values():
                for parameter in module.parameters():
                    parameter.add_(std * torch.randn(parameter.shape, generator=generator))


def parameters(model: nn.Module, adapter: str) -> list[nn.Parameter]:
    """All parameters of an adapter, each once."""
    return list(model._adapter_registry[adapter].parameters())  # type: ignore[union-attr,index]


def hooks(model: nn.Module) -> int:
    """The number of hooks that are registered anywhere in a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) for m in model.modules())


def loss(values: list[Tensor]) -> Tensor:
    """A scalar that depends on every output. Not on their squares alone: behind a norm their mean hardly changes."""
    wanted = [torch.linspace(-1, 1, v.numel(), dtype=torch.float64).reshape(v.shape) for v in values]
    return torch.stack(
        [(v.double() - w).pow(2).mean() for v, w in zip(values, wanted, strict=True) if v.is_floating_point()]
    ).sum()
