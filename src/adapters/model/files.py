"""Adapters written to files and read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import peft_library
from ..checkpoints import native
from ..checkpoints.errors import LoadReport, Problems
from ..checkpoints.transactions import together
from ..checkpoints.whole import read_with_report
from ..configuration import get_adapter_config_hash
from ..hub.architectures import loaded
from ..hub.huggingface import Access
from ..hub.packing import ADAPTER
from ..hub.resolve import Source, Wanted, resolve
from ..interchange import peft_reading
from ..interchange.peft_layout import peft_type_of
from ..registry import Adapter
from .base import all_or_none, check_name, check_saved_name, folder_of, folder_within, refuse_loaders
from .own_head import HasHead
from .spellings import also_by_transformers, also_with_loading_info, also_without_head, without_adapter_type


class SavesAdapters(HasHead):
    """Methods that save and load adapters."""

    @also_without_head(2, default=True)
    def save_adapter(
        self,
        save_directory: str | Path,
        adapter_name: str,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
        *,
        for_release: str | None = None,
    ) -> None:
        """Write an adapter, and the head of its name, to a folder, in the layout of AdapterHub.

        All files are written, or none: a process that is killed meanwhile leaves the old or the new ones.

        Args:
            save_directory: The folder; made if it is not there.
            adapter_name: The adapter.
            with_head: Whether its head is written too.
            meta_dict: Further entries of `adapter_config.json`.
            custom_weights_loaders: Not supported; heads and adapters are all there is to save.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.
            for_release: "1.3" for files that AdapterHub's `adapters` 1.3 reads. They are the same but for LoReFT, whose
                files are much larger there, and for what that release does not have, which is an error.

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: the adapter cannot be written for that release.
        """
        refuse_loaders(custom_weights_loaders)
        folder = folder_of(save_directory)
        if adapter_name in self._adapter_registry.peft.trained:
            if meta_dict or not use_safetensors or for_release is not None:
                raise ValueError(
                    "An adapter of peft is written as peft does it: without meta_dict and for_release, as safetensors."
                )
            self._save_of_peft(adapter_name, folder, with_head)
            return
        adapter = self._adapter_registry[adapter_name]
        facts = {**self._facts(), **(meta_dict or {})}
        with together(folder):
            native.save(adapter, folder, self._adapter_registry.base_path, facts, use_safetensors, for_release)
            if with_head:
                self._save_head_of(adapter_name, folder, use_safetensors)

    def _save_of_peft(self, name: str, folder: Path, with_head: bool) -> None:
        """Write an adapter of `peft`."""
        peft_library.save(self, folder, name)
        inside = set(self._adapter_registry.base.modules())
        # What peft has replaced of the head, it saves with the adapter.
        if with_head and all(parent in inside for parent, _, _ in self._adapter_registry.peft.replaced):
            self._save_head_of(name, folder, use_safetensors=True)

    @also_without_head(1, default=True)
    def save_all_adapters(
        self,
        save_directory: str | Path,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
        *,
        for_release: str | None = None,
    ) -> None:
        """Write every adapter to a folder of its name within a folder. The arguments are those of `save_adapter`."""
        folder = folder_of(save_directory)
        with together(folder):
            for name in (*self._adapter_registry.peft.trained, *self._adapter_registry.adapters):
                adapter = self._adapter_registry.adapters.get(name)
                own = {} if adapter is None else {"config_id": get_adapter_config_hash(adapter.config)}
                facts = {**own, **(meta_dict or {})}
                inner = folder_within(folder, name)
                self.save_adapter(
                    inner, name, with_head, facts, custom_weights_loaders, use_safetensors, for_release=for_release
                )

    @also_by_transformers
    @also_with_loading_info
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
        *,
        hub: str | Path | None = None,
        token: bool | str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        checksum: str | None = None,
        strict: bool = True,
        report: LoadReport | None = None,
    ) -> str:
        """Add an adapter from a folder or a hub, with its head if there is one. One of the same name is replaced.

        What is active stays active, and a replaced adapter that was frozen stays so.

        >>> name = model.load_adapter("my_adapters/sentiment", set_active=True)
        >>> name = model.load_adapter("AdapterHub/bert-base-uncased-pf-sst2")
        >>> name = model.load_adapter("sentiment/sst-2@me", hub="my-hub")

        Args:
            adapter_name_or_path: A folder, a zip or tar archive or its address, a repository of the Hugging Face Hub,
                or a name on another hub; docs/hub.md says in which order it is tried as which. Files of the `peft`
                library are read as an adapter of this one (docs/peft.md); kinds that there is no method for here are
                handed over to that library, if it is installed. These files hold no name, so that the adapter is called
                "default" without `load_as`.
            config: For a name on a hub, the configuration that is wanted of the adapters of this name. Else, a
                configuration to use instead of the one in the folder. With one of `peft` (as of
                `peft.PeftConfig.from_pretrained`) files of that library are handed over to it.
            version: The version on a hub; on the Hugging Face Hub a branch, a tag or a commit.
            model_name: The name by which a hub knows the model; by default the one that it was loaded by.
            load_as: Another name for it.
            with_head: Whether to add its head too.
            custom_weights_loaders: Not supported.
            leave_out: Layers to load nothing for.
            id2label: Other labels for the head.
            set_active: Whether to activate it.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.
            hub: Where to look the name up: the folder or the address of a hub, or "hf" for the Hugging Face Hub alone.
            token: A token for the Hugging Face Hub.
            cache_dir: Another folder for the cache of the Hugging Face Hub.
            force_download: Download again what is in the cache.
            local_files_only: Use what is in the cache, and nothing else.
            checksum: The SHA-256 or SHA-1 of an archive, which is refused if it is another one.
            strict: Whether tensors that are missing, unexpected or of another shape are an error. If not, what fits is
                loaded, and the rest logged.
            report: With `strict=False`, where the rest is noted. A dictionary given as `loading_info` gets the same as
                `missing_keys` and `unexpected_keys`.

        Returns:
            The name of the adapter.

        Raises:
            HubError: no adapter, or more than one, has this name, or it cannot be downloaded.
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        refuse_loaders(custom_weights_loaders)
        if load_as is not None:
            check_name(load_as)
        by_peft = peft_library.is_config(config)
        config = loaded(config) if config is not None and not by_peft else None
        found = resolve(
            adapter_name_or_path,
            Wanted(ADAPTER, model_name or self.model_name, config, version),
            Source(hub, Access(token, cache_dir, force_download, local_files_only), checksum),
        )
        folder, override = found.folder, None if found.is_of_config else config
        registry = self._adapter_registry
        kind = peft_type_of(folder)
        if by_peft or (kind is not None and peft_library.takes(registry, kind)):
            name = load_as or "default"
            if not strict:
                raise ValueError(f"{folder} holds an adapter of peft, whose files have to fit: leave out strict=False.")
            attach_head = self._read_head(folder, name, id2label, use_safetensors, None) if with_head else None
            self._load_of_peft(folder, name, override, leave_out)
            if attach_head is not None:
                attach_head()
            if set_active:
                self.set_active_adapters(name)
            return name

        def read(found: LoadReport | None) -> tuple[Adapter, Callable[[], None] | None]:
            problems, attach_head, name = Problems(), None, load_as
            with problems.noted():
                adapter = native.load(
                    registry, folder, self._model_type(), load_as, override, leave_out, use_safetensors, found
                )
                check_saved_name(adapter.name, folder)
                name = adapter.name
            with problems.noted():
                attach_head = self._read_head(folder, name, id2label, use_safetensors, found) if with_head else None
            problems.check()
            return adapter, attach_head

        def read_peft(found: LoadReport | None) -> tuple[Adapter, Callable[[], None] | None]:
            if override is not None:
                raise ValueError(f"{folder} holds an adapter of PEFT, which is read with its own configuration.")
            name, left_out = load_as or "default", leave_out or []
            one = peft_reading.load(registry, folder, self._model_type(), name, left_out, use_safetensors, found)
            if not with_head:
                return one.adapter, None
            own = self._read_head(folder, name, id2label, use_safetensors, found)
            return one.adapter, own or self._head_of_peft(name, one.head, one.options, id2label)

        adapter, attach_head = read_with_report(folder, strict, report, read if kind is None else read_peft)
        with all_or_none(registry):
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
        was_active = name in self._adapter_registry.peft.trained and name in peft_library.active(self)
        with self._added_by_peft(name, set_active=was_active):
            peft_library.load(self, self._adapter_registry, folder, name)
