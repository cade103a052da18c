"""The calls of `adapters` that the benchmarks make, on PEFT: only for the methods that it has."""

from __future__ import annotations

from typing import Any

import peft
from torch import nn

QV = ["query", "value", "q_proj", "v_proj", "q", "v"]
IA3 = ["key", "value", "k_proj", "v_proj", "k", "v", "intermediate.dense", "down_proj", "wi"]
CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=8, lora_alpha=8, target_modules=QV),
    "dora": lambda: peft.LoraConfig(r=8, lora_alpha=8, target_modules=QV, use_dora=True),
    "ia3": lambda: peft.IA3Config(target_modules=IA3, feedforward_modules=IA3[6:]),
    "vera": lambda: peft.VeraConfig(r=8, target_modules=QV),
    "prefix_tuning_flat": lambda: peft.PrefixTuningConfig(num_virtual_tokens=30),
    "prefix_tuning": lambda: peft.PrefixTuningConfig(
        num_virtual_tokens=30, prefix_projection=True, encoder_hidden_size=512
    ),
    "prompt_tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=10),
}


class AdapterPlusConfig:
    """What PEFT has not."""

    def __init__(self, stochastic_depth: float) -> None:
        self.stochastic_depth = stochastic_depth


class Adapted(nn.Module):
    """A model with the methods that are called."""

    def add_adapter(self, adapter_name: str, config: Any) -> None:
        """Add an adapter by the name of a configuration."""
        if config not in CONFIGS:
            raise NotImplementedError(f"PEFT has no {config}")
        if "peft" in self.__dict__:
            self.peft.add_adapter(adapter_name, CONFIGS[config]())
        else:  # not as a child: PEFT's model has this one as its child
            self.__dict__["peft"] = peft.get_peft_model(self, CONFIGS[config](), adapter_name=adapter_name)
        self.__dict__["is_inside"] = not self.peft.active_peft_config.is_prompt_learning

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Prompts and prefixes are put in by PEFT's model, which calls this one."""
        if self.__dict__.get("is_inside", True) and "adapter_names" not in kwargs:
            return super().__call__(*args, **kwargs)
        self.__dict__["is_inside"] = True
        for outer in (self.peft, self.peft.base_model):  # which have this model as a child, and not it them
            outer.training = self.training
        try:
            return self.peft(*args, **kwargs)
        finally:
            self.__dict__["is_inside"] = False

    def set_active_adapters(self, name: str) -> None:
        """Activate one adapter."""
        self.peft.set_adapter(name)

    def train_adapter(self, name: str) -> None:
        """PEFT trains what is active."""
        self.peft.train()

    def merge_adapter(self, name: str) -> None:
        """Merge the adapter into the weights."""
        self.peft.merge_adapter([name])


def init(model: nn.Module) -> None:
    """Give a model these methods."""
    model.__class__ = type(type(model).__name__, (Adapted, type(model)), {"__module__": type(model).__module__})
