"""From the modules of active adapters to the steps of a routing: one function per kind of point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..anatomy.parts import AttentionCore, Experts, InputEmbeddings, LayerOutput, Matrix, Point, Sublayer, WholeModule
from .attention import attention_steps
from .calls import Calls
from .embeddings import prompt_steps
from .experts import expert_steps
from .flows import Flow
from .hooks import HookPoint, Step
from .layers import layer_steps
from .matrices import matrix_steps
from .modules import module_steps
from .sublayers import sublayer_steps

Steps = Iterator[tuple[HookPoint, Step]]

# In the order in which they act where they share a hook point: what a linear layer computes is changed before what its
# sublayer gives.
STEPS_AT: dict[type, Callable[[nn.Module, Any, Any, Calls], Steps]] = {
    WholeModule: module_steps,
    Matrix: matrix_steps,
    Experts: expert_steps,
    AttentionCore: attention_steps,
    Sublayer: sublayer_steps,
    LayerOutput: layer_steps,
    InputEmbeddings: prompt_steps,
}
_RANKS = {kind: rank for rank, kind in enumerate(STEPS_AT)}


def rank(point: Point) -> int:
    """The place of a point's kind in the order in which steps act."""
    return _RANKS[type(point)]


def steps_at(base: nn.Module, point: Point, flow: Flow, calls: Calls) -> Steps:
    """The steps of what acts at a point.

    Args:
        base: The base model.
        point: The point.
        flow: What adapters do there, with modules of the kind that belongs to the point.
        calls: What the towers of the model are called with, for maps that depend on it.

    Raises:
        ValueError: they cannot act there, or not together.
    """
    return STEPS_AT[type(point)](base, point, flow, calls)


@dataclass
class InSequence:
    """Several steps at one hook point."""

    steps: Sequence[Step]
    when: str

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], other: Any) -> Any:
        for step in self.steps:
            changed = step(module, inputs, other)
            if changed is None:
                continue
            if self.when == "before":
                inputs = changed
            elif self.when == "call":
                inputs, other = changed
            else:
                other = changed
        return inputs if self.when == "before" else (inputs, other) if self.when == "call" else other


def joined(steps: Sequence[tuple[HookPoint, Step]]) -> dict[HookPoint, Step]:
    """One step per hook point.

    Raises:
        ValueError: two modules would take the place of one.
    """
    by_point: dict[HookPoint, list[Step]] = {}
    for point, step in steps:
        by_point.setdefault(point, []).append(step)
    for (module, when), found in by_point.items():
        if when == "instead" and len(found) > 1:
            raise ValueError(
                f"Two adapters in this setup take the place of the same {type(module).__name__}; use one of them."
            )
    return {p: found[0] if len(found) == 1 else InSequence(found, p[1]) for p, found in by_point.items()}
