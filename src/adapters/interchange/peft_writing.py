"""Adapters of this library in the layout of the `peft` library, which need not be installed.

What is written computes the same there: scalings, ranks of fused matrices, and magnitudes are turned into what PEFT
calls so. What it has nothing for is an error that lists all of it.

Letters: I inputs, O outputs of a matrix, r rank, P positions of a prefix, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..anatomy.matrices import matrix_at
from ..configuration import AdaLoRAConfig, LoRAConfig, VeraConfig
from ..methods.adalora import AdaLoRA
from ..methods.base import SharedParameters
from ..methods.bitfit import BiasShift
from ..methods.copies import ModuleCopy
from ..methods.embedding_lora import EmbeddingLoRA
from ..methods.ia3 import IA3, InputScaling
from ..methods.low_rank import LowRank
from ..methods.prefix_tuning import PrefixPool
from ..methods.prompt_tuning import Prompt
from ..methods.vera import Vera
from ..methods.weights import dense_weight
from ..registry import AdapterRegistry
from .peft_layout import PeftFile
from .peft_problems import ExportError, is_adalora, is_vera, problems
from .peft_source import Source, common, ends, is_transposed, patterns, targets


@torch.no_grad()
def peft_file(source: Source) -> PeftFile:
    """What a folder of PEFT is to hold.

    Raises:
        ExportError: there is something that PEFT has nothing for.
    """
    adapter = source.adapter
    found = list(problems(source))
    if found:
        raise ExportError(f"Adapter {adapter.name!r} cannot be written in the layout of PEFT:", found)
    if source.modules(Prompt):
        file = _prompt(source)
    elif source.modules(PrefixPool):
        file = _prefix(source)
    elif source.modules(IA3, InputScaling):
        file = _ia3(source)
    elif is_vera(source):
        file = _vera(source)
    elif is_adalora(source):
        file = _adalora(source)
    elif source.modules(LowRank, EmbeddingLoRA):
        file = _lora(source)
    else:
        file = _norms(source)
    _add_copies(source, file)
    _add_biases(source, file)
    _add_head(source, file)
    return file


# -- changes of weights ---------------------------------------------------------------------------------------------


@dataclass
class _Change:
    """What is written for one matrix.

    Args:
        tensors: The tensors by their names in `peft_layout.KEYS`.
        rank: r.
        scaling: s.
        bias: The bias that the layer has with the adapter, if that is another one. Shape: (O,).
    """

    tensors: dict[str, Tensor]
    rank: int
    scaling: float
    bias: Tensor | None = None


def change_at(registry: AdapterRegistry, path: str, module: LowRank | EmbeddingLoRA) -> _Change:
    """What is written for one matrix: a LoRA that does the same."""
    if isinstance(module, EmbeddingLoRA):
        tensors = {name: t.detach() for name, t in module.named_parameters()}
        return _Change(tensors, len(module.lora_embedding_A), module.scaling)
    a, b = (tensor.detach() for tensor in module.factors())
    change = _Change({"lora_A": a, "lora_B": b}, len(a), module.scaling)
    if module.m is None:
        return change
    # m / ‖W + B A‖ of ours is m′ / ‖W + s · B A‖ there, and the bias is not scaled.
    scale = module.m.scale(a, b).detach().float()
    matrix = matrix_at(registry.base, path)
    assert matrix is not None
    weight = dense_weight(registry.base, matrix).float()
    change.tensors["m.weight"] = scale * torch.linalg.vector_norm(weight + module.scaling * (b @ a).float(), dim=1)
    bias = registry.base.get_submodule(path)._parameters.get("bias")
    if bias is not None and module.kept_bias is None:
        change.bias = bias.detach() * scale.to(bias.dtype)
    return change


def _lora(source: Source) -> PeftFile:
    modules = source.modules(LowRank, EmbeddingLoRA)
    changes = {path: change_at(source.registry, path, module) for path, module in modules.items()}
    configs = [config for config in source.configs if isinstance(config, LoRAConfig)]
    is_stable = all(config.use_rslora for config in configs)
    roots = {p: math.sqrt(c.rank) if is_stable else float(c.rank) for p, c in changes.items()}
    options = {
        **common(source, "LORA"),
        **targets(source, list(modules)),
        "fan_in_fan_out": is_transposed(source, modules),
        "lora_dropout": configs[0].dropout,
        "use_rslora": is_stable,
        "use_dora": any(isinstance(m, LowRank) and m.m is not None for m in modules.values()),
        "init_lora_weights": True,
        **patterns(source, "r", "rank_pattern", {p: c.rank for p, c in changes.items()}),
        **patterns(
            source, "lora_alpha", "alpha_pattern", {p: _short(c.scaling * roots[p]) for p, c in changes.items()}
        ),
    }
    file = PeftFile(options)
    for path, change in changes.items():
        file.modules[source.prefix + path] = change.tensors
        if change.bias is not None:
            options["bias"] = "lora_only"
            file.whole[f"{source.prefix}{path}.bias"] = change.bias
    return file


def _vera(source: Source) -> PeftFile:
    config = next(config for config in source.configs if isinstance(config, LoRAConfig))
    modules = source.modules(Vera)
    options = {
        **common(source, "VERA"),
        **targets(source, list(modules)),
        "fan_in_fan_out": is_transposed(source, modules),
        "r": config.r,
        "vera_dropout": config.dropout,
        "d_initial": VeraConfig().vera_d if config.vera_d is None else config.vera_d,
        "save_projection": True,
        "projection_prng_key": 0,
    }
    file = PeftFile(options)
    for path, module in modules.items():
        tensors = {"vera_D": module.vera_D.detach(), "vera_B": module.scaling * module.vera_B.detach()}
        file.modules[source.prefix + path] = tensors
    (shared,) = source.modules(SharedParameters).values()
    file.shared = {name: parameter.detach() for name, parameter in shared.items()}
    return file


def _adalora(source: Source) -> PeftFile:
    config = next(config for config in source.configs if isinstance(config, AdaLoRAConfig))
    modules = source.modules(AdaLoRA)
    first = next(iter(modules.values()))
    steps = config.total_steps or 1
    options = {
        **common(source, "ADALORA"),
        **targets(source, list(modules)),
        "fan_in_fan_out": is_transposed(source, modules),
        "lora_dropout": config.dropout,
        "init_r": first.rank,
        "target_r": config.target_r,
        "r": config.target_r,
        "lora_alpha": first.scaling * (first.rank + 1e-5),  # PEFT divides by that
        "total_step": steps,
        "tinit": config.warmup_steps if config.warmup_steps + config.final_steps < steps else 0,
        "tfinal": config.final_steps if config.warmup_steps + config.final_steps < steps else 0,
        "deltaT": config.interval,
        "beta1": config.beta1,
        "beta2": config.beta2,
        "orth_reg_weight": config.orthogonality_weight,
    }
    file = PeftFile(options)
    for path, module in modules.items():
        file.modules[source.prefix + path] = {n: p.detach() for n, p in module.named_parameters()}
    return file


def _ia3(source: Source) -> PeftFile:
    modules = source.modules(IA3, InputScaling)
    inputs = [path for path, module in modules.items() if isinstance(module, InputScaling)]
    options = {**common(source, "IA3"), **targets(source, list(modules)), "init_ia3_weights": True}
    options["fan_in_fan_out"] = is_transposed(source, modules)
    named = ends(source, inputs) if inputs else []
    all_named = options["target_modules"]
    if not {*named} <= {*all_named} or {p for p in modules if any((source.prefix + p).endswith(n) for n in named)} != {
        *inputs
    }:
        named = [source.prefix + path for path in inputs]
        options["target_modules"] = [source.prefix + path for path in modules]
    file = PeftFile({**options, "feedforward_modules": named})
    for path, module in modules.items():
        scale = (module.scaling * module.lora_A) if isinstance(module, InputScaling) else module.scale()[:, None]
        file.modules[source.prefix + path] = {"scale": scale.detach()}
    return file


def _norms(source: Source) -> PeftFile:
    """LayerNorm tuning, which in PEFT may train any module."""
    copies = source.modules(ModuleCopy)
    file = PeftFile({**common(source, "LN_TUNING"), "target_modules": ends(source, list(copies))})
    for path, module in copies.items():
        file.modules[source.prefix + path] = {name: p.detach() for name, p in module.named_parameters()}
    return file


# -- prompts and prefixes -------------------------------------------------------------------------------------------


def _prompt(source: Source) -> PeftFile:
    prompt = next(iter(source.modules(Prompt).values()))
    vectors = prompt.vectors().detach()
    options = {**common(source, "PROMPT_TUNING"), **_sizes(source), "prompt_tuning_init": "RANDOM"}
    options |= {"num_virtual_tokens": len(vectors), "token_dim": vectors.shape[1], "num_transformer_submodules": 1}
    return PeftFile(options, shared={"prompt": vectors})


def _prefix(source: Source) -> PeftFile:
    pools = source.modules(PrefixPool)
    (group,) = next(iter(pools.values())).groups
    heads, size = group.sizes[0]
    prompt = group.prefixes().detach()  # (P, 2 L · heads · size)
    options = {**common(source, "PREFIX_TUNING"), **_sizes(source), "prefix_projection": False}
    options |= {"num_virtual_tokens": len(prompt), "token_dim": heads * size, "num_attention_heads": heads}
    layers = len(group.sizes) // 2
    is_decoder = len(source.registry.anatomy.towers) > 1
    options |= {"num_layers": layers, "num_transformer_submodules": 2 if is_decoder else 1}
    if is_decoder:  # each layer takes two of a row, and uses the first
        spread = torch.zeros(len(prompt), layers, 2, prompt.shape[1] // layers, dtype=prompt.dtype)
        spread[:, :, 0] = prompt.view(len(prompt), layers, -1)
        prompt, options["num_layers"] = spread.flatten(1), 2 * layers
    return PeftFile(options, shared={"prompt": prompt})


def _sizes(source: Source) -> dict[str, Any]:
    """Sizes of the model that PEFT would read from its configuration, under names that it may not have."""
    config: Any = source.registry.base.config
    text = config.get_text_config()
    return {"num_layers": len(source.registry.anatomy.layers), "num_attention_heads": text.num_attention_heads}


# -- what is beside -------------------------------------------------------------------------------------------------


def _add_copies(source: Source, file: PeftFile) -> None:
    """Modules that are trained whole."""
    copies = source.modules(ModuleCopy)
    if file.peft_type == "LN_TUNING" or not copies:
        return
    paths = [source.prefix + path for path in copies]
    file.options["modules_to_save"] = [p for p in paths if not any(p.startswith(f"{other}.") for other in paths)]
    for path, module in copies.items():
        file.whole |= {f"{source.prefix}{path}.{name}": p.detach() for name, p in module.named_parameters()}


def _add_biases(source: Source, file: PeftFile) -> None:
    """Biases with what is added to them."""
    shifts = source.modules(BiasShift)
    if not shifts:
        return
    file.options["bias"] = "all"
    for path, module in shifts.items():
        name = f"{source.prefix}{path}.bias"
        bias = file.whole.get(name, source.registry.base.get_submodule(path)._parameters["bias"])
        assert bias is not None
        file.whole[name] = bias.detach() + module.bias.detach().to(bias.dtype)


def _add_head(source: Source, file: PeftFile) -> None:
    """The head, as modules that are trained whole."""
    named = {name: tensor for name, tensor in source.head.items() if "." in name}
    if not named:
        return
    heads = dict.fromkeys(name.partition(".")[0] for name in named)
    file.options["modules_to_save"] = [*(file.options.get("modules_to_save") or []), *heads]
    file.whole |= {name: tensor.detach() for name, tensor in named.items()}


def _short(alpha: float) -> float | int:
    """A whole number where rounding has made it another."""
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * abs(alpha) else alpha
