"""How a model gets these methods, and loses them.

A model gets one class in front of its own, and the base model in it another, which hands everything to the model. No
other module is replaced or re-classed, and `detach` gives the model back as it was.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import AutoConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _get_model_class

from .. import peft_library, sharing
from ..anatomy import AdapterModelInterface, anatomy, anatomy_from_interface
from ..anatomy.interface import submodule
from ..calling import taken_from, use
from ..checkpoints.files import INTERFACE_CONFIG, read_json
from ..configuration import ModelAdaptersConfig
from ..embeddings import DEFAULT, LoadedEmbeddings
from ..registry import Adapter, AdapterRegistry
from ..runtime.calls import Generation
from ..runtime.hooks import ReplayedCheckpoint
from .base import check_name
from .calls import CallsAdapters
from .embeddings import NamesEmbeddings
from .inner import InnerModelMixin, share_methods, unshare_methods
from .pushing import PushesAdapters
from .showing import ShowsAdapters
from .whole import SavesWhole

HUB_ARGUMENTS = (
    "cache_dir",
    "code_revision",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
"""The arguments of transformers' `from_pretrained` that say where files are, and not what is made of them."""


class ModelAdaptersMixin(SavesWhole, PushesAdapters, ShowsAdapters, NamesEmbeddings, CallsAdapters):
    """The methods that a model gets from `adapters.init`, or by being an `AutoAdapterModel`."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the model by its own class: the class with these methods is made when it is read."""
        return _restore, (_own_class(type(self)),), self.__dict__


def adapted_class(own_class: type[nn.Module]) -> type[nn.Module]:
    """A model's class with the methods of adapters in front. It has the same name and module as the model's own.

    transformers keys what it records of a class by that name, so recording of outputs goes on working.
    """
    if issubclass(own_class, ModelAdaptersMixin):
        return own_class
    if own_class not in _ADAPTED_CLASSES:
        _ADAPTED_CLASSES[own_class] = _adapted_class(own_class)
    return _ADAPTED_CLASSES[own_class]


_ADAPTED_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


@functools.wraps(GenerationMixin.generate)
def _generate_in_setup(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Generation calls the encoder of a model by itself, so the setup must be in use around the whole of it."""
    own_class: Any = _own_class(type(self))
    called = use(self._adapter_registry, taken_from(kwargs))
    args, kwargs, is_repeated = called.repeated(args, kwargs)
    with called.borrowed(), Generation():
        return called.called(functools.partial(own_class.generate, self), args, kwargs, is_repeated, with_beams=True)


def _adapted_class(own_class: type[nn.Module]) -> type[nn.Module]:
    names = {key: getattr(own_class, key) for key in ("__module__", "__qualname__", "__doc__")}
    if issubclass(own_class, GenerationMixin):
        names["generate"] = _generate_in_setup
    return type(own_class.__name__, (ModelAdaptersMixin, own_class), names)


def _own_class(adapted: type[nn.Module]) -> type[nn.Module]:
    """The class without the methods of adapters, or the class itself if it was written with them."""
    if adapted.__bases__[0] is ModelAdaptersMixin and adapted.__name__ == adapted.__bases__[1].__name__:
        return cast("type[nn.Module]", adapted.__bases__[1])
    return adapted


def _restore(own_class: type[nn.Module]) -> nn.Module:
    adapted = adapted_class(own_class)
    return adapted.__new__(adapted)


def init(
    model: nn.Module,
    adapters_config: ModelAdaptersConfig | None = None,
    interface: AdapterModelInterface | None = None,
) -> None:
    """Give a model the methods of adapters. Its weights, modules and outputs stay as they are.

    >>> model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
    >>> adapters.init(model)
    >>> model.add_adapter("task")

    Args:
        model: Any model of transformers, or any module that an interface describes.
        adapters_config: Adapters to add at once.
        interface: Where the parts of the model are; by default they are found.

    Raises:
        ValueError: the interface names what is not there, or comes too late for a model that has its adapters already;
            or an adapter cannot be added. The model is then as it was.
    """
    if isinstance(model, (ModelAdaptersMixin, InnerModelMixin)):
        if adapters_config is not None or interface is not None:
            raise ValueError(f"This {type(model).__name__} was initialised before; call adapters.detach(model) first.")
        return
    peft_library.check_bare(model)
    setup_registry(model, interface)
    own_class = type(model)
    model.__class__ = adapted_class(own_class)
    for module in model.modules():  # checkpointing that was switched on before
        function = module.__dict__.get("_gradient_checkpointing_func")
        if function is not None:
            module.__dict__["_gradient_checkpointing_func"] = ReplayedCheckpoint(
                function, cast(Any, model)._adapter_registry.table
            )
    if adapters_config is not None:
        try:
            _add_all(cast(Any, model), adapters_config)
        except BaseException:
            detach(model)
            raise


def setup_registry(model: nn.Module, interface: AdapterModelInterface | None = None) -> None:
    """Find the parts of a model, and give it an empty registry."""
    base = cast(nn.Module, getattr(model, "base_model", model))
    if interface is not None and interface.base_model:
        base = submodule(model, interface.base_model, "base_model")
    parts = anatomy(base) if interface is None else anatomy_from_interface(base, interface)
    base_path = next(name for name, module in model.named_modules() if module is base)
    outside = model is not base and isinstance(model, PreTrainedModel)
    output_embeddings = cast(Any, model).get_output_embeddings() if outside else None
    model._adapter_registry = AdapterRegistry(base, parts, base_path, output_embeddings, model)  # type: ignore[assignment]
    model._adapter_interface = interface  # type: ignore[assignment]
    model._adapter_embeddings = LoadedEmbeddings(model._adapter_registry)  # type: ignore[assignment,arg-type]
    if base is not model and not isinstance(base, ModelAdaptersMixin):
        share_methods(base, model)


def detach(model: nn.Module) -> None:
    """Take all adapters and their methods off a model: its class, attributes, hooks and `state_dict` are as before."""
    if not isinstance(model, ModelAdaptersMixin):
        return
    if _own_class(type(model)) is type(model):
        raise ValueError(
            f"{type(model).__name__} is a model with adapters and heads by itself; its base model is "
            f"model.{model._adapter_registry.base_path}, and delete_adapter removes adapters."
        )
    registry = model._adapter_registry
    registry.detach()
    for name in list(registry.peft.trained):
        peft_library.delete(model, registry, name)
    if model.active_embeddings != DEFAULT:  # models without tokens have no others
        model.set_active_embeddings(DEFAULT)
    for module in model.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if isinstance(function, ReplayedCheckpoint) and function.table is registry.table:
            module.__dict__["_gradient_checkpointing_func"] = function.checkpoint
    if registry.base is not model:
        unshare_methods(registry.base)
    del model._adapter_registry, model._adapter_interface, model._adapter_embeddings
    cast(Any, model).__class__ = _own_class(type(model))


def load_model(
    model_name_or_path: str | Path,
    model_class: type[Any],
    interface: AdapterModelInterface | None = None,
    *model_args: Any,
    **kwargs: Any,
) -> nn.Module:
    """Load a model with the adapters that `save_pretrained` wrote with it.

    >>> model = adapters.load_model("folder", BertForSequenceClassification)
    >>> model = adapters.load_model("folder", AutoModelForSequenceClassification)

    Args:
        model_name_or_path: What `from_pretrained` takes.
        model_class: The class of the model, one of transformers' that choose it (`AutoModel` …), or `AutoAdapterModel`.
        interface: Where the parts of the model are; by default the one in the folder, or they are found.
        *model_args: Further arguments of `from_pretrained`.
        **kwargs: Further arguments of `from_pretrained`.

    Raises:
        ValueError: there is no such class for the model, or an interface is given for one that takes none.
    """
    if issubclass(model_class, _BaseAutoModelClass):
        model_class = _chosen_class(model_class, model_name_or_path, kwargs)
    elif issubclass(model_class, nn.Module):
        model_class = _own_class(model_class)
    if not issubclass(model_class, nn.Module) or issubclass(model_class, ModelAdaptersMixin):  # with flexible heads
        if interface is not None:
            raise ValueError(f"{model_class.__name__} takes no interface; load a class of transformers with it.")
        return cast(nn.Module, model_class.from_pretrained(model_name_or_path, *model_args, **kwargs))
    saved = Path(model_name_or_path) / INTERFACE_CONFIG
    if interface is None and saved.is_file():
        interface = AdapterModelInterface(**read_json(saved)["interface"])
    with _constructing(interface):
        loading = type(
            model_class.__name__,
            (_WithSavedAdapters, adapted_class(model_class)),
            {"__module__": model_class.__module__, "__qualname__": model_class.__qualname__},
        )
        found = cast(Any, loading).from_pretrained(model_name_or_path, *model_args, **kwargs)
    model = found[0] if isinstance(found, tuple) else found  # with output_loading_info=True
    model.__class__ = adapted_class(model_class)
    return cast(nn.Module, found)


def _chosen_class(auto_class: Any, path: str | Path, kwargs: Mapping[str, Any]) -> type[Any]:
    """The class that one of transformers' `AutoModel…` would make."""
    config = kwargs.get("config")
    if not isinstance(config, PreTrainedConfig):
        told = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        config = AutoConfig.from_pretrained(config or path, **told)
    if type(config) not in auto_class._model_mapping:
        raise ValueError(f"{auto_class.__name__} has no class for {type(config).__name__}; give the class itself.")
    return cast("type[Any]", cast(Any, _get_model_class)(config, auto_class._model_mapping))


_INTERFACE: list[AdapterModelInterface | None] = []


@contextlib.contextmanager
def _constructing(interface: AdapterModelInterface | None) -> Any:
    _INTERFACE.append(interface)
    try:
        yield
    finally:
        _INTERFACE.pop()


class _WithSavedAdapters(nn.Module):
    """Adds the adapters that the configuration of a model names, while the model is constructed."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        setup_registry(self, _INTERFACE[-1])
        add_saved_adapters(self, config)


def add_saved_adapters(model: Any, config: Any) -> None:
    """Add the adapters that `save_pretrained` noted in a configuration, and take the note off."""
    entry = getattr(config, "adapters", None)
    if isinstance(entry, dict) and "config_map" in entry:
        saved, registry = ModelAdaptersConfig(**entry), model._adapter_registry
        is_read = any(parameter.is_meta for parameter in registry.base.parameters())  # with the weights of the model
        for name in saved:
            check_name(name)
            adapter = registry.build(name, saved.get(name), is_filled=is_read)
            registry.lasting += _buffers_in_no_file(adapter) if is_read else []
            registry.attach(adapter)
        _add_fusions(model, saved)
        sharing.share_again(model._adapter_registry, entry.get("shared_parameters") or {})
        del config.adapters


def _buffers_in_no_file(adapter: Adapter) -> list[tuple[nn.Module, str, Tensor]]:
    parts = dict.fromkeys(part for module in adapter.modules() for part in module.modules())
    buffers = [(part, name, part._buffers[name]) for part in parts for name in part._non_persistent_buffers_set]
    return [(part, name, buffer) for part, name, buffer in buffers if buffer is not None]


def _add_all(model: Any, adapters_config: ModelAdaptersConfig) -> None:
    for name in adapters_config:
        model.add_adapter(name, adapters_config.get(name))
    _add_fusions(model, adapters_config)


def _add_fusions(model: Any, adapters_config: ModelAdaptersConfig) -> None:
    for name in adapters_config.fusions:
        config, adapter_names = adapters_config.get_fusion(name)
        model.add_adapter_fusion(adapter_names, config, name)
