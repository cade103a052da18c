"""Configurations that train parts of the model itself, as copies that are in use while the adapter is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from .base import AdapterConfig, register_method, register_preset
from .checks import are_indices, require


@dataclass
class BitFitConfig(AdapterConfig):
    """BitFit (Ben Zaken et al. 2022, arXiv:2106.10199): the biases of linear layers and norms are trained.

    >>> model.add_adapter("task", BitFitConfig())

    Args:
        architecture: The name of the method in files.
        leave_out: Layers whose biases stay, counted over encoder and decoder.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    architecture: str | None = "bitfit"
    leave_out: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "leave_out", copy.deepcopy(self.leave_out))  # what was given may be changed later
        require(are_indices(self.leave_out), self, "leave_out", "a list of layer numbers")


@dataclass
class LayerNormTuningConfig(AdapterConfig):
    """LayerNorm tuning (Zhao et al. 2023, arXiv:2312.11420): the norms of the layers are trained.

    >>> model.add_adapter("task", LayerNormTuningConfig())

    Args:
        architecture: The name of the method in files.
        leave_out: Layers whose norms stay, counted over encoder and decoder.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    architecture: str | None = "ln_tuning"
    leave_out: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "leave_out", copy.deepcopy(self.leave_out))  # what was given may be changed later
        require(are_indices(self.leave_out), self, "leave_out", "a list of layer numbers")


@dataclass
class ModulesToSaveConfig(AdapterConfig):
    """Full-weight training of any named modules, which belong to the adapter.

    >>> model.add_adapter("task", ConfigUnion(LoRAConfig(), ModulesToSaveConfig(["pooler"])))

    Args:
        modules: Ends of their paths (`pooler`, `layer.11.output`), with `*` for any part; one must match each.
        architecture: The name of the method in files.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    modules: Sequence[str]
    architecture: str | None = "modules_to_save"

    def __post_init__(self) -> None:
        names = [self.modules] if isinstance(self.modules, str) else copy.deepcopy(self.modules)
        object.__setattr__(self, "modules", names)
        are_names = bool(names) and all(isinstance(name, str) and name for name in names)
        require(are_names, self, "modules", "a list of names of modules")


register_method(BitFitConfig, "bitfit")
register_method(LayerNormTuningConfig, "ln_tuning")
register_method(ModulesToSaveConfig, "modules_to_save")
register_preset("bitfit", BitFitConfig())
register_preset("ln_tuning", LayerNormTuningConfig())
