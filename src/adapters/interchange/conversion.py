"""Adapters that are changes of weights, as plain LoRA: by the singular values of ΔW, with what is lost stated.

Letters: O outputs, I inputs of a matrix, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..averaging.changes import common_config, with_ranks
from ..averaging.products import Change, Combined, relative_error, truncated
from ..averaging.slots import Part, Slot, bias_change_of, change_of, fill, parts_of, slots
from ..configuration import BitFitConfig, ConfigUnion
from ..methods.base import SharedParameters
from ..methods.bitfit import BiasShift
from ..methods.embedding_lora import EmbeddingLoRA
from ..methods.experts import ExpertsAdapter
from ..methods.targets import AdaptedMatrix
from ..registry import Adapter, AdapterRegistry, check_free


@dataclass(frozen=True)
class ConversionReport:
    """What came of a conversion to LoRA.

    Args:
        adapter_name: The adapter that was converted.
        rank: The largest rank of the new one.
        errors: For each matrix by its path, ‖ΔW − s B A‖ / ‖ΔW‖ in the Frobenius norm: 0 where the LoRA is exact.
        error: The same for all matrices together.
        biases: The layers whose biases it changes too.
        keeps_biases: Whether the new adapter changes these as well, as differences (BitFit), or leaves them.
    """

    adapter_name: str
    rank: int
    errors: Mapping[str, float]
    error: float
    biases: Sequence[str] = field(default=())
    keeps_biases: bool = True

    @property
    def is_exact(self) -> bool:
        """Whether nothing is lost but rounding."""
        return self.error < 1e-6 and (self.keeps_biases or not self.biases)

    def __str__(self) -> str:
        lines = [f"{self.adapter_name}: LoRA of rank {self.rank}, relative error of ΔW {self.error:.3g}"]
        worst = sorted(self.errors.items(), key=lambda item: -item[1])[:5]
        lines += [f"  {path}: {error:.3g}" for path, error in worst if error > 1e-6]
        if self.biases:
            what = "changed too, as differences" if self.keeps_biases else "left as they are, unlike with the adapter"
            lines.append(f"  {len(self.biases)} biases are {what}")
        return "\n".join(lines)


def convert_to_lora(
    model: Any,
    adapter_name: str,
    new_name: str,
    rank: int | None = None,
    *,
    keep_biases: bool = True,
    overwrite_ok: bool = False,
) -> ConversionReport:
    """Add a plain LoRA that does what another adapter does, as near as its rank allows.

    Everything that changes weights can be converted: DoRA, VeRA, DVoRA, IA³, AdaLoRA, MTL-LoRA, PiSSA, and LoRA itself
    to a lower rank. ΔW is taken with all scalings, and cut after its `rank` largest singular values, which is the best
    approximation of that rank (Eckart & Young 1936).

    >>> report = adapters.convert_to_lora(model, "dora", "lora", rank=16)
    >>> report.error
    0.031

    Args:
        model: The model.
        adapter_name: The adapter, which stays.
        new_name: The name of the new one.
        rank: Its rank; by default as high as it takes to be exact, for those adapters whose ΔW has a low rank.
        keep_biases: Whether biases that are changed too (by DoRA and IA³, where layers have some) become differences of
            them beside the LoRA, which not everybody can serve; else they stay as they are in the model.
        overwrite_ok: Whether an adapter of the new name may be replaced.

    Raises:
        UnknownAdapterError: there is no such adapter.
        ValueError: the name is taken, or the adapter is no change of weights. The model is then as it was.
    """
    registry = cast(AdapterRegistry, model._adapter_registry)
    check_free(new_name, registry.adapters, overwrite_ok)
    if new_name in registry.merged:
        raise ValueError(f"Adapter {new_name!r} is merged; call model.reset_adapter({new_name!r}) first.")
    made, report = converted(registry, registry[adapter_name], new_name, rank, keep_biases)
    if new_name in registry.adapters:
        registry.delete(new_name)
    registry.attach(made)
    return report


@torch.no_grad()
def converted(
    registry: AdapterRegistry, adapter: Adapter, name: str, rank: int | None, keep_biases: bool
) -> tuple[Adapter, ConversionReport]:
    """The LoRA, not yet added, and what is lost. The arguments are those of `convert_to_lora`."""
    _check(registry, adapter, rank)
    own = slots(adapter)
    config = common_config([adapter])
    parts = parts_of(registry.build(name, config, is_filled=True))
    found: dict[str, list[Combined]] = {}
    for path, inner in parts.items():
        changes = [change_of(registry, adapter, own[path], part, biases_too=True) for part in inner]
        dense = [c for c in changes if c is not None and not c.is_low_rank]
        if dense and rank is None:
            raise ValueError(
                f"Adapter {adapter.name!r} ({type(adapter.config).__name__}) changes {path} by a matrix that has no "
                "low rank, so that the rank of the LoRA is needed: rank=16, say."
            )
        found[path] = [_cut(change, part, rank) for change, part in zip(changes, inner, strict=True)]
    ranks = {path: max(1, *(one.a.shape[0] for one in inner)) for path, inner in found.items()}
    lora = with_ranks(config, ranks)
    shifts = {path: change for path, slot in own.items() if (change := bias_change_of(registry, slot)) is not None}
    whole = ConfigUnion(lora, BitFitConfig()) if shifts and keep_biases else lora
    made = registry.build(name, whole, is_filled=True)
    fill(Adapter(name, lora, tuple(p for p in made.placements if not isinstance(p.module, BiasShift))), found, [own])
    _shift(made, own, shifts if keep_biases else {})
    errors = {path: relative_error(inner) for path, inner in found.items()}
    error = relative_error([one for inner in found.values() for one in inner])
    return made, ConversionReport(adapter.name, max(ranks.values()), errors, error, tuple(shifts), keep_biases)


def _cut(change: Change | None, part: Part, rank: int | None) -> Combined:
    """A change at a rank; as it is, if it has that already."""
    if change is None:
        return Combined(torch.empty(0, part.matrix.in_features), torch.empty(len(part.rows), 0))
    a, b = change.a, change.b
    if rank is None or a.shape[0] <= rank:
        size = float(((b.T @ b) * (a @ a.T)).sum())
        return Combined(a, b, 0.0, max(size, 0.0))
    return truncated(a, b, rank)


def _shift(made: Adapter, own: Mapping[str, Slot], shifts: Mapping[str, Tensor]) -> None:
    by_host = {own[path].matrix.path: change for path, change in shifts.items()}
    for placement in made.placements:
        if isinstance(placement.module, BiasShift):
            change = by_host.pop(placement.host, None)
            if change is None:
                placement.module.bias.zero_()
            else:
                placement.module.bias.copy_(change)
    if by_host:
        raise ValueError(
            f"The biases of {', '.join(by_host)} are changed too, and there is nothing that could add to them there; "
            "pass keep_biases=False to leave them as they are."
        )


def _check(registry: AdapterRegistry, adapter: Adapter, rank: int | None) -> None:
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank={rank!r}: it is a whole number above 0, or None.")
    if adapter.name in registry.merged:
        raise ValueError(
            f"Adapter {adapter.name!r} is merged into the weights; call model.reset_adapter({adapter.name!r}) first."
        )
    acting = [p.module for p in adapter.placements if not isinstance(p.module, SharedParameters)]
    others = [m for m in acting if not isinstance(m, (AdaptedMatrix, EmbeddingLoRA, ExpertsAdapter))]
    if others:
        kinds = ", ".join(dict.fromkeys(type(module).__name__ for module in others))
        raise ValueError(
            f"Adapter {adapter.name!r} ({type(adapter.config).__name__}) is more than a change of weights (it has "
            f"{kinds}), so that there is no LoRA that does the same. Those that are: LoRA, DoRA, VeRA, IA³, AdaLoRA …"
        )
    gated = [m for m in acting if isinstance(m, AdaptedMatrix) and m.gate is not None]
    if gated:
        raise ValueError(
            f"Adapter {adapter.name!r} has gates (use_gating=True): what it changes depends on the input, and is no "
            "change of weights. Train it without gates."
        )
