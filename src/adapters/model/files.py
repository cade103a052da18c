"""Adapters written to files and read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import peft_library
from ..checkpoints import native
from ..configuration import AdapterConfig, get_adapter_config_hash
from .base import check_name, folder_of, refuse_loaders
from .own_head import HasHead
from .spellings import also_by_transformers, without_adapter_type


class SavesAdapters(HasHead):
    """Methods that save and load adapters."""

    def save_adapter(
        self,
        save_directory: str | Path,
        adapter_name: str,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write an adapter, and the head of its name, to a folder, in the layout of AdapterHub.

        Args:
            save_directory: The folder; made if it is not there.
            adapter_name: The adapter.
            with_head: Whether its head is written too.
            meta_dict: Further entries of `adapter_config.json`.
            custom_weights_loaders: Not supported; heads and adapters are all there is to save.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        refuse_loaders(custom_weights_loaders)
        folder = folder_of(save_directory)
        if adapter_name in self._adapter_registry.peft.trained:
            self._save_of_peft(adapter_name, folder, with_head, meta_dict, use_safetensors)
            return
        adapter = self._adapter_registry[adapter_name]
        native.save(
            adapter, folder, self._adapter_registry.base_path, {**self._facts(), **(meta_dict or {})}, use_safetensors
        )
        if with_head:
            self._save_head_of(adapter_name, folder, use_safetensors)

    def _save_of_peft(
        self, name: str, folder: Path, with_head: bool, meta_dict: Mapping[str, Any] | None, use_safetensors: bool
    ) -> None:
        """Write an adapter of `peft`."""
        if meta_dict or not use_safetensors:
            raise ValueError("An adapter of peft is written as peft does it: without meta_dict, as safetensors.")
        peft_library.save(self, folder, name)
        inside = set(self._adapter_registry.base.modules())
        # What peft has replaced of the head, it saves with the adapter.
        if with_head and all(parent in inside for parent, _, _ in self._adapter_registry.peft.replaced):
            self._save_head_of(name, folder, use_safetensors)

    def save_all_adapters(
        self,
        save_directory: str | Path,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write every adapter to a folder of its name within a folder. The arguments are those of `save_adapter`."""
        for name in self._adapter_registry.peft.trained:
            self.save_adapter(Path(save_directory) / name, name, with_head, meta_dict, custom_weights_loaders)
        for name, adapter in self._adapter_registry.adapters.items():
            facts = {"config_id": get_adapter_config_hash(adapter.config), **(meta_dict or {})}
            self.save_adapter(
                Path(save_directory) / name, name, with_head, facts, custom_weights_loaders, use_safetensors
            )

    @also_by_transformers
    @without_adapter_type
    def load_adapter(
        self,
        adapter_name_or_path: str | Path,
        config: str | Mapping[str, Any] | None = None,
        version: str | None = None,
        model_name: str | None = None,
        load_as: str | None = None,
        with_head: bool = True,
        custom_weights_loaders: Sequence[Any] | None = None,
        leave_out: list[int] | None = None,
        id2label: Mapping[int, str] | None = None,
        set_active: bool = False,
        use_safetensors: bool = False,
    ) -> str:
        """Add an adapter from a folder, with its head if there is one. An adapter of the same name is replaced.

        >>> name = model.load_adapter("my_adapters/sentiment", set_active=True)

        Args:
            adapter_name_or_path: The folder. One of the `peft` library is handed over to it, if it is installed; its
                files hold no name, so that the adapter is called "default" without `load_as`.
            config: A configuration to use instead of the one in the folder.
            version: Not supported yet: only folders are read.
            model_name: Taken for compatibility: the model is this one.
            load_as: Another name for it.
            with_head: Whether to add its head too.
            custom_weights_loaders: Not supported.
            leave_out: Layers to load nothing for.
            id2label: Other labels for the head.
            set_active: Whether to activate it.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The name of the adapter.

        Raises:
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        refuse_loaders(custom_weights_loaders)
        if version is not None:
            raise NotImplementedError("version= belongs to adapters on a hub; only folders can be loaded yet.")
        folder = Path(adapter_name_or_path).expanduser()
        if load_as is not None:
            check_name(load_as)
        override = AdapterConfig.load(config) if config is not None else None
        registry = self._adapter_registry
        if peft_library.is_folder(folder) and peft_library.is_installed():
            name = load_as or "default"
            attach_head = self._read_head(folder, name, id2label, use_safetensors) if with_head else None
            self._load_of_peft(folder, name, config, leave_out)
            if attach_head is not None:
                attach_head()
            if set_active:
                self.set_active_adapters(name)
            return name
        adapter = native.load(
            registry, folder, self._model_type(), load_as, override, leave_out, safetensors_only=use_safetensors
        )
        check_name(adapter.name)
        attach_head = self._read_head(folder, adapter.name, id2label, use_safetensors) if with_head else None
        self._attach(adapter, set_active=False)
        if attach_head is not None:
            attach_head()
        if set_active:
            self.set_active_adapters(adapter.name)
        return adapter.name

    def _load_of_peft(self, folder: Path, name: str, config: object, leave_out: object) -> None:
        """Add an adapter from a folder of `peft`."""
        if config is not None or leave_out:
            raise ValueError(f"{folder} holds an adapter of peft; it is loaded as it is, without config or leave_out.")
        with self._added_by_peft(name, set_active=False):
            peft_library.load(self, self._adapter_registry, folder, name)
