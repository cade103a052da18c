"""Adapters merged into the weights of a model, and the way back.

An adapter that is a change of weights (LoRA and its relatives) costs nothing in a forward pass once its changes are in
the weights. The originals of what is changed are kept beside, so that they come back bit by bit.

Shapes: O outputs, I inputs of a matrix W; fused matrices of experts have one dimension more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .anatomy.parts import Experts, Matrix, WholeModule
from .methods.base import Placement, SharedParameters, WeightMap
from .methods.copies import ModuleCopy, ModuleTwin
from .methods.experts import ExpertsAdapter
from .methods.weights import is_dense

_Slot = tuple[str, str]
"""A parameter of the model: the path of its module, and its name there."""


class MergedAdapters:
    """What is merged into the weights of one model, in the order in which it was.

    Args:
        base: The base model.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._placements: dict[str, tuple[Placement, ...]] = {}
        self._originals: dict[_Slot, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._placements

    def __iter__(self) -> Iterator[str]:
        return iter(self._placements)

    def __len__(self) -> int:
        return len(self._placements)

    def merge(
        self, name: str, placements: Sequence[Placement], model: nn.Module, output: nn.Module | None = None
    ) -> None:
        """Put the changes of an adapter into the weights, on top of what is merged already.

        The parameters stay the same objects with the same memory, so optimizers, tied modules and compiled graphs go on
        as before.

        Args:
            name: The adapter.
            placements: Its modules.
            model: The whole model, to find weights that several modules share.
            output: The last layer of a language model, which follows embeddings that are exchanged whole.

        Raises:
            ValueError: it cannot be merged; the message says what of it. The weights are then as they were.
        """
        self._check(name, placements, model, output)
        self._placements[name] = tuple(placements)
        try:
            self._apply(placements)
        except BaseException:
            self.reset(name)
            raise

    def reset(self, name: str | None = None) -> None:
        """Take an adapter out of the weights again, or all: they are then, bit by bit, as if it had not been merged.

        Args:
            name: The adapter; None for all.
        """
        with torch.no_grad():
            for slot, original in self._originals.items():
                self._parameter(slot).copy_(original)
        kept = {} if name is None else {n: p for n, p in self._placements.items() if n != name}
        self._placements = kept
        touched = {slot for placements in kept.values() for p in placements for slot in self._slots(p)}
        self._originals = {slot: original for slot, original in self._originals.items() if slot in touched}
        for placements in kept.values():
            self._apply(placements)

    @torch.no_grad()
    def _apply(self, placements: Sequence[Placement]) -> None:
        for placement in placements:
            slots = self._slots(placement)
            # All is computed before any of it is changed: a map may read the weight of the layer for its bias.
            changes = [(slot, self._changed(slot, placement)) for slot in slots]
            for slot, changed in changes:
                if changed is not None:
                    parameter = self._parameter(slot)
                    if slot not in self._originals:
                        self._originals[slot] = parameter.detach().clone()
                    parameter.copy_(changed)

    def _changed(self, slot: _Slot, placement: Placement) -> Tensor | None:
        """What a module makes of a parameter, in the parameter's own shape; None if it leaves it."""
        point, adapter = placement.point, placement.module
        if isinstance(adapter, ModuleCopy) and isinstance(point, WholeModule):
            return next(p for name, p in adapter.named_parameters() if _slot(point.path, name) == slot)
        if isinstance(adapter, ExpertsAdapter):
            own = self._base.get_submodule(slot[0])._parameters
            return adapter.changed({name: None if p is None else _wide(p) for name, p in own.items()})[slot[1]]
        assert isinstance(adapter, WeightMap)
        value = _wide(self._parameter(slot).detach())
        if slot[1] == "bias":
            changed = adapter.merged_bias(value)
            return None if changed is value else changed
        is_transposed = isinstance(point, Matrix) and point.is_transposed
        weight = value.mT if is_transposed else value
        changed = adapter.merged(weight)
        if changed is weight:
            return None
        return changed.mT if is_transposed else changed

    def _slots(self, placement: Placement) -> list[_Slot]:
        """The parameters that a module may change."""
        point, adapter = placement.point, placement.module
        if isinstance(adapter, ModuleCopy) and isinstance(point, WholeModule):
            names = [name for name, _ in adapter.named_parameters()]
        elif isinstance(adapter, WeightMap) and isinstance(point, (Matrix, WholeModule)):
            matrix = [point.parameter] if isinstance(point, Matrix) else []
            owner = self._base.get_submodule(point.path)
            has_bias = matrix in ([], ["weight"]) and owner._parameters.get("bias") is not None
            names = [*matrix, *(["bias"] if has_bias else [])]
        elif isinstance(adapter, ExpertsAdapter) and isinstance(point, Experts):
            names = list(adapter.changed(self._base.get_submodule(point.path)._parameters))
        else:
            return []
        return [_slot(point.path, name) for name in names]

    def _parameter(self, slot: _Slot) -> nn.Parameter:
        parameter = self._base.get_submodule(slot[0])._parameters[slot[1]]
        assert parameter is not None, slot
        return parameter

    def _check(self, name: str, placements: Sequence[Placement], model: nn.Module, output: nn.Module | None) -> None:
        # A twin reads the parameters that are copied elsewhere, and has none itself.
        helpers = (SharedParameters, ModuleTwin)
        others = [p for p in placements if not isinstance(p.module, helpers) and not self._slots(p)]
        if others or not any(p.point is not None for p in placements):
            kinds = ", ".join(dict.fromkeys(f"{type(p.module).__name__} ({p.location})" for p in others))
            raise ValueError(
                f"Adapter {name!r} cannot be merged into the weights: it is no change of weights in "
                f"{kinds or 'any of its modules'}. What can be merged are LoRA and its relatives."
            )
        for placement in placements:
            if isinstance(placement.module, WeightMap) and isinstance(placement.point, Matrix):
                self._check_bias(name, placement.module, placement.point)
        slots = {slot: isinstance(p.module, ModuleCopy) for p in placements for slot in self._slots(p)}
        for slot in slots:
            parameter = self._parameter(slot)
            if not is_dense(parameter):
                raise ValueError(
                    f"Adapter {name!r} cannot be merged: {'.'.join(slot)} is quantised ({type(parameter).__name__}, "
                    f"{parameter.dtype}), and would be rounded once more. Dequantise the model first "
                    "(model.dequantize() of transformers, or load it without quantization_config), add the adapter "
                    "there, and merge it."
                )
            if parameter.is_meta:
                raise ValueError(f"Adapter {name!r} cannot be merged: {'.'.join(slot)} is on the meta device.")
        # A copy stands for a tied weight at all places that are copied with it, and in the output layer.
        copied = {self._base.get_submodule(path) for (path, _), is_copy in slots.items() if is_copy}
        also = copied | ({output} if output is not None and copied else set())
        for slot, sharers in _shared(list(slots), self._base, model, also).items():
            raise ValueError(
                f"Adapter {name!r} cannot be merged: {'.'.join(slot)} is also {' and '.join(sharers)} (tied weights), "
                "which would be changed with it. Give each its own copy first: set config.tie_word_embeddings = False "
                "and replace one of the two by nn.Parameter(weight.detach().clone())."
            )

    @torch.no_grad()
    def _check_bias(self, name: str, adapter: WeightMap, matrix: Matrix) -> None:
        """Raise if the adapter adds a constant to what a layer without bias computes."""
        module = self._base.get_submodule(matrix.path)
        if matrix.parameter == "weight" and module._parameters.get("bias") is None:
            device = next((p.device for p in adapter.parameters()), None)
            bias = adapter.merged_bias(none := torch.zeros(matrix.out_features, device=device))
            if bias is not none and bool(bias.any()):
                raise ValueError(
                    f"Adapter {name!r} cannot be merged: it adds a bias to {matrix.path}, which is a layer without one."
                )


def _slot(path: str, name: str) -> _Slot:
    """A parameter by the path of a module and its name from there, which may be of an inner module."""
    inner, _, last = name.rpartition(".")
    return ".".join(part for part in (path, inner) if part), last


def _wide(value: Tensor) -> Tensor:
    """Half types are too short to add to again and again."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _shared(slots: Sequence[_Slot], base: nn.Module, model: nn.Module, also: set[nn.Module]) -> dict[_Slot, list[str]]:
    """The parameters among these that other modules use too, with the names that they have there.

    Args:
        slots: The parameters.
        base: The base model.
        model: The whole model.
        also: Modules that may use them.
    """
    users: dict[int, list[tuple[nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and is_dense(parameter):
                users.setdefault(parameter.data_ptr(), []).append((module, f"{path}.{name}" if path else name))
    found: dict[_Slot, list[str]] = {}
    for path, name in slots:
        owner = base.get_submodule(path)
        parameter = owner._parameters[name]
        assert parameter is not None
        known = {owner, *also}
        same = [where for module, where in users.get(parameter.data_ptr(), ()) if module not in known]
        if same and parameter.data_ptr():
            found[path, name] = same
    return found
