"""Smoothed labels (`label_smoothing_factor`): what the `Trainer` has to be told of the heads of this library."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from ..checkpoints.setups import head_names
from ..heads.base import PredictionHead
from ..heads.flexible import ModelWithFlexibleHeadsAdaptersMixin
from ..heads.sentences import inputs_for
from ..model import ModelAdaptersMixin

_OF_CLASSES = {
    "classification", "image_classification", "multiple_choice", "tagging", "masked_lm", "causal_lm", "seq2seq_lm",
}  # fmt: skip


def fitted(smoother: Callable[..., Tensor], model: nn.Module) -> Callable[..., Tensor]:
    """The `Trainer`'s smoother of labels for the active head: it knows the labels of language models by their class.

    Args:
        smoother: What gives the loss of outputs and labels.
        model: The model.

    Raises:
        ValueError: the labels of the active head are no classes, or several heads are active.
    """
    if not isinstance(model, ModelWithFlexibleHeadsAdaptersMixin):
        return smoother
    heads = [cast(PredictionHead, model.heads[name]) for name in head_names(model.active_head) if name in model.heads]
    kinds = [str(head.config.get("head_type")) for head in heads]
    is_regression = any(head.config.get("num_labels") == 1 for head in heads)
    if len(heads) != 1 or kinds[0] not in _OF_CLASSES or heads[0].config.get("multilabel") or is_regression:
        named = ", ".join(f"{head.name!r}: {kind}" for head, kind in zip(heads, kinds, strict=True)) or "none"
        raise ValueError(
            f"label_smoothing_factor is for one head whose labels are classes; active is: {named}. Set it to 0, or "
            "give the Trainer a compute_loss_func."
        )
    return functools.partial(smoother, shift_labels=True) if model.loss_type == "ForCausalLM" else smoother


def prepared(inputs: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """A batch with what a decoder reads: the `Trainer` takes away the labels, of which the model would make it.

    Args:
        inputs: The batch.
        model: The model.

    Raises:
        ValueError: the labels are numbers and no classes.
    """
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor):
        return inputs
    if labels.is_floating_point():
        raise ValueError(
            f"label_smoothing_factor is for labels that are classes, and these are {labels.dtype}: set it to 0."
        )
    own = cast(Any, model)
    is_given = any(inputs.get(name) is not None for name in ("decoder_input_ids", "decoder_inputs_embeds"))
    if is_given or labels.ndim != 2 or not own.config.is_encoder_decoder or not own.can_generate():
        return inputs
    base = cast(ModelAdaptersMixin, model)._adapter_registry.base
    return {**inputs, "decoder_input_ids": inputs_for(labels, base)}
