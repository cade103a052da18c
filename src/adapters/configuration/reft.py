"""Configurations of representation finetuning (ReFT)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .base import AdapterConfig, new_field, register_method, register_preset
from .checks import (
    ACTIVATIONS,
    are_indices,
    choices,
    is_activation,
    is_count,
    is_index,
    require,
    require_booleans,
    require_common,
)


@dataclass
class ReftConfig(AdapterConfig):
    """ReFT (Wu et al. 2024, arXiv:2404.03592): h + Rᵀ(W h + b − R h) at a few positions of the residual stream.

    >>> model.add_adapter("task", LoReftConfig(r=4, prefix_positions=5, suffix_positions=5))

    Which tokens are padding is told by the attention mask of each tower; without one, none are. A position among both
    the first and the last ones is one of the last. While a model generates, the last positions are those of the text
    that it was given. Positions of a prompt (`PromptTuningConfig`) count like others. Of several ReFT adapters in a
    `Stack` only the first one acts behind a layer, as in AdapterHub's `adapters` 1.3.

    Args:
        layers: The layers whose output is changed, counted over encoder and decoder, or `all`.
        prefix_positions: Number of positions at the start of each row's text (not of its padding).
        suffix_positions: Number of positions at its end.
        r: Rank: number of rows of R and W.
        orthogonality: Whether the rows of R are kept orthonormal.
        tied_weights: Whether prefix and suffix positions share one intervention.
        dropout: Dropout probability of what is added.
        non_linearity: Activation after W h + b, or None.
        dtype: Type of numbers of the adapter; by default that of the layer.
        architecture: The name of the method in files.
        output_reft: Always True: interventions are at the output of layers.
        init_weights_seed: Seed for the initial weights; the global generator's state is left as it was.
        subtract_projection: Whether R h is subtracted; DiReFT does not.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    layers: str | list[int]
    prefix_positions: int
    suffix_positions: int
    r: int
    orthogonality: bool
    tied_weights: bool = False
    dropout: float = 0.05
    non_linearity: str | None = None
    dtype: str | None = None
    architecture: str | None = "reft"
    output_reft: bool = True
    init_weights_seed: int | None = None
    subtract_projection: bool = new_field(True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", copy.deepcopy(self.layers))  # what was given may be changed later
        require_common(self)
        require(self.layers == "all" or are_indices(self.layers), self, "layers", "'all' or a list of layer numbers")
        for name in ("prefix_positions", "suffix_positions"):
            require(is_index(self[name]), self, name, "a whole number from 0 on")
        has_positions = self.prefix_positions + self.suffix_positions > 0
        require(has_positions, self, "prefix_positions", "above 0 if suffix_positions is 0")
        require(is_count(self.r), self, "r", "a whole number above 0")
        require_booleans(self, ("orthogonality", "tied_weights", "output_reft", "subtract_projection"))
        require(self.output_reft, self, "output_reft", "True: only the output of layers is changed")
        is_known = self.non_linearity is None or is_activation(self.non_linearity)
        require(is_known, self, "non_linearity", f"None or {choices(ACTIVATIONS)}")

    def without_layers(self, left_out: Sequence[int], layers: Sequence[int]) -> AdapterConfig:
        """See `AdapterConfig.without_layers`."""
        own: Any = layers if self.layers == "all" else self.layers
        return self.replace(layers=[n for n in own if n not in left_out])


@dataclass
class LoReftConfig(ReftConfig):
    """LoReFT: the rows of R are orthonormal."""

    layers: str | list[int] = "all"
    prefix_positions: int = 3
    suffix_positions: int = 0
    r: int = 1
    orthogonality: bool = True


@dataclass
class NoReftConfig(ReftConfig):
    """NoReFT: LoReFT without the constraint on R."""

    layers: str | list[int] = "all"
    prefix_positions: int = 3
    suffix_positions: int = 0
    r: int = 1
    orthogonality: bool = False


@dataclass
class DiReftConfig(ReftConfig):
    """DiReFT: no constraint, and nothing is subtracted: h + Rᵀ(W h + b)."""

    layers: str | list[int] = "all"
    prefix_positions: int = 3
    suffix_positions: int = 0
    r: int = 1
    orthogonality: bool = False
    subtract_projection: bool = new_field(True, False)


register_method(ReftConfig, "reft")
register_preset("loreft", LoReftConfig())
register_preset("noreft", NoReftConfig())
register_preset("direft", DiReftConfig())
