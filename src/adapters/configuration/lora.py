"""Configurations of LoRA and its relatives: changes of weight matrices, and scalings of what they compute."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .base import AdapterConfig, AdapterConfigError, new_field, register_method, register_preset
from .checks import choices, is_count, is_number, is_positive, require, require_booleans, require_common

ATTENTION_MATRICES = ("q", "k", "v", "o")
_INITS = ("lora", "bert", "ia3", "vera", "pissa", "olora", "eva", "orthogonal")


@dataclass
class LoRAConfig(AdapterConfig):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): y = W x + s · B A x, with s = alpha / r.

    >>> model.add_adapter("task", LoRAConfig(r=8, alpha=16, attn_matrices=["q", "k", "v", "o"]))
    >>> model.add_adapter("task", LoRAConfig(target_modules=["up_proj", "layers.*.mlp.down_proj"]))

    Args:
        architecture: The name of the method in files.
        selfattn_lora: Adapt the projections of attention (also of cross-attention) that `attn_matrices` names.
        intermediate_lora: Adapt the first projection of the feed-forward sublayer.
        output_lora: Adapt the last projection of the feed-forward sublayer.
        leave_out: Layers without adapters, counted over encoder and decoder.
        r: Rank.
        alpha: Numerator of the scaling s.
        dropout: Dropout probability of x.
        attn_matrices: Which projections of attention: any of `q`, `k`, `v`, `o`, also where some are one matrix.
        composition_mode: `add` (y = W x + s · B A x) or `scale` (y = s · b ⊙ W x, with r = 1 and no A).
        init_weights: `lora` (A Kaiming uniform, B zero), `bert` (both N(0, 0.02)), `ia3` (ones, as what is scaled
            should start), `vera` (both Kaiming uniform, as what is frozen; VeRA takes `lora` for it);
            `pissa` and `olora` (the principal part of W, by its SVD or QR decomposition), `orthogonal`, and `eva` (the
            principal directions of the layer's inputs, found by `adapters.initialise_with_data`).
        init_weights_seed: Seed for the initial weights; the global generator's state is left as it was.
        use_gating: Weigh what is added by sigmoid(w·x) averaged over the sequence, instead of by s (UniPELT, Mao et al.
            2022).
        use_dora: Decompose the weight into magnitude and direction (DoRA, Liu et al. 2024).
        vera_d: Initial value of VeRA's vector d (Kopiczko et al. 2024); with `vera_b` it makes the adapter VeRA.
        vera_b: Initial value of VeRA's vector b.
        dtype: Type of numbers of the adapter; by default that of the layer.
        use_rslora: Rank-stabilised scaling s = alpha / sqrt(r) (Kalajdzievski 2023).
        target_modules: Linear layers, embeddings or experts to adapt instead of what the switches above name: ends of
            paths (`q_proj`, `mlp.down_proj`), with `*` for any part; a single string is a regular expression for whole
            paths.
        rank_pattern: Rank by end of path, where it is not `r`.
        alpha_pattern: alpha by end of path, where it is not `alpha`.
        scale_inputs_of: With `scale`, ends of the paths of matrices whose inputs are scaled instead of their outputs:
            y = s · W (b ⊙ x), as PEFT's IA³ has it in `feedforward_modules`.
        scale_bias: Whether DoRA scales the bias of a layer too, as AdapterHub's adapters do; in the paper, and in PEFT,
            it stays.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    architecture: str | None = "lora"
    selfattn_lora: bool = True
    intermediate_lora: bool = False
    output_lora: bool = False
    leave_out: list[int] = field(default_factory=list)
    r: int = 8
    alpha: int = 8
    dropout: float = 0.0
    attn_matrices: list[str] = field(default_factory=lambda: ["q", "v"])
    composition_mode: str = "add"
    init_weights: str = "lora"
    init_weights_seed: int | None = None
    use_gating: bool = False
    use_dora: bool = False
    vera_d: float | None = None
    vera_b: float | None = None
    dtype: str | None = None
    use_rslora: bool = new_field(False)
    target_modules: Sequence[str] | str | None = new_field(None)
    rank_pattern: Mapping[str, int] = new_field({})
    alpha_pattern: Mapping[str, float] = new_field({})
    scale_inputs_of: Sequence[str] = new_field([])
    scale_bias: bool = new_field(True)

    def __post_init__(self) -> None:
        lists = ("leave_out", "attn_matrices", "target_modules", "scale_inputs_of")
        for name in (*lists, "rank_pattern", "alpha_pattern"):
            object.__setattr__(self, name, copy.deepcopy(self[name]))  # what was given may be changed later
        switches = ("selfattn_lora", "intermediate_lora", "output_lora", "use_gating", "use_dora", "use_rslora")
        require_booleans(self, (*switches, "scale_bias"))
        require_common(self)
        require(is_count(self.r), self, "r", "a whole number above 0")
        require(is_positive(self.alpha), self, "alpha", "a number above 0")
        are_matrices = not isinstance(self.attn_matrices, str) and set(self.attn_matrices) <= {*ATTENTION_MATRICES}
        require(are_matrices, self, "attn_matrices", f"a list of {', '.join(ATTENTION_MATRICES)}")
        require(self.composition_mode in ("add", "scale"), self, "composition_mode", "'add' or 'scale'")
        require(self.init_weights in _INITS, self, "init_weights", choices(_INITS))
        for name in ("vera_d", "vera_b"):
            require(self[name] is None or is_number(self[name]), self, name, "a number or None")
        self._check_targets()
        self._check_combination()

    @property
    def is_vera(self) -> bool:
        """Whether it is VeRA: shared frozen matrices, and trained vectors."""
        return self.vera_d is not None or self.vera_b is not None

    def _check_targets(self) -> None:
        targets = self.target_modules
        if targets is not None and not isinstance(targets, str):
            are_names = bool(targets) and all(isinstance(name, str) and name for name in targets)
            require(are_names, self, "target_modules", "a list of module names, a regular expression, or None")
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise AdapterConfigError(f"target_modules={targets!r} is no regular expression: {error}.") from None
        for name, is_value, what in (
            ("rank_pattern", is_count, "whole numbers above 0"),
            ("alpha_pattern", is_positive, "numbers above 0"),
        ):
            pattern = self[name]
            is_table = isinstance(pattern, Mapping) and all(isinstance(key, str) for key in pattern)
            require(is_table and all(map(is_value, pattern.values())), self, name, f"{what} by name of module")

    def _check_combination(self) -> None:
        if self.composition_mode == "scale":
            require(self.r == 1 and not self.rank_pattern, self, "r", "1 with composition_mode='scale'")
            require(not self.use_dora, self, "use_dora", "False with composition_mode='scale'")
            require(not self.is_vera, self, "vera_d", "None with composition_mode='scale'")
        are_names = not isinstance(self.scale_inputs_of, str) and all(isinstance(n, str) for n in self.scale_inputs_of)
        require(are_names, self, "scale_inputs_of", "a list of names of modules")
        if self.scale_inputs_of:
            require(self.composition_mode == "scale", self, "scale_inputs_of", "empty without composition_mode='scale'")
            require(not self.use_gating, self, "use_gating", "False with scale_inputs_of")
        if self.is_vera:
            require(self.vera_d is not None and self.vera_b is not None, self, "vera_b", "a number if vera_d is one")
            require(not self.rank_pattern, self, "rank_pattern", "empty with VeRA, whose matrices are shared")
        if self.use_dora:
            require(not self.use_gating, self, "use_gating", "False with use_dora: the norm would depend on the input")
        if self.init_weights in ("pissa", "olora", "orthogonal", "eva"):
            is_plain = self.composition_mode == "add" and not self.is_vera
            require(is_plain, self, "init_weights", "lora, bert, ia3 or vera with this composition")


@dataclass
class IA3Config(LoRAConfig):
    """Learned scalings of keys, values and feed-forward activations: IA³ (Liu et al. 2022, arXiv:2205.05638).

    >>> model.add_adapter("task", IA3Config())
    """

    intermediate_lora: bool = True
    r: int = 1
    alpha: int = 1
    attn_matrices: list[str] = field(default_factory=lambda: ["k", "v"])
    composition_mode: str = "scale"
    init_weights: str = "ia3"


@dataclass
class VeraConfig(LoRAConfig):
    """VeRA (Kopiczko et al. 2024, arXiv:2310.11454): y = W x + s · b ⊙ B (d ⊙ A x), with A and B shared and frozen.

    >>> model.add_adapter("task", VeraConfig(r=64))
    """

    init_weights: str = "vera"
    vera_d: float | None = 0.1
    vera_b: float | None = 0.0


@dataclass
class DoRAConfig(LoRAConfig):
    """DoRA (Liu et al. 2024, arXiv:2402.09353): y = m ⊙ (W + s · B A) x / ‖W + B A‖, row by row.

    In the norm there is no s, as in AdapterHub's `adapters`; with alpha = r it is the paper's.

    >>> model.add_adapter("task", DoRAConfig(r=8))
    """

    use_dora: bool = True


@dataclass
class DvoRAConfig(LoRAConfig):
    """DVoRA: DoRA with the change of direction that VeRA makes.

    >>> model.add_adapter("task", DvoRAConfig(r=64))
    """

    init_weights: str = "vera"
    use_dora: bool = True
    vera_d: float | None = 0.1
    vera_b: float | None = 0.0


@dataclass
class MTLLoRAConfig(LoRAConfig):
    """MTL-LoRA (Yang et al. 2024, arXiv:2410.09437): y = W x + s · Σᵢ wᵢ Bᵢ Λ A x for one task of several.

    >>> model.add_adapter("task", MTLLoRAConfig(r=8, n_up_projection=3))

    Args:
        n_up_projection: Number n of up-projections Bᵢ; w is the softmax over them of the task's weights.
        task_specific_matrix_type: Λ is diagonal (`singular_values`), or any r × r matrix (`linear`).
        weights_sharpness: Temperature of that softmax.
    """

    architecture: str | None = "mtl_lora"
    n_up_projection: int = new_field(None, 1)
    task_specific_matrix_type: str = new_field(None, "singular_values")
    weights_sharpness: float = new_field(None, 0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_count(self.n_up_projection), self, "n_up_projection", "a whole number above 0")
        kinds = ("singular_values", "linear")
        require(self.task_specific_matrix_type in kinds, self, "task_specific_matrix_type", choices(kinds))
        require(is_positive(self.weights_sharpness), self, "weights_sharpness", "a number above 0")
        for name, unset in (("use_dora", False), ("vera_d", None), ("vera_b", None), ("composition_mode", "add")):
            require(self[name] == unset, self, name, f"{unset!r} in MTL-LoRA")


@dataclass
class AdaLoRAConfig(LoRAConfig):
    """AdaLoRA (Zhang et al. 2023, arXiv:2303.10512): y = W x + s · P Λ Q x, the rank is spent where it matters.

    >>> model.add_adapter("task", AdaLoRAConfig(r=12, target_r=8, total_steps=1000))

    Args:
        r: Rank at the start of training.
        target_r: Mean rank at its end.
        total_steps: Number of training steps.
        warmup_steps: Steps before ranks are reduced.
        final_steps: Steps at the end in which they stay.
        interval: Steps between two reductions.
        beta1: Smoothing of the importance of a singular value.
        beta2: Smoothing of its uncertainty.
        orthogonality_weight: Weight of ‖PᵀP − I‖² + ‖QQᵀ − I‖² in `RankAllocator.regularisation`.
    """

    architecture: str | None = "adalora"
    r: int = 12
    target_r: int = new_field(None, 8)
    total_steps: int | None = new_field(None)
    warmup_steps: int = new_field(None, 0)
    final_steps: int = new_field(None, 0)
    interval: int = new_field(None, 1)
    beta1: float = new_field(None, 0.85)
    beta2: float = new_field(None, 0.85)
    orthogonality_weight: float = new_field(None, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_count(self.target_r) and self.target_r <= self.r, self, "target_r", "a whole number from 1 to r")
        require(self.total_steps is None or is_count(self.total_steps), self, "total_steps", "a whole number or None")
        for name in ("warmup_steps", "final_steps"):
            require(isinstance(self[name], int) and self[name] >= 0, self, name, "a whole number")
        require(is_count(self.interval), self, "interval", "a whole number above 0")
        for name in ("beta1", "beta2"):
            require(is_number(self[name]) and 0 < self[name] < 1, self, name, "a number between 0 and 1")
        for name, unset in (("use_dora", False), ("vera_d", None), ("composition_mode", "add"), ("use_gating", False)):
            require(self[name] == unset, self, name, f"{unset!r} in AdaLoRA")


def _register() -> None:
    for config_class in (LoRAConfig, MTLLoRAConfig, AdaLoRAConfig):
        register_method(config_class, config_class().architecture)
    presets: dict[str, Any] = {
        "lora": LoRAConfig(),
        "ia3": IA3Config(),
        "vera": VeraConfig(),
        "dora": DoRAConfig(),
        "dvora": DvoRAConfig(),
        "mtl_lora": MTLLoRAConfig(),
        "adalora": AdaLoRAConfig(),
    }
    for name, config in presets.items():
        register_preset(name, config)


_register()
