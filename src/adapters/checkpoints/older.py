"""Files as AdapterHub's `adapters` 1.3 reads them, where this library writes less.

Nearly all files are the same. LoReFT is not: that release keeps a D × D matrix for each projection of r rows, which
makes its files D / r times larger, and cannot read rows alone.

Shapes: r rows, D hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..configuration import AdapterConfig, ConfigUnion, LoRAConfig
from ..methods.orthonormal import HouseholderRows, OrthonormalRows

RELEASE = "1.3"
_UNKNOWN_METHODS = {"adalora", "bitfit", "ln_tuning", "modules_to_save"}
# Fields of this library that release 1.3 has too, but in other classes; and one that it says by the class alone:
# whoever adds such an adapter before it is loaded, as 1.3 needs it, loses nothing.
_KNOWN_TO = {"mtl_lora": {"n_up_projection", "task_specific_matrix_type", "weights_sharpness"}}
_SAID_BY_CLASS = {"subtract_projection"}
_SWAPPED_PROJECTIONS = {"llama", "mistral"}


def check_release(release: str | None) -> None:
    """Raise `ValueError` for a release that files are not written for."""
    if release not in (None, RELEASE):
        raise ValueError(f"for_release={release!r}: files are written for this release, or for {RELEASE!r}.")


def config_for_1_3(config: AdapterConfig, model_type: str) -> dict[str, Any]:
    """The entries of a configuration as release 1.3 reads them.

    Args:
        config: The configuration.
        model_type: The type of the model.

    Raises:
        ValueError: it has no such method or option.
    """
    if isinstance(config, ConfigUnion):
        parts = [config_for_1_3(part, model_type) for part in config.configs]
        return {**config.to_dict(), "configs": parts}
    entries = config.to_dict()
    new = {f.name for f in dataclasses.fields(config) if "absent" in f.metadata} & entries.keys()
    unknown = sorted(new - _SAID_BY_CLASS - _KNOWN_TO.get(str(config.architecture), set()))
    if config.architecture in _UNKNOWN_METHODS:
        unknown = [f"the method {config.architecture!r}"]
    if isinstance(config, LoRAConfig) and "o" in config.attn_matrices:
        unknown.append("LoRA for the matrix 'o', for which it adds nothing")
    if unknown:
        raise ValueError(f"adapters {RELEASE} cannot read this adapter: it does not have {', '.join(unknown)}.")
    if isinstance(config, LoRAConfig) and model_type in _SWAPPED_PROJECTIONS:
        # There, the names of the two projections are swapped for these models.
        entries |= {"intermediate_lora": config.output_lora, "output_lora": config.intermediate_lora}
    return {name: value for name, value in entries.items() if name not in _SAID_BY_CLASS}


def tensors_for_1_3(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapter as release 1.3 reads them.

    Args:
        modules: Its modules, by the prefix of their tensors' names.
        tensors: Its tensors by name.
    """
    rows = {
        f"{prefix}.{name}"
        for prefix, module in modules.items()
        for name, inner in module.named_modules()
        if isinstance(inner, (OrthonormalRows, HouseholderRows))
    }
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        owner = name.removesuffix(".weight")
        if owner in rows:
            original, base = _as_reflections(tensor)
            found[f"{owner}.parametrizations.weight.original"] = original
            found[f"{owner}.parametrizations.weight.0.base"] = base
        else:
            found[name] = tensor
    return found


def _as_reflections(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What `torch.nn.utils.parametrizations.orthogonal` computes the same orthonormal rows of.

    Its result is the first r columns of B H₁ … Hᵣ, times signs, transposed. Here the rows are B's first columns
    already, and each reflection turns just one axis around, which the signs undo.

    Args:
        rows: Shape: (r, D).

    Returns:
        What is trained, with the signs on its diagonal; shape (r, D). And B; shape (D, D).
    """
    exact = rows.detach().cpu().double()
    others = torch.linalg.qr(exact.mT, mode="complete")[0][:, len(rows) :]
    original = torch.zeros_like(exact)
    original.diagonal().fill_(-1)
    return original.to(rows.dtype), torch.cat([exact.mT, others], dim=1).to(rows.dtype)
