"""What users call on a model: thin methods over the registry of its adapters.

A model gets this one class in front of its own. No module inside it is replaced or re-classed, and `detach` gives the
model back as it was.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from .anatomy import AdapterModelInterface, anatomy, anatomy_from_interface
from .anatomy.interface import submodule
from .anatomy.parts import Sublayer
from .checkpoints import native
from .checkpoints.files import INTERFACE_CONFIG, read_json, write_json
from .composition import AdapterCompositionBlock, SetupLike, parse_composition
from .configuration import AdapterConfig, ModelAdaptersConfig, get_adapter_config_hash
from .context import AdapterSetup, OpenSetups
from .heads.model_heads import read_static_head, save_static_head
from .registry import Adapter, AdapterRegistry
from .runtime.hooks import ReplayedCheckpoint
from .summary import Row, summary_rows, summary_table

if TYPE_CHECKING:
    pass

from . import __version__ as VERSION

Method = TypeVar("Method", bound=Callable[..., Any])


class AdapterType(str, Enum):
    """What an adapter is for. Early releases asked for it; nothing depends on it."""

    text_task = "text_task"
    text_lang = "text_lang"

    @classmethod
    def has(cls, value: str) -> bool:
        """Whether there is such a type."""
        return value in cls.__members__


def _without_adapter_type(method: Method) -> Method:
    """Let a method also be called with an `AdapterType` after the name, as early releases were."""

    @functools.wraps(method)
    def called(self: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], AdapterType):
            args = args[1:]
        return method(self, name, *args, **kwargs)

    return cast(Method, called)


class ModelAdaptersMixin(nn.Module):
    """The methods that a model gets from `adapters.init`, or by being an `AutoAdapterModel`."""

    config: Any
    _adapter_registry: AdapterRegistry
    _adapter_interface: AdapterModelInterface | None

    # -- adding and removing ------------------------------------------------------------------------------------

    @_without_adapter_type
    def add_adapter(
        self,
        adapter_name: str,
        config: str | Mapping[str, Any] | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
        *,
        layers: Sequence[int] | None = None,
    ) -> None:
        """Add a new adapter.

        >>> model.add_adapter("sentiment", config="seq_bn[reduction_factor=8]", layers=[4, 5])

        Args:
            adapter_name: A name without path separators.
            config: The name of a preset, a dictionary or a configuration; by default `seq_bn`.
            overwrite_ok: Whether an adapter of the same name may be replaced.
            set_active: Whether to activate it.
            layers: The layers to place it in, counted over all towers; by default all that the configuration names.

        Raises:
            ValueError: the name is taken or no name, or the configuration cannot be met by this model. The model is
                then as it was.
        """
        _check_name(adapter_name)
        registry = self._adapter_registry
        if adapter_name in registry.adapters and not overwrite_ok:
            raise ValueError(
                f"There is an adapter named {adapter_name!r} already. Choose another name, or pass overwrite_ok=True."
            )
        adapter = registry.build(adapter_name, AdapterConfig.load(config if config is not None else "seq_bn"), layers)
        self._attach(adapter, set_active)

    def _attach(self, adapter: Adapter, set_active: bool) -> None:
        registry = self._adapter_registry
        if adapter.name in registry.adapters:
            registry.delete(adapter.name)
        registry.attach(adapter)
        if set_active:
            self.set_active_adapters(adapter.name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter, and its memory. If it is active, nothing is active afterwards.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        self._adapter_registry.delete(adapter_name)

    # -- activating and training ------------------------------------------------------------------------------------

    @property
    def active_adapters(self) -> AdapterCompositionBlock | None:
        """The active setup. Setting it is `set_active_adapters`."""
        return self._adapter_registry.active

    @active_adapters.setter
    def active_adapters(self, adapter_setup: SetupLike) -> None:
        self.set_active_adapters(adapter_setup)

    def set_active_adapters(self, adapter_setup: SetupLike, skip_layers: Sequence[int] | None = None) -> None:
        """Choose what the forward pass goes through; nothing is frozen or unfrozen by it.

        >>> model.set_active_adapters(Stack("language", "task"))

        Args:
            adapter_setup: A name, a `Stack`, a list of names (a `Stack`), or None for the bare model.
            skip_layers: Layers to leave as they are, counted over all towers.

        Raises:
            UnknownAdapterError: a name is not that of an adapter. The active setup is then as it was.
        """
        self._adapter_registry.activate(parse_composition(adapter_setup), skip_layers or ())

    @_without_adapter_type
    def train_adapter(self, adapter_setup: SetupLike, train_embeddings: bool = False) -> None:
        """Freeze the base model and all other adapters, unfreeze these, activate them, and switch to training mode.

        Heads are not touched: they are trained too unless you freeze them.

        Args:
            adapter_setup: As for `set_active_adapters`.
            train_embeddings: Whether the input embeddings are trained too.

        Raises:
            UnknownAdapterError: a name is not that of an adapter. The model is then as it was.
        """
        setup = parse_composition(adapter_setup)
        if setup is None:
            raise ValueError("train_adapter needs the name of an adapter or a setup of adapters, not None.")
        registry = self._adapter_registry
        registry.check(setup)
        self.train()
        self.freeze_model(True)
        for name in setup.flatten():
            registry.set_trainable(name, True)
        if train_embeddings:
            cast(PreTrainedModel, self).get_input_embeddings().requires_grad_(True)
        self.set_active_adapters(setup)

    def freeze_model(self, freeze: bool = True) -> None:
        """Freeze, or unfreeze, the base model with all adapters in it. Heads are not touched."""
        self._adapter_registry.base.requires_grad_(not freeze)

    def has_adapters(self) -> bool:
        """Whether any adapter has been added."""
        return bool(self._adapter_registry.adapters)

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def adapters_config(self) -> ModelAdaptersConfig:
        """The configurations of the adapters, by name."""
        found = ModelAdaptersConfig()
        for name, adapter in self._adapter_registry.adapters.items():
            found.add(name, adapter.config)
        return found

    @property
    def adapter_interface(self) -> AdapterModelInterface | None:
        """The interface that was given to `adapters.init`, or None."""
        return self._adapter_interface

    def get_adapter(self, name: str) -> dict[int, dict[str, nn.Module]]:
        """The modules of an adapter by layer and location; layer -1 holds what belongs to no layer.

        >>> model.get_adapter("task")[0]["output_adapter"]

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        found: dict[int, dict[str, nn.Module]] = {}
        for p in sorted(self._adapter_registry[name].placements, key=lambda p: p.layer):
            places = found.setdefault(p.layer, {})
            is_cross = isinstance(p.point, Sublayer) and p.point.kind == "cross_attention"
            location = "cross_adapter" if is_cross else p.location
            same = sum(name == location or name.startswith(f"{location}_") for name in places)
            places[f"{location}_{same + 1}" if same else location] = p.module
        return found

    def adapter_summary(self, as_dict: bool = False) -> str | list[Row]:
        """All adapters with their size, whether they are active, and whether they are trained.

        >>> print(model.adapter_summary())

        Args:
            as_dict: Whether to give one dictionary per row instead of a table.
        """
        rows = summary_rows(self._adapter_registry)
        return rows if as_dict else summary_table(rows)

    def adapter_to(self, name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Move an adapter to a device, or to another type of numbers.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        for module in self._adapter_registry[name].modules():
            module.to(device=device, dtype=dtype)

    def supports_adapter(self, type_or_config: str | AdapterConfig) -> bool:
        """Whether an adapter with this configuration could be added."""
        try:
            self._adapter_registry.build("probe", AdapterConfig.load(type_or_config))
        except (ValueError, NotImplementedError):
            return False
        return True

    # -- saving and loading -----------------------------------------------------------------------------------------

    def save_adapter(
        self,
        save_directory: str | Path,
        adapter_name: str,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write an adapter, and the head of its name, to a folder, in the layout of AdapterHub.

        Args:
            save_directory: The folder; made if it is not there.
            adapter_name: The adapter.
            with_head: Whether its head is written too.
            meta_dict: Further entries of `adapter_config.json`.
            custom_weights_loaders: Not supported; heads and adapters are all there is to save.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        _refuse_loaders(custom_weights_loaders)
        folder = _folder(save_directory)
        adapter = self._adapter_registry[adapter_name]
        native.save(
            adapter, folder, self._adapter_registry.base_path, {**self._facts(), **(meta_dict or {})}, use_safetensors
        )
        if with_head:
            self._save_head_of(adapter_name, folder, use_safetensors)

    def save_all_adapters(
        self,
        save_directory: str | Path,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write every adapter to a folder of its name within a folder. The arguments are those of `save_adapter`."""
        for name, adapter in self._adapter_registry.adapters.items():
            facts = {"config_id": get_adapter_config_hash(adapter.config), **(meta_dict or {})}
            self.save_adapter(
                Path(save_directory) / name, name, with_head, facts, custom_weights_loaders, use_safetensors
            )

    @_without_adapter_type
    def load_adapter(
        self,
        adapter_name_or_path: str | Path,
        config: str | Mapping[str, Any] | None = None,
        version: str | None = None,
        model_name: str | None = None,
        load_as: str | None = None,
        with_head: bool = True,
        custom_weights_loaders: Sequence[Any] | None = None,
        leave_out: list[int] | None = None,
        id2label: Mapping[int, str] | None = None,
        set_active: bool = False,
        use_safetensors: bool = False,
    ) -> str:
        """Add an adapter from a folder, with its head if there is one. An adapter of the same name is replaced.

        >>> name = model.load_adapter("my_adapters/sentiment", set_active=True)

        Args:
            adapter_name_or_path: The folder.
            config: A configuration to use instead of the one in the folder.
            version: Not supported yet: only folders are read.
            model_name: Taken for compatibility: the model is this one.
            load_as: Another name for it.
            with_head: Whether to add its head too.
            custom_weights_loaders: Not supported.
            leave_out: Layers to load nothing for.
            id2label: Other labels for the head.
            set_active: Whether to activate it.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The name of the adapter.

        Raises:
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        _refuse_loaders(custom_weights_loaders)
        if version is not None:
            raise NotImplementedError("version= belongs to adapters on a hub; only folders can be loaded yet.")
        folder = Path(adapter_name_or_path).expanduser()
        if load_as is not None:
            _check_name(load_as)
        override = AdapterConfig.load(config) if config is not None else None
        registry = self._adapter_registry
        adapter = native.load(
            registry, folder, self._model_type(), load_as, override, leave_out, safetensors_only=use_safetensors
        )
        _check_name(adapter.name)
        attach_head = self._read_head(folder, adapter.name, id2label, use_safetensors) if with_head else None
        self._attach(adapter, set_active=False)
        if attach_head is not None:
            attach_head()
        if set_active:
            self.set_active_adapters(adapter.name)
        return adapter.name

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the whole model with its adapters, to be read by `AutoAdapterModel` or `adapters.load_model`.

        Args:
            save_directory: The folder.
            **kwargs: What transformers' `save_pretrained` takes.
        """
        config = cast(Any, self).config
        entries = self._config_entries()
        try:
            for key, value in entries.items():
                setattr(config, key, value)
            cast(Any, super()).save_pretrained(save_directory, **kwargs)
        finally:
            for key in entries:
                delattr(config, key)
        if self._adapter_interface is not None:
            facts = {"interface": self._adapter_interface.to_dict(), "model_type": self._model_type()}
            write_json(Path(save_directory) / INTERFACE_CONFIG, {**facts, "version": f"adapters.{VERSION}"})

    # -- what subclasses with heads extend --------------------------------------------------------------------------

    def _save_head_of(self, adapter_name: str, folder: Path, use_safetensors: bool) -> None:
        """Write the head that belongs to an adapter, if there is one."""
        config = getattr(self, "config", None)
        labels = {"label2id": config.label2id, "num_labels": config.num_labels} if config is not None else {}
        save_static_head(self, self._adapter_registry.base, folder, self._facts(), labels, use_safetensors)

    def _read_head(
        self, folder: Path, name: str, id2label: Mapping[int, str] | None, safetensors_only: bool
    ) -> Callable[[], None] | None:
        """Read the head in a folder, without changing the model; what is returned puts it into the model."""
        tensors = read_static_head(self, self._adapter_registry.base, folder, safetensors_only)
        if not tensors:
            return None
        parameters = self.state_dict(keep_vars=True)

        def attach() -> None:
            with torch.no_grad():
                for key, tensor in tensors.items():
                    parameters[key].copy_(tensor)

        return attach

    def _config_entries(self) -> dict[str, Any]:
        """What `config.json` says of adapters."""
        return {"adapters": self.adapters_config.to_dict()}

    # -- the forward pass -------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not OpenSetups.count:
            return super().__call__(*args, **kwargs)
        with self._setup_in_use():
            return super().__call__(*args, **kwargs)

    @contextlib.contextmanager
    def _setup_in_use(self) -> Iterator[None]:
        """Use the setup of the `AdapterSetup` that the caller is in, if there is one."""
        if AdapterSetup.get_context() is None:
            yield
            return
        registry = self._adapter_registry
        setup = AdapterSetup.get_context_adapter_setup()
        with registry.table.borrowed(registry.compile(setup, registry.skip_layers)):
            yield

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by transformers to switch checkpointing on and off; see `ReplayedCheckpoint`."""
        function = gradient_checkpointing_func or torch.utils.checkpoint.checkpoint
        replayed = ReplayedCheckpoint(function, self._adapter_registry.table)
        cast(Any, super())._set_gradient_checkpointing(enable=enable, gradient_checkpointing_func=replayed, **kwargs)

    # -- details ----------------------------------------------------------------------------------------------------

    def _model_type(self) -> str:
        return str(getattr(getattr(self, "config", None), "model_type", ""))

    @property
    def model_name(self) -> str | None:
        """The name that the base model was loaded by."""
        return getattr(self, "name_or_path", None)

    def _facts(self) -> dict[str, Any]:
        """What every configuration file says of the model."""
        config = getattr(self, "config", None)
        return {
            "hidden_size": getattr(config, "hidden_size", None),
            "model_class": type(self).__name__,
            "model_name": self.model_name,
            "model_type": self._model_type(),
            "version": f"adapters.{VERSION}",
        }

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
    with self._setup_in_use():
        return own_class.generate(self, *args, **kwargs)


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
        ValueError: the interface names what is not there, or comes too late for a model that has its adapters already.
    """
    if isinstance(model, ModelAdaptersMixin):
        if adapters_config is not None or interface is not None:
            raise ValueError(f"This {type(model).__name__} was initialised before; call adapters.detach(model) first.")
        return
    setup_registry(model, interface)
    own_class = type(model)
    model.__class__ = adapted_class(own_class)
    for module in model.modules():  # checkpointing that was switched on before
        function = module.__dict__.get("_gradient_checkpointing_func")
        if function is not None:
            module.__dict__["_gradient_checkpointing_func"] = ReplayedCheckpoint(
                function, cast(Any, model)._adapter_registry.table
            )
    for name in adapters_config or ():
        cast(Any, model).add_adapter(name, adapters_config.get(name))  # type: ignore[union-attr]


def setup_registry(model: nn.Module, interface: AdapterModelInterface | None = None) -> None:
    """Find the parts of a model, and give it an empty registry."""
    base = cast(nn.Module, getattr(model, "base_model", model))
    if interface is not None and interface.base_model:
        base = submodule(model, interface.base_model, "base_model")
    parts = anatomy(base) if interface is None else anatomy_from_interface(base, interface)
    base_path = next(name for name, module in model.named_modules() if module is base)
    outside = model is not base and isinstance(model, PreTrainedModel)
    output_embeddings = cast(Any, model).get_output_embeddings() if outside else None
    model._adapter_registry = AdapterRegistry(base, parts, base_path, output_embeddings)  # type: ignore[assignment]
    model._adapter_interface = interface  # type: ignore[assignment]


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
    for module in model.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if isinstance(function, ReplayedCheckpoint) and function.table is registry.table:
            module.__dict__["_gradient_checkpointing_func"] = function.checkpoint
    del model._adapter_registry, model._adapter_interface
    cast(Any, model).__class__ = _own_class(type(model))


def load_model(
    model_name_or_path: str | Path,
    model_class: type[nn.Module],
    interface: AdapterModelInterface | None = None,
    *model_args: Any,
    **kwargs: Any,
) -> nn.Module:
    """Load a model of a static class with the adapters that `save_pretrained` wrote with it.

    >>> model = adapters.load_model("folder", BertForSequenceClassification)

    Args:
        model_name_or_path: What `from_pretrained` takes.
        model_class: The class of the model.
        interface: Where the parts of the model are; by default the one in the folder, or they are found.
        *model_args: Further arguments of `from_pretrained`.
        **kwargs: Further arguments of `from_pretrained`.
    """
    saved = Path(model_name_or_path) / INTERFACE_CONFIG
    if interface is None and saved.is_file():
        interface = AdapterModelInterface(**read_json(saved)["interface"])
    with _constructing(interface):
        loading = type(
            model_class.__name__,
            (_WithSavedAdapters, adapted_class(model_class)),
            {"__module__": model_class.__module__, "__qualname__": model_class.__qualname__},
        )
        model = cast(Any, loading).from_pretrained(model_name_or_path, *model_args, **kwargs)
    model.__class__ = adapted_class(model_class)
    return cast(nn.Module, model)


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
        saved = ModelAdaptersConfig(**entry)
        for name in saved:
            model.add_adapter(name, saved.get(name))
        del config.adapters


def _check_name(name: Any) -> None:
    """Raise for what is no name. Files come from elsewhere, so the names in them are checked too."""
    if not isinstance(name, str):
        kind = type(name).__name__
        hint = " PEFT configurations cannot be added yet." if "peft" in type(name).__module__ else ""
        raise TypeError(f"The first argument is the name of the adapter, a string, not {kind}.{hint}")
    if not name.strip() or "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise ValueError(f"{name!r} is no name for an adapter: it names a folder when saved, so no '/', '\\' or '..'.")


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; an adapter is saved to a folder.")
    return folder


def _refuse_loaders(loaders: Sequence[Any] | None) -> None:
    if loaders:
        raise NotImplementedError("custom_weights_loaders are not supported; save such weights beside the adapter.")
