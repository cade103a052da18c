"""The configuration of prefix tuning."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from .base import AdapterConfig, new_field, register_method, register_preset
from .checks import ACTIVATIONS, choices, is_activation, is_count, require, require_booleans, require_common


@dataclass
class PrefixTuningConfig(AdapterConfig):
    """Prefix tuning (Li & Liang 2021, arXiv:2101.00190): trained keys and values in front of those of each attention.

    >>> model.add_adapter("task", PrefixTuningConfig(flat=False, prefix_length=30))

    Args:
        architecture: The name of the method in files.
        encoder_prefix: Prefixes for the attention of the encoder of an encoder-decoder.
        cross_prefix: Prefixes for cross-attention.
        leave_out: Layers without prefixes, counted over encoder and decoder.
        flat: Train keys and values themselves, instead of computing them by a small network (reparametrisation).
        prefix_length: Number of prefix positions P.
        bottleneck_size: Inner size of that network.
        non_linearity: Its activation.
        dropout: Dropout probability of keys and values.
        use_gating: Weigh keys and values by sigmoid(w·h) averaged over the tokens of a call (UniPELT, Mao et al. 2022).
            Generation with a cache calls the model with one token at a time, so its text is then another.
        shared_gating: Whether keys and values have one gate.
        init_weights_seed: Seed for the initial weights; the global generator's state is left as it was.
        counts_positions: Whether prefixes have the first P positions, and text begins at position P, as in PEFT. In
            AdapterHub's adapters text begins at position 0.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    architecture: str | None = "prefix_tuning"
    encoder_prefix: bool = True
    cross_prefix: bool = True
    leave_out: list[int] = field(default_factory=list)
    flat: bool = False
    prefix_length: int = 30
    bottleneck_size: int = 512
    non_linearity: str = "tanh"
    dropout: float = 0.0
    use_gating: bool = False
    shared_gating: bool = True
    init_weights_seed: int | None = None
    counts_positions: bool = new_field(False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "leave_out", copy.deepcopy(self.leave_out))  # what was given may be changed later
        require_booleans(self, ("encoder_prefix", "cross_prefix", "flat", "use_gating", "shared_gating"))
        require_booleans(self, ("counts_positions",))
        require_common(self)
        for name in ("prefix_length", "bottleneck_size"):
            require(is_count(self[name]), self, name, "a whole number above 0")
        require(is_activation(self.non_linearity), self, "non_linearity", choices(ACTIVATIONS))


register_method(PrefixTuningConfig, "prefix_tuning")
register_preset("prefix_tuning", PrefixTuningConfig())
register_preset("prefix_tuning_flat", PrefixTuningConfig(flat=True))
