"""Other ways to call the methods of a model: as early releases did, and as transformers does for adapters of `peft`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar, cast

from .. import peft_library
from ..checkpoints.errors import LoadReport

Method = TypeVar("Method", bound=Callable[..., Any])


class AdapterType(str, Enum):
    """What an adapter is for. Early releases asked for it; nothing depends on it."""

    text_task = "text_task"
    text_lang = "text_lang"

    @classmethod
    def has(cls, value: str) -> bool:
        """Whether there is such a type."""
        return value in cls.__members__


def without_adapter_type(method: Method) -> Method:
    """Let a method also be called with an `AdapterType` after the name, as early releases were."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > 1 and isinstance(args[1], AdapterType):
            args = (args[0], *args[2:])
        return method(self, *args, **kwargs)

    return cast(Method, called)


def also_without_head(place: int, default: bool | None) -> Callable[[Method], Method]:
    """Let a method also be called as 1.3's of models without a head: with `meta_dict` where others take `with_head`.

    Args:
        place: Where the mapping then stands among the arguments.
        default: What is passed for the head.
    """

    def decorated(method: Method) -> Method:
        @functools.wraps(method)
        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            if len(args) > place and isinstance(args[place], Mapping):
                args = (*args[:place], default, *args[place:])
            return method(self, *args, **kwargs)

        return cast(Method, called)

    return decorated


def also_as_of_transformers(method: Method) -> Method:
    """Let `add_adapter` also be called as transformers' own: with a configuration of peft, then the name.

    It then also does what that does: the adapter is active, and all else is frozen.
    """

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = args[0] if args else kwargs.get("adapter_config")
        if not peft_library.is_config(config):
            return method(self, *args, **kwargs)
        name = (args[1] if len(args) > 1 else kwargs.get("adapter_name")) or "default"
        method(self, name, config)
        self.requires_grad_(False)
        peft_library.train(self, self._adapter_registry, name)
        return None

    return cast(Method, called)


def also_by_transformers(method: Method) -> Method:
    """Let `load_adapter` also be called by transformers' `from_pretrained`, for a folder of peft."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "load_config" not in kwargs:
            return method(self, *args, **kwargs)
        return peft_library.load(self, self._adapter_registry, *args, **kwargs)

    return cast(Method, called)


def also_with_loading_info(method: Method) -> Method:
    """Let a method that loads also fill a dictionary, as 1.3's: with the tensors that `strict=False` passed over.

    >>> info = {}
    >>> model.load_adapter("folder", loading_info=info)
    >>> info
    {'missing_keys': [], 'unexpected_keys': []}
    """

    @functools.wraps(method)
    def called(self: Any, *args: Any, loading_info: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if loading_info is None:
            return method(self, *args, **kwargs)
        report = kwargs.get("report")
        if report is None:
            report = LoadReport()
            if not kwargs.get("strict", True):
                kwargs["report"] = report
        result = method(self, *args, **kwargs)
        loading_info["missing_keys"] = list(report.missing)
        loading_info["unexpected_keys"] = [*report.unexpected, *report.misshapen]
        return result

    return cast(Method, called)
