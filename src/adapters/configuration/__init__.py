"""Configurations of adaptation methods: one dataclass per method, and presets by name."""

from .base import AdapterConfig as AdapterConfig
from .base import AdapterConfigError as AdapterConfigError
from .base import presets as presets
from .base import resolve_adapter_config as resolve_adapter_config
from .bottleneck import AdapterPlusConfig as AdapterPlusConfig
from .bottleneck import BnConfig as BnConfig
from .bottleneck import CompacterConfig as CompacterConfig
from .bottleneck import CompacterPlusPlusConfig as CompacterPlusPlusConfig
from .bottleneck import DoubleSeqBnConfig as DoubleSeqBnConfig
from .bottleneck import DoubleSeqBnInvConfig as DoubleSeqBnInvConfig
from .bottleneck import HoulsbyConfig as HoulsbyConfig
from .bottleneck import HoulsbyInvConfig as HoulsbyInvConfig
from .bottleneck import ParallelConfig as ParallelConfig
from .bottleneck import ParBnConfig as ParBnConfig
from .bottleneck import PfeifferConfig as PfeifferConfig
from .bottleneck import PfeifferInvConfig as PfeifferInvConfig
from .bottleneck import SeqBnConfig as SeqBnConfig
from .bottleneck import SeqBnInvConfig as SeqBnInvConfig
from .fusion import ADAPTERFUSION_CONFIG_MAP as ADAPTERFUSION_CONFIG_MAP
from .fusion import DEFAULT_ADAPTERFUSION_CONFIG as DEFAULT_ADAPTERFUSION_CONFIG
from .fusion import AdapterFusionConfig as AdapterFusionConfig
from .fusion import DynamicAdapterFusionConfig as DynamicAdapterFusionConfig
from .fusion import FusionConfig as FusionConfig
from .fusion import GateFusionConfig as GateFusionConfig
from .fusion import StaticAdapterFusionConfig as StaticAdapterFusionConfig
from .hashing import get_adapter_config_hash as get_adapter_config_hash
from .lora import AdaLoRAConfig as AdaLoRAConfig
from .lora import DoRAConfig as DoRAConfig
from .lora import DvoRAConfig as DvoRAConfig
from .lora import IA3Config as IA3Config
from .lora import LoRAConfig as LoRAConfig
from .lora import MTLLoRAConfig as MTLLoRAConfig
from .lora import VeraConfig as VeraConfig
from .method_names import AdapterMethod as AdapterMethod
from .model_adapters_config import ModelAdaptersConfig as ModelAdaptersConfig
from .partial import BitFitConfig as BitFitConfig
from .partial import LayerNormTuningConfig as LayerNormTuningConfig
from .partial import ModulesToSaveConfig as ModulesToSaveConfig
from .prefix_tuning import PrefixTuningConfig as PrefixTuningConfig
from .prompt_tuning import PromptTuningConfig as PromptTuningConfig
from .reft import DiReftConfig as DiReftConfig
from .reft import LoReftConfig as LoReftConfig
from .reft import NoReftConfig as NoReftConfig
from .reft import ReftConfig as ReftConfig
from .union import ConfigUnion as ConfigUnion
from .union import MAMConfig as MAMConfig
from .union import UniPELTConfig as UniPELTConfig

ADAPTER_CONFIG_MAP = {
    name: config for name, config in presets().items() if not isinstance(config, (BitFitConfig, LayerNormTuningConfig))
}
"""The presets that add modules, as all of 1.3's do; the others train what a model has, if it has it (biases)."""
DEFAULT_ADAPTER_CONFIG = "seq_bn"
