"""Fusions, and setups with all that belongs to them, written to files and read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__ as VERSION
from .. import fusions
from ..checkpoints import fusions as fusion_files
from ..checkpoints import native, setups
from ..checkpoints.errors import LoadReport, Problems
from ..checkpoints.files import HEAD_CONFIG, read_json
from ..checkpoints.transactions import together
from ..checkpoints.whole import read_with_report
from ..composition import AdapterCompositionBlock, Fuse, SetupLike, parse_composition
from ..fusions import FusionLike
from ..hub.huggingface import Access
from ..hub.packing import FUSION, SETUP
from ..hub.resolve import Source, Wanted, resolve
from ..methods.fusion import Fusion
from ..registry import Adapter
from .base import all_or_none, check_name, check_saved_name, folder_of, folder_within, refuse_loaders
from .files import SavesAdapters
from .spellings import also_with_loading_info, also_without_head


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
        *,
        for_release: str | None = None,
    ) -> None:
        """Write a fusion to a folder, in the layout of AdapterHub. Its adapters are not written.

        Args:
            save_directory: The folder; made if it is not there.
            adapter_names: The fusion: its block, its adapters or its name.
            meta_dict: Further entries of `adapter_fusion_config.json`.
            custom_weights_loaders: Not supported.
            with_head: A head to write too: its name, or True for that of the fusion's name.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.
            for_release: As for `save_adapter`.

        Raises:
            UnknownAdapterError: there is no such fusion.
            ValueError: there is no such head.
        """
        refuse_loaders(custom_weights_loaders)
        registry = self._adapter_registry
        fusion = fusions.fusion_of(registry, adapter_names)
        folder = folder_of(save_directory)
        facts = {**self._facts(), **(meta_dict or {})}
        head = with_head if isinstance(with_head, str) else fusion.name
        with together(folder):
            if with_head:
                self._save_heads(head, folder, use_safetensors, False)
            fusion_files.save(fusion, folder, registry.base_path, facts, use_safetensors, for_release)

    def save_all_adapter_fusions(
        self,
        save_directory: str | Path,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write every fusion to a folder of its name within a folder. See `save_adapter_fusion`."""
        refuse_loaders(custom_weights_loaders)
        folder = folder_of(save_directory)
        with together(folder):
            for name in self._adapter_registry.fusions:
                inner = folder_within(folder, name)
                self.save_adapter_fusion(inner, name, meta_dict, use_safetensors=use_safetensors)

    @also_with_loading_info
    def load_adapter_fusion(
        self,
        adapter_fusion_name_or_path: str | Path,
        load_as: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        with_head: bool = True,
        use_safetensors: bool = False,
        *,
        hub: str | Path | None = None,
        token: bool | str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        version: str | None = None,
        strict: bool = True,
        report: LoadReport | None = None,
    ) -> str:
        """Add a fusion from a folder or a hub. Its adapters have to be there. A fusion of the same name is replaced.

        Args:
            adapter_fusion_name_or_path: A folder, or what else `load_adapter` takes.
            load_as: Another name for it.
            custom_weights_loaders: Not supported.
            set_active: Whether to activate it.
            with_head: Whether to add the head in the folder too, if there is one.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.
            hub: Where to look the name up: the folder or the address of a hub, or "hf" for the Hugging Face Hub alone.
            token: A token for the Hugging Face Hub.
            cache_dir: Another folder for the cache of the Hugging Face Hub.
            force_download: Download again what is in the cache.
            local_files_only: Use what is in the cache, and nothing else.
            version: The version on a hub; on the Hugging Face Hub a branch, a tag or a commit.
            strict: Whether tensors that are missing, unexpected or of another shape are an error.
            report: With `strict=False`, where these are noted.

        Returns:
            The name of the fusion.

        Raises:
            HubError: no fusion, or more than one, has this name, or it cannot be downloaded.
            UnknownAdapterError: an adapter of the fusion is not there.
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        refuse_loaders(custom_weights_loaders)
        registry = self._adapter_registry
        if load_as is not None:
            check_name(load_as)
        source = Source(hub, Access(token, cache_dir, force_download, local_files_only))
        folder = resolve(adapter_fusion_name_or_path, Wanted(FUSION, self.model_name, None, version), source).folder

        def read(found: LoadReport | None) -> tuple[Fusion, Callable[[], None] | None]:
            problems, attach_head = Problems(), None
            with problems.noted():
                fusion = fusion_files.load(registry, folder, self._model_type(), load_as, use_safetensors, report=found)
                check_saved_name(fusion.name, folder)
            with problems.noted():
                attach_head = self._read_head(folder, None, None, use_safetensors, found) if with_head else None
            problems.check()
            return fusion, attach_head

        fusion, attach_head = read_with_report(folder, strict, report, read)
        with all_or_none(registry):
            registry.attach_fusion(fusion)
        if attach_head is not None:
            attach_head()
        if set_active:
            self.set_active_adapters(fusions.fuse_block(fusion))
            if attach_head is not None:
                self._activate_heads(read_json(folder / HEAD_CONFIG).get("name"))
        return fusion.name

    @also_without_head(2, default=None)
    def save_adapter_setup(
        self,
        save_directory: str | Path,
        adapter_setup: SetupLike,
        head_setup: setups.HeadSetup = None,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
        *,
        for_release: str | None = None,
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
            for_release: As for `save_adapter`.

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
        with together(folder):
            heads = self._save_heads(head_setup, folder, use_safetensors, True)
            for name in names:
                inner = folder_within(folder, name)
                self.save_adapter(
                    inner, name, meta_dict=meta_dict, use_safetensors=use_safetensors, for_release=for_release
                )
            for fusion in found:
                inner = folder_within(folder, fusion.name)
                self.save_adapter_fusion(
                    inner, fusion.name, meta_dict, use_safetensors=use_safetensors, for_release=for_release
                )
            setups.write(folder, setup, heads, f"adapters.{VERSION}")

    @also_with_loading_info
    def load_adapter_setup(
        self,
        adapter_setup_name_or_path: str | Path,
        version: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        use_safetensors: bool = False,
        *,
        hub: str | Path | None = None,
        token: bool | str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        strict: bool = True,
        report: LoadReport | None = None,
    ) -> tuple[AdapterCompositionBlock, setups.HeadSetup]:
        """Add the adapters, fusions and heads of a setup from a folder or a hub; those of the same names are replaced.

        Args:
            adapter_setup_name_or_path: A folder, or what else `load_adapter` takes.
            version: The version on a hub; on the Hugging Face Hub a branch, a tag or a commit.
            custom_weights_loaders: Not supported.
            set_active: Whether to activate the setup, and its heads.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.
            hub: Where to look the name up: the folder or the address of a hub, or "hf" for the Hugging Face Hub alone.
            token: A token for the Hugging Face Hub.
            cache_dir: Another folder for the cache of the Hugging Face Hub.
            force_download: Download again what is in the cache.
            local_files_only: Use what is in the cache, and nothing else.
            strict: Whether tensors that are missing, unexpected or of another shape are an error.
            report: With `strict=False`, where these are noted.

        Returns:
            The setup, and the heads that belong to it: a name, names, a block of them, or None.

        Raises:
            HubError: no setup, or more than one, has this name, or it cannot be downloaded.
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        refuse_loaders(custom_weights_loaders)
        source = Source(hub, Access(token, cache_dir, force_download, local_files_only))
        folder = resolve(adapter_setup_name_or_path, Wanted(SETUP, self.model_name, None, version), source).folder
        found = read_with_report(folder, strict, report, lambda noted: self._read_setup(folder, use_safetensors, noted))
        registry = self._adapter_registry
        with all_or_none(registry):
            for adapter in found.adapters:
                self._attach(adapter, set_active=False)
            for fusion in found.fusions:
                registry.attach_fusion(fusion)
            if set_active:
                registry.compile(found.setup)  # what has no meaning is refused before heads are attached
        for attach_head in found.attach_heads:
            if attach_head is not None:
                attach_head()
        if set_active:
            self.set_active_adapters(found.setup)
            self._activate_heads(found.heads)
        return found.setup, found.heads

    def _read_setup(self, folder: Path, safe: bool, report: LoadReport | None) -> _ReadSetup:
        """Read all that belongs to a setup, without changing the model."""
        registry, kind, problems = self._adapter_registry, self._model_type(), Problems()
        setup, heads = setups.read(folder)
        names = sorted(setup.flatten())
        blocks = {block.name: block for block in setup.blocks() if isinstance(block, Fuse)}
        for name in (*names, *blocks):
            check_saved_name(name, folder)
        adapters: dict[str, Adapter] = {}
        attach_heads: list[Callable[[], None] | None] = []
        for name in names:
            inner = folder_within(folder, name)
            with problems.noted():
                adapters[name] = native.load(registry, inner, kind, name, None, None, safe, report)
            with problems.noted():
                attach_heads.append(self._read_head(inner, name, None, safe, report))
        with problems.noted():
            heads, others = self._read_heads(folder, heads, names, safe, report)
            attach_heads += others
        problems.check()  # fusions need all adapters
        known = {**registry.adapters, **adapters}
        found: list[Fusion] = []
        for name in blocks:
            with problems.noted():
                found.append(fusion_files.load(registry, folder_within(folder, name), kind, name, safe, known, report))
        problems.check()
        return _ReadSetup(setup, heads, list(adapters.values()), found, attach_heads)


@dataclass(frozen=True)
class _ReadSetup:
    """What a folder of a setup holds, not yet added to the model."""

    setup: AdapterCompositionBlock
    heads: setups.HeadSetup
    adapters: list[Adapter]
    fusions: list[Fusion]
    attach_heads: list[Callable[[], None] | None]
