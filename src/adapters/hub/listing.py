"""What adapters there are."""

from __future__ import annotations

from pathlib import Path

from . import huggingface
from .errors import AdapterNotFoundError, AmbiguousAdapterError, HubError
from .identifiers import parsed
from .info import AdapterInfo
from .model_names import known_names
from .reading import hub_in_use, open_hub
from .resolve import HUGGING_FACE


def list_adapters(
    model_name: str | None = None, hub: str | Path | None = None, token: bool | str | None = None
) -> list[AdapterInfo]:
    """The adapters of a hub.

    >>> [info.adapter_id for info in list_adapters("bert-base-uncased", hub="my-hub")]

    Args:
        model_name: Only those for this model.
        hub: A hub: a folder, an address, or "hf" for the Hugging Face Hub. By default the one that the environment
            variable ADAPTERS_HUB names, and without it the Hugging Face Hub.
        token: A token for the Hugging Face Hub.

    Raises:
        HubError: there is no such hub, or it cannot be reached.
    """
    chosen = hub or hub_in_use() or HUGGING_FACE
    if chosen == HUGGING_FACE:
        return huggingface.listed(model_name, token)
    names = known_names(model_name) if model_name is not None else []
    return [info for info in open_hub(chosen).all() if model_name is None or info.model_name in names]


def get_adapter_info(
    adapter_id: str, hub: str | Path | None = None, token: bool | str | None = None
) -> AdapterInfo | None:
    """What is known of an adapter; None if there is none of this name.

    >>> get_adapter_info("AdapterHub/bert-base-uncased-pf-sst2")
    >>> get_adapter_info("sentiment/sst-2@me", hub="my-hub")

    Args:
        adapter_id: A repository of the Hugging Face Hub, or a name on another hub.
        hub: See `list_adapters`.
        token: A token for the Hugging Face Hub.

    Raises:
        AmbiguousAdapterError: several adapters have the name, for different models or configurations.
        HubError: there is no such hub, or it cannot be reached.
    """
    chosen = hub or hub_in_use()
    if chosen is not None and chosen != HUGGING_FACE and (hub is not None or parsed(adapter_id) is not None):
        found = _on_hub(adapter_id, chosen)
        if found is not None or hub is not None:
            return found
    if not huggingface.is_repository(adapter_id):
        if chosen is not None and chosen != HUGGING_FACE:
            return None
        raise HubError(
            f"{adapter_id!r} is no repository '<org>/<name>' of the Hugging Face Hub. For a name on another hub give "
            "hub, or name the hub in ADAPTERS_HUB."
        )
    return huggingface.information(adapter_id, token)


def _on_hub(adapter_id: str, address: str | Path) -> AdapterInfo | None:
    hub, name = open_hub(address), parsed(adapter_id)
    if name is None:
        return None
    if name.file is not None:
        try:
            return hub.entry(f"adapters/{name.org}/{name.file}.json").info
        except AdapterNotFoundError:
            return None
    meant = [
        info
        for info in hub.all()
        if name.parts in ((info.task, info.subtask), (info.task,), (info.subtask,))
        and name.org in (None, info.username)
    ]
    if len(meant) > 1:
        listed = [f"{info.adapter_id} ({info.task}/{info.subtask} for {info.model_name})" for info in meant]
        raise AmbiguousAdapterError(f"{adapter_id!r} is the name of several adapters.", listed)
    return meant[0] if meant else None
