"""Results that stay the same until a weight changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

_version = attrgetter("_version")


def flows(tensors: Iterable[Tensor]) -> bool:
    """Whether what is computed from tensors cannot be kept: gradients flow to them, or a graph is compiled."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return torch.compiler.is_compiling()


class Kept:
    """What is computed from tensors, kept until one of them changes.

    >>> kept = Kept()
    >>> norm = weight.norm() if flows([weight]) else kept.get([weight], weight.norm)

    torch counts the changes of a tensor, but not those that go through its `.data`: after these, call `model.eval()`.
    """

    epoch = 0
    """How often a model was moved, or switched between training and evaluation: nothing is kept for longer."""

    def __init__(self) -> None:
        self._kept: tuple[list[int], list[int], Any, list[Tensor]] | None = None
        self._epoch = 0

    def get(self, tensors: list[Tensor], compute: Callable[[], Any]) -> Any:
        """The result of `compute`, which is called only if the tensors are not what they were last time.

        Args:
            tensors: What is computed from.
            compute: How. It runs without gradients.
        """
        kept = self._kept
        try:
            versions = list(map(_version, tensors))
        except RuntimeError:  # tensors that were made in inference mode count nothing
            return compute()
        ids = list(map(id, tensors))
        if kept is None or kept[0] != versions or kept[1] != ids or self._epoch != Kept.epoch:
            self._epoch = Kept.epoch
            # What is made in inference mode could not be used outside of it.
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept = (versions, ids, compute(), tensors)
        return kept[2]

    def forget(self) -> None:
        """Compute it again next time."""
        self._kept = None

    def __deepcopy__(self, memo: dict[int, object]) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


class Keeper(nn.Module):
    """A module that keeps something, until its mode or its place changes too: `train`, `eval`, `to` …"""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()

    def train(self, mode: bool = True) -> Self:
        """See `nn.Module.train`."""
        self.kept.forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.kept.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]
