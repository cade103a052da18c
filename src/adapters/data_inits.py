"""Initial weights of adapters that are functions of data: EVA (Paischer et al. 2024, arXiv:2410.07170)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from .anatomy.parts import Matrix
from .methods.lora import LoRA
from .methods.lora_inits import Directions
from .methods.weights import is_dense
from .registry import AdapterRegistry
from .runtime.hooks import Routing


def initialise_with_data(model: Any, adapter_name: str, batches: Iterable[Mapping[str, Any]]) -> None:
    """Let each A of a LoRA start as the principal directions of what its layer reads, and B as zero.

    >>> model.add_adapter("task", LoRAConfig(init_weights="eva"))
    >>> initialise_with_data(model, "task", [tokenizer(texts, return_tensors="pt", padding=True)])

    The model runs without adapters, in evaluation mode. Positions that an `attention_mask` excludes do not count.

    Args:
        model: The model.
        adapter_name: The adapter: a LoRA.
        batches: What the model is called with. A few are enough; of earlier ones only a sketch is kept.

    Raises:
        UnknownAdapterError: there is no such adapter.
        ValueError: it is no LoRA, or the batches are too few. Its weights are then as they were.
    """
    registry = cast(AdapterRegistry, model._adapter_registry)
    found = {
        p.host: (p.module, Directions(p.module.rank))
        for p in registry[adapter_name].placements
        if isinstance(p.module, LoRA) and isinstance(p.point, Matrix)
    }
    if not found:
        raise ValueError(f"{adapter_name!r} has no LoRA of linear layers, whose inputs could be looked at.")
    seen = _Seen()
    hooks = [
        registry.base.get_submodule(path).register_forward_pre_hook(_See(directions, seen))
        for path, (_, directions) in found.items()
    ]
    try:
        with _evaluation(model), torch.no_grad(), registry.table.borrowed(Routing()):
            for batch in batches:
                seen.mask = batch.get("attention_mask")
                model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    starts = [(module, directions.principal()) for module, directions in found.values()]
    with torch.no_grad():
        for module, rows in starts:
            module.lora_A.copy_(rows.repeat(len(module.sizes), 1))
            module.lora_B.zero_()
            module.kept.forget()


class _Seen:
    """The mask of the batch that the model is called with."""

    mask: Tensor | None = None


class _See:
    """Before a layer: take in what it reads.

    Args:
        directions: Where to.
        seen: The batch.
    """

    def __init__(self, directions: Directions, seen: _Seen) -> None:
        self.directions = directions
        self.seen = seen

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x, mask = inputs[0], self.seen.mask
        is_masked = mask is not None and mask.ndim == 2 and x.shape[:2] == mask.shape and x.ndim == 3
        vectors = x[cast(Tensor, mask).bool()] if is_masked else x.reshape(-1, x.shape[-1])
        if len(vectors):
            self.directions.add(vectors)


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and then as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module in modes:
        weight = module._parameters.get("weight")
        # In evaluation, bitsandbytes packs weights on the CPU so that nothing can be trained through them any more.
        module.training = weight is not None and not is_dense(weight)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
