"""Adapters on the Hugging Face Hub: found, fetched and published through its own client, `huggingface_hub`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .download import http_library, is_offline
from .errors import AdapterNotFoundError, DownloadError, HubError, OfflineError
from .info import AdapterInfo
from .packing import ADAPTER, README, Kind, files_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

logger = logging.getLogger(__name__)

TAGS = ("adapter-transformers", "adapters")
"""What adapters are found by: the first is written by every release, the second is what the Hub calls the library."""


@dataclass(frozen=True)
class Access:
    """How the Hugging Face Hub is reached.

    Args:
        token: A token; True for the one that `hf auth login` has kept, False for none.
        cache_dir: Another folder for its cache.
        force_download: Whether to download what is in the cache again.
        local_files_only: Whether to use what is in the cache, and nothing else.
    """

    token: bool | str | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False

    @property
    def is_offline(self) -> bool:
        """Whether nothing may be downloaded from there."""
        from huggingface_hub import constants

        return self.local_files_only or is_offline() or bool(constants.HF_HUB_OFFLINE)


def is_repository(name: str) -> bool:
    """Whether a name may be that of a repository, `<organisation>/<name>`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def download(repo_id: str, version: str | None = None, kind: Kind = ADAPTER, access: Access = Access()) -> Path:
    """The folder with the files of a repository that are needed, from the cache where they are there.

    Args:
        repo_id: The repository.
        version: A branch, a tag or a commit.
        kind: What it should hold.
        access: How to reach it.

    Raises:
        AdapterNotFoundError: there is no such repository or version, or it holds something else.
        OfflineError: it is not in the cache, and downloads are switched off.
        DownloadError: it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from .. import __version__

    try:
        folder = Path(
            snapshot_download(
                repo_id,
                revision=version,
                allow_patterns=list(kind.patterns),
                token=access.token,
                cache_dir=access.cache_dir,
                force_download=access.force_download and not access.is_offline,
                local_files_only=access.is_offline,
                library_name="adapters",
                library_version=__version__,
                endpoint=endpoint(),
            )
        )
    except LocalEntryNotFoundError as error:
        if access.is_offline:
            raise OfflineError(f"{repo_id} is not in the cache of the Hugging Face Hub, which is offline.") from None
        raise DownloadError(f"{repo_id} cannot be downloaded: {_first_line(error)}") from error
    except _failures() as error:
        raise _explained(error, repo_id, version) from error
    if not (folder / kind.config).is_file():
        raise AdapterNotFoundError(
            f"The repository {repo_id} of the Hugging Face Hub has no {kind.config}: it holds no {kind.name}."
        )
    return folder


def listed(model_name: str | None = None, token: bool | str | None = None) -> list[AdapterInfo]:
    """The adapters on the Hugging Face Hub.

    Args:
        model_name: Only those for this model.
        token: See `Access`.

    Raises:
        DownloadError: the Hub cannot be reached.
    """
    api = _api(token)
    try:
        found = {m.id: m for tag in TAGS for m in api.list_models(filter=tag, full=True, fetch_config=True)}
    except _failures() as error:
        raise _explained(error, "The list of adapters", None) from error
    infos = [_info(model) for model in found.values()]
    return [info for info in infos if model_name is None or info.model_name == model_name]


def information(repo_id: str, token: bool | str | None = None) -> AdapterInfo | None:
    """What the Hugging Face Hub says of a repository; None if there is none.

    Raises:
        DownloadError: the Hub cannot be reached.
    """
    try:
        return _info(_api(token).model_info(repo_id))
    except _failures() as error:
        explained = _explained(error, repo_id, None)
        if isinstance(explained, AdapterNotFoundError):
            return None
        raise explained from error


@dataclass(frozen=True)
class Commit:
    """How something is published.

    Args:
        message: What is said of it, in a line.
        description: And more.
        revision: The branch, which is made if it is not there.
        create_pr: Whether to propose it only.
        private: Whether a new repository is private.
        token: See `Access`.
    """

    message: str | None = None
    description: str | None = None
    revision: str | None = None
    create_pr: bool = False
    private: bool | None = None
    token: bool | str | None = None


def upload(repo_id: str, folder: Path, kind: Kind, card: str, overwrite_card: bool, commit: Commit) -> str:
    """Publish a folder.

    Args:
        repo_id: The repository, which is made if it is not there. Without an organisation it is the user's own.
        folder: The folder.
        kind: What it holds; only its files are published.
        card: The text of its `README.md`, for where there is none yet.
        overwrite_card: Whether the one that is there is replaced.
        commit: How it is published.

    Returns:
        The address of the repository.

    Raises:
        HubError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd

    api = _api(commit.token)
    try:
        address = api.create_repo(repo_id, private=commit.private, exist_ok=True)
        name = address.repo_id
        if commit.revision and not commit.create_pr:
            api.create_branch(name, branch=commit.revision, exist_ok=True)
        readme = folder / README
        is_there = api.file_exists(name, README, revision=None if commit.create_pr else commit.revision)
        if overwrite_card or not (readme.is_file() or is_there):
            readme.write_text(card, encoding="utf-8")
        # One commit with all files, where `upload_folder` may make several.
        names = [path.relative_to(folder).as_posix() for path in files_of(folder, kind)]
        names += [README] if overwrite_card or not is_there else []
        api.create_commit(
            name,
            [CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path) for path in names],
            commit_message=commit.message or f"Upload {kind.name}",
            commit_description=commit.description,
            revision=commit.revision,
            create_pr=commit.create_pr,
        )
    except _failures() as error:
        raise _explained(error, repo_id, commit.revision) from error
    return str(address)


def endpoint() -> str | None:
    """The address of the Hugging Face Hub, if it is another than the usual one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _api(token: bool | str | None) -> HfApi:
    from huggingface_hub import HfApi

    from .. import __version__

    return HfApi(endpoint=endpoint(), token=token, library_name="adapters", library_version=__version__)


def _info(model: ModelInfo) -> AdapterInfo:
    config: Mapping[str, Any] = model.config or {}
    of_adapter = config.get("adapters") or config.get("adapter_transformers") or {}
    task, subtask = _task(model.tags or [])
    return AdapterInfo(
        source="hf",
        adapter_id=model.id,
        model_name=of_adapter.get("model_name") or _base_model(model),
        task=task,
        subtask=subtask,
        username=model.author or model.id.partition("/")[0],
        adapter_config=of_adapter.get("config"),
        sha1_checksum=model.sha,
    )


def _base_model(model: ModelInfo) -> str | None:
    found = model.card_data.get("base_model") if model.card_data is not None else None
    return str(found[0] if isinstance(found, list) and found else found) if found else None


def _task(tags: Iterable[str]) -> tuple[str | None, str | None]:
    """Task and subtask, from the tag `adapterhub:<task>/<subtask>`."""
    for tag in tags:
        if tag.startswith("adapterhub:"):
            task, _, subtask = tag.removeprefix("adapterhub:").partition("/")
            return task, subtask or None
    return None, None


def _failures() -> tuple[type[Exception], ...]:
    """What the client raises if it cannot do what it should."""
    return OSError, http_library().HTTPError


def _explained(error: Exception, name: str, version: str | None) -> HubError:
    """What a failure of the Hugging Face Hub means."""
    from huggingface_hub import errors

    if isinstance(error, HubError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(f"{name} is only for those whom its authors let in; log in with `hf auth login`.")
    if isinstance(error, errors.RevisionNotFoundError):
        return AdapterNotFoundError(f"The repository {name} of the Hugging Face Hub has no version {version!r}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return AdapterNotFoundError(
            f"There is no repository {name} on the Hugging Face Hub, or it is private: then log in with "
            "`hf auth login`, or give token."
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(f"{name}: the Hugging Face Hub is offline (HF_HUB_OFFLINE).")
    return DownloadError(f"{name}: the Hugging Face Hub cannot be reached, or refuses: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
