"""The base model inside a model: the methods of adapters that are called on it are those of the whole model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from .activating import ActivatesAdapters
from .adding import AddsAdapters
from .embeddings import NamesEmbeddings
from .files import SavesAdapters
from .own_head import HasHead
from .pushing import PushesAdapters
from .setup_files import SavesSetups
from .showing import ShowsAdapters

_SHARED = (
    *(ActivatesAdapters, AddsAdapters, HasHead, NamesEmbeddings),
    *(PushesAdapters, SavesAdapters, SavesSetups, ShowsAdapters),
)


class InnerModelMixin(nn.Module):
    """The methods that the base model inside a model gets: `model.base_model.add_adapter` is `model.add_adapter`."""

    _adapted_whole: tuple[Any]
    """The model; in a tuple, so that it is not taken for a part of its part."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the model by its own class: the class with these methods is made when it is read."""
        return _restore, (type(self).__bases__[1],), self.__dict__


def _called_on_whole(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(self: InnerModelMixin, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._adapted_whole[0], method.__name__)(*args, **kwargs)

    return called


def _read_of_whole(name: str, shown: property) -> property:
    def read(self: InnerModelMixin) -> Any:
        own = self._modules.get(name)
        return getattr(self._adapted_whole[0], name) if own is None else own

    def write(self: InnerModelMixin, value: Any) -> None:
        setattr(self._adapted_whole[0], name, value)

    return property(read, write if shown.fset is not None else None, doc=shown.__doc__)


def _of_whole(name: str, member: Any) -> Any:
    if isinstance(member, property):
        return _read_of_whole(name, member)
    return _called_on_whole(member) if callable(member) else member


for _mixin in _SHARED:
    for _name in [name for name in vars(_mixin) if not name.startswith("_")]:
        setattr(InnerModelMixin, _name, _of_whole(_name, vars(_mixin)[_name]))


_INNER_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def inner_class(own_class: type[nn.Module]) -> type[nn.Module]:
    """The class of a base model with these methods in front. It has the same name and module as the model's own."""
    if own_class not in _INNER_CLASSES:
        names = {key: getattr(own_class, key) for key in ("__module__", "__qualname__", "__doc__")}
        _INNER_CLASSES[own_class] = type(own_class.__name__, (InnerModelMixin, own_class), names)
    return _INNER_CLASSES[own_class]


def share_methods(base: Any, whole: nn.Module) -> None:
    """Let a base model have the methods of adapters of the model that it is in."""
    unshare_methods(base)  # of a model that it was in before
    base._adapted_whole = (whole,)
    base.__class__ = inner_class(type(base))


def unshare_methods(base: Any) -> None:
    """Take these methods off."""
    if isinstance(base, InnerModelMixin):
        base.__class__ = type(base).__bases__[1]
        del base._adapted_whole


def _restore(own_class: type[nn.Module]) -> nn.Module:
    inner = inner_class(own_class)
    return inner.__new__(inner)
