"""Configurations of bottleneck adapters: the general one and the published presets."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .base import AdapterConfig, MissingLayerError, register_method, register_preset
from .checks import (
    ACTIVATIONS,
    choices,
    is_activation,
    is_count,
    is_number,
    is_positive,
    is_probability,
    require,
    require_booleans,
    require_common,
)


@dataclass
class BnConfig(AdapterConfig):
    """A bottleneck adapter: f(h) = up(act(down(h))), at one or more sublayers of each layer.

    In the equations x is the output of the sublayer, r the residual that the model adds to it, and *norm* the layer
    norm that follows in post-norm models (it is left out of the equations in pre-norm ones).

    >>> model.add_adapter("task", BnConfig(mh_adapter=True, output_adapter=True, reduction_factor=16,
    ...                                    non_linearity="relu"))

    Args:
        mh_adapter: Place an adapter after self-attention.
        output_adapter: Place an adapter after the feed-forward sublayer.
        reduction_factor: Hidden size over bottleneck size; or one number per layer, e.g. `{"1": 8, "default": 16}`.
        non_linearity: Activation in the bottleneck, by the name it has in transformers.
        original_ln_before: Whether the adapter reads norm(x + r) instead of x.
        original_ln_after: Whether residual and norm of the model follow the adapter.
        ln_before: A new layer norm in front of the adapter.
        ln_after: A new layer norm after the adapter.
        init_weights: `bert` (N(0, 0.02)), `mam_adapter` (Kaiming down, zero up), `houlsby` (truncated N(0, 0.01)).
        init_weights_seed: Seed for the initial weights; the global generator's state is left as it was.
        is_parallel: The adapter reads r and its output is added to x (He et al. 2022).
        scaling: A number, `"learned"` (one per adapter) or `"channel"` (one per hidden dimension).
        use_gating: Weigh the adapter's output by sigmoid(w·h) averaged over the sequence (UniPELT, Mao et al. 2022).
        residual_before_ln: What the bottleneck's own residual is: True for x, False for what the adapter reads, and
            `"post_add"` for x + r (only with `original_ln_before`).
        adapter_residual_before_ln: Whether that residual is added before `ln_after` instead of after it.
        inv_adapter: Invertible adapter after the embeddings: `"nice"`, `"glow"` or None (MAD-X, Pfeiffer et al. 2020).
        inv_adapter_reduction_factor: Reduction factor of the invertible adapter.
        cross_adapter: Place an adapter after cross-attention.
        leave_out: Layers without adapters, counted over encoder and decoder.
        dropout: Dropout probability of the adapter's output.
        phm_layer: Parametrized hypercomplex multiplication instead of linear layers (Compacter, Karimi et al. 2021).
        phm_dim: Dimension of the hypercomplex algebra; must divide hidden and bottleneck size.
        factorized_phm_W: Whether the weights are products of rank `phm_rank`.
        shared_W_phm: Share the weights among all layers.
        shared_phm_rule: Share the algebra's rule among all layers.
        factorized_phm_rule: Whether the rule is a product of rank one.
        phm_c_init: Initial rule: `normal`, `uniform`.
        phm_init_range: Standard deviation, or range, of the initial rule.
        learn_phm: Whether the rule is trained.
        hypercomplex_nonlinearity: Initial weights: `phm`, `glorot-normal`, `glorot-uniform`, `normal`.
        phm_rank: Rank of the factorized weights.
        phm_bias: Whether the hypercomplex layers have a bias.
        stochastic_depth: Probability of dropping the adapter's output for a whole row while training.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    mh_adapter: bool
    output_adapter: bool
    reduction_factor: float | Mapping[str, float]
    non_linearity: str
    original_ln_before: bool = False
    original_ln_after: bool = True
    ln_before: bool = False
    ln_after: bool = False
    init_weights: str = "bert"
    init_weights_seed: int | None = None
    is_parallel: bool = False
    scaling: float | str = 1.0
    use_gating: bool = False
    residual_before_ln: bool | str = True
    adapter_residual_before_ln: bool = False
    inv_adapter: str | None = None
    inv_adapter_reduction_factor: float | None = None
    cross_adapter: bool = False
    leave_out: list[int] = field(default_factory=list)
    dropout: float = 0.0
    phm_layer: bool = False
    phm_dim: int = 4
    factorized_phm_W: bool | None = True
    shared_W_phm: bool | None = False
    shared_phm_rule: bool | None = True
    factorized_phm_rule: bool | None = False
    phm_c_init: str | None = "normal"
    phm_init_range: float | None = 0.0001
    learn_phm: bool | None = True
    hypercomplex_nonlinearity: str | None = "glorot-uniform"
    phm_rank: int | None = 1
    phm_bias: bool | None = True
    stochastic_depth: float | None = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "leave_out", copy.deepcopy(self.leave_out))  # what was given may be changed later
        object.__setattr__(self, "reduction_factor", copy.deepcopy(self.reduction_factor))
        require_booleans(self, _SWITCHES)
        factor = self.reduction_factor
        per_layer = factor if isinstance(factor, Mapping) else {"default": factor}
        is_factor = all(map(is_positive, per_layer.values())) and all(map(_is_layer_key, per_layer))
        require(is_factor, self, "reduction_factor", "a number above 0, or such numbers by layer and 'default'")
        require(is_activation(self.non_linearity), self, "non_linearity", choices(ACTIVATIONS))
        require(self.init_weights in _INITS, self, "init_weights", choices(_INITS))
        require(
            is_number(self.scaling) or self.scaling in ("learned", "channel"),
            self,
            "scaling",
            "a number, 'learned' or 'channel'",
        )
        require(
            self.residual_before_ln in (True, False, "post_add"), self, "residual_before_ln", "True, False, 'post_add'"
        )
        require(
            self.residual_before_ln != "post_add" or self.original_ln_before,
            self,
            "residual_before_ln",
            "True or False unless original_ln_before is set",
        )
        require(self.inv_adapter in (None, "nice", "glow"), self, "inv_adapter", "'nice', 'glow' or None")
        require(
            self.inv_adapter is None or is_positive(self.inv_adapter_reduction_factor),
            self,
            "inv_adapter_reduction_factor",
            "a number above 0 when inv_adapter is set",
        )
        require(is_probability(self.stochastic_depth or 0.0), self, "stochastic_depth", "a probability in [0, 1)")
        require_common(self)
        self._check_hypercomplex()

    def _check_hypercomplex(self) -> None:
        if self.phm_layer:
            rules, inits = ("normal", "uniform"), ("phm", "glorot-normal", "glorot-uniform", "normal")
            require(is_count(self.phm_dim), self, "phm_dim", "a whole number above 0")
            require(is_count(self.phm_rank), self, "phm_rank", "a whole number above 0")
            require(self.phm_c_init in rules, self, "phm_c_init", choices(rules))
            require(self.hypercomplex_nonlinearity in inits, self, "hypercomplex_nonlinearity", choices(inits))

    def reduction_factor_at(self, layer: int) -> float:
        """The reduction factor at a layer, counted over encoder and decoder.

        Raises:
            MissingLayerError: the factors are given per layer, without this one and without a default.
        """
        if not isinstance(self.reduction_factor, Mapping):
            return self.reduction_factor
        factors = {str(k): v for k, v in self.reduction_factor.items()}
        if str(layer) not in factors and "default" not in factors:
            raise MissingLayerError(
                f"reduction_factor has no entry for layer {layer}; add one, or a 'default'. Given: {factors}."
            )
        return factors.get(str(layer), factors.get("default", 0.0))


@dataclass
class SeqBnConfig(BnConfig):
    """One adapter per layer, after the feed-forward sublayer (Pfeiffer et al. 2020, arXiv:2005.00052)."""

    mh_adapter: bool = False
    output_adapter: bool = True
    reduction_factor: float | Mapping[str, float] = 16
    non_linearity: str = "relu"
    original_ln_before: bool = True


@dataclass
class SeqBnInvConfig(SeqBnConfig):
    """`SeqBnConfig` with an invertible adapter after the embeddings (MAD-X, arXiv:2005.00052)."""

    inv_adapter: str | None = "nice"
    inv_adapter_reduction_factor: float | None = 2


@dataclass
class DoubleSeqBnConfig(BnConfig):
    """Two adapters per layer, after attention and feed-forward (Houlsby et al. 2019, arXiv:1902.00751)."""

    mh_adapter: bool = True
    output_adapter: bool = True
    reduction_factor: float | Mapping[str, float] = 16
    non_linearity: str = "swish"


@dataclass
class DoubleSeqBnInvConfig(DoubleSeqBnConfig):
    """`DoubleSeqBnConfig` with an invertible adapter after the embeddings (MAD-X, arXiv:2005.00052)."""

    inv_adapter: str | None = "nice"
    inv_adapter_reduction_factor: float | None = 2


@dataclass
class ParBnConfig(BnConfig):
    """An adapter parallel to the feed-forward sublayer (He et al. 2022, arXiv:2110.04366)."""

    mh_adapter: bool = False
    output_adapter: bool = True
    reduction_factor: float | Mapping[str, float] = 2
    non_linearity: str = "relu"
    init_weights: str = "mam_adapter"
    is_parallel: bool = True
    scaling: float | str = 4.0


@dataclass
class AdapterPlusConfig(BnConfig):
    """Adapter+ for vision transformers: channel-wise scaling, stochastic depth (Steitz & Roth 2024)."""

    mh_adapter: bool = False
    output_adapter: bool = True
    reduction_factor: float | Mapping[str, float] = 96
    non_linearity: str = "gelu"
    original_ln_before: bool = True
    original_ln_after: bool = False
    residual_before_ln: bool | str = False
    stochastic_depth: float | None = 0.1
    init_weights: str = "houlsby"
    scaling: float | str = "channel"


@dataclass
class CompacterConfig(BnConfig):
    """Two hypercomplex adapters per layer (Compacter, Karimi Mahabadi et al. 2021, arXiv:2106.04647)."""

    mh_adapter: bool = True
    output_adapter: bool = True
    reduction_factor: float | Mapping[str, float] = 32
    non_linearity: str = "gelu"
    phm_layer: bool = True


@dataclass
class CompacterPlusPlusConfig(CompacterConfig):
    """One hypercomplex adapter per layer (Compacter++, Karimi Mahabadi et al. 2021, arXiv:2106.04647)."""

    mh_adapter: bool = False
    original_ln_before: bool = True


PfeifferConfig = SeqBnConfig
PfeifferInvConfig = SeqBnInvConfig
HoulsbyConfig = DoubleSeqBnConfig
HoulsbyInvConfig = DoubleSeqBnInvConfig
ParallelConfig = ParBnConfig

_SWITCHES = (
    "mh_adapter",
    "output_adapter",
    "cross_adapter",
    "original_ln_before",
    "original_ln_after",
    "ln_before",
    "ln_after",
    "is_parallel",
    "use_gating",
    "adapter_residual_before_ln",
    "phm_layer",
)
_INITS = ("bert", "mam_adapter", "houlsby")


def _is_layer_key(key: Any) -> bool:
    return key == "default" or str(key).isdigit()


register_method(BnConfig, None)
for _name, _config in {
    "seq_bn": SeqBnConfig(),
    "pfeiffer": SeqBnConfig(),
    "double_seq_bn": DoubleSeqBnConfig(),
    "houlsby": DoubleSeqBnConfig(),
    "seq_bn_inv": SeqBnInvConfig(),
    "pfeiffer+inv": SeqBnInvConfig(),
    "double_seq_bn_inv": DoubleSeqBnInvConfig(),
    "houlsby+inv": DoubleSeqBnInvConfig(),
    "par_bn": ParBnConfig(),
    "parallel": ParBnConfig(),
    "scaled_par_bn": ParBnConfig(scaling="learned"),
    "scaled_parallel": ParBnConfig(scaling="learned"),
    "adapter_plus": AdapterPlusConfig(),
    "compacter": CompacterConfig(),
    "compacter++": CompacterPlusPlusConfig(),
}.items():
    register_preset(_name, _config)
