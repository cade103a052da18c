"""One vector for each row, from the hidden states of its tokens.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from .rows import of_batch


def sentences(config: Any, is_causal: bool, outputs: ModelOutput, given: Mapping[str, Any]) -> Tensor:
    """The vectors of rows: of the first token, or of the last one where only that has seen the others.

    Models of images that choose between the mean and the first token (BEiT) do that in their pooler.

    Args:
        config: The configuration of the model.
        is_causal: Whether tokens see only those before them.
        outputs: The outputs of the base model; the first one are the hidden states. Shape: (B, T, D).
        given: What the base model was given.

    Returns:
        Shape: (B, D).
    """
    hidden: Tensor = outputs[0]
    pooled = outputs.get("pooler_output")
    if pooled is not None and "use_mean_pooling" in config.__dict__:
        return cast(Tensor, pooled)
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


def hidden_scale(config: Any) -> float:
    """What the last hidden states are multiplied by before heads: T5's tied embeddings expect smaller ones.

    AdapterHub's models do so, with and without a head.
    """
    if config.model_type != "t5":
        return 1.0
    # newer releases tie always
    is_scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    return float(config.d_model**-0.5) if is_scaled else 1.0


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


def inputs_for(labels: Tensor, base: nn.Module) -> Tensor:
    """What a decoder reads to give labels: these, behind a start token. Shape: (B, T), kept.

    Models whose texts end with their language (mBART, PLBart) start with that, and have a function of their own for it.

    Args:
        labels: The labels; -100 where there is none.
        base: The base model.
    """
    config = cast(Any, base).config
    padding = config.pad_token_id if config.pad_token_id is not None else 0
    own = vars(sys.modules[type(base).__module__]).get("shift_tokens_right")
    if own is not None and len(inspect.signature(own).parameters) == 2:
        return cast(Tensor, own(labels, padding))
    for name in ("_shift_right", "prepare_decoder_input_ids_from_labels"):
        shift = getattr(type(base), name, None)
        if shift is not None:
            with contextlib.suppress(ValueError, AttributeError):  # T5's method, without a token to start with
                return cast(Tensor, shift(base, labels))
    shifted = shifted_right(labels, start_token(config))
    return shifted.masked_fill(shifted == -100, padding)


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


_OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def texts_per_row(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """How many texts N each row of the inputs has, of shape (B, N, T); None for inputs of shape (B, T)."""
    input_ids = args[0] if args else kwargs.get("input_ids")
    if isinstance(input_ids, Tensor) and input_ids.ndim == 3 and not input_ids.is_floating_point():
        return input_ids.shape[1]
    embeds = kwargs.get("inputs_embeds")
    return embeds.shape[1] if isinstance(embeds, Tensor) and embeds.ndim == 4 else None


def flattened(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with the texts of each row as rows. Shape: (B, N, T) to (B·N, T)."""
    if texts_per_row(args, kwargs) is None:
        return args, dict(kwargs)
    found = dict(kwargs)
    for name in _OF_TOKENS:
        if isinstance(found.get(name), Tensor) and found[name].ndim == 3:
            found[name] = found[name].flatten(0, 1)
    if found.get("inputs_embeds") is not None:
        found["inputs_embeds"] = found["inputs_embeds"].flatten(0, 1)
    return tuple(a.flatten(0, 1) if isinstance(a, Tensor) and a.ndim == 3 else a for a in args), found
