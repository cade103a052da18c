"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): trained vectors among the embeddings of the input.

Shapes: P vectors, E size of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from ..anatomy.parts import Anatomy
from ..anatomy.streams import input_embeddings, token_embeddings
from ..configuration import PromptTuningConfig
from .base import Method, Placement, PromptMap
from .layers import seeded


class Prompt(PromptMap):
    """P vectors.

    Args:
        config: The configuration.
        size: Size E of the embeddings.
        tower: Path of the module that embeds the tokens.
    """

    def __init__(self, config: PromptTuningConfig, size: int, tower: str) -> None:
        super().__init__()
        self.config = config
        self.tower = tower
        self.follows_first = config.combine == "prefix_after_bos"
        self.prompt_embedding = nn.Embedding(config.prompt_length, size)
        nn.init.uniform_(self.prompt_embedding.weight, -0.5, 0.5)

    @property
    def length(self) -> int:
        """See `PromptMap.length`."""
        return self.config.prompt_length

    def vectors(self) -> Tensor:
        """See `PromptMap.vectors`."""
        return self.prompt_embedding.weight

    def start(self, base: nn.Module) -> None:
        """See `AdapterModule.start`: the embeddings of a text, repeated or cut to P."""
        if self.config.prompt_init != "from_string":
            return
        embeddings = token_embeddings(base, self.tower)
        if embeddings is None:
            raise ValueError("prompt_init='from_string' takes a model of text; use prompt_init='random_uniform'.")
        weight = embeddings.weight
        if weight.is_meta:
            return  # there are no numbers to begin with
        ids = torch.tensor(_token_ids(base, cast(str, self.config.prompt_init_text)), device=weight.device)
        with torch.no_grad():
            found = embeddings.forward(ids[torch.arange(self.length, device=ids.device) % len(ids)])
            if found.shape != self.prompt_embedding.weight.shape:
                raise ValueError(
                    f"prompt_init='from_string': embeddings of tokens have size {found.shape[1]}, and those that the "
                    f"prompt is put into {self.prompt_embedding.embedding_dim}; use prompt_init='random_uniform'."
                )
            self.prompt_embedding.weight.copy_(found)


def _token_ids(base: nn.Module, text: str) -> list[int]:
    """The tokens of a text, with the special ones that the tokenizer adds."""
    config: Any = base.config
    name = vars(config).get("tokenizer_name_or_path") or config.name_or_path
    try:
        ids = AutoTokenizer.from_pretrained(name)(text)["input_ids"]
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ValueError(
            f"prompt_init='from_string' needs the tokenizer of the model, which cannot be loaded from {name!r} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Load the model by the name of a folder that has "
            "it, set model.config.tokenizer_name_or_path, or use prompt_init='random_uniform'."
        ) from error
    if not ids:
        raise ValueError(f"prompt_init_text={text!r} has no tokens.")
    return cast("list[int]", ids)


class PromptTuningMethod(Method):
    """A prompt among the embeddings of the first tower that embeds tokens, or of the first at all."""

    def place(self, config: PromptTuningConfig, anatomy: Anatomy, base: nn.Module) -> Iterable[Placement]:
        """See `Method.place`."""
        point = input_embeddings(anatomy, base, config.counts_positions)
        with seeded(config.init_weights_seed):
            module = Prompt(config, point.size, point.caller)
        return [Placement("", "prompt_tuning.prompt_tunings", "prompt", -1, module, point)]
