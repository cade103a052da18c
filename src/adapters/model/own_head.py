"""The one head that a static class (`BertForSequenceClassification` …) has, written and read with its adapters.

Models with any number of heads replace these methods.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import setups
from ..checkpoints.errors import LoadReport
from ..heads import of_peft
from ..heads.base import label_map
from ..heads.model_heads import save_static_head, static_head_parameters
from ..heads.of_peft import FactsForPeft
from ..heads.static import StaticHeadError
from ..heads.static_files import has_task, read_for_static, read_static_or_raise
from .adding import AddsAdapters
from .spellings import also_with_loading_info

_LOGGER = logging.getLogger(__name__)


class HasHead(AddsAdapters):
    """Files of the head of a model."""

    def get_labels_dict(self, head_name: str | None = None) -> dict[int, str] | None:
        """The labels of the model by their numbers."""
        labels: dict[int, str] | None = getattr(getattr(self, "config", None), "id2label", None)
        return labels

    def get_labels(self, head_name: str | None = None) -> list[str] | None:
        """The labels of the model, in the order of their numbers."""
        labels = self.get_labels_dict(head_name)
        return None if labels is None else [labels[i] for i in sorted(labels)]

    def save_head(self, save_directory: str | Path, head_name: str | None = None, use_safetensors: bool = True) -> None:
        """Write the head of the model to a folder, in the layout of AdapterHub.

        Raises:
            ValueError: it has none.
        """
        parameters = static_head_parameters(self, self._adapter_registry.base)
        if not parameters and not has_task(self):
            raise ValueError(f"This {type(self).__name__} has no head to write.")
        self._write_head(Path(save_directory), parameters, use_safetensors)

    @also_with_loading_info
    def load_head(
        self,
        save_directory: str | Path,
        load_as: str | None = None,
        id2label: Mapping[int, str] | None = None,
        use_safetensors: bool = False,
    ) -> str:
        """Read the head of the model from a folder: one of the same class, or a flexible head of the same layers.

        >>> model = BertForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=3)
        >>> adapters.init(model)
        >>> model.load_head("heads/topics")

        Args:
            save_directory: The folder.
            load_as: Taken for compatibility: the one head of such a model has no name.
            id2label: Other labels for it.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The name of the folder.

        Raises:
            AdapterFileError: a file is missing, cut off, or does not fit. The model is then as it was.
        """
        folder = Path(save_directory)
        base = self._adapter_registry.base
        attach = self._putting(*read_static_or_raise(self, base, folder, id2label, use_safetensors))
        if attach is not None:
            attach()
        return str(save_directory)

    def _save_head_of(self, adapter_name: str, folder: Path, use_safetensors: bool) -> None:
        """Write the head that belongs to an adapter, if there is one."""
        parameters = static_head_parameters(self, self._adapter_registry.base)
        if parameters:
            self._write_head(folder, parameters, use_safetensors)

    def _write_head(self, folder: Path, parameters: Mapping[str, Tensor], use_safetensors: bool) -> None:
        config = getattr(self, "config", None)
        labels = {"label2id": config.label2id, "num_labels": config.num_labels} if config is not None else {}
        save_static_head(folder, parameters, self._facts(), labels, use_safetensors)

    def _read_head(
        self,
        folder: Path,
        name: str | None,
        id2label: Mapping[int, str] | None,
        safetensors_only: bool,
        report: LoadReport | None,
    ) -> Callable[[], None] | None:
        """Read the head in a folder, without changing the model; what is returned puts it into the model.

        It gets the name, or keeps its own.
        """
        base = self._adapter_registry.base
        try:
            tensors, labels = read_for_static(self, base, folder, safetensors_only, report)
        except StaticHeadError as error:  # the adapter is of use without it
            _LOGGER.warning("The head was left out. %s", error)
            return None
        return self._putting(tensors, labels if id2label is None else label_map(len(id2label), id2label))

    def _head_of_peft(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        options: Mapping[str, Any],
        id2label: Mapping[int, str] | None,
    ) -> Callable[[], None] | None:
        """The same for a head that was read from a folder of PEFT.

        Args:
            name: The name to give, where heads have names.
            tensors: Its tensors, by their names in the static class that it is of.
            options: The options of PEFT.
            id2label: Its labels, where heads have labels of their own.
        """
        return self._putting(of_peft.static_head(self, self._adapter_registry.base, tensors))

    def _facts_for_peft(self, adapter_name: str, with_head: bool) -> FactsForPeft:
        """What PEFT has to know of the model, and the head that belongs to an adapter."""
        registry = self._adapter_registry
        task = of_peft.TASKS.get(type(self).__name__)
        head = of_peft.own_head(self, registry.base) if with_head else {}
        return FactsForPeft(registry.base_path, task, head)

    def _putting(
        self, tensors: Mapping[str, Tensor], label2id: Mapping[str, int] | None = None
    ) -> Callable[[], None] | None:
        """What puts tensors into the model, if there are any, and the names of its labels."""
        if not tensors:
            return None
        parameters = self.state_dict(keep_vars=True)

        def attach() -> None:
            with torch.no_grad():
                for key, tensor in tensors.items():
                    parameters[key].copy_(tensor)
            if label2id is not None:
                self.config.label2id = dict(label2id)
                self.config.id2label = {number: label for label, number in label2id.items()}

        return attach

    def _save_heads(
        self, heads: setups.HeadSetup, folder: Path, use_safetensors: bool, is_nested: bool
    ) -> setups.HeadSetup:
        """Write heads to a folder, or each to one of its name in it; gives what names them."""
        if heads not in (None, False, True):
            raise ValueError(f"This {type(self).__name__} has no heads with names, and {heads!r} was given.")
        return None

    def _read_heads(
        self,
        folder: Path,
        heads: setups.HeadSetup,
        read: Sequence[str],
        safetensors_only: bool,
        report: LoadReport | None,
    ) -> tuple[setups.HeadSetup, list[Callable[[], None] | None]]:
        """Read the heads of a setup, as `_read_head`, except for those that were read; gives what names them too."""
        return None, []

    def _activate_heads(self, heads: setups.HeadSetup) -> None:
        """Make heads the active ones."""
