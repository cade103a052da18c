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


def initialise(linear: nn.Linear, kind: str, is_last: bool = False) -> None:
    """Set the weights of a new linear layer; biases become zero.

    Args:
        linear: The layer.
        kind: `bert` (N(0, 0.02)), `houlsby` (N(0, 0.01) cut at two deviations) or `mam_adapter` (Kaiming uniform, and
            zero for the last layer, so that the adapter starts as the identity).
        is_last: Whether the layer is the last of its adapter.
    """
    if kind == "houlsby":
        nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
    elif kind == "mam_adapter" and is_last:
        nn.init.zeros_(linear.weight)
    elif kind == "mam_adapter":
        nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))
    else:
        nn.init.normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


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
