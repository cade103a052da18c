"""The models that are measured: random weights, the shapes of `SHAPES`, with and without adapters.

Only API that `adapters` 1.3 and 2.0 have in common is used on an adapted model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, T5Config, T5Model

import adapters


def bert_base() -> nn.Module:
    return BertModel(BertConfig())


def bert_small() -> nn.Module:
    config = BertConfig(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    return BertModel(config)


def llama_small() -> nn.Module:
    config = LlamaConfig(num_hidden_layers=8, hidden_size=512, num_attention_heads=8, intermediate_size=1408)
    return LlamaModel(config)


def t5_small() -> nn.Module:
    return T5Model(T5Config())


@dataclass(frozen=True)
class Shape:
    """A model and the size of its input."""

    build: Callable[[], nn.Module]
    batch: int
    length: int
    decoder: bool = False

    def inputs(self) -> dict[str, Tensor]:
        ids = torch.randint(5, 1000, (self.batch, self.length))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {**inputs, "decoder_input_ids": ids.clone()} if self.decoder else inputs


SHAPES = {
    "bert-base/1x16": Shape(bert_base, 1, 16),
    "bert-base/1x128": Shape(bert_base, 1, 128),
    "bert-base/8x128": Shape(bert_base, 8, 128),
    "bert-6x384/1x16": Shape(bert_small, 1, 16),
    "llama-8x512/1x16": Shape(llama_small, 1, 16),
    "t5-small/1x16": Shape(t5_small, 1, 16, decoder=True),
}


def twin(model: nn.Module) -> Any:
    """A second model over the same weights in memory: own modules, own `Parameter` objects, shared storage.

    Sharing the storage leaves no difference between the two but their code (and takes no more memory).
    """
    shared = {id(parameter): nn.Parameter(parameter.detach()) for parameter in model.parameters()}
    return copy.deepcopy(model, memo=shared).eval()


def own_parameters(model: nn.Module, bare: nn.Module) -> list[nn.Parameter]:
    """The parameters that the twin does not share with the bare model."""
    shared = {parameter.data_ptr() for parameter in bare.parameters()}
    return [parameter for parameter in model.parameters() if parameter.data_ptr() not in shared]


@torch.no_grad()
def add_noise(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.add_(torch.randn_like(parameter), alpha=0.02)


def adapted(bare: nn.Module, config: Any = "seq_bn", loaded: int = 1, active: bool = True) -> Any:
    """A twin with adapters `a0`, `a1` … added, the first of them active if asked.

    Some methods start at zero effect; a little noise on what is not shared with the bare model makes every one act.
    """
    model = twin(bare)
    adapters.init(model)
    for number in range(loaded):
        model.add_adapter(f"a{number}", config=config)
    add_noise(own_parameters(model, bare))
    if active:
        model.set_active_adapters("a0")
    return model.eval()
