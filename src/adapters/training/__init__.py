"""Training with the `Trainer` of transformers."""

from .adapter_drop import AdapterDropTrainerCallback as AdapterDropTrainerCallback
