"""Text that begins at a later position, because prefixes in front of it count.

Shapes: B rows, T tokens of a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import HookPoint, Step
from .signatures import Signature

_PAST = "past_key_values_length"


@dataclass
class ShiftPositions:
    """At the call of a tower: the positions that it is given, or that it would count itself, are moved.

    Args:
        signature: That of the tower.
        length: By how much.
    """

    signature: Signature
    length: int

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        given = self.signature.named(inputs, arguments)
        positions = given.get("position_ids")
        if not isinstance(positions, Tensor):
            tokens = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
            if not isinstance(tokens, Tensor):
                return None
            cache = given.get("past_key_values")
            past = 0 if cache is None else int(cache.get_seq_length())
            positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]
        return (), {**given, "position_ids": positions + self.length}


@dataclass
class ShiftPast:
    """At the call of a block of embeddings that counts positions itself: there are more before.

    Args:
        signature: That of the block.
        length: How many more.
    """

    signature: Signature
    length: int

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = self.signature.named(inputs, arguments)
        if isinstance(given.get("position_ids"), Tensor):
            return (), {**given, "position_ids": given["position_ids"] + self.length}
        return (), {**given, _PAST: (given.get(_PAST) or 0) + self.length}


def shift_steps(tower: nn.Module, length: int) -> Iterator[tuple[HookPoint, Step]]:
    """The steps that move positions.

    Args:
        tower: What is called with tokens, or their embeddings.
        length: By how much.

    Raises:
        ValueError: positions are not known there.
    """
    blocks = [m for m in tower.modules() if {_PAST, "input_ids"} <= set(Signature(m).names)]
    if blocks:
        yield (blocks[0], "call"), ShiftPast(Signature(blocks[0]), length)
        return
    signature = Signature(tower)
    if "position_ids" not in signature.names:
        raise ValueError(
            f"counts_positions=True cannot be met by {type(tower).__name__}, which takes no position_ids; use "
            "counts_positions=False."
        )
    yield (tower, "call"), ShiftPositions(signature, length)
