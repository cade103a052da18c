"""AdaLoRA (Zhang et al. 2023, arXiv:2303.10512): y = W x + b + s · P Λ Q x, with Λ diagonal.

Λ is pruned while it is trained: what, and when, is said by `adapters.RankAllocator`.

Letters: I inputs of the adapted matrix, R its adapted rows, n matrices that are one in the model, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..configuration import AdaLoRAConfig, AdapterConfigError
from .low_rank import LowRank
from .targets import Target


class AdaLoRA(LowRank):
    """Shapes of the parameters: Q is `lora_A` (n·r, I), Λ is `lora_E` (n·r, 1), P is `lora_B` (R, r).

    P and Q start at N(0, 0.02), and Λ at zero. The names are those of PEFT.

    Args:
        config: The configuration.
        target: The matrix.

    Raises:
        AdapterConfigError: the initial weights are to be others.
    """

    def __init__(self, config: AdaLoRAConfig, target: Target) -> None:
        super().__init__(config, target)
        if config.init_weights not in ("lora", "bert"):
            raise AdapterConfigError(f"init_weights={config.init_weights!r}: in AdaLoRA it is 'lora' or 'bert'.")
        self.lora_A = nn.Parameter(torch.empty(len(self.sizes) * self.rank, self.in_features))
        self.lora_E = nn.Parameter(torch.zeros(len(self.sizes) * self.rank, 1))
        self.lora_B = nn.Parameter(torch.empty(sum(self.sizes), self.rank))
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.normal_(self.lora_B, std=0.02)

    def factors(self) -> tuple[Tensor, Tensor]:
        """See `LowRank.factors`."""
        return self.lora_A * self.lora_E, self.lora_B if self.is_whole else self.spread_blocks(self.lora_B)

    @property
    def sources(self) -> list[Tensor]:
        """See `LowRank.sources`."""
        return [self._parameters[name] for name in ("lora_A", "lora_E", "lora_B")]  # type: ignore[misc]

    def orthogonality(self) -> Tensor:
        """‖PᵀP − 1‖² + ‖QQᵀ − 1‖², of each part, in the mean. Shape: ()."""
        q = self.lora_A.view(len(self.sizes), self.rank, self.in_features)
        identity = torch.eye(self.rank, device=q.device, dtype=q.dtype)
        of_q = (q @ q.mT - identity).square().sum()
        of_p = torch.stack([(p.mT @ p - identity).square().sum() for p in torch.split(self.lora_B, self.sizes)]).sum()
        return (of_q + of_p) / len(self.sizes)

    def triplet_scores(self, scores: dict[str, Tensor]) -> Tensor:
        """The importance of each singular value with its two vectors: its own, and their means.

        Args:
            scores: The importance of each number of the three parameters, by their names.

        Returns:
            Shape: (n·r,).
        """
        of_p = torch.cat([part.mean(dim=0) for part in torch.split(scores["lora_B"], self.sizes)])
        return scores["lora_E"][:, 0] + scores["lora_A"].mean(dim=1) + of_p
