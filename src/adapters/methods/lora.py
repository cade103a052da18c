"""LoRA (Hu et al. 2021, arXiv:2106.09685): y = W x + b + s · B A x, with s = alpha / r.

Letters: I inputs of the adapted matrix, R its adapted rows, n matrices that are one in the model, r rank.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..anatomy.matrices import ends_with
from ..configuration import AdaLoRAConfig, LoRAConfig, MTLLoRAConfig
from .adalora import AdaLoRA
from .base import SharedParameters, WeightMap
from .embedding_lora import EmbeddingLoRA
from .ia3 import IA3, InputScaling
from .lora_inits import DECOMPOSITIONS, initialise
from .low_rank import LowRank
from .mtl_lora import MTLLoRA
from .shifted_lora import ShiftedLoRA
from .targets import MatrixMethod, Target
from .vera import Vera, shared_matrices

_LARGE = 1 << 16
"""The number of outputs from which on a product that adds to them is worth its preparation."""


class LoRA(LowRank):
    """Shapes of the parameters: `lora_A` (n·r, I), `lora_B` (R, r).

    Args:
        config: The configuration.
        target: The matrix.
    """

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__(config, target)
        self.lora_A = nn.Parameter(torch.empty(len(self.sizes) * self.rank, self.in_features))
        self.lora_B = nn.Parameter(torch.empty(sum(self.sizes), self.rank))
        self.is_plain = self.is_whole and self.m is None and self.gate is None
        initialise(config.init_weights, self._parameters)  # type: ignore[arg-type]

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """See `LinearMap.after`. In small models calls of functions cost as much as the product, so it makes none."""
        own, x = self._parameters, inputs[0]
        a: Tensor = own["lora_A"]  # type: ignore[assignment]
        if self.is_plain and x.dtype is a.dtype and not (self.training and self.dropout):
            h, b, s = linear(x, a), own["lora_B"], self.scaling
            assert b is not None
            if torch.is_grad_enabled():
                return torch.add(output, linear(h, b), alpha=s)
            # Nobody else has seen the output yet, so without gradients it is changed in place.
            if output.numel() < _LARGE or output.dtype is not a.dtype or not output.is_contiguous():
                return output.add_(linear(h, b), alpha=s)
            output.view(-1, b.shape[0]).addmm_(h.view(-1, b.shape[1]), b.t(), alpha=s)
            return output
        return self.adapt(x, output)

    def factors(self) -> tuple[Tensor, Tensor]:
        """See `LowRank.factors`."""
        a, b = self.sources
        return a, b if self.is_whole else self.spread_blocks(b)

    @property
    def sources(self) -> list[Tensor]:
        """See `LowRank.sources`."""
        return [self._parameters["lora_A"], self._parameters["lora_B"]]  # type: ignore[list-item]


class LoRAMethod(MatrixMethod):
    """LoRA and what its configuration makes of it: IA³, VeRA, DoRA, DVoRA, MTL-LoRA."""

    def make(self, config: LoRAConfig, target: Target, shared: SharedParameters | None) -> WeightMap:
        """See `MatrixMethod.make`."""
        if isinstance(config, MTLLoRAConfig):
            return MTLLoRA(config, target)
        if isinstance(config, AdaLoRAConfig):
            return AdaLoRA(config, target)
        if config.composition_mode == "scale":
            are_inputs = any(ends_with(target.matrix.name, name) for name in config.scale_inputs_of)
            return InputScaling(config, target) if are_inputs else IA3(config, target)
        if isinstance(target.module, nn.Embedding):
            return EmbeddingLoRA(config, target)
        if config.init_weights in DECOMPOSITIONS:
            return ShiftedLoRA(config, target)
        return LoRA(config, target) if shared is None else Vera(config, target, shared)

    def share(self, config: LoRAConfig, targets: Sequence[Target]) -> SharedParameters | None:
        """See `MatrixMethod.share`."""
        return shared_matrices(config, targets) if config.is_vera else None

    def updated(self, config: LoRAConfig, version: str | None, names: Collection[str]) -> LoRAConfig:
        """See `Method.updated`."""
        return updated(config, version, names)


# -- files of AdapterHub's adapters ---------------------------------------------------------------------------------


def updated(config: LoRAConfig, version: str | None, names: Collection[str]) -> LoRAConfig:
    """The configuration in a file of any age. See `Method.updated`."""
    release = _release(version)
    changes: dict[str, object] = {}
    if (0,) < release < (1, 1):
        changes["alpha"] = config.r  # these releases added B A x as it is, unlike those before and after
    if release < (2,):
        # These took an "o", and added nothing for it.
        changes["attn_matrices"] = [role for role in config.attn_matrices if role != "o"]
    if config.intermediate_lora != config.output_lora and config.target_modules is None:
        # Release 1.3 had the two projections of LLaMA and Mistral swapped.
        leaves = set(re.findall(r"\.mlp\.(\w+)\.loras\.", "\n".join(names)))
        if leaves == {"down_proj" if config.intermediate_lora else "up_proj"}:
            changes |= {"intermediate_lora": config.output_lora, "output_lora": config.intermediate_lora}
    return cast(LoRAConfig, config.replace(**changes))


def _release(version: str | None) -> tuple[int, ...]:
    """The release of `adapters` that wrote a file; (0,) for those before it had this name."""
    if version is None or not version.startswith("adapters."):
        return (0,)
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
