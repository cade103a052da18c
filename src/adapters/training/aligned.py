"""Predictions of batches whose rows have heads of their own: in the order of the rows, as labels are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.utils.generic import ModelOutput

from ..heads.flexible import ModelWithFlexibleHeadsAdaptersMixin
from ..heads.outputs import MultiHeadOutput

PADDING = -100
"""What the `Trainer` fills up predictions of different shapes with."""


@contextlib.contextmanager
def aligned(model: nn.Module) -> Iterator[None]:
    """Within a `with` block the model gives one tensor of logits where each row of a batch has one head.

    The heads of a batch come in the order in which they first occur, and a batch need not have all of them. A `Trainer`
    would put the predictions of different heads below one another.

    Args:
        model: The model. With less than two heads it stays as it is: `torch.compile` begins anew where there is a hook.
    """
    if not isinstance(model, ModelWithFlexibleHeadsAdaptersMixin) or len(model.heads) < 2:
        yield
        return
    handle = model.register_forward_hook(
        lambda module, args, kwargs, found: _one(found, args, kwargs), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def _one(found: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The output with one tensor of logits, or what was given if each row has all heads.

    Raises:
        ValueError: the heads predict what has no common shape.
    """
    if not isinstance(found, MultiHeadOutput) or found.past_key_values is not None:
        return found
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim]
    rows = [row for head in found._heads for row in head.rows]
    if not tensors or sorted(rows) != list(range(len(tensors[0]))):
        return found
    outputs = cast(list[Any], found.head_outputs)
    logits = [_logits(output) for output in outputs]
    if any(each is None for each in logits) or len({cast(Tensor, each).ndim for each in logits}) > 1:
        kinds = ", ".join(
            f"{name!r}: {', '.join(f'{key} {tuple(value.shape)}' for key, value in _named(output).items())}"
            for name, output in zip(found.head_names, outputs, strict=True)
        )
        raise ValueError(
            f"The predictions of these heads cannot be collected together ({kinds}): evaluate their tasks one after "
            "the other, or set prediction_loss_only=True."
        )
    padded = torch.cat(_padded(cast(list[Tensor], logits)))
    order = torch.tensor(rows, device=padded.device).argsort()
    return cast(Any, ModelOutput)(**({} if found.loss is None else {"loss": found.loss}), logits=padded[order])


def _named(output: Any) -> dict[str, Tensor]:
    """The tensors of an output but the loss."""
    entries = output.items() if isinstance(output, Mapping) else enumerate(output)
    return {str(key): value for key, value in entries if key != "loss" and isinstance(value, Tensor)}


def _logits(output: Any) -> Tensor | None:
    found = _named(output)
    return found.get("logits") if len(found) == 1 else None


def _padded(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of shapes (B, …) that are filled up to the largest of these."""
    sizes = [max(of_all) for of_all in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return [pad(tensor, _missing(tensor.shape[1:], sizes), value=PADDING) for tensor in tensors]


def _missing(shape: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """What `pad` wants to be told: before and behind, from the last dimension to the first."""
    return [n for size, wanted in zip(shape[::-1], sizes[::-1], strict=True) for n in (0, wanted - size)]
