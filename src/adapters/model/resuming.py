"""What a training is resumed from: adapters, fusions, heads and all else that is trained, without the base model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..checkpoints.files import write_json, write_tensors
from ..checkpoints.transactions import together
from ..heads.model_heads import static_head_parameters
from ..methods.fusion import Fusion
from ..registry import Adapter, AdapterRegistry
from .setup_files import SavesSetups

STATE = ("trained_state.safetensors", "trained_state.bin")

_CHECKPOINT = "checkpoint-"  # what the Trainer calls the folders of checkpoints, with the number of a step


class SavesCheckpoints(SavesSetups):
    """Methods that write checkpoints of a training."""

    def _write_checkpoint(self, folder: Path) -> None:
        """Write what `adapters.training.checkpoints.write` says."""
        with together(folder):
            self.save_all_adapters(folder)
            self.save_all_adapter_fusions(folder)
            state = self._trained_state()
            if state:
                write_tensors(folder, STATE, state, use_safetensors=True)

    def _write_checkpoint_of_trainer(self, folder: Path) -> None:
        """Write a checkpoint that the `Trainer` of transformers reads too.

        It looks for whole models, or for an index that says in which files the tensors of a model are.
        """
        index = {
            "metadata": {"format": "Frozen weights are not written: they are those of the base model."},
            "weight_map": {name: STATE[0] for name in self.state_dict()},
        }
        with together(folder):
            self._write_checkpoint(folder)
            write_json(folder / SAFE_WEIGHTS_INDEX_NAME, index)
        for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
            (folder / name).unlink(missing_ok=True)  # of an earlier training; they would be read instead

    def _trained_state(self) -> dict[str, Tensor]:
        """Tensors by their names: of adapters, fusions and heads, and whatever else is trained; each once.

        They are not those of `state_dict`, in which a module can hold what it computes from its parameters.
        """
        ours = {id(tensor) for tensor in self._owned_tensors()}
        named = [*self.named_parameters(), *self.named_buffers()]
        return {plain_name(name): tensor for name, tensor in named if tensor.requires_grad or id(tensor) in ours}

    def _owned_tensors(self) -> Iterator[Tensor]:
        """The tensors of adapters, fusions and heads. What heads share with the base model is not theirs."""
        for owner in owners(self._adapter_registry):
            for module in owner.modules():
                yield from (*module.parameters(), *module.buffers())
        yield from self._head_tensors()

    def _head_tensors(self) -> Iterator[Tensor]:
        yield from static_head_parameters(self, self._adapter_registry.base).values()

    def _has_frozen_base(self) -> bool:
        """Whether anything of the base model is frozen, while something is trained."""
        is_trained = any(parameter.requires_grad for parameter in self.parameters())
        return is_trained and not trains_base(self._adapter_registry)


def plain_name(name: str) -> str:
    """A name without the names of what FSDP wraps around modules."""
    return name.replace("_fsdp_wrapped_module.", "")


def owners(registry: AdapterRegistry) -> list[Adapter | Fusion]:
    """Adapters and fusions."""
    return [*registry.adapters.values(), *registry.fusions.values()]


def trains_base(registry: AdapterRegistry) -> bool:
    """Whether all of a base model is trained: `train_adapter` was not called. Some of its parameters may well be."""
    added = {id(parameter) for owner in owners(registry) for parameter in owner.parameters()}
    of_base = [p for p in registry.base.parameters() if p.is_floating_point() and id(p) not in added]
    return bool(of_base) and all(parameter.requires_grad for parameter in of_base)


def is_checkpoint_of_trainer(folder: Path, caller: FrameType) -> bool:
    """Whether a model is saved by a `Trainer` of transformers, for a checkpoint.

    Nothing but the caller tells that from a user who wants the whole model: a `Trainer` saves both in one way.

    Args:
        folder: Where the model is saved to.
        caller: The frame that `save_pretrained` was called from.
    """
    module: Any = sys.modules.get("transformers.trainer")
    return (
        folder.name.startswith(_CHECKPOINT)
        and module is not None
        and isinstance(caller.f_locals.get("self"), module.Trainer)
    )
