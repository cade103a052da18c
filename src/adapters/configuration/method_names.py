"""The names that an `AdapterModelInterface` gives to methods."""

from __future__ import annotations

from .base import AdapterConfig
from .bottleneck import BnConfig
from .lora import LoRAConfig
from .union import ConfigUnion


class AdapterMethod:
    """The methods that an interface can allow; those that are not among these go by their `architecture`.

    >>> AdapterModelInterface(adapter_methods=[AdapterMethod.lora, AdapterMethod.reft], ...)
    """

    bottleneck = "bottleneck"
    prefix_tuning = "prefix_tuning"
    lora = "lora"
    prompt_tuning = "prompt_tuning"
    reft = "reft"
    invertible = "invertible"

    @staticmethod
    def get_from_config(config: AdapterConfig) -> list[str]:
        """The methods that an adapter of a configuration uses.

        >>> AdapterMethod.get_from_config(AdapterConfig.load("seq_bn_inv"))
        ['invertible', 'bottleneck']
        """
        if isinstance(config, ConfigUnion):
            return [method for part in config.configs for method in AdapterMethod.get_from_config(part)]
        if isinstance(config, BnConfig):
            return [AdapterMethod.invertible] * bool(config.inv_adapter) + [AdapterMethod.bottleneck]
        if isinstance(config, LoRAConfig):
            return [AdapterMethod.lora]
        return [str(config.architecture)]
