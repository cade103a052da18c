"""Names that 1.3 had here: files and addresses, and adapters found and fetched."""

from __future__ import annotations

from .checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FUSION_CONFIG,
    FUSION_WEIGHTS,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    INTERFACE_CONFIG,
    SETUP_CONFIG,
)
from .configuration import get_adapter_config_hash as get_adapter_config_hash
from .configuration import resolve_adapter_config as resolve_adapter_config
from .hub.cache import ADAPTER_CACHE as ADAPTER_CACHE
from .hub.info import AdapterInfo as AdapterInfo
from .hub.listing import get_adapter_info as get_adapter_info
from .hub.listing import list_adapters as list_adapters
from .hub.pulling import download_cached as download_cached
from .hub.pulling import find_in_index as find_in_index
from .hub.pulling import pull_from_hf_model_hub as pull_from_hf_model_hub
from .hub.pulling import pull_from_hub as pull_from_hub
from .hub.pulling import resolve_adapter_path as resolve_adapter_path
from .hub.resolve import ADAPTER_HUB_URL as ADAPTER_HUB_URL
from .model import AdapterType as AdapterType

CONFIG_NAME, HEAD_CONFIG_NAME, ADAPTERFUSION_CONFIG_NAME = ADAPTER_CONFIG, HEAD_CONFIG, FUSION_CONFIG
INTERFACE_CONFIG_NAME, SETUP_CONFIG_NAME = INTERFACE_CONFIG, SETUP_CONFIG
SAFE_WEIGHTS_NAME, WEIGHTS_NAME = ADAPTER_WEIGHTS
SAFE_HEAD_WEIGHTS_NAME, HEAD_WEIGHTS_NAME = HEAD_WEIGHTS
SAFE_ADAPTERFUSION_WEIGHTS_NAME, ADAPTERFUSION_WEIGHTS_NAME = FUSION_WEIGHTS
EMBEDDING_FILE, TOKENIZER_PATH = "embedding.pt", "tokenizer"

ADAPTER_HUB_INDEX_FILE = f"{ADAPTER_HUB_URL}index/{{}}.json"
ADAPTER_HUB_CONFIG_FILE = f"{ADAPTER_HUB_URL}architectures.json"
ADAPTER_HUB_ALL_FILE = f"{ADAPTER_HUB_URL}all.json"
ADAPTER_HUB_ADAPTER_ENTRY_JSON = f"{ADAPTER_HUB_URL}adapters/{{}}/{{}}.json"
