"""Which matrices a configuration of the LoRA family adapts, and the method that all of the family are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.matrices import named, projections, require_hits, value_at
from ..anatomy.parts import Anatomy, Matrix
from ..configuration import AdapterConfigError, LoRAConfig
from .base import AdapterModule, Method, Placement, SharedParameters, WeightMap
from .embedding_lora import check_embedding, check_is_used
from .experts import experts_placements
from .kept import Keeper
from .layers import seeded
from .observed import Observation, show

_CONTAINER = "loras"


@dataclass(frozen=True)
class Target:
    """A matrix to adapt, with what the configuration says of it.

    Args:
        matrix: The matrix.
        module: The module that holds it.
        location: Which switch of the configuration chose it.
        parts: The rows of each of the matrices to adapt, where it is several in one; empty if it is taken as a whole.
        rank: Rank r.
        scaling: Factor s.
    """

    matrix: Matrix
    module: nn.Module
    location: str
    parts: tuple[tuple[tuple[int, int], ...], ...]
    rank: int
    scaling: float

    @property
    def is_fused(self) -> bool:
        """Whether it is those of all experts in one parameter."""
        return self.matrix.parameter != "weight"

    @property
    def experts(self) -> int:
        """The number of experts whose matrices these are."""
        fused = self.module._parameters[self.matrix.parameter]
        return 1 if fused is None else len(fused)

    @property
    def sizes(self) -> list[int]:
        """The number of rows of each part."""
        return [sum(last - first for first, last in part) for part in self.parts] or [self.matrix.out_features]

    @property
    def rows(self) -> Tensor | None:
        """The rows of all parts, one part after the other; None if these are all rows in their order."""
        rows = [row for part in self.parts for first, last in part for row in range(first, last)]
        is_all = not self.parts or rows == list(range(self.matrix.out_features))
        return None if is_all else torch.tensor(rows, device="cpu")  # not on the meta device, where they would be lost


class AdaptedMatrix(Keeper, WeightMap, ABC):
    """What all modules of the family have in common: the rows that they adapt, and a gate.

    Args:
        config: The configuration.
        target: The matrix.
    """

    rows: Tensor | None

    def __init__(self, config: LoRAConfig, target: Target) -> None:
        super().__init__()
        self.sizes = target.sizes
        self.in_features, self.out_features = target.matrix.in_features, target.matrix.out_features
        self.is_whole = not target.parts
        # Gates take the place of s, as in AdapterHub's adapters.
        self.scaling = 1.0 if config.use_gating else target.scaling
        self.dtype = None if config.dtype is None else getattr(torch, config.dtype)
        self.register_buffer("rows", target.rows, persistent=False)
        self.gate = nn.Linear(self.in_features, len(self.sizes)) if config.use_gating else None
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=0.02)

    def gates(self, x: Tensor) -> Tensor:
        """How much of each part is let through: the mean over all tokens. Shape: (..., T, I) to (..., 1, n)."""
        assert self.gate is not None
        gates = torch.sigmoid(self.gate(x.to(self.gate.weight.dtype))).mean(dim=-2, keepdim=True)
        if Observation.count:
            show(self, gates.squeeze(-2))
        return gates

    def require_no_gate(self) -> None:
        """Raise a ValueError if there is a gate: with it, the layer is not linear."""
        if self.gate is not None:
            raise ValueError(
                "An adapter with use_gating=True cannot be merged: what its gates let through depends on the input. "
                "Keep it active instead, or train one without gates."
            )

    def spread(self, rows: Tensor, others: float, dim: int = 0) -> Tensor:
        """Put adapted rows where they belong, among others of one value. Shape: R becomes O in one dimension."""
        if self.rows is None:
            return rows
        shape = list(rows.shape)
        shape[dim] = self.out_features
        return rows.new_full(shape, others).index_copy(dim, self.rows, rows)


class MatrixMethod(Method, ABC):
    """A method that changes what matrices compute."""

    @abstractmethod
    def make(self, config: Any, target: Target, shared: SharedParameters | None) -> WeightMap:
        """The module for one matrix.

        Raises:
            ValueError: it cannot be adapted so.
        """

    def share(self, config: Any, targets: Sequence[Target]) -> SharedParameters | None:
        """What the modules of these matrices have in common, if anything."""
        return None

    def place(self, config: LoRAConfig, anatomy: Anatomy, base: nn.Module) -> Iterable[Placement]:
        """See `Method.place`."""
        targets = targets_of(config, anatomy, base)
        with seeded(config.init_weights_seed):
            shared = self._shared(config, targets, anatomy)
            placements = [
                Placement(
                    target.matrix.path,
                    _CONTAINER,
                    target.location,
                    target.matrix.layer,
                    self.make(config, target, shared.get(_host_of(target, anatomy))),
                    target.matrix,
                )
                for target in targets
                if not target.is_fused
            ]
            placements += experts_placements(config, [target for target in targets if target.is_fused], _CONTAINER)
        return [*placements, *(Placement(h, "shared_parameters", "shared", -1, s) for h, s in shared.items())]

    def _shared(self, config: Any, targets: Sequence[Target], anatomy: Anatomy) -> dict[str, SharedParameters]:
        """What is shared, by the path of the module that it is attached to."""
        by_host: dict[str, list[Target]] = {}
        for target in targets:
            by_host.setdefault(_host_of(target, anatomy), []).append(target)
        shared = {host: self.share(config, found) for host, found in by_host.items()}
        return {host: parameters for host, parameters in shared.items() if parameters is not None}


def _host_of(target: Target, anatomy: Anatomy) -> str:
    """The module that what a matrix shares with others is attached to."""
    hosts = [host for host in anatomy.shared_hosts if target.matrix.path.startswith(f"{host}.")]
    return hosts[0] if hosts else ""


def targets_of(config: LoRAConfig, anatomy: Anatomy, base: nn.Module) -> list[Target]:
    """The matrices that a configuration adapts.

    Raises:
        ValueError: there are none, or a name in the configuration is that of no module.
    """
    if config.target_modules is None:
        found = list(_chosen(config, anatomy, base))
    else:
        found = [
            (matrix, f"{matrix.name.rpartition('.')[2]}_lora", ())
            for layer, matrix in named(anatomy, base, config.target_modules, AdapterModule)
            if layer is None or layer.number not in config.leave_out
        ]
    if not found:
        raise AdapterConfigError(_nothing(config, anatomy))
    found = list({one[0].name: one for one in found}.values())  # some matrices are of two sublayers
    paths = [matrix.name for matrix, _, _ in found]
    require_hits("rank_pattern", config.rank_pattern, paths)
    require_hits("alpha_pattern", config.alpha_pattern, paths)
    require_hits("scale_inputs_of", config.scale_inputs_of, paths)
    targets = []
    for matrix, location, parts in found:
        rank = value_at(matrix.name, config.rank_pattern, config.r)
        alpha = value_at(matrix.name, config.alpha_pattern, config.alpha)
        scaling = alpha / rank**0.5 if config.use_rslora else alpha / rank
        targets.append(Target(matrix, base.get_submodule(matrix.path), location, parts, rank, scaling))
    for target in targets:
        if isinstance(target.module, nn.Embedding):
            check_embedding(config, target)
            check_is_used(target.matrix.path, anatomy, base)
    return targets


_Found = tuple[Matrix, str, tuple[tuple[tuple[int, int], ...], ...]]


def _chosen(config: LoRAConfig, anatomy: Anatomy, base: nn.Module) -> Iterator[_Found]:
    """The projections that the switches of a configuration name.

    Raises:
        AdapterConfigError: matrices are among them that are held in a way that is not known.
    """
    found = list(projections(anatomy, base))
    _check_known(config, anatomy, {matrix.path for _, _, matrix in found})
    for layer, sublayer, matrix in found:
        if layer.number in config.leave_out:
            continue
        if sublayer.kind in ("attention", "cross_attention"):
            wanted = [role for role in config.attn_matrices if role in matrix.rows or role == matrix.role]
            if config.selfattn_lora and wanted:
                yield matrix, "selfattn_lora", tuple(matrix.rows[role] for role in matrix.rows if role in wanted)
        elif matrix.role == "up" and config.intermediate_lora:
            yield matrix, "intermediate_lora", ()
        elif matrix.role == "down" and config.output_lora:
            yield matrix, "output_lora", ()


def _check_known(config: LoRAConfig, anatomy: Anatomy, known: Collection[str]) -> None:
    """Raise for projections of feed-forward sublayers that are wanted, and no linear layers or known experts."""
    wanted = ["up"] * config.intermediate_lora + ["down"] * config.output_lora
    for layer, sublayer in anatomy.sublayers():
        paths = [path for role in (*wanted, "experts") for path in sublayer.projections.get(role, ())]
        unknown = [path for path in paths if path not in known]
        if wanted and unknown and layer.number not in config.leave_out:
            raise AdapterConfigError(
                f"intermediate_lora={config.intermediate_lora}, output_lora={config.output_lora}: {unknown[0]} holds "
                "its matrices in a way that is not known. Leave it out (intermediate_lora=False, output_lora=False), "
                "or name what else to adapt: target_modules=[...]."
            )


def _nothing(config: LoRAConfig, anatomy: Anatomy) -> str:
    if config.target_modules is not None:
        wanted = f"target_modules={config.target_modules!r}"
    else:
        attention = [f"attn_matrices={list(config.attn_matrices)}"] if config.selfattn_lora else []
        switches = [name for name in ("intermediate_lora", "output_lora") if config[name]]
        wanted = ", ".join([*attention, *switches]) or "no switch"
    return (
        f"The configuration adapts nothing: of {wanted} with leave_out={config.leave_out}, this {anatomy.model_class} "
        f"with {len(anatomy.layers)} layers has none. Name its modules instead: target_modules=[...]."
    )
