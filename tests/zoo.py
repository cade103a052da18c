"""Tiny random models of every language-model and image-classification architecture of the installed transformers.

The tests of this library must hold for any architecture, so they run over all of them.  A tiny model is made from the
default configuration of its architecture, by setting the fields that decide its size (``RULES``, matched by name) to
small values; the few architectures with constraints that no name tells have an entry in ``OVERRIDES``.

Example::

    for architecture in ARCHITECTURES:
        model = tiny_model(architecture)
        outputs = model(**tiny_inputs(model, architecture))

``python tests/zoo.py`` builds all the models and reports what failed; with ``--forward`` it runs them too.
"""

from __future__ import annotations

import argparse
import inspect
import math
import re
import time
from collections import Counter
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.optim.swa_utils import update_bn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WIDTH, FFN, HEADS, HEAD_DIM, VOCAB, POSITIONS, IMAGE = 32, 64, 4, 8, 100, 64, 32

# Token ids below FIRST_ID keep their default; the others (image, audio, mask ... tokens) move to LAST_ID and above.
# The ids between them are ordinary tokens, the ones that tiny_inputs draws from.
FIRST_ID, LAST_ID = 10, 90

MAPPINGS: dict[str, dict[str, Any]] = {
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq2seq-lm": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "masked-lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}

# Field name (a pattern for the whole name) -> the largest value it may keep; the first match counts.
RULES: tuple[tuple[str, int], ...] = (
    (r".*(vocab|codebook)_size.*|.*vocab_size_base|.*byte_group_vocab|num_(centroids|buckets)", VOCAB),
    (r".*(position_embeddings|positions|context_(length|size)|n_ctx|max_seq_len|max_pos_emb|rel_extent)", POSITIONS),
    (r".*(kv|key_value)_heads|kv_n_heads|num_query_groups|linear_num_key_heads|(num|n|mamba_n?)_?groups", 2),
    (r"n_heads?|.*(num_|n_|attention_)heads|attention_heads.*", HEADS),
    (r"(qk_(nope|rope)|v)_head_dim|rotary_dim", HEAD_DIM),
    (r"qk_head_dim", 2 * HEAD_DIM),
    (r".*head_?dim|d_kv|d_head|dim_head|kv_channels|attention_head_size", HEAD_DIM),
    (r".*(rank|state_size|d_state)", 16),
    (r".*experts_per_tok(en)?|moe_(top_?k|k)|n_group|num_expert_group", 2),
    (r"(n_routed|num_local|num|moe_num)_experts|zero_expert_num", 4),
    (r"topk_group|(n|moe_num|num)_shared_experts|first_k_dense_replace|num_dense_layers", 1),
    (r"n_layers?|(.*_)?layers|num_.*_layers.*|depth|num_blocks", 2),
    (r"depths|num_block_repeats|stage_num.*|num_sparse.*|num_self_attends_per_block", 1),
    (r".*intermediate_(size|dim).*|.*ffn_(dim|hidden_size)|feed_forward_size|mlp_dim", FFN),
    (r"d_?ff|dim_ff|d_inner|mamba_d_ssm", FFN),
    (r"embed_dim|embedding_(size|rank|dim)|.*bottleneck_size|num_latents|num_patches", WIDTH // 2),
    (r".*hidden_(size|dim)s?(_global|_per_layer_input)?|d_model|.*n_embd|emb|dim|.*_(embedding|emb)_size", WIDTH),
    (r".*(projection|_in|_out|output|_input|_embed|emb)_(dim|size)|embed_dims|base_attn_unit_dims|d_latents", WIDTH),
    (r".*channels?(_size)?|class_expand", WIDTH),
    (r"image_size|crop_size", IMAGE),
    (r"patch_size", 8),
    (r"(sliding|attention|local).*(window|size|attention|chunk).*|(block|chunk)_size|.*_chunk_(size|length)", 4),
    (r"num_filters", 2),
)

# Fields that default to None and are not derived, yet the model needs them.
REQUIRED = ("head_dim", "num_key_value_heads", "n_routed_experts", "n_shared_experts", "num_experts_per_tok")

# Lists with one entry per layer; a tiny model keeps one layer of each kind.
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")

# Model type -> values that no rule gives; a dictionary for a sub-configuration changes that one.
SWIN: dict[str, Any] = {"num_heads": (2, 2, 4, 4), "window_size": 2, "image_size": 64}
GEMMA_SHARED = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"num_hidden_layers": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "cvt": {"num_heads": (1, 2, 4), "depth": (1, 2, 3)},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "donut-swin": SWIN,
    "dots3_note_text": {"head_dim": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_v_head_dim": 8}
    | {"swa_q_lora_rank": 16, "swa_kv_lora_rank": 16, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8},
    "efficientnet": {"width_coefficient": 0.025, "depth_coefficient": 0.1},
    "esm": {"vocab_size": VOCAB, "pad_token_id": 1, "mask_token_id": 3},
    "esmc": {"vocab_size": VOCAB},
    "gemma3n_text": GEMMA_SHARED,
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "gemma4_text": {"global_head_dim": 16},
    "gemma4_unified_assistant": {"text_config": GEMMA_SHARED | {"num_kv_shared_layers": 2}},
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "levit": {"image_size": 64, "patch_size": 16},
    "mamba2": {"head_dim": 16},
    "mobilenet_v1": {"depth_multiplier": 0.1},
    "mobilenet_v2": {"depth_multiplier": 0.1},
    "mobilevitv2": {"width_multiplier": 0.25, "image_size": 64},
    "moshi": {"audio_encoder_config": {"codebook_size": 64}},
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "neomme": {"head_dim": 16},
    "perceiver": {"num_cross_attention_heads": 1},
    "pp_lcnet": {"scale": 0.1},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": HEAD_DIM}
    | {"indexer_budget": 4, "indexer_compress_ratio": 2},
    "recurrent_gemma": {"block_types": ("recurrent", "attention")},
    "reformer": {"axial_pos_shape": (8, 8), "axial_pos_embds_dim": (16, 16)},
    "shieldgemma2": {"yes_token_index": 11, "no_token_index": 12},
    "squeezebert": {"embedding_size": WIDTH},
    "swin": SWIN,
    "swinv2": SWIN,
    "vibevoice_asr": {"acoustic_tokenizer_chunk_size": 1440000},
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
}


class CannotShrink(Exception):
    """No tiny model of this architecture can be built; the message says why."""


@dataclass(frozen=True)
class Architecture:
    """One model class, with a task and a model type it is listed under in transformers."""

    task: str
    model_type: str
    model_class: str


def list_architectures() -> list[Architecture]:
    """Every distinct model class of the mappings, under its first task and the model type that it is named after."""
    found: dict[str, Architecture] = {}
    for task, mapping in MAPPINGS.items():
        for model_type, names in mapping.items():
            for name in (names,) if isinstance(names, str) else names:
                known = found.get(name)
                if known is None or (known.task == task and is_named_after(name, model_type)):
                    found[name] = Architecture(task, model_type, name)
    return list(found.values())


def is_named_after(model_class: str, model_type: str) -> bool:
    """Whether the class carries the model type: ``is_named_after("GPT2LMHeadModel", "gpt2")``."""
    return re.sub(r"[-_]", "", model_class).lower().startswith(re.sub(r"[-_]", "", model_type))


ARCHITECTURES = list_architectures()


def tiny_config(model_type: str, model_class: type[PreTrainedModel]) -> PreTrainedConfig:
    """A small configuration for a model class: ``tiny_config("llama", LlamaForCausalLM).hidden_size == 32``."""
    config_class: Any = CONFIG_MAPPING[model_type]
    if not issubclass(config_class, model_class.config_class):  # a composite model type, and its text model
        config_class = model_class.config_class
    causal = model_class.__name__ in MAPPINGS["causal-lm"].values() and hasattr(config_class, "is_decoder")
    return shrink(config_class, {"is_decoder": True} if causal else {}, {})


def shrink(config_class: type[PreTrainedConfig], given: dict[str, Any], exact: dict[str, Any]) -> PreTrainedConfig:
    """The default configuration of a class with its declared fields made small.

    The values in ``given`` replace defaults, and shrink; those in ``exact`` (and ``OVERRIDES``) are final.
    Fields whose declared default is None are left to the class, which derives them from the others.
    """
    exact = OVERRIDES.get(config_class.model_type, {}) | exact
    nested = {name: exact[name] for name in config_class.sub_configs if name in exact}
    default = config_class(**(given | nested)).__dict__
    layers = covering_layers(default)
    small: dict[str, Any] = {}
    for name, value in (declared_values(config_class) | given).items():
        built = default.get(name)
        if isinstance(built, PreTrainedConfig):
            spec = (config_class.sub_configs_defaults or {}).get(name)
            small[name] = shrink(type(built), spec.init_kwargs if spec else {}, nested.get(name, {}))
        elif name in PER_LAYER and isinstance(built, list | tuple):
            small[name] = [built[i] for i in layers]
        elif re.fullmatch(r"num_hidden_layers|n_layers?|num_layers", name) and layers:
            small[name] = len(layers)
        elif name in REQUIRED and built is None:
            small[name] = shrink_value(name, VOCAB)
        elif "key_value_heads" in name and value == default.get(name.replace("key_value", "attention")):
            small[name] = HEADS
        elif value is not None:
            small[name] = shrink_value(name, value)
    return config_class(**(small | {name: value for name, value in exact.items() if name not in nested}))


def declared_values(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """The declared default of every field that the class adds to PreTrainedConfig."""
    common = {field.name for field in fields(PreTrainedConfig)}
    values = {}
    for field in fields(config_class):
        if field.name not in common and not field.name.startswith("_"):
            values[field.name] = field.default_factory() if field.default_factory is not MISSING else field.default
    return values


def covering_layers(default: dict[str, Any]) -> list[int]:
    """Indices of the fewest layers, at least two, that show every kind of layer the configuration lists."""
    lists = [default.get(name) for name in PER_LAYER]
    kinds = list(zip(*(kind for kind in lists if isinstance(kind, list | tuple)), strict=False))
    layers = sorted({kinds.index(kind) for kind in kinds})
    return layers if len(layers) != 1 else [0, 1]


def shrink_value(name: str, value: Any) -> Any:
    """The small value of one field: ``shrink_value("hidden_size", 4096) == 32``."""
    if isinstance(value, list | tuple):
        return type(value)(shrink_value(name, each) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "drop" in name or "jitter" in name:
        return type(value)(0)
    if re.fullmatch(r".*(token_id|token_index|_index|suppress_tokens)", name):
        return small_id(int(value))
    limits = (limit for pattern, limit in RULES if re.fullmatch(pattern, name))
    return min(value, next(limits, value)) if isinstance(value, int) else value


def small_id(token_id: int) -> int:
    """A token id inside the vocabulary: ``small_id(2) == 2``, ``small_id(151643) == 93``."""
    return token_id if token_id < FIRST_ID else LAST_ID + token_id % (VOCAB - LAST_ID)


def tiny_model(architecture: Architecture, seed: int = 0) -> PreTrainedModel:
    """A tiny float32 model on the CPU, in eval mode, with random weights; ``CannotShrink`` if it cannot be built.

    ``tiny_model(Architecture("causal-lm", "gpt2", "GPT2LMHeadModel")).num_parameters() < 100_000``
    """
    torch.manual_seed(seed)
    try:
        model_class = getattr(transformers, architecture.model_class)
        model = model_class(tiny_config(architecture.model_type, model_class)).float().eval()
        randomise(model)
        if architecture.task == "image-classification":
            images = tiny_inputs(model, architecture)[model.main_input_name]
            update_bn([torch.randn(16, *images.shape[1:])], model)  # nothing to do for a model without batch norms
    except Exception as error:
        raise CannotShrink(f"{type(error).__name__}: {error}") from error
    return model


@torch.no_grad()
def randomise(model: PreTrainedModel) -> None:
    """Draw matrices at the scale of their fan-in, and move vectors (biases, norms) off the constants they start from.

    After ``randomise(bert)`` no bias is zero and no norm is the identity.
    """
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter.nan_to_num_().clamp_(-10, 10).add_(0.1 * torch.randn_like(parameter))
        else:
            fan_in = parameter.shape[1] if parameter.dim() == 3 else parameter[0].numel()
            parameter.normal_(std=fan_in**-0.5)


def tiny_inputs(model: PreTrainedModel, architecture: Architecture) -> dict[str, Tensor]:
    """Inputs for the forward pass, the same on every call: a batch of two, seven tokens or one image each.

    ``tiny_inputs(gpt2, architecture).keys() == {"input_ids", "attention_mask"}``
    """
    generator = torch.Generator().manual_seed(0)
    if architecture.task == "image-classification" and model.main_input_name != "input_ids":
        return image_inputs(model, generator)
    tokens = torch.randint(FIRST_ID, LAST_ID, (2, 2, 7), generator=generator)
    inputs = {model.main_input_name: tokens[0], "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens[1]
    if model.config.model_type == "voxtral_realtime":  # adds the audio of eight frames to the embedding of each token
        inputs["input_features"] = torch.randn(2, model.config.audio_config.num_mel_bins, 56, generator=generator)
    accepted = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


def image_inputs(model: PreTrainedModel, generator: torch.Generator) -> dict[str, Tensor]:
    """Random images: ``image_inputs(vit, torch.Generator())["pixel_values"].shape == (2, 3, 32, 32)``."""
    if model.config.model_type == "siglip2":  # takes the patches of each image, flattened, and how they were laid out
        vision = model.config.vision_config
        patches = torch.randn(2, vision.num_patches, 3 * vision.patch_size**2, generator=generator)
        return {"pixel_values": patches, "spatial_shapes": torch.full((2, 2), math.isqrt(vision.num_patches))}
    size = getattr(model.config, "image_size", IMAGE)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return {model.main_input_name: torch.randn(2, 3, height, width, generator=generator)}


def report(forward: bool) -> None:
    """Build every architecture, and with ``forward`` run it; print the counts, the failures and the slowest builds."""
    total = Counter(architecture.task for architecture in ARCHITECTURES)
    built, ran = Counter[str](), Counter[str]()
    failures: list[str] = []
    seconds: dict[str, float] = {}
    sizes: dict[str, int] = {}
    started = time.perf_counter()
    for architecture in ARCHITECTURES:
        label = f"{architecture.model_class} ({architecture.model_type})"
        before = time.perf_counter()
        try:
            model = tiny_model(architecture)
        except CannotShrink as error:
            failures.append(f"build   {label}: {one_line(error)}")
            continue
        seconds[label] = time.perf_counter() - before
        sizes[label] = model.num_parameters()
        built[architecture.task] += 1
        if forward:
            try:
                with torch.no_grad():
                    model(**tiny_inputs(model, architecture))
                ran[architecture.task] += 1
            except Exception as error:
                failures.append(f"forward {label}: {type(error).__name__}: {one_line(error)}")
    print(*failures, sep="\n")
    for task in total:
        print(f"{task}: {built[task]} of {total[task]} built" + f", {ran[task]} ran" * forward)
    print(f"all: {built.total()} of {total.total()} built" + f", {ran.total()} ran" * forward, end=" ")
    print(f"in {time.perf_counter() - started:.0f} s")
    slowest, largest = Counter(seconds).most_common(5), Counter(sizes).most_common(5)
    print("slowest:", *(f"{label} {value:.1f} s" for label, value in slowest), sep="\n  ")
    print("largest:", *(f"{label} {value:,} parameters" for label, value in largest), sep="\n  ")


def one_line(error: Exception) -> str:
    """The message of an error, shortened: ``one_line(ValueError("a\\n b")) == "a b"``."""
    return " ".join(str(error).split())[:160]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=report.__doc__)
    parser.add_argument("--forward", action="store_true", help="also run the forward pass of each model")
    transformers.logging.set_verbosity_error()
    report(parser.parse_args().forward)
