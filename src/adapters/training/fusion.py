"""Fusions in training: what is added to the loss for them, and what has no weight decay."""

from __future__ import annotations

from torch import nn

from ..methods.fusion import AttentionFusion


def is_regularized(model: nn.Module) -> bool:
    """Whether any value matrix that is kept near the identity is trained."""
    modules = (module.value for module in _regularized(model).values())
    return any(value is not None and value.weight.requires_grad for value in modules)


def names_without_decay(model: nn.Module) -> set[str]:
    """The names of value matrices: what is kept near the identity must not be drawn to zero."""
    return {f"{name}.value.weight" for name in _regularized(model)}


def _regularized(model: nn.Module) -> dict[str, AttentionFusion]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AttentionFusion) and module.value is not None and module.config.regularization
    }
