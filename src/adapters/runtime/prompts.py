"""The vectors that flows of prompts put among the embeddings of the input.

Shapes: R rows, P vectors, E size of the embeddings, L lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..methods.base import PromptMap
from .flows import Flow, Mean, Pieces, Rows, modules_of


class PromptFlow:
    """A flow of prompts, one behind the other.

    Args:
        flow: The flow.

    Raises:
        ValueError: what is asked for has no meaning for prompts.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.length = _length(flow)
        maps = [m for m in modules_of(flow) if isinstance(m, PromptMap)]
        self.follow_first = maps[0].follows_first
        if len({m.follows_first for m in maps}) > 1:
            raise ValueError("Prompts before and behind the first token (combine) cannot be used together.")

    def vectors(self, like: Tensor) -> Tensor:
        """All vectors, in the type of the embeddings. Shape: (P, E), or (R, P, E) if rows have their own.

        Args:
            like: The embeddings. Shape: (R, ..., E).
        """
        return _vectors(self.flow, like).to(like.dtype)


def _length(flow: Flow) -> int:
    """P."""
    total = 0
    for part in flow:
        if isinstance(part, PromptMap):
            total += part.length
        elif isinstance(part, (Mean, Rows)):
            lengths = sorted({_length(inner) for inner in part.flows})
            if len(lengths) > 1:
                name = "Average" if isinstance(part, Mean) else "Parallel, BatchSplit and adapter_names"
                raise ValueError(
                    f"{name} of prompt tuning: prompts of different lengths ({', '.join(map(str, lengths))}, where 0 "
                    "is an adapter without prompt, or the bare model) make inputs of different lengths. Use prompts of "
                    "one length, or call the model for each."
                )
            total += lengths[0]
        else:
            name = "Split" if isinstance(part, Pieces) else "Fuse"
            raise ValueError(
                f"{name} is not defined for prompt tuning: a prompt is seen by all tokens. Stack, Average, Parallel, "
                "BatchSplit and adapter_names (of prompts of one length) are."
            )
    return total


def _vectors(flow: Flow, like: Tensor) -> Tensor:
    found = [_of_part(part, like) for part in flow]
    if len(found) == 1:
        return found[0]
    if any(one.ndim == 3 for one in found):
        found = [one if one.ndim == 3 else one.expand(like.shape[0], -1, -1) for one in found]
    return torch.cat(found, -2)


def _of_part(part: object, like: Tensor) -> Tensor:
    if isinstance(part, PromptMap):
        return part.vectors()
    if isinstance(part, Rows):
        return _by_rows([_vectors(flow, like) for flow in part.flows], part, like)
    assert isinstance(part, Mean)
    shares = [weight * _vectors(flow, like) for weight, flow in zip(part.weights, part.flows, strict=True)]
    return torch.stack(shares).sum(0)


def _by_rows(of_lanes: Sequence[Tensor], rows: Rows, like: Tensor) -> Tensor:
    """Shape: L times (P, E) to (R, P, E)."""
    assignment = rows.lanes.assignment(like)
    (chosen,) = assignment.chosen([torch.stack(list(of_lanes))], tuple(range(len(of_lanes))))
    return chosen.repeat_interleave(like.shape[0] // assignment.groups, 0)
