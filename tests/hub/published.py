"""Adapters to publish, and the model that they are for."""

from __future__ import annotations

import torch
from torch import nn

import models

BASE = "bert-base-uncased"
NAME = "sentiment/sst-2@me"


def named_model(name: str = BASE) -> nn.Module:
    """A tiny model without adapters, which says that it is one that hubs know."""
    model = models.adapted("bert")
    model.name_or_path = name
    return model


def same(model: nn.Module, name: str, other: nn.Module, other_name: str) -> bool:
    """Whether adapters of two models have equal parameters."""
    pairs = list(zip(models.parameters(model, name), models.parameters(other, other_name), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)
