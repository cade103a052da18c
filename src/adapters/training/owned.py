"""Which tensors of a model are those of adapters, fusions and heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from ..heads.flexible import ModelWithFlexibleHeadsAdaptersMixin
from ..heads.model_heads import static_head_parameters
from ..methods.fusion import Fusion
from ..model import ModelAdaptersMixin
from ..registry import Adapter


def owned(model: nn.Module) -> Iterator[Tensor]:
    """The tensors of adapters, fusions and heads. What heads share with the base model is not theirs."""
    registry = cast(ModelAdaptersMixin, model)._adapter_registry
    owners: list[Adapter | Fusion] = [*registry.adapters.values(), *registry.fusions.values()]
    for owner in owners:
        for module in owner.modules():
            yield from (*module.parameters(), *module.buffers())
    if isinstance(model, ModelWithFlexibleHeadsAdaptersMixin):
        inside = {id(parameter) for parameter in registry.base.parameters()}
        for head in model.heads.values():
            yield from (t for t in (*head.parameters(), *head.buffers()) if id(t) not in inside)
    else:
        yield from static_head_parameters(model, registry.base).values()
