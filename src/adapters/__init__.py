"""Small trainable modules for pretrained Transformers.

>>> import adapters
>>> adapters.init(model)
>>> model.add_adapter("task", config="seq_bn")
>>> model.train_adapter("task")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "2.0.0.dev0"

if TYPE_CHECKING:
    from . import composition as composition
    from .anatomy import AdapterModelInterface as AdapterModelInterface
    from .auto import ADAPTER_MODEL_MAPPING as ADAPTER_MODEL_MAPPING
    from .auto import AutoAdapterModel as AutoAdapterModel
    from .composition import AdapterCompositionBlock as AdapterCompositionBlock
    from .composition import Average as Average
    from .composition import BatchSplit as BatchSplit
    from .composition import Fuse as Fuse
    from .composition import Gate as Gate
    from .composition import MultiTask as MultiTask
    from .composition import Parallel as Parallel
    from .composition import Split as Split
    from .composition import Stack as Stack
    from .composition import parse_composition as parse_composition
    from .composition import validate_composition as validate_composition
    from .configuration import ADAPTER_CONFIG_MAP as ADAPTER_CONFIG_MAP
    from .configuration import ADAPTERFUSION_CONFIG_MAP as ADAPTERFUSION_CONFIG_MAP
    from .configuration import DEFAULT_ADAPTER_CONFIG as DEFAULT_ADAPTER_CONFIG
    from .configuration import DEFAULT_ADAPTERFUSION_CONFIG as DEFAULT_ADAPTERFUSION_CONFIG
    from .configuration import AdaLoRAConfig as AdaLoRAConfig
    from .configuration import AdapterConfig as AdapterConfig
    from .configuration import AdapterFusionConfig as AdapterFusionConfig
    from .configuration import AdapterMethod as AdapterMethod
    from .configuration import AdapterPlusConfig as AdapterPlusConfig
    from .configuration import BitFitConfig as BitFitConfig
    from .configuration import BnConfig as BnConfig
    from .configuration import CompacterConfig as CompacterConfig
    from .configuration import CompacterPlusPlusConfig as CompacterPlusPlusConfig
    from .configuration import ConfigUnion as ConfigUnion
    from .configuration import DiReftConfig as DiReftConfig
    from .configuration import DoRAConfig as DoRAConfig
    from .configuration import DoubleSeqBnConfig as DoubleSeqBnConfig
    from .configuration import DoubleSeqBnInvConfig as DoubleSeqBnInvConfig
    from .configuration import DvoRAConfig as DvoRAConfig
    from .configuration import DynamicAdapterFusionConfig as DynamicAdapterFusionConfig
    from .configuration import GateFusionConfig as GateFusionConfig
    from .configuration import HoulsbyConfig as HoulsbyConfig
    from .configuration import HoulsbyInvConfig as HoulsbyInvConfig
    from .configuration import IA3Config as IA3Config
    from .configuration import LayerNormTuningConfig as LayerNormTuningConfig
    from .configuration import LoRAConfig as LoRAConfig
    from .configuration import LoReftConfig as LoReftConfig
    from .configuration import MAMConfig as MAMConfig
    from .configuration import ModelAdaptersConfig as ModelAdaptersConfig
    from .configuration import ModulesToSaveConfig as ModulesToSaveConfig
    from .configuration import MTLLoRAConfig as MTLLoRAConfig
    from .configuration import NoReftConfig as NoReftConfig
    from .configuration import ParallelConfig as ParallelConfig
    from .configuration import ParBnConfig as ParBnConfig
    from .configuration import PfeifferConfig as PfeifferConfig
    from .configuration import PfeifferInvConfig as PfeifferInvConfig
    from .configuration import PrefixTuningConfig as PrefixTuningConfig
    from .configuration import PromptTuningConfig as PromptTuningConfig
    from .configuration import ReftConfig as ReftConfig
    from .configuration import SeqBnConfig as SeqBnConfig
    from .configuration import SeqBnInvConfig as SeqBnInvConfig
    from .configuration import StaticAdapterFusionConfig as StaticAdapterFusionConfig
    from .configuration import UniPELTConfig as UniPELTConfig
    from .configuration import VeraConfig as VeraConfig
    from .configuration import get_adapter_config_hash as get_adapter_config_hash
    from .context import AdapterSetup as AdapterSetup
    from .data_inits import initialise_with_data as initialise_with_data
    from .heads import BertStyleMaskedLMHead as BertStyleMaskedLMHead
    from .heads import BiaffineParsingHead as BiaffineParsingHead
    from .heads import CausalLMHead as CausalLMHead
    from .heads import ClassificationHead as ClassificationHead
    from .heads import DependencyParsingOutput as DependencyParsingOutput
    from .heads import ImageClassificationHead as ImageClassificationHead
    from .heads import MultiHeadOutput as MultiHeadOutput
    from .heads import MultiLabelClassificationHead as MultiLabelClassificationHead
    from .heads import MultipleChoiceHead as MultipleChoiceHead
    from .heads import PredictionHead as PredictionHead
    from .heads import QuestionAnsweringHead as QuestionAnsweringHead
    from .heads import Seq2SeqLMHead as Seq2SeqLMHead
    from .heads import TaggingHead as TaggingHead
    from .heads.flexible import ModelWithFlexibleHeadsAdaptersMixin as ModelWithFlexibleHeadsAdaptersMixin
    from .hub.cache import ADAPTER_CACHE as ADAPTER_CACHE
    from .hub.info import AdapterInfo as AdapterInfo
    from .hub.listing import get_adapter_info as get_adapter_info
    from .hub.listing import list_adapters as list_adapters
    from .inspection import inspect as inspect
    from .interchange.conversion import ConversionReport as ConversionReport
    from .interchange.conversion import convert_to_lora as convert_to_lora
    from .interchange.exporting import ExportReport as ExportReport
    from .interchange.exporting import check_export as check_export
    from .interchange.exporting import export_adapter as export_adapter
    from .interchange.peft_problems import ExportError as ExportError
    from .model import AdapterType as AdapterType
    from .model import ModelAdaptersMixin as ModelAdaptersMixin
    from .model import detach as detach
    from .model import init as init
    from .model import load_model as load_model
    from .optimizers import lora_plus_groups as lora_plus_groups
    from .rank_allocation import RankAllocator as RankAllocator
    from .trainer import AdapterTrainer as AdapterTrainer
    from .trainer import Seq2SeqAdapterTrainer as Seq2SeqAdapterTrainer
    from .training import AdapterArguments as AdapterArguments
    from .training import setup_adapter_training as setup_adapter_training

# Where each public name comes from. They are imported when they are used: `import adapters` alone costs nothing, as
# `import transformers` alone does not import torch.
_PUBLIC: dict[str, tuple[str, ...]] = {
    "anatomy": ("AdapterModelInterface",),
    "auto": ("ADAPTER_MODEL_MAPPING", "AutoAdapterModel"),
    "composition": (
        "AdapterCompositionBlock",
        "Average",
        "BatchSplit",
        "Fuse",
        "Gate",
        "MultiTask",
        "Parallel",
        "Split",
        "Stack",
        "parse_composition",
        "validate_composition",
    ),
    "configuration": (
        "ADAPTER_CONFIG_MAP",
        "ADAPTERFUSION_CONFIG_MAP",
        "DEFAULT_ADAPTER_CONFIG",
        "DEFAULT_ADAPTERFUSION_CONFIG",
        "AdapterConfig",
        "AdapterFusionConfig",
        "AdapterPlusConfig",
        "BnConfig",
        "CompacterConfig",
        "CompacterPlusPlusConfig",
        "DoubleSeqBnConfig",
        "DoubleSeqBnInvConfig",
        "HoulsbyConfig",
        "HoulsbyInvConfig",
        "ModelAdaptersConfig",
        "ParallelConfig",
        "ParBnConfig",
        "PfeifferConfig",
        "PfeifferInvConfig",
        "SeqBnConfig",
        "SeqBnInvConfig",
        "AdaLoRAConfig",
        "BitFitConfig",
        "ConfigUnion",
        "DiReftConfig",
        "DoRAConfig",
        "DvoRAConfig",
        "DynamicAdapterFusionConfig",
        "GateFusionConfig",
        "IA3Config",
        "LayerNormTuningConfig",
        "LoRAConfig",
        "LoReftConfig",
        "MAMConfig",
        "MTLLoRAConfig",
        "ModulesToSaveConfig",
        "NoReftConfig",
        "PrefixTuningConfig",
        "PromptTuningConfig",
        "ReftConfig",
        "StaticAdapterFusionConfig",
        "UniPELTConfig",
        "VeraConfig",
        "AdapterMethod",
        "get_adapter_config_hash",
    ),
    "context": ("AdapterSetup",),
    "heads": (
        "BertStyleMaskedLMHead",
        "BiaffineParsingHead",
        "CausalLMHead",
        "ClassificationHead",
        "DependencyParsingOutput",
        "ImageClassificationHead",
        "MultiHeadOutput",
        "MultiLabelClassificationHead",
        "MultipleChoiceHead",
        "PredictionHead",
        "QuestionAnsweringHead",
        "Seq2SeqLMHead",
        "TaggingHead",
    ),
    "heads.flexible": ("ModelWithFlexibleHeadsAdaptersMixin",),
    "data_inits": ("initialise_with_data",),
    "hub.cache": ("ADAPTER_CACHE",),
    "hub.info": ("AdapterInfo",),
    "hub.listing": ("get_adapter_info", "list_adapters"),
    "inspection": ("inspect",),
    "interchange.conversion": ("ConversionReport", "convert_to_lora"),
    "interchange.exporting": ("ExportReport", "check_export", "export_adapter"),
    "interchange.peft_problems": ("ExportError",),
    "model": ("AdapterType", "ModelAdaptersMixin", "detach", "init", "load_model"),
    "optimizers": ("lora_plus_groups",),
    "rank_allocation": ("RankAllocator",),
    "trainer": ("AdapterTrainer", "Seq2SeqAdapterTrainer"),
    "training": ("AdapterArguments", "setup_adapter_training"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
_SUBMODULES = (
    "anatomy",
    "checkpoints",
    "composition",
    "configuration",
    "context",
    "heads",
    "hub",
    "interface",
    "methods",
    "model",
    "runtime",
    "trainer",
    "training",
    "wrappers",
)

_ARCHITECTURES_OF_1_3 = (
    "Albert Bart Beit Bert BertGeneration CLIP Deberta DebertaV2 DistilBert Electra GPT2 "
    "GPTJ Llama MBart MT5 Mistral PLBart Roberta T5 ViT Whisper XLMRoberta Xmod"
)
# `from adapters import *` gives the classes that it gave in 1.3; those of other architectures are imported by name.
__all__ = ["__version__", *_MODULE_OF, *(f"{name}AdapterModel" for name in _ARCHITECTURES_OF_1_3.split())]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f".{name}", __name__)
    elif name.endswith("AdapterModel"):  # BertAdapterModel and its like, one for each architecture of transformers
        value = getattr(importlib.import_module(".auto", __name__), name)
    elif name.endswith("ModelWithHeads"):  # what they were called once; not kept, so that each use of it warns
        return getattr(importlib.import_module(".auto", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    names = importlib.import_module(".auto", __name__).class_names()
    return sorted({*globals(), *__all__, *_SUBMODULES, *names})
