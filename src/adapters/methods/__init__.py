"""Adaptation methods, one file each. `METHODS` is the only list of them: a new method is a file and a line here."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from torch import nn

from ..anatomy.parts import Anatomy
from ..configuration import (
    AdapterConfig,
    BitFitConfig,
    BnConfig,
    ConfigUnion,
    LayerNormTuningConfig,
    LoRAConfig,
    ModulesToSaveConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ReftConfig,
)
from .base import AdapterModule as AdapterModule
from .base import Method as Method
from .base import ModuleMap
from .base import Placement as Placement
from .bitfit import BitFitMethod
from .bottleneck import BottleneckMethod
from .layer_norm_tuning import LayerNormTuningMethod
from .lora import LoRAMethod
from .modules_to_save import ModulesToSaveMethod
from .prefix_tuning import PrefixTuningMethod
from .prompt_tuning import PromptTuningMethod
from .reft import ReftMethod

METHODS: dict[type[AdapterConfig], Method] = {
    BnConfig: BottleneckMethod(),
    LoRAConfig: LoRAMethod(),
    BitFitConfig: BitFitMethod(),
    LayerNormTuningConfig: LayerNormTuningMethod(),
    ModulesToSaveConfig: ModulesToSaveMethod(),
    PrefixTuningConfig: PrefixTuningMethod(),
    PromptTuningConfig: PromptTuningMethod(),
    ReftConfig: ReftMethod(),
}


def placements_of(config: AdapterConfig, anatomy: Anatomy, base: nn.Module) -> list[Placement]:
    """The modules of a new adapter, and where they belong; nothing is attached yet.

    Raises:
        ValueError: the model has no layers that were found, or the configuration cannot be met by it.
    """
    is_named = any(config.get(field) is not None for field in ("target_modules", "modules"))
    if not anatomy.layers and not is_named:  # modules that are named need no layers
        raise ValueError(
            f"No adapter can be added to this {anatomy.model_class}: not found is {', '.join(anatomy.missing)}. "
            "Describe the model with an AdapterModelInterface: adapters.init(model, interface=...)."
        )
    placements: dict[tuple[str, str], Placement] = {}
    for part in config.configs if isinstance(config, ConfigUnion) else (config,):
        for placement in method_of(part).place(part, anatomy, base):
            # Two that take the place of one module are at one place, whatever the names of their containers.
            stands_in = isinstance(placement.module, ModuleMap)
            place = (placement.host, "" if stands_in else placement.container)
            if place in placements:
                raise ValueError(
                    f"Two configurations of this union have modules at {placement.location} of layer {placement.layer} "
                    f"({placement.host}); give them different places, by their switches or by leave_out."
                )
            placements[place] = placement
    return list(placements.values())


def updated(config: AdapterConfig, version: str | None, names: Collection[str]) -> AdapterConfig:
    """The configuration in a file of any age, in today's words. The arguments are those of `Method.updated`."""
    if isinstance(config, ConfigUnion):
        return ConfigUnion(*(updated(part, version, names) for part in config.configs))
    return cast(AdapterConfig, method_of(config).updated(config, version, names))


def method_of(config: AdapterConfig) -> Method:
    """The method that a configuration belongs to.

    Raises:
        NotImplementedError: no method takes this class of configuration.
    """
    for config_class, method in METHODS.items():
        if isinstance(config, config_class):
            return method
    known = ", ".join(c.__name__ for c in METHODS)
    raise NotImplementedError(f"No method takes a {type(config).__name__}; there are methods for {known}.")
