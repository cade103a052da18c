"""The functions by which AdapterHub's `adapters` gives the folder of a published adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.files import read_json
from . import huggingface, store
from .download import check_url
from .errors import AdapterNotFoundError, HubError
from .huggingface import Access
from .identifiers import parse
from .index import candidates, config_id_of, find
from .packing import ADAPTER
from .reading import WebHub
from .resolve import ADAPTER_HUB_URL, Source, Wanted, resolve
from .store import Checksums


def pull_from_hf_model_hub(
    specifier: str,
    version: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> str:
    """The folder of an adapter of the Hugging Face Hub, downloaded if it is not in the cache.

    Args:
        specifier: The repository.
        version: A branch, a tag or a commit.
        token: See `Access`, as the others.
        cache_dir: Another folder for the cache.
        force_download: Whether to download again what is in the cache.
        local_files_only: Whether to use what is in the cache, and nothing else.

    Raises:
        HubError: there is none, or it cannot be downloaded.
    """
    access = Access(token, cache_dir, force_download, local_files_only)
    return str(huggingface.download(specifier, version, ADAPTER, access))


def pull_from_hub(
    specifier: str,
    model_name: str,
    adapter_config: str | Mapping[str, Any] | None = None,
    version: str | None = None,
    strict: bool = False,
    hub: str | Path | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> str:
    """The folder of an adapter of a hub, by its name there; see `adapters.hub.resolve` for where it is looked up.

    >>> pull_from_hub("sentiment/sst-2@me", "bert-base-uncased", hub="my-hub")

    Args:
        specifier: Its name.
        model_name: The model that it is for.
        adapter_config: Its configuration.
        version: Its version.
        strict: Whether it is an error if there is none of this configuration; otherwise the default is taken.
        hub: A hub: a folder, an address, or "hf".
        token: See `Access`, as the others.
        cache_dir: Another folder for the cache of the Hugging Face Hub.
        force_download: Whether to download again what is in the cache.
        local_files_only: Whether to use what is in the cache, and nothing else.

    Raises:
        HubError: there is none, or several, or it cannot be downloaded.
    """
    access = Access(token, cache_dir, force_download, local_files_only)
    wanted = Wanted(ADAPTER, model_name, adapter_config, version, strict)
    return str(resolve(specifier, wanted, Source(hub, access)).folder)


def resolve_adapter_path(
    adapter_name_or_path: str | Path,
    model_name: str | None = None,
    adapter_config: str | Mapping[str, Any] | None = None,
    version: str | None = None,
    do_exists_check: bool = True,
    hub: str | Path | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> str:
    """The folder that the name of an adapter stands for: a path, an address, or a name on a hub.

    Args:
        adapter_name_or_path: The name.
        model_name: The model that it is for.
        adapter_config: Its configuration, on a hub.
        version: Its version, on a hub.
        do_exists_check: Whether it is an error if a folder has no adapter in it.
        hub: A hub: a folder, an address, or "hf".
        token: See `Access`, as the others.
        cache_dir: Another folder for the cache of the Hugging Face Hub.
        force_download: Whether to download again what is in the cache.
        local_files_only: Whether to use what is in the cache, and nothing else.

    Raises:
        HubError: there is none, or several, or it cannot be downloaded.
    """
    access = Access(token, cache_dir, force_download, local_files_only)
    wanted = Wanted(ADAPTER, model_name, adapter_config, version)
    folder = resolve(adapter_name_or_path, wanted, Source(hub, access)).folder
    if do_exists_check and not (folder / ADAPTER.config).is_file():
        raise AdapterNotFoundError(f"There is no {ADAPTER.config} in {folder}.")
    return str(folder)


def find_in_index(
    identifier: str,
    model_name: str,
    adapter_config: Mapping[str, Any] | None = None,
    strict: bool = False,
    index_file: str | Path | None = None,
) -> str | None:
    """Where in an index the entry of an adapter is; None if there is none.

    Args:
        identifier: Its name.
        model_name: The model that it is for.
        adapter_config: Its configuration.
        strict: Whether it is an error if there is none of this configuration; otherwise the default is taken.
        index_file: The file of the index; by default that which AdapterHub has left behind.

    Raises:
        AmbiguousAdapterError: there are several.
        AdapterNotFoundError: there is none of this configuration, and it is strict.
    """
    name = parse(identifier)
    if name.file is not None:
        return f"{ADAPTER_HUB_URL}adapters/{name.org}/{name.file}.json"
    if index_file is not None:
        index: Any = read_json(Path(index_file))
    else:
        index = WebHub(ADAPTER_HUB_URL, Access().is_offline).document(f"index/{model_name}.json")
    config_id = config_id_of(adapter_config) if adapter_config is not None else None
    try:
        return find(index, name, config_id, strict)
    except AdapterNotFoundError:
        if strict and any(name.parts in ((c.task, c.subtask), (c.task,), (c.subtask,)) for c in candidates(index)):
            raise
        return None


def download_cached(
    url: str,
    checksum: str | None = None,
    checksum_algo: str = "sha1",
    cache_dir: str | Path | None = None,
    force_extract: bool = False,
    force_download: bool = False,
    local_files_only: bool = False,
) -> str:
    """The folder of an archive on the web, downloaded if it is not in the cache.

    Args:
        url: The address.
        checksum: Its checksum.
        checksum_algo: The kind of that, "sha1" or "sha256".
        cache_dir: Not supported: the environment variable ADAPTERS_CACHE names the cache.
        force_extract: Whether to download it again, so that it is unpacked again.
        force_download: The same.
        local_files_only: Whether to use what is in the cache, and nothing else.

    Raises:
        HubError: it cannot be downloaded, or is another file.
    """
    if cache_dir is not None:
        raise HubError("download_cached has one cache; name another one in the environment variable ADAPTERS_CACHE.")
    if checksum is not None and checksum_algo not in ("sha1", "sha256"):
        raise HubError(f"There are no checksums {checksum_algo!r} here; there are 'sha1' and 'sha256'.")
    sums = Checksums(**{checksum_algo: checksum}) if checksum is not None else Checksums()
    force = force_extract or force_download
    return str(store.archive(check_url(url), sums, offline=local_files_only, force=force))
