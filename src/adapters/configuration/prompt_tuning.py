"""The configuration of prompt tuning."""

from __future__ import annotations

from dataclasses import dataclass

from .base import AdapterConfig, new_field, register_method, register_preset
from .checks import choices, is_count, require, require_booleans, require_common

_INITS = ("random_uniform", "from_string")
_PLACES = ("prefix", "prefix_after_bos")


@dataclass
class PromptTuningConfig(AdapterConfig):
    """Prompt tuning (Lester et al. 2021, arXiv:2104.08691): trained embeddings in front of those of the input.

    >>> model.add_adapter("task", PromptTuningConfig(prompt_length=10))

    Hidden states and logits then have P + T positions. Text at position t is at P + t, but for a first token before the
    prompt. Attention masks, positions, labels of tokens (-100 at the prompt) and of spans are given for T, and made
    longer. Padding on the left stays in front. In an encoder-decoder, the encoder has the prompt.
    Prompts of several adapters in a `Stack` are one behind the other.

    Args:
        architecture: The name of the method in files.
        prompt_length: Number of prompt positions P.
        prompt_init: `random_uniform`, or `from_string`: the embeddings of `prompt_init_text`, repeated to fit.
        prompt_init_text: A text; the model must know its tokenizer by its name, or the tokenizer is loaded from it.
        combine: `prefix` (before all positions) or `prefix_after_bos` (behind the first one).
        init_weights_seed: Seed for the initial weights; the global generator's state is left as it was.
        counts_positions: Whether a prompt is put among the embeddings of tokens in every model, and text begins at
            position P, as in PEFT. In the encoders that AdapterHub's adapters had prompts for (BERT and its like) it
            is put behind positions and norm by default.

    Raises:
        AdapterConfigError: a value has no meaning.
    """

    architecture: str | None = "prompt_tuning"
    prompt_length: int = 10
    prompt_init: str = "random_uniform"
    prompt_init_text: str | None = None
    combine: str = "prefix"
    init_weights_seed: int | None = None
    counts_positions: bool = new_field(False)

    def __post_init__(self) -> None:
        require_common(self)
        require_booleans(self, ("counts_positions",))
        require(is_count(self.prompt_length), self, "prompt_length", "a whole number above 0")
        require(self.prompt_init in _INITS, self, "prompt_init", choices(_INITS))
        needs_text = self.prompt_init == "from_string"
        has_text = isinstance(self.prompt_init_text, str) and bool(self.prompt_init_text.strip())
        require(has_text or not needs_text, self, "prompt_init_text", "a text with prompt_init='from_string'")
        require(self.combine in _PLACES, self, "combine", choices(_PLACES))


register_method(PromptTuningConfig, "prompt_tuning")
register_preset("prompt_tuning", PromptTuningConfig())
