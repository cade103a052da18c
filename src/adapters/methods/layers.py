"""Small layers that several methods are built from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN


class Activation(nn.Module):
    """An activation of transformers, by name.

    Args:
        name: A key of `transformers.activations.ACT2FN`, in any case, or `leakyrelu`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.f = nn.LeakyReLU() if name.lower() == "leakyrelu" else ACT2FN[name.lower()]

    def forward(self, x: Tensor) -> Tensor:
        """Shape: any, kept."""
        return self.f(x)  # type: ignore[no-any-return]


class Projection(nn.Linear):
    """A linear layer with the initial weights of adapters, and its bias at zero.

    >>> Projection(768, 48, "bert")(torch.zeros(1, 16, 768)).shape
    torch.Size([1, 16, 48])

    Args:
        in_features: Size of the inputs.
        out_features: Size of the outputs.
        kind: `bert` (N(0, 0.02)), `houlsby` (N(0, 0.01) cut at two deviations) or `mam_adapter` (Kaiming uniform, and
            zero for the last layer, so that the adapter starts as the identity).
        is_last: Whether the layer is the last of its adapter.
    """

    def __init__(self, in_features: int, out_features: int, kind: str, is_last: bool = False) -> None:
        self.kind = kind
        self.is_last = is_last
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Draw the initial weights. torch calls this in the constructor, in the place of its own drawing."""
        if self.kind == "houlsby":
            nn.init.trunc_normal_(self.weight, std=0.01, a=-0.02, b=0.02)
        elif self.kind == "mam_adapter" and self.is_last:
            nn.init.zeros_(self.weight)
        elif self.kind == "mam_adapter":
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        else:
            nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw random numbers from a seed of their own; without a seed, from the global generator as usual."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def drop_rows(x: Tensor, probability: float) -> Tensor:
    """Stochastic depth: zero whole rows of a batch, and scale the rest so that the mean stays.

    Shape: (B, ...), kept. The mask is drawn per row, over all tokens.
    """
    keep = 1.0 - probability
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * mask.div_(keep)
