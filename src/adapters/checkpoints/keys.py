"""From the names of tensors in files of any age to the names of this model's parameters.

In files every name starts with the path of the base model in the model that was saved, and has the paths of the
transformers release of that day. Here every name starts at the base model, and has today's paths.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn

T = TypeVar("T")

# (pattern, replacement): renames that any file may need, oldest first.
LEGACY_NAMES: tuple[tuple[str, str], ...] = (
    (r"(attention|layer)_text_(task|lang)_adapters\.", "adapters."),
    (r"invertible_lang_adapters\.", "invertible_adapters."),
)

# adapters 1.3 wrote what all layers share (prefixes) once more for each layer.
DUPLICATE = re.compile(r"\.prefix_tuning\.pool\.")

Renames = tuple[tuple[str, str], ...]

# Paths of modules that changed between releases of transformers, by model type: alternatives, of which the one that
# fits is taken. transformers' own table of renames names only its own parameters, and adapters are attached to modules
# between them.
_IMAGE_PROJECTIONS: Renames = (
    (r"^(encoder\.layer\.\d+\.)attention\.attention\.query\.", r"\1attention.q_proj."),
    (r"^(encoder\.layer\.\d+\.)attention\.attention\.key\.", r"\1attention.k_proj."),
    (r"^(encoder\.layer\.\d+\.)attention\.attention\.value\.", r"\1attention.v_proj."),
    (r"^(encoder\.layer\.\d+\.)attention\.output\.dense\.", r"\1attention.o_proj."),
    (r"^(encoder\.layer\.\d+\.attention\.)attention\.prefix_tuning\.", r"\1prefix_tuning."),
    (r"^(encoder\.layer\.\d+\.)intermediate\.dense\.", r"\1mlp.fc1."),
    (r"^(encoder\.layer\.\d+\.)output\.dense\.", r"\1mlp.fc2."),
)
RENAMED_PATHS: dict[str, tuple[Renames, ...]] = {
    "vit": (
        (
            *_IMAGE_PROJECTIONS,
            (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
            (
                r"^(layers\.\d+\.)output\.(?:output_adapters\.)?adapter(s|_fusion_layer)\.",
                r"\1output_adapters.adapter\2.",
            ),
        ),
        ((r"\.output\.output_adapters\.adapter(s|_fusion_layer)\.", r".output.adapter\1."),),
    ),
    "beit": ((*_IMAGE_PROJECTIONS, (r"^encoder\.layer\.(\d+)\.", r"layers.\1.")),),
    "clip_text_model": (((r"^text_model\.invertible_adapters", "invertible_adapters"),),),
}

# The same backwards: the paths that modules had in transformers 4.
_FORMER_IMAGE_PATHS: Renames = (
    (r"^(layers\.\d+\.)attention\.q_proj\.", r"\1attention.attention.query."),
    (r"^(layers\.\d+\.)attention\.k_proj\.", r"\1attention.attention.key."),
    (r"^(layers\.\d+\.)attention\.v_proj\.", r"\1attention.attention.value."),
    (r"^(layers\.\d+\.)attention\.o_proj\.", r"\1attention.output.dense."),
    (r"^(layers\.\d+\.attention\.)prefix_tuning\.", r"\1attention.prefix_tuning."),
    (r"^(layers\.\d+\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"^(layers\.\d+\.)mlp\.fc2\.", r"\1output.dense."),
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
)
FORMER_PATHS: dict[str, Renames] = {
    "vit": ((r"^(layers\.\d+\.)output_adapters\.", r"\1output.output_adapters."), *_FORMER_IMAGE_PATHS),
    "beit": _FORMER_IMAGE_PATHS,
    "clip_text_model": ((r"^(encoder|invertible_adapters)\.", r"text_model.\1."),),
    "clip_vision_model": ((r"^(encoder|invertible_adapters)\.", r"vision_model.\1."),),
}


def under_former_names(tensors: Mapping[str, T], prefix: str, model_type: str) -> dict[str, T]:
    """Tensors under the names that they had in files that were written with transformers 4.

    >>> list(under_former_names({"layers.0.attention.q_proj.loras.a.lora_A": tensor}, "", "vit"))
    ['encoder.layer.0.attention.attention.query.loras.a.lora_A']

    Args:
        tensors: Tensors by the names of parameters.
        prefix: The path of the base model in these, with a dot behind it, or "".
        model_type: The type of the model.
    """
    renames = FORMER_PATHS.get(model_type, ())
    return {f"{prefix}{_renamed(name.removeprefix(prefix), renames)}": tensor for name, tensor in tensors.items()}


def matched(tensors: Mapping[str, T], wanted: Iterable[str], model_type: str) -> dict[str, T]:
    """The tensors under the names of the model's parameters.

    The path of the base model (`bert.`, `model.`, `transformer.` … or none) is not known for files of other classes of
    the same model, and whether paths are those before or after a renaming depends on both releases: whatever makes the
    most names known is right. Names that stay unknown are kept.

    Args:
        tensors: What a file holds, tensors or else.
        wanted: The names of the model's parameters.
        model_type: The type of the model.
    """
    known = set(wanted)
    tensors = {name: tensor for name, tensor in tensors.items() if not DUPLICATE.search(name)}
    best: dict[str, T] = {}
    most = -1
    for prefix, renames in itertools.product(_prefixes(tensors), ((), *RENAMED_PATHS.get(model_type, ()))):
        current = {_renamed(name.removeprefix(prefix), (*LEGACY_NAMES, *renames)): t for name, t in tensors.items()}
        hits = len(known & current.keys())
        if hits > most:
            most, best = hits, current
        if most == len(known) == len(tensors):
            break
    return best


def _renamed(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _prefixes(names: Iterable[str]) -> list[str]:
    """No prefix, and the leading one or two parts of the names. Only frequent ones: it is that of nearly all names."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for depth in (1, 2):
            found[".".join(parts[:depth]) + "."] += 1
    frequent = {prefix for prefix, _ in found.most_common(16)}
    return ["", *(prefix for prefix in found if prefix in frequent)]


def aliases(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Every name of a parameter, with the first name of the same parameter.

    A norm in front of a bottleneck has two names in files: its own, and its place in the sequence.

    Args:
        modules: Modules by the prefix of their parameters' names.
    """
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            full = f"{prefix}.{name}"
            names[full] = first.setdefault(id(parameter), full)
    return names
