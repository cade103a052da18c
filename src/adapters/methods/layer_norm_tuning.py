"""LayerNorm tuning (Zhao et al. 2023, arXiv:2312.11420): an adapter has norms of its own.

All norms within the layers are meant: before, after and on the branches of the sublayers, and those of queries and
keys; LayerNorm and RMSNorm of any family. Norms outside the layers (of the embeddings, behind the last layer) stay. In
files their parameters are named `<norm>.ln_tuning.<adapter>.weight` and `.bias`.
"""

from __future__ import annotations

from torch import nn

from ..anatomy.parts import Anatomy
from ..configuration import LayerNormTuningConfig
from .base import Method, Placement
from .copies import copies_of, is_vector_norm, owners_in_layer, placed


class LayerNormTuningMethod(Method):
    """A copy of every norm of the layers."""

    def place(self, config: LayerNormTuningConfig, anatomy: Anatomy, base: nn.Module) -> list[Placement]:
        """See `Method.place`."""
        norms: dict[int, tuple[str, nn.Module]] = {}  # by `id`: a module may be part of several layers
        for layer in anatomy.layers:
            for path, module in owners_in_layer(layer, base).items():
                if layer.number not in config.leave_out and is_vector_norm(module, path):
                    norms.setdefault(id(module), (path, module))
        if not norms:
            raise ValueError(
                f"There is nothing to tune: with leave_out={config.leave_out}, this {anatomy.model_class} with "
                f"{len(anatomy.layers)} layers has no norm with weights in its layers."
            )
        return placed(copies_of(dict(norms.values()), base), "ln_tuning", anatomy)
