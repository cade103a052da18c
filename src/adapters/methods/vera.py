"""VeRA (Kopiczko et al. 2024, arXiv:2310.11454): y = W x + b₀ + s · b ⊙ B (d ⊙ A x), with A and B shared and frozen.

Letters: I inputs, O outputs of the adapted matrix, R its adapted rows, n matrices that are one in the model, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..configuration import LoRAConfig
from .base import SharedParameters
from .lora_inits import initialise
from .low_rank import LowRank
from .targets import Target


class Vera(LowRank):
    """Shapes of the parameters: `vera_D` (n·r,), `vera_B` (R,).

    Files of AdapterHub's `adapters` 1.3 hold full matrices, (r, r) and (R, R). If these were trained beside their
    diagonals, the parameters become such matrices.

    Args:
        config: The configuration.
        target: The matrix.
        shared: A and B, large enough for every matrix.
    """

    def __init__(self, config: LoRAConfig, target: Target, shared: SharedParameters) -> None:
        super().__init__(config, target)
        assert config.vera_d is not None and config.vera_b is not None
        self.vera_D = nn.Parameter(torch.full((len(self.sizes) * self.rank,), float(config.vera_d)))
        self.vera_B = nn.Parameter(torch.full((sum(self.sizes),), float(config.vera_b)))
        self._shared = (shared,)  # in a tuple it is not a second time a module of the adapter

    def factors(self) -> tuple[Tensor, Tensor]:
        """See `LowRank.factors`."""
        shared = self._shared[0]._parameters
        a, b = shared["lora_A"][:, : self.in_features], shared["lora_B"]  # type: ignore[index]
        blocks = torch.cat([b[:size] for size in self.sizes])  # type: ignore[index]
        if self.vera_B.ndim == 2:
            return a, self.vera_B @ blocks @ self.vera_D
        blocks = self.spread_blocks(self.vera_B[:, None] * blocks) * self.vera_D
        return a if len(self.sizes) == 1 else a.repeat(len(self.sizes), 1), blocks

    @property
    def sources(self) -> list[Tensor]:
        """See `LowRank.sources`."""
        own, shared = self._parameters, self._shared[0]._parameters
        return [own["vera_D"], own["vera_B"], shared["lora_A"], shared["lora_B"]]  # type: ignore[list-item]

    def read(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `AdapterModule.read`."""
        found = dict(tensors)
        matrices = {name: found[name] for name in ("vera_D", "vera_B") if name in found and found[name].ndim == 2}
        if all(torch.equal(matrix, matrix.diagonal().diag()) for matrix in matrices.values()):
            return found | {name: matrix.diagonal() for name, matrix in matrices.items()}
        for name, matrix in matrices.items():
            size = len(self._parameters[name])  # type: ignore[arg-type]
            if self.is_whole and matrix.shape == (size, size):  # else it is refused as it is
                self._parameters[name] = nn.Parameter(torch.empty_like(matrix))
        return found


def shared_matrices(config: LoRAConfig, targets: Sequence[Target]) -> SharedParameters:
    """A and B, of which each matrix uses as many columns and rows as it has inputs and outputs.

    Shapes: `lora_A` (r, largest I), `lora_B` (largest O, r).
    """
    shared = SharedParameters()
    shared["lora_A"] = nn.Parameter(torch.empty(config.r, max(t.matrix.in_features for t in targets)))
    shared["lora_B"] = nn.Parameter(torch.empty(max(size for t in targets for size in t.sizes), config.r))
    shared.fixed = frozenset({"lora_A", "lora_B"})
    # Frozen zeros would never do anything, so B is drawn like A where LoRA's is zero.
    initialise("vera" if config.init_weights == "lora" else config.init_weights, shared._parameters)  # type: ignore[arg-type]
    return shared
