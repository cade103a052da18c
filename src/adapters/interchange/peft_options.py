"""What the options of PEFT's configurations mean: which modules they choose, with which ranks, and what is not here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import regex  # type: ignore[import-untyped]
from torch import nn
from transformers.pytorch_utils import Conv1D

from .peft_layout import KEYS, PROMPT_TYPES

_logger = logging.getLogger(__name__)
T = TypeVar("T")

ALL_LINEAR = "all-linear"

# What says nothing of what an adapter computes.
_NEUTRAL = frozenset(
    {
        *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
        *("inference_mode", "runtime_config", "megatron_config", "megatron_core", "loftq_config", "eva_config"),
        *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "fan_in_fan_out"),
    }
)
_TARGETS = frozenset(
    {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias"}
)
_LORA = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
        *("init_lora_weights", "trainable_token_indices"),
    }
)
_PROMPT = frozenset(
    {
        *("num_virtual_tokens", "num_layers", "num_attention_heads", "num_transformer_submodules", "token_dim"),
        *("modules_to_save", "init_weights", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs"),
        *("tokenizer_name_or_path", "prefix_projection", "encoder_hidden_size", "encoder_reparameterization_type"),
        *("encoder_num_layers", "encoder_dropout", "prefix_tuning_config"),
    }
)
_KNOWN: dict[str, frozenset[str]] = {
    "LORA": _TARGETS | _LORA,
    "ADALORA": _TARGETS
    | _LORA
    | {*("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step")},
    "IA3": _TARGETS | {"feedforward_modules", "init_ia3_weights"},
    "VERA": _TARGETS | {"r", "d_initial", "vera_dropout", "projection_prng_key", "save_projection", "init_weights"},
    "LN_TUNING": _TARGETS,
    **dict.fromkeys(PROMPT_TYPES, _PROMPT),
}
# What there is no adapter of ours for, with what would have to be done. Unset, they say nothing.
_MISSING = {
    "layer_replication": "layers are repeated, which no adapter here does",
    "target_parameters": "parameters of modules that hold several matrices are adapted in a layout of its own",
    "alora_invocation_tokens": "the adapter acts behind some tokens only (aLoRA)",
    "use_qalora": "inputs are pooled in groups (QALoRA)",
    "use_bdlora": "matrices are block-diagonal (BD-LoRA)",
    "arrow_config": "several adapters are routed (Arrow)",
    "kasa_config": "singular values are adapted (KaSA)",
    "monteclora_config": "weights are sampled (MonteCLoRA)",
    "velora_config": "activations are compressed (VeLoRA)",
    "use_hira": "the weight is multiplied by the product (HiRA)",
}
# Ways to start that change the weights of the model itself, which a file does not hold. Of PiSSA and OLoRA, what they
# did can be computed again.
# Expressions come from files, and some would be tried for ever: seconds for each.
_PATIENCE = 0.2
_CHANGING_INITS = regex.compile("(?i)pissa_niter|loftq|corda|lora_ga|mica|lora_null")


def problems(options: Mapping[str, Any], peft_type: str) -> list[str]:
    """What of the options cannot be met here, in words. Options that are not known are warned of, as by PEFT."""
    found = []
    for name, value in options.items():
        if name in _NEUTRAL or name in _KNOWN[peft_type] or not value:
            continue
        if name in _MISSING:
            found.append(f"{name}={value!r}: {_MISSING[name]}")
        else:
            _logger.warning("%s=%r is an option of PEFT's %s that is not known here.", name, value, peft_type)
    init = options.get("init_lora_weights")
    if isinstance(init, str) and _CHANGING_INITS.match(init):
        found.append(
            f"init_lora_weights={init!r}: the weights of the model were changed when training began, in a way that "
            "cannot be computed again; in PEFT, convert it by save_pretrained(path_initial_model_for_weight_conversion"
            "=...)"
        )
    for name in ("rank_pattern", "alpha_pattern"):
        if peft_type == "LORA" and not isinstance(options.get(name), (dict, type(None))):
            found.append(f"{name}={options[name]!r}: it is numbers by name of module")
    if options.get("bias", "none") not in ("none", "all", "lora_only"):
        found.append(f"bias={options['bias']!r}: it is 'none', 'all' or 'lora_only'")
    return found


def decomposition_of(options: Mapping[str, Any]) -> str | None:
    """Which part of the weight the adapter started at, if it did: `pissa` or `olora`."""
    init = str(options.get("init_lora_weights", "")).lower()
    return init if init in ("pissa", "olora") else None


def value_at(path: str, default: T, patterns: Mapping[str, T] | None) -> T:
    """The value for a module: that of the first pattern that is its name, or the end of its path.

    >>> value_at("model.layers.0.mlp.up_proj", 8, {"layers.0.*up_proj": 4})
    4
    """
    return next((value for key, value in (patterns or {}).items() if _fits(rf"(.*\.)?({key})$", path)), default)


def selects(options: Mapping[str, Any], path: str, module: nn.Module) -> bool:
    """Whether PEFT adapts a module.

    Args:
        options: The options.
        path: Its path in the model that was saved.
        module: The module.
    """
    excluded, targets = options.get("exclude_modules"), options.get("target_modules")
    if excluded and _is_named(excluded, path):
        return False
    if isinstance(targets, str):
        if targets == ALL_LINEAR:
            return isinstance(module, (nn.Linear, Conv1D)) and _is_in_layers(options, path)
        return _fits(targets, path)
    if targets is None or path in targets:
        return targets is not None
    return _is_named(targets, path) and _is_in_layers(options, path)


def _is_named(names: str | Sequence[str], path: str) -> bool:
    if isinstance(names, str):
        return _fits(names, path)
    return any(path == name or path.endswith(f".{name}") for name in names)


def _is_in_layers(options: Mapping[str, Any], path: str) -> bool:
    """Whether a path is within the layers that are wanted, by the number in it."""
    layers, patterns = options.get("layers_to_transform"), options.get("layers_pattern")
    if layers is None or layers == []:
        return True
    wanted = [layers] if isinstance(layers, int) else layers
    named = [patterns] if isinstance(patterns, str) else list(patterns or [])
    expressions = [rf"(?:.*\.)?{name}\.(\d+)\." for name in named] or [r".*?\.[^.]*\.(\d+)\."]
    found = next((m for e in expressions if (m := regex.match(e, path, timeout=_PATIENCE))), None)
    return found is not None and int(found[1]) in wanted


def _fits(expression: str, path: str) -> bool:
    """Whether an expression fits a whole path.

    Raises:
        ValueError: it is none, or takes too long.
    """
    try:
        return regex.fullmatch(expression, path, timeout=_PATIENCE) is not None
    except regex.error as error:
        raise ValueError(f"{expression!r} is no regular expression: {error}.") from None
    except TimeoutError:
        raise ValueError(f"{expression!r} takes too long to be compared with {path}.") from None


assert KEYS.keys() == _KNOWN.keys()
