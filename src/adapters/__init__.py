"""Small trainable modules for pretrained Transformers.

>>> import adapters
>>> adapters.init(model)
>>> model.add_adapter("task", config="seq_bn")
>>> model.train_adapter("task")
"""

from . import composition as composition
from .anatomy import AdapterModelInterface as AdapterModelInterface
from .anatomy import anatomy as anatomy
from .auto import AutoAdapterModel as AutoAdapterModel
from .composition import Stack as Stack
from .configuration import ADAPTER_CONFIG_MAP as ADAPTER_CONFIG_MAP
from .configuration import DEFAULT_ADAPTER_CONFIG as DEFAULT_ADAPTER_CONFIG
from .configuration import AdapterConfig as AdapterConfig
from .configuration import AdapterPlusConfig as AdapterPlusConfig
from .configuration import BnConfig as BnConfig
from .configuration import CompacterConfig as CompacterConfig
from .configuration import CompacterPlusPlusConfig as CompacterPlusPlusConfig
from .configuration import DoubleSeqBnConfig as DoubleSeqBnConfig
from .configuration import DoubleSeqBnInvConfig as DoubleSeqBnInvConfig
from .configuration import HoulsbyConfig as HoulsbyConfig
from .configuration import HoulsbyInvConfig as HoulsbyInvConfig
from .configuration import ModelAdaptersConfig as ModelAdaptersConfig
from .configuration import ParallelConfig as ParallelConfig
from .configuration import ParBnConfig as ParBnConfig
from .configuration import PfeifferConfig as PfeifferConfig
from .configuration import PfeifferInvConfig as PfeifferInvConfig
from .configuration import SeqBnConfig as SeqBnConfig
from .configuration import SeqBnInvConfig as SeqBnInvConfig
from .configuration import get_adapter_config_hash as get_adapter_config_hash
from .context import AdapterSetup as AdapterSetup
from .model import VERSION as __version__
from .model import AdapterType as AdapterType
from .model import ModelAdaptersMixin as ModelAdaptersMixin
from .model import detach as detach
from .model import init as init
from .model import load_model as load_model
