"""Fusions, and setups with all that belongs to them, written to files and read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__ as VERSION
from .. import fusions
from ..checkpoints import fusions as fusion_files
from ..checkpoints import native, setups
from ..composition import AdapterCompositionBlock, Fuse, SetupLike, parse_composition
from ..fusions import FusionLike
from .base import check_name, folder_of, refuse_loaders
from .files import SavesAdapters


class SavesSetups(SavesAdapters):
    """Methods that save and load fusions and setups."""

    def save_adapter_fusion(
        self,
        save_directory: str | Path,
        adapter_names: FusionLike,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        with_head: bool | str = False,
        use_safetensors: bool = True,
    ) -> None:
        """Write a fusion to a folder, in the layout of AdapterHub. Its adapters are not written.

        Args:
            save_directory: The folder; made if it is not there.
            adapter_names: The fusion: its block, its adapters or its name.
            meta_dict: Further entries of `adapter_fusion_config.json`.
            custom_weights_loaders: Not supported.
            with_head: A head to write too: its name, or True for that of the fusion's name.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.

        Raises:
            UnknownAdapterError: there is no such fusion.
            ValueError: there is no such head.
        """
        refuse_loaders(custom_weights_loaders)
        registry = self._adapter_registry
        fusion = fusions.fusion_of(registry, adapter_names)
        folder = folder_of(save_directory)
        if with_head:
            self._save_heads(with_head if isinstance(with_head, str) else fusion.name, folder, use_safetensors, False)
        facts = {**self._facts(), **(meta_dict or {})}
        fusion_files.save(fusion, folder, registry.base_path, facts, use_safetensors)

    def save_all_adapter_fusions(
        self,
        save_directory: str | Path,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write every fusion to a folder of its name within a folder. See `save_adapter_fusion`."""
        for name in self._adapter_registry.fusions:
            folder = Path(save_directory) / name
            self.save_adapter_fusion(folder, name, meta_dict, custom_weights_loaders, use_safetensors=use_safetensors)

    def load_adapter_fusion(
        self,
        adapter_fusion_name_or_path: str | Path,
        load_as: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        with_head: bool = True,
        use_safetensors: bool = False,
    ) -> str:
        """Add a fusion from a folder. Its adapters have to be there. A fusion of the same name is replaced.

        Args:
            adapter_fusion_name_or_path: The folder.
            load_as: Another name for it.
            custom_weights_loaders: Not supported.
            set_active: Whether to activate it.
            with_head: Whether to add the head in the folder too, if there is one.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The name of the fusion.

        Raises:
            UnknownAdapterError: an adapter of the fusion is not there.
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        refuse_loaders(custom_weights_loaders)
        folder, registry = Path(adapter_fusion_name_or_path).expanduser(), self._adapter_registry
        if load_as is not None:
            check_name(load_as)
        fusion = fusion_files.load(registry, folder, self._model_type(), load_as, use_safetensors)
        check_name(fusion.name)
        attach_head = self._read_head(folder, None, None, use_safetensors) if with_head else None
        registry.attach_fusion(fusion)
        if attach_head is not None:
            attach_head()
        if set_active:
            self.set_active_adapters(fusions.fuse_block(fusion))
        return fusion.name

    def save_adapter_setup(
        self,
        save_directory: str | Path,
        adapter_setup: SetupLike,
        head_setup: setups.HeadSetup = None,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write a setup with its adapters, fusions and heads to a folder, in the layout of AdapterHub.

        >>> model.save_adapter_setup("folder", Stack("language", Fuse("a", "b")))
        >>> setup, heads = other_model.load_adapter_setup("folder", set_active=True)

        Args:
            save_directory: The folder; made if it is not there. It gets a folder for each adapter (with the head of its
                name), for each fusion, and for each further head.
            adapter_setup: The setup.
            head_setup: The heads that belong to it: a name, names, or a block of them; True for the active one.
            meta_dict: Further entries of the configuration files.
            custom_weights_loaders: Not supported.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.

        Raises:
            UnknownAdapterError: there is no such adapter or fusion.
            ValueError: there is no such head, or no setup was given.
        """
        refuse_loaders(custom_weights_loaders)
        setup, folder = parse_composition(adapter_setup), folder_of(save_directory)
        if setup is None or not setup.flatten():
            raise ValueError("save_adapter_setup needs the name of an adapter or a setup of adapters.")
        found = fusions.fusions_in(self._adapter_registry, setup)
        names = sorted(setup.flatten())
        for name in names:
            self._adapter_registry[name]
        folder.mkdir(parents=True, exist_ok=True)
        heads = self._save_heads(head_setup, folder, use_safetensors, True)
        for name in names:
            self.save_adapter(folder / name, name, meta_dict=meta_dict, use_safetensors=use_safetensors)
        for fusion in found:
            self.save_adapter_fusion(folder / fusion.name, fusion.name, meta_dict, use_safetensors=use_safetensors)
        setups.write(folder, setup, heads, f"adapters.{VERSION}")

    def load_adapter_setup(
        self,
        adapter_setup_name_or_path: str | Path,
        version: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        use_safetensors: bool = False,
    ) -> tuple[AdapterCompositionBlock, setups.HeadSetup]:
        """Add the adapters, fusions and heads of a setup from a folder; those of the same names are replaced.

        Args:
            adapter_setup_name_or_path: The folder.
            version: Not supported yet: only folders are read.
            custom_weights_loaders: Not supported.
            set_active: Whether to activate the setup, and its heads.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The setup, and the heads that belong to it: a name, names, a block of them, or None.

        Raises:
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        refuse_loaders(custom_weights_loaders)
        if version is not None:
            raise NotImplementedError("version= belongs to setups on a hub; only folders can be loaded yet.")
        registry, kind = self._adapter_registry, self._model_type()
        folder = Path(adapter_setup_name_or_path).expanduser()
        setup, heads = setups.read(folder)
        names = sorted(setup.flatten())
        for name in names:
            check_name(name)
        safe = use_safetensors
        adapters = {name: native.load(registry, folder / name, kind, name, safetensors_only=safe) for name in names}
        known = {**registry.adapters, **adapters}
        blocks = {block.name: block for block in setup.blocks() if isinstance(block, Fuse)}
        for name in blocks:
            check_name(name)
        found = [fusion_files.load(registry, folder / name, kind, name, safe, known) for name in blocks]
        attach_heads = [self._read_head(folder / name, name, None, safe) for name in names]
        heads, attach_others = self._read_heads(folder, heads, names, safe)
        for adapter in adapters.values():
            self._attach(adapter, set_active=False)
        for fusion in found:
            registry.attach_fusion(fusion)
        for attach_head in (*attach_heads, *attach_others):
            if attach_head is not None:
                attach_head()
        if set_active:
            self.set_active_adapters(setup)
            self._activate_heads(heads)
        return setup, heads
