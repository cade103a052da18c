"""Each of PEFT's methods as one of ours: the configuration, and the tensors at each module in our form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor

from ..anatomy.streams import input_embeddings
from ..checkpoints.files import AdapterFileError
from ..configuration import (
    AdapterConfig,
    IA3Config,
    LayerNormTuningConfig,
    LoRAConfig,
    ModulesToSaveConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
)
from . import peft_options
from .peft_places import Parts, Places, ends_with_any

Read = tuple[AdapterConfig, Mapping[str, Parts]]


def lora(places: Places) -> Read:
    """LoRA, rsLoRA, DoRA, PiSSA and OLoRA."""
    paths, options = places.targets(), places.options
    ranks = {path: places.rank_at(path) for path in paths}
    alphas = {path: places.number_at(path, "lora_alpha", "alpha_pattern") for path in paths}
    tensors: dict[str, dict[str, Tensor]] = {path: dict(places.modules.get(path, {})) for path in paths}
    fields: dict[str, Any] = {"dropout": float(options.get("lora_dropout") or 0.0)}
    fields["use_rslora"] = bool(options.get("use_rslora"))
    if options.get("use_dora"):
        for path, parts in tensors.items():  # in the norm there is no s here, so that B gets it
            scaling = places.scaling_at(path)
            if "lora_B" in parts and scaling != 1.0:
                parts["lora_B"] = parts["lora_B"].float() * scaling
            if "m.weight" in parts:
                parts["m.weight"] = parts["m.weight"].reshape(-1, 1)
        alphas = {path: float(rank) for path, rank in ranks.items()}
        has_bias = any(places.own[path]._parameters.get("bias") is not None for path in paths)
        fields |= {"use_rslora": False, "use_dora": True, "scale_bias": not has_bias}
    decomposition = peft_options.decomposition_of(options)
    if decomposition is not None:
        fields["init_weights"] = decomposition
    return _with_values(places.chosen(LoRAConfig(**fields), paths), ranks, alphas), tensors


def adalora(places: Places) -> Read:
    """AdaLoRA, as LoRA of the ranks that were learned: Λ goes into Q."""
    options = places.options
    first, alpha = int(options.get("init_r", 12)), float(options.get("lora_alpha", 8))
    scaling = (alpha if alpha > 0 else first) / (first + 1e-5)  # PEFT divides by the first rank, whatever was learned
    tensors: dict[str, Parts] = {}
    ranks: dict[str, int] = {}
    for path in places.targets():
        parts = places.modules.get(path, {})
        is_whole = parts.keys() >= {"lora_A", "lora_B", "lora_E"}
        if is_whole and len(parts["lora_E"]) == 0:  # nothing was left of it
            del places.modules[path]
            continue
        ranks[path] = len(parts["lora_E"]) if is_whole else first
        tensors[path] = parts
        if is_whole:
            tensors[path] = {"lora_A": parts["lora_A"] * parts["lora_E"], "lora_B": parts["lora_B"] * scaling}
    if not tensors:
        raise AdapterFileError("all its ranks are 0, so that it does nothing.")
    config = places.chosen(LoRAConfig(dropout=float(options.get("lora_dropout") or 0.0)), list(tensors))
    return _with_values(config, ranks, {path: float(rank) for path, rank in ranks.items()}), tensors


def ia3(places: Places) -> Read:
    """IA³, of outputs or of inputs: the shape of the vector tells which."""
    paths = places.targets()
    tensors: dict[str, Parts] = {}
    inputs = []
    for path in paths:
        scale = places.modules.get(path, {}).get("scale")
        if scale is not None and scale.shape[0] == 1:
            inputs.append(path)
        name = "lora_A" if path in inputs else "lora_B"
        tensors[path] = {} if scale is None else {name: scale}
    named = places.options.get("feedforward_modules")
    if isinstance(named, list) and {path for path in paths if ends_with_any(path, named)} == {*inputs}:
        inputs = [name for name in named if any(ends_with_any(path, [name]) for path in paths)]
    return places.chosen(IA3Config(), paths).replace(scale_inputs_of=inputs), tensors


def vera(places: Places) -> Read:
    """VeRA, which has no s in PEFT."""
    options, paths = places.options, places.targets()
    rank = int(options.get("r", 256))
    config = VeraConfig(
        r=rank,
        alpha=rank,
        dropout=float(options.get("vera_dropout") or 0.0),
        vera_d=float(options.get("d_initial", 0.1)),
    )
    return places.chosen(config, paths), {path: places.modules.get(path, {}) for path in paths}


def norms(places: Places) -> Read:
    """LayerNorm tuning: ours if all norms of the layers are meant, else these modules trained whole."""
    paths = sorted({*places.modules, *(path for path in places.own if places.selects(path))})
    tensors = {path: places.modules.get(path, {}) for path in paths}
    try:
        built = places.registry.build("norms", LayerNormTuningConfig(), is_filled=True)
        is_all = {*paths} == {placement.host for placement in built.placements}
    except ValueError:  # there are no norms in the layers
        is_all = False
    return (LayerNormTuningConfig() if is_all else ModulesToSaveConfig(paths)), tensors


def prompt(places: Places) -> Read:
    """Prompt tuning, and p-tuning, whose files hold the prompts that its encoder gave."""
    vectors = places.shared("prompt")
    # An encoder-decoder has a prompt for each half, of which PEFT uses the first.
    length = int(places.options.get("num_virtual_tokens") or vectors.shape[0])
    are_tokens = input_embeddings(places.registry.anatomy, places.registry.base).are_tokens
    config = PromptTuningConfig(prompt_length=length, counts_positions=not are_tokens)
    return config, {"": {"prompt": vectors[:length]}}


def prefix(places: Places) -> Read:
    """Prefix tuning. Files hold the prefixes that a projection gave, and keys and values in our order."""
    vectors = places.shared("prompt")
    if int(places.options.get("num_transformer_submodules") or 1) == 1:
        config = PrefixTuningConfig(flat=True, prefix_length=vectors.shape[0], counts_positions=True)
        return config, {"": {"prompt": vectors}}
    # In an encoder-decoder, the self-attention of the decoder has prefixes. Of twice the layers in a row, each layer
    # takes the first of two.
    count = int(places.options["num_layers"])
    order = [2 * number % count for number in range(len(places.registry.anatomy.towers[-1].layers))]
    taken = vectors.view(len(vectors), count, -1)[:, order].flatten(1)
    config = PrefixTuningConfig(
        flat=True, prefix_length=len(vectors), counts_positions=True, encoder_prefix=False, cross_prefix=False
    )
    return config, {"": {"prompt": taken}}


METHODS: dict[str, Callable[[Places], Read]] = {
    "LORA": lora,
    "ADALORA": adalora,
    "IA3": ia3,
    "VERA": vera,
    "LN_TUNING": norms,
    "PROMPT_TUNING": prompt,
    "P_TUNING": prompt,
    "PREFIX_TUNING": prefix,
}


def _with_values(config: LoRAConfig, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> AdapterConfig:
    """The configuration with these ranks and alphas: patterns only where they differ."""
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    changes: dict[str, Any] = {"r": rank, "alpha": int(alpha) if alpha == int(alpha) else alpha}
    if len({*ranks.values()}) > 1:
        changes["rank_pattern"] = dict(ranks)
    if len({*alphas.values()}) > 1:
        changes["alpha_pattern"] = dict(alphas)
    return config.replace(**changes)


def _most_common(values: Collection[Any]) -> Any:
    found = list(values)
    return max(dict.fromkeys(found), key=found.count)
