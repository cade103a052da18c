"""The whole model with its adapters, as transformers saves and loads it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import initialization

from .. import __version__ as VERSION
from .. import fusions, peft_library, sharing
from ..checkpoints.files import INTERFACE_CONFIG, write_json
from ..configuration import ModelAdaptersConfig
from .resuming import SavesCheckpoints, is_checkpoint_of_trainer


class SavesWhole(SavesCheckpoints):
    """Methods that transformers calls, or that take the place of its own."""

    @property
    def _hf_peft_config_loaded(self) -> bool:
        """What transformers asks before it trains a quantised model: whether that has adapters, of `peft` or others."""
        state = self.__dict__
        if state.get("_hf_peft_config_loaded", False):
            return True
        is_asked = state.get("is_quantized", False) and "_adapter_registry" in state and "_is_written" not in state
        return bool(is_asked and self._adapter_registry.adapters)

    @_hf_peft_config_loaded.setter
    def _hf_peft_config_loaded(self, value: bool) -> None:
        self.__dict__["_hf_peft_config_loaded"] = value

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the whole model with its adapters, to be read by `AutoAdapterModel` or `adapters.load_model`.

        Merged adapters are part of the weights that are written, and no adapters any more. Of a model with an adapter
        of `peft` only this is written, as transformers does it.

        When the `Trainer` of transformers calls it for a checkpoint, and the base model is frozen, only adapters,
        fusions, heads and what else is trained are written, from which the `Trainer` resumes.

        Args:
            save_directory: The folder.
            **kwargs: What transformers' `save_pretrained` takes.
        """
        is_whole = kwargs.get("state_dict") is not None or not self._has_frozen_base()
        if not is_whole and is_checkpoint_of_trainer(Path(save_directory), sys._getframe(1)):
            if kwargs.get("is_main_process", True):
                self._write_checkpoint_of_trainer(Path(save_directory))
            return
        if self._adapter_registry.peft.trained:
            active = peft_library.active(self)
            if len(active) != 1:
                raise ValueError(
                    f"A model with adapters of peft writes its active one, as transformers does; active is {active}. "
                    "Activate one, or use save_adapter; the model itself can be written when they are deleted."
                )
            if kwargs.get("is_main_process", True):
                peft_library.save(self, Path(save_directory), active[0])
            return
        config = cast(Any, self).config
        entries = self._config_entries()
        left_out = self._names_in_state_of(self._adapter_registry.merged) | fusions.names_of_incomplete(
            self, self._adapter_registry
        )
        if left_out or sharing.shares_any(self._adapter_registry):
            state = kwargs.get("state_dict") or self.state_dict()
            state = {key: tensor for key, tensor in state.items() if key not in left_out}
            kwargs["state_dict"] = sharing.separated(self._adapter_registry, state)
        try:
            for key, value in entries.items():
                setattr(config, key, value)
            self.__dict__["_is_written"] = True  # transformers would write adapters of `peft` alone
            cast(Any, super()).save_pretrained(save_directory, **kwargs)
        finally:
            self.__dict__.pop("_is_written", None)
            for key in entries:
                delattr(config, key)
        if self._adapter_interface is not None:
            facts = {"interface": self._adapter_interface.to_dict(), "model_type": self._model_type()}
            write_json(Path(save_directory) / INTERFACE_CONFIG, {**facts, "version": f"adapters.{VERSION}"})

    def initialize_weights(self) -> None:
        """Called by transformers while a model is loaded, for what its files lack: memory that nothing was written to.

        Of adapters and fusions only one thing may be missing: how often the fusions of a temperature were trained.
        """
        cast(Any, super()).initialize_weights()
        if "_adapter_registry" not in self.__dict__:
            return
        for module, name, buffer in self._adapter_registry.lasting:
            device = cast(Tensor, module._buffers[name]).device
            module._buffers[name] = buffer.to(device)
        self._adapter_registry.lasting = []
        sharing.tie(self._adapter_registry)
        for fusion in self._adapter_registry.fusions.values():
            for module in fusion.modules():
                for buffer in module.buffers():
                    initialization.zeros_(buffer)  # but for those that were read

    def _config_entries(self) -> dict[str, Any]:
        """What `config.json` says of adapters."""
        kept = ModelAdaptersConfig()
        for name, adapter in self._adapter_registry.adapters.items():
            if name not in self._adapter_registry.merged:
                kept.add(name, adapter.config)
        for fusion in fusions.complete(self._adapter_registry):
            kept.add_fusion(fusion.adapter_names, fusion.config, fusion.name)
        shared = sharing.groups(self._adapter_registry)
        return {"adapters": kept.to_dict() | ({"shared_parameters": shared} if shared else {})}

    def _names_in_state_of(self, adapters: Iterable[str]) -> set[str]:
        """The names that the tensors of adapters have in `state_dict`."""
        own = {id(t) for name in adapters for m in self._adapter_registry[name].modules() for t in m.parameters()}
        own |= {id(t) for name in adapters for m in self._adapter_registry[name].modules() for t in m.buffers()}
        return {key for key, t in self.state_dict(keep_vars=True).items() if id(t) in own} if own else set()
