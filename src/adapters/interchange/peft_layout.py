"""The files of the `peft` library: `adapter_config.json` with `adapter_model.safetensors` or `adapter_model.bin`.

What is known of their keys is one table, which is read in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.files import (
    ADAPTER_CONFIG,
    AdapterFileError,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from ..checkpoints.transactions import together

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

# For each type of adapter: what the tensors at one module are called here, and how their keys end.
KEYS: dict[str, dict[str, str]] = {
    "LORA": {
        "lora_A": "lora_A.weight",
        "lora_B": "lora_B.weight",
        "bias": "lora_B.bias",
        "lora_embedding_A": "lora_embedding_A",
        "lora_embedding_B": "lora_embedding_B",
        "m.weight": "lora_magnitude_vector",
        "tokens": "token_adapter.trainable_tokens_delta",
    },
    "ADALORA": {"lora_A": "lora_A", "lora_B": "lora_B", "lora_E": "lora_E"},
    "IA3": {"scale": "ia3_l"},
    "VERA": {"vera_D": "vera_lambda_d", "vera_B": "vera_lambda_b"},
    "LN_TUNING": {"weight": "ln_tuning_layers.weight", "bias": "ln_tuning_layers.bias"},
    "PROMPT_TUNING": {},
    "P_TUNING": {},
    "PREFIX_TUNING": {},
}
# The same for what belongs to no module: these are whole keys.
SHARED_KEYS: dict[str, dict[str, str]] = {
    "VERA": {"lora_A": "base_model.vera_A", "lora_B": "base_model.vera_B"},
    "PROMPT_TUNING": {"prompt": "prompt_embeddings"},
    "P_TUNING": {"prompt": "prompt_embeddings"},
    "PREFIX_TUNING": {"prompt": "prompt_embeddings"},
}
PROMPT_TYPES = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")

# Modules around those of the model, which come and go with releases of peft, and the name of an adapter.
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")
_NAME = re.compile(r"(\.(?:lora|ia3|vera)_\w+)\.default(?=\.|$)")
_OLD_MAGNITUDE = re.compile(r"(\.lora_magnitude_vector)\.weight$")


@dataclass
class PeftFile:
    """What a folder of PEFT holds.

    Args:
        options: What `adapter_config.json` says.
        modules: The tensors of an adapter at the modules of the model: by the path of the module in the model that was
            saved, and then by the names of `KEYS`.
        shared: Tensors that belong to no module, by the names of `SHARED_KEYS`.
        whole: Parameters of the model itself that were trained, by their names.
    """

    options: dict[str, Any]
    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    @property
    def peft_type(self) -> str:
        """Which kind of adapter it is."""
        return str(self.options["peft_type"]).rpartition(".")[2]


def peft_type_of(folder: Path) -> str | None:
    """Which kind of PEFT's adapters a folder holds; None if it holds none of them."""
    try:
        found = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    except AdapterFileError:
        return None
    return None if found is None else str(found).rpartition(".")[2]


def read(folder: Path, safetensors_only: bool = False) -> PeftFile:
    """Read a folder of PEFT.

    Raises:
        AdapterFileError: a file is missing, cut off, or of another kind.
    """
    options = read_json(folder / ADAPTER_CONFIG)
    found = PeftFile(options)
    if found.peft_type not in KEYS:
        raise AdapterFileError(unknown_type(folder, found.peft_type))
    return parsed(options, read_tensors(folder, WEIGHTS, safetensors_only))


def write(folder: Path, file: PeftFile) -> None:
    """Write a folder of PEFT, which is made if it is not there."""
    with together(folder):
        write_tensors(folder, WEIGHTS, formatted(file), use_safetensors=True, metadata={"format": "pt"})
        write_json(folder / ADAPTER_CONFIG, file.options)


def parsed(options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PeftFile:
    """The tensors of a file, by what they are."""
    file = PeftFile(dict(options))
    parts, shared = KEYS[file.peft_type], SHARED_KEYS.get(file.peft_type, {})
    of_shared = {key: name for name, key in shared.items()}
    for key, tensor in tensors.items():
        if key in of_shared:
            file.shared[of_shared[key]] = tensor
            continue
        name = _OLD_MAGNITUDE.sub(r"\1", _NAME.sub(r"\1", key.removeprefix(_prefix(file))))
        part = next((part for part, end in parts.items() if name.endswith(f".{end}")), None)
        if part is not None:
            file.modules.setdefault(name.removesuffix(f".{parts[part]}"), {})[part] = tensor
        elif ".original_module." not in name:
            file.whole[_WRAPPERS.sub("", name)] = tensor
    return file


def formatted(file: PeftFile) -> dict[str, Tensor]:
    """The tensors as a file holds them."""
    parts, shared = KEYS[file.peft_type], SHARED_KEYS.get(file.peft_type, {})
    tensors = {shared[name]: tensor for name, tensor in file.shared.items()}
    prefix = _prefix(file)
    for path, found in file.modules.items():
        tensors |= {f"{prefix}{path}.{parts[part]}": tensor for part, tensor in found.items()}
    for name, tensor in file.whole.items():
        path, _, last = name.rpartition(".")
        tensors[f"{prefix}{path}.base_layer.{last}" if path in file.modules else f"{prefix}{name}"] = tensor
    return tensors


def unknown_type(source: object, peft_type: str) -> str:
    """That there is no adapter of ours for one of PEFT's."""
    return (
        f"{source} holds an adapter of PEFT with peft_type={peft_type!r}, for which there is no method here; there are "
        f"{', '.join(KEYS)}. With the peft library (pip install adapters[peft]) it is handed over to that."
    )


def _prefix(file: PeftFile) -> str:
    """What the names of the model's own modules begin with."""
    return "base_model." if file.peft_type in PROMPT_TYPES else "base_model.model."
