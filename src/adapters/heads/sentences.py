"""One vector for each row, from the hidden states of its tokens.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .rows import of_batch


def sentences(config: Any, is_causal: bool, hidden: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The vectors of rows: of the first token, or of the last one where only that has seen the others.

    Args:
        config: The configuration of the model.
        is_causal: Whether tokens see only those before them.
        hidden: Hidden states. Shape: (B, T, D).
        given: What the base model was given.

    Returns:
        Shape: (B, D).
    """
    rows = hidden.shape[0]
    input_ids = of_batch(given.get("input_ids"), rows)
    if config.is_encoder_decoder and input_ids is not None and input_ids.shape[1] == hidden.shape[1]:
        return last_positions(hidden, input_ids == config.eos_token_id)
    if not (is_causal or config.is_encoder_decoder):
        return hidden[:, 0]
    side = "decoder_" if config.is_encoder_decoder else ""
    mask, ids = of_batch(given.get(f"{side}attention_mask"), rows), of_batch(given.get(f"{side}input_ids"), rows)
    if mask is not None and mask.ndim == 2:
        return last_positions(hidden, mask.bool())
    if ids is not None and config.pad_token_id is not None:
        return last_positions(hidden, ids != config.pad_token_id)
    return hidden[:, -1]


def last_positions(hidden: Tensor, chosen: Tensor) -> Tensor:
    """The hidden state at the last chosen position of each row, on whichever side the padding is.

    Tokens that the model has put in front (prompts) are no positions.

    Shapes: (B, T, D), (B, T) to (B, D).
    """
    positions = torch.arange(chosen.shape[1], device=hidden.device)
    last = (chosen * positions).argmax(dim=-1) + (hidden.shape[1] - chosen.shape[1])
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def shifted_right(input_ids: Tensor, start_id: int) -> Tensor:
    """The inputs of a decoder that repeats the encoder's, behind a start token. Shape: (B, T), kept."""
    return torch.cat([torch.full_like(input_ids[:, :1], start_id), input_ids[:, :-1]], dim=1)


def start_token(config: Any) -> int:
    """The token that a decoder begins with.

    Raises:
        ValueError: the model's configuration has none.
    """
    for name in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
        token = getattr(config, name, None)
        if token is not None:
            return int(token)
    raise ValueError(
        f"The decoder of this {type(config).__name__} needs a first token: set model.config.decoder_start_token_id, or "
        "give decoder_input_ids."
    )
