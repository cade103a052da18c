"""Modules of the model with parameters of their own for an adapter, and how such modules are found."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from ..anatomy.parts import Anatomy, Layer, WholeModule
from ..anatomy.sublayers import is_norm
from .base import AdapterModule, ModuleMap, Placement
from .weights import is_dense


class ModuleTwin(ModuleMap):
    """A module of the model once more, around other parameters or sub-modules.

    What it computes is computed by its own code, with the model's own buffers and all sub-modules that are not
    exchanged, so that other adapters in there go on to act.

    Args:
        module: The module. It stays as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        twin = copy.copy(module)
        twin.__dict__.pop("forward", None)  # what others have put in its place is not for the twin
        self._twin = (twin,)  # a tuple keeps it, and so the model's own, from being named here

    @property
    def twin(self) -> nn.Module:
        """The module that computes."""
        return self._twin[0]

    def exchange(self, name: str, module: nn.Module) -> None:
        """Give it another sub-module."""
        self.twin.__dict__["_modules"] = {**self.twin._modules, name: module}

    def train(self, mode: bool = True) -> ModuleTwin:
        """Switch between training and evaluation, which the module's code may ask for."""
        self.twin.training = mode
        return super().train(mode)

    def replaced(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        """See `ModuleMap.replaced`."""
        return self._twin[0].forward(*inputs, **arguments)


class ModuleCopy(ModuleTwin):
    """A module of the model with parameters of its own, which start with the same values and have the same names.

    Args:
        module: The module. It stays as it is.
        copied: The parameters that are copied already, by the `id` of the model's: tied ones stay tied.

    Raises:
        ValueError: its parameters cannot be trained, or it keeps more than parameters.
    """

    def __init__(self, module: nn.Module, copied: dict[int, nn.Parameter]) -> None:
        super().__init__(module)
        _check(module)
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in copied:
                copied[id(parameter)] = nn.Parameter(parameter.detach().clone())
            self._parameters[name] = None if parameter is None else copied[id(parameter)]
        # The same dictionary: whatever is done to these parameters later (a move, an exchange), the twin sees.
        self.twin.__dict__["_parameters"] = self._parameters


def _check(module: nn.Module) -> None:
    kind = type(module).__name__
    wrong = [
        name for name, parameter in module._parameters.items() if parameter is not None and not is_dense(parameter)
    ]
    if wrong:
        raise ValueError(
            f"The {', '.join(wrong)} of a {kind} cannot be copied for an adapter: quantised weights cannot be trained. "
            "Load the model without quantisation, or keep this module out of it (llm_int8_skip_modules)."
        )
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.RNNBase)):
        what = "running statistics" if isinstance(module, nn.modules.batchnorm._NormBase) else "a list of its weights"
        raise ValueError(f"A {kind} cannot be copied for an adapter: besides its parameters it keeps {what}.")


def copies_of(modules: Mapping[str, nn.Module], base: nn.Module) -> dict[str, ModuleTwin]:
    """Copies of modules, and twins of those around them that read their parameters without calling them.

    >>> copies_of({"encoder.rel_embeddings": deberta.encoder.rel_embeddings}, deberta).keys()
    dict_keys(['encoder.rel_embeddings', 'encoder'])

    Args:
        modules: The modules to be copied, by their paths in the base model.
        base: The base model.

    Raises:
        ValueError: a module cannot be copied.
    """
    copied: dict[int, nn.Parameter] = {}
    found: dict[str, ModuleTwin] = {path: ModuleCopy(module, copied) for path, module in modules.items()}
    for path, module in modules.items():
        parent_path, _, name = path.rpartition(".")
        parent = base.get_submodule(parent_path)
        read = read_by_parent(path, base)
        if not read & module._parameters.keys():
            continue
        if not isinstance(parent, PreTrainedModel):
            found.setdefault(parent_path, ModuleTwin(parent)).exchange(name, found[path].twin)
        elif CALLED not in read:
            raise ValueError(
                f"{path} cannot be copied for an adapter: {type(parent).__name__} reads its {', '.join(read)} itself."
            )
    return found


CALLED = "()"


def read_by_parent(path: str, base: nn.Module) -> set[str]:
    """What the module around a module reads of it, as in `self.conv1d.weight`, and `CALLED` if it calls it.

    Args:
        path: Path of the module that is read.
        base: The base model.
    """
    parent, _, name = path.rpartition(".")
    return {read for child, read in _reads(cast(Any, type(base.get_submodule(parent)))) if child == name}


@functools.cache
def _reads(kind: type[nn.Module]) -> frozenset[tuple[str, str]]:
    """What the code of a class reads of its sub-modules, by their names."""
    found: set[tuple[str, str]] = set()
    for owner in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for name, method in vars(owner).items():
            if inspect.isfunction(method) and not re.search(r"init|resize|tie|reset", name):
                source = _source(method)
                found |= set(re.findall(r"(?<!isinstance\()self\.(\w+)\.(\w+)\b(?!\.(?:dtype|device|shape))", source))
                found |= {(name, CALLED) for name in re.findall(r"self\.(\w+)\(", source)}
    return frozenset(found)


def _source(function: Any) -> str:
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):  # made at run time
        return ""


def placed(twins: Mapping[str, ModuleTwin], container: str, anatomy: Anatomy) -> list[Placement]:
    """Where copies and twins belong: at the modules whose place they take."""
    placements = []
    for path, twin in twins.items():
        layer = next((layer for layer in anatomy.layers if f"{path}.".startswith(f"{layer.path}.")), None)
        index, start = (-1, "") if layer is None else (layer.index, f"{layer.path}.")
        location = f"{path.removeprefix(start)}.{container}"
        placements.append(Placement(path, container, location, index, twin, WholeModule(path)))
    return placements


# -- finding --------------------------------------------------------------------------------------------------------


def own_modules(module: nn.Module, without: nn.Module | None = None, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model by their paths, itself included. Adapters are left out.

    Args:
        module: The model.
        without: A module in it that is left out too.
        path: Its path.
    """
    yield path, module
    for name, child in module.named_children():
        if child is not without and not isinstance(child, AdapterModule):
            yield from own_modules(child, without, f"{path}.{name}" if path else name)


def owners(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules with parameters of their own in a module, itself included, by their paths. Adapters are left out."""
    if isinstance(module, AdapterModule):
        return
    if any(parameter is not None for parameter in module._parameters.values()):
        yield path, module
    for name, child in module.named_children():
        yield from owners(child, f"{path}.{name}" if path else name)


def owners_in_layer(layer: Layer, base: nn.Module) -> dict[str, nn.Module]:
    """The modules with parameters of their own in a layer, by their paths.

    A layer may hold its parts in other lists than the one that it is in (XLM), so the anatomy's are asked for too.
    """
    paths = [layer.path]
    for sublayer in layer.sublayers:
        paths += [path for role in sublayer.projections.values() for path in role]
        paths += [path for path in (sublayer.norm, sublayer.pre_norm) if path]
    return {path: module for root in paths for path, module in owners(base.get_submodule(root), root)}


def is_vector_norm(module: nn.Module, path: str) -> bool:
    """Whether a module is a norm that scales (or shifts) by vectors of its own.

    Not those that count running statistics; and some families have `Norm` in the names of all their classes.
    """
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    is_vector = bool(own) and all(parameter.ndim == 1 for parameter in own)
    return is_vector and is_norm(module, path) and not isinstance(module, nn.modules.batchnorm._NormBase)
