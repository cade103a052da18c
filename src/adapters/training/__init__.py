"""Training with the `Trainer` of transformers."""

from ..composition import Stack as Stack
from ..configuration import AdapterConfig as AdapterConfig
from .adapter_drop import AdapterDropTrainerCallback as AdapterDropTrainerCallback
from .arguments import AdapterArguments as AdapterArguments
from .arguments import setup_adapter_training as setup_adapter_training
from .collating import AdapterNamesCollator as AdapterNamesCollator
from .sharded import gathered as gathered
