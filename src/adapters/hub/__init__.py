"""Adapters found, fetched and published: by names, on hubs in folders, on the web, and on the Hugging Face Hub."""

from __future__ import annotations

from .errors import AdapterNotFoundError as AdapterNotFoundError
from .errors import AmbiguousAdapterError as AmbiguousAdapterError
from .errors import CardError as CardError
from .errors import ChecksumError as ChecksumError
from .errors import DownloadError as DownloadError
from .errors import HubError as HubError
from .errors import OfflineError as OfflineError
from .info import AdapterInfo as AdapterInfo
from .listing import get_adapter_info as get_adapter_info
from .listing import list_adapters as list_adapters
from .pulling import pull_from_hf_model_hub as pull_from_hf_model_hub
from .pulling import pull_from_hub as pull_from_hub
