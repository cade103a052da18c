"""What is known of a published adapter without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class AdapterInfo:
    """An adapter on a hub, as `list_adapters` and `get_adapter_info` give it.

    >>> info = get_adapter_info("@ukp/bert-base-uncased_sentiment_sst-2_pfeiffer")
    >>> model.load_adapter(info.adapter_id)

    Args:
        source: "ah" for a hub in AdapterHub's layout, "hf" for the Hugging Face Hub.
        adapter_id: The name that it is loaded by.
        model_name: The model that it is for.
        task: Its task.
        subtask: Its subtask.
        username: Who published it.
        adapter_config: Its configuration.
        sha1_checksum: The checksum of its archive; on the Hugging Face Hub, the commit.
    """

    source: str
    adapter_id: str
    model_name: str | None = None
    task: str | None = None
    subtask: str | None = None
    username: str | None = None
    adapter_config: dict[str, Any] | None = None
    sha1_checksum: str | None = None


def info_from(data: Mapping[str, Any]) -> AdapterInfo:
    """The information in an index; what later indices say besides is left out."""
    known = {field.name for field in fields(AdapterInfo)}
    return AdapterInfo(**{key: value for key, value in data.items() if key in known})
