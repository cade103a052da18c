"""Where adapters act on the residual stream itself: behind layers, and on the embeddings that enter the first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from .parts import Anatomy, Layer, LayerOutput, Tower


def layer_outputs(anatomy: Anatomy) -> Iterator[tuple[Layer, LayerOutput]]:
    """Every layer, and the residual stream behind it.

    Raises:
        ValueError: a layer is no module of its own, so that nothing gives its output.
    """
    for tower in anatomy.towers:
        for layer in tower.layers:
            inner = [s.output.path for s in layer.sublayers]
            if not all(path.startswith(f"{layer.path}.") for path in inner):
                raise ValueError(
                    f"{anatomy.model_class} loops over its sublayers itself, so that no module gives the output of a "
                    "layer, which this configuration changes; use one that changes sublayers, such as seq_bn or lora."
                )
            size = next((s.size for s in reversed(layer.sublayers) if s.size), tower.size)
            yield layer, LayerOutput(layer.path, layer.index, size, caller(tower))


def caller(tower: Tower) -> str:
    """Path of the module that is called with the attention mask of a tower: what its embeddings and layers share."""
    if tower.embeddings is None or not tower.path:
        return tower.path
    parts = zip(tower.embeddings.path.split("."), tower.path.split("."), strict=False)
    return ".".join(part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts))
