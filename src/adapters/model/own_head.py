"""The one head that a static class (`BertForSequenceClassification` …) has, written and read with its adapters.

Models with any number of heads replace these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ..checkpoints import setups
from ..heads.model_heads import read_static_head, save_static_head
from .adding import AddsAdapters


class HasHead(AddsAdapters):
    """Files of the head of a model."""

    def _save_head_of(self, adapter_name: str, folder: Path, use_safetensors: bool) -> None:
        """Write the head that belongs to an adapter, if there is one."""
        config = getattr(self, "config", None)
        labels = {"label2id": config.label2id, "num_labels": config.num_labels} if config is not None else {}
        save_static_head(self, self._adapter_registry.base, folder, self._facts(), labels, use_safetensors)

    def _read_head(
        self, folder: Path, name: str | None, id2label: Mapping[int, str] | None, safetensors_only: bool
    ) -> Callable[[], None] | None:
        """Read the head in a folder, without changing the model; what is returned puts it into the model.

        It gets the name, or keeps its own.
        """
        tensors = read_static_head(self, self._adapter_registry.base, folder, safetensors_only)
        if not tensors:
            return None
        parameters = self.state_dict(keep_vars=True)

        def attach() -> None:
            with torch.no_grad():
                for key, tensor in tensors.items():
                    parameters[key].copy_(tensor)

        return attach

    def _save_heads(
        self, heads: setups.HeadSetup, folder: Path, use_safetensors: bool, is_nested: bool
    ) -> setups.HeadSetup:
        """Write heads to a folder, or each to one of its name in it; gives what names them."""
        if heads not in (None, False, True):
            raise ValueError(f"This {type(self).__name__} has no heads with names, and {heads!r} was given.")
        return None

    def _read_heads(
        self, folder: Path, heads: setups.HeadSetup, read: Sequence[str], safetensors_only: bool
    ) -> tuple[setups.HeadSetup, list[Callable[[], None] | None]]:
        """Read the heads of a setup, as `_read_head`, except for those that were read; gives what names them too."""
        return None, []

    def _activate_heads(self, heads: setups.HeadSetup) -> None:
        """Make heads the active ones."""
