"""Which heads make sense for which models: by what these read and write, not by their names."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

_OF_IMAGES = frozenset({"image_classification", "embedding"})
_OF_SPEECH = frozenset({"seq2seq_lm"})


def check_supported(model: nn.Module, head_type: str, is_causal: bool) -> None:
    """Raise a ValueError for a head that the outputs of a model do not fit.

    Args:
        model: The model.
        head_type: The type of the head, one of this library.
        is_causal: Whether the tokens of the model see only those before them.
    """
    if head_type == "static_class":  # the class itself says for which models it is
        return
    reason = _refused(model, head_type, is_causal)
    if reason is not None:
        raise ValueError(
            f"A {type(model).__name__} (model type {cast(Any, model).config.model_type!r}) does not support heads of "
            f"type {head_type!r}: {reason}."
        )


def _refused(model: nn.Module, head_type: str, is_causal: bool) -> str | None:
    config, read = cast(Any, model).config, cast(Any, model).main_input_name
    is_pair = bool(config.is_encoder_decoder)
    if "vision_config" in config.__dict__ and "text_config" in config.__dict__ and "projection_dim" in config.__dict__:
        return "it compares images with texts"
    if read == "pixel_values":
        return None if head_type in _OF_IMAGES else "it reads images; there is add_image_classification_head"
    if head_type == "image_classification":
        return "it reads no images"
    if read != "input_ids":
        return None if head_type in _OF_SPEECH and is_pair else f"it reads {read}"
    if head_type == "seq2seq_lm":
        return None if is_pair else "it has no decoder that reads an encoder; there is add_causal_lm_head"
    if head_type in ("masked_lm", "causal_lm") and is_pair:
        return "it is an encoder with a decoder; there is add_seq2seq_lm_head"
    if head_type == "masked_lm" and is_causal:
        return "its tokens do not see those behind them; there is add_causal_lm_head"
    return None
