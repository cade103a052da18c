"""LoRA of an embedding: y = W eₜ + s · B A eₜ for the unit vector eₜ of a token, which are columns of W and A.

An output layer that is tied to the embedding is not changed: the adapter acts where tokens are looked up. Parameters
have the names that they have in PEFT's files.

Letters: V tokens of the vocabulary, D size of an embedding, r rank.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from ..anatomy.parts import Anatomy
from ..configuration import AdapterConfigError, LoRAConfig
from .base import WeightMap
from .twins import run_with

if TYPE_CHECKING:
    from .targets import Target


class EmbeddingLoRA(WeightMap):
    """Shapes of the parameters: `lora_embedding_A` (r, V), which starts at zero, `lora_embedding_B` (D, r).

    Args:
        config: The configuration.
        target: The embedding.
    """

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__()
        matrix = target.matrix
        self.scaling = target.scaling
        self.dropout = config.dropout
        self.dtype = None if config.dtype is None else getattr(torch, config.dtype)
        self._module = (target.module,)  # in a tuple it is no module of the adapter
        self.lora_embedding_A = nn.Parameter(torch.zeros(target.rank, matrix.in_features))
        self.lora_embedding_B = nn.Parameter(torch.empty(matrix.out_features, target.rank))
        if config.init_weights == "bert":
            nn.init.normal_(self.lora_embedding_A, std=0.02)
            nn.init.normal_(self.lora_embedding_B, std=0.02)
        else:
            nn.init.normal_(self.lora_embedding_B)

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """y′ for the numbers x of tokens. Shapes: (..., T), (..., T, D) to (..., T, D)."""
        # The module's own code looks A up too: some embeddings are scaled, and some count otherwise.
        parameters = {**self._module[0]._parameters, "weight": self.lora_embedding_A.mT}
        h: Tensor = run_with(self._module[0], parameters, x)
        if self.training and self.dropout:
            h = h * dropout(h.new_ones(*h.shape[:-1], 1), self.dropout)  # of a unit vector, all or nothing
        return torch.add(y, linear(h, self.lora_embedding_B).to(y.dtype), alpha=self.scaling)

    def merged(self, weight: Tensor) -> Tensor:
        """See `WeightMap.merged`. Shape: (D, V), kept."""
        return weight + self.scaling * (self.lora_embedding_B @ self.lora_embedding_A).to(weight.dtype)


def check_embedding(config: LoRAConfig, target: Target) -> None:
    """Raise for an embedding, or options, that there is no adapter for.

    Raises:
        AdapterConfigError: there is none.
    """
    path, module = target.matrix.path, target.module
    unset = {"use_dora": False, "use_gating": False, "vera_d": None}
    given = [f"{name}={config[name]!r}" for name, value in unset.items() if config[name] != value]
    given += [] if config.architecture == "lora" else [f"architecture={config.architecture!r}"]
    given += [f"init_weights={config.init_weights!r}"] if config.init_weights not in ("lora", "bert", "ia3") else []
    if given:
        raise AdapterConfigError(
            f"{path} is an embedding, which can have a plain LoRA or a scaling; given: {', '.join(given)}. Leave it "
            "out of target_modules, or add it by a second configuration in a ConfigUnion."
        )
    takes = list(inspect.signature(type(module).forward).parameters)[1:]
    if len(takes) != 1 or getattr(module, "max_norm", None) is not None:
        raise AdapterConfigError(
            f"{path} ({type(module).__name__}) is no plain look-up of tokens, so it cannot be adapted; leave it out of "
            "target_modules."
        )


def check_is_used(path: str, anatomy: Anatomy, base: nn.Module) -> None:
    """Raise for an embedding that lends its weight to others, and is not called itself.

    Raises:
        AdapterConfigError: it is one.
    """
    weight = base.get_submodule(path)._parameters.get("weight")
    towers = [anatomy.tower_host(tower) for tower in anatomy.towers if len(anatomy.towers) > 1]
    if any(path.startswith(f"{tower}.") for tower in towers):
        return
    users = [
        other
        for other, module in base.named_modules()
        if isinstance(module, nn.Embedding) and module._parameters.get("weight") is weight and other != path
    ]
    used = [other for other in users if any(other.startswith(f"{tower}.") for tower in towers)]
    if used:
        raise AdapterConfigError(
            f"{path} is not called: it lends its weight to {' and '.join(used)}. Name these in target_modules instead."
        )
