"""`AutoAdapterModel`, and the one factory of all classes with flexible heads."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import configuration_auto
from transformers.models.auto.modeling_auto import MODEL_MAPPING, MODEL_MAPPING_NAMES

from .heads.flexible import ModelWithFlexibleHeadsAdaptersMixin
from .heads.static import is_causal
from .model.classes import HUB_ARGUMENTS

_NOT_OF_CONFIG = ("dtype", "torch_dtype", "attn_implementation", "quantization_config")  # the model's own business


class AutoAdapterModel:
    """A base model of any architecture, with adapters and prediction heads.

    >>> model = AutoAdapterModel.from_pretrained("bert-base-uncased")
    >>> model.add_adapter("topics")
    >>> model.add_classification_head("topics", num_labels=8)
    >>> model.train_adapter("topics")
    """

    def __init__(self) -> None:
        raise OSError("AutoAdapterModel is made by AutoAdapterModel.from_pretrained(...) or .from_config(...).")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model; its class is chosen by its configuration.

        >>> model = AutoAdapterModel.from_pretrained("distilbert-base-uncased-finetuned-sst-2-english")
        >>> model.active_head, model.get_labels()
        ('default', ['NEGATIVE', 'POSITIVE'])

        The head of a checkpoint of a class such as `DistilBertForSequenceClassification` becomes the head "default".

        Args:
            pretrained_model_name_or_path: A folder or a name on the Hugging Face Hub; None if there is a `state_dict`.
            *model_args: Further arguments of transformers' `from_pretrained`.
            **kwargs: Further arguments of transformers' `from_pretrained`: `config`, `dtype`, `device_map`, … What is
                a field of the configuration changes it.

        Raises:
            ValueError: transformers has no base model of this kind.
        """
        config = kwargs.pop("config", None)
        if not isinstance(config, PreTrainedConfig):
            config = _config(config or pretrained_model_name_or_path, kwargs)
        model_class = adapter_model_class(type(config))
        return cast(Any, model_class).from_pretrained(
            pretrained_model_name_or_path, *model_args, config=config, **kwargs
        )

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """A model with random weights, and without heads.

        >>> model = AutoAdapterModel.from_config(BertConfig())

        Args:
            config: The configuration of a base model.
            **kwargs: `dtype`, `attn_implementation`.

        Raises:
            ValueError: transformers has no base model of this kind.
        """
        return cast(Any, adapter_model_class(type(config)))._from_config(config, **kwargs)


def _config(path: Any, kwargs: dict[str, Any]) -> Any:
    """A configuration. What changes it is taken out of the arguments."""
    found = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    config = AutoConfig.from_pretrained(path, **found)
    changed = {name for name in kwargs if name not in _NOT_OF_CONFIG and name not in found and hasattr(config, name)}
    if not changed:
        return config
    return AutoConfig.from_pretrained(path, **found, **{name: kwargs.pop(name) for name in changed})


class AdapterModelMapping(Mapping[type, Any]):
    """The classes of models with flexible heads by the classes of configurations: one for each base model.

    >>> ADAPTER_MODEL_MAPPING[BertConfig].__name__
    'BertAdapterModel'
    """

    def __getitem__(self, config_class: type) -> type[ModelWithFlexibleHeadsAdaptersMixin]:
        if config_class not in MODEL_MAPPING:
            raise KeyError(config_class)
        return adapter_model_class(config_class)

    def __iter__(self) -> Iterator[type]:
        return iter(MODEL_MAPPING)

    def __len__(self) -> int:
        return len(MODEL_MAPPING)


ADAPTER_MODEL_MAPPING = AdapterModelMapping()


def adapter_model_class(config_class: type) -> type[ModelWithFlexibleHeadsAdaptersMixin]:
    """The class of models with flexible heads for a configuration.

    >>> adapter_model_class(BertConfig).__name__
    'BertAdapterModel'

    Raises:
        ValueError: transformers has no base model for this configuration.
    """
    if config_class not in _CLASSES:
        _CLASSES[config_class] = _made_class(config_class)
    return _CLASSES[config_class]


_CLASSES: dict[type, type[ModelWithFlexibleHeadsAdaptersMixin]] = {}


def _made_class(config_class: type) -> type[ModelWithFlexibleHeadsAdaptersMixin]:
    if config_class not in MODEL_MAPPING:
        raise ValueError(
            f"transformers has no base model for {config_class.__name__}; use adapters.init on your model."
        )
    mapped: Any = MODEL_MAPPING[config_class]
    base_class: type[PreTrainedModel] = mapped[0] if isinstance(mapped, tuple) else mapped
    parent = next((c for c in base_class.__mro__[1:] if issubclass(c, PreTrainedModel)), None)
    if parent is None:
        raise ValueError(f"{base_class.__name__} is no model of transformers; use adapters.init on it.")
    name = f"{config_class.__name__.removesuffix('Config')}AdapterModel"
    members = {
        "__module__": __name__,
        "__doc__": _DOCUMENTATION.format(name=name, base=base_class.__name__, config=config_class.__name__),
        "base_class": base_class,
        "is_causal_model": is_causal(config_class),
        "base_model_prefix": base_class.base_model_prefix or "model",
        "config_class": config_class,
        "forward": _forward_with_signature_of(base_class),
    }
    return cast(
        "type[ModelWithFlexibleHeadsAdaptersMixin]", type(name, (ModelWithFlexibleHeadsAdaptersMixin, parent), members)
    )


_DOCUMENTATION = """{base} with adapters, and any number of prediction heads.

    >>> model = {name}.from_pretrained("...")
    >>> model.add_adapter("topics")
    >>> model.add_classification_head("topics", num_labels=8)
    >>> model.train_adapter("topics")

    Args:
        config: The {config} of the model. By `from_pretrained` its weights are loaded too.
    """


def _forward_with_signature_of(base_class: type[PreTrainedModel]) -> Any:
    """A `forward` that shows the arguments of the base model: by them the Trainer chooses columns of a data set."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ModelWithFlexibleHeadsAdaptersMixin.forward(self, *args, **kwargs)

    parameters = list(inspect.signature(base_class.forward).parameters.values())
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _OF_HEADS]
    named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name not in _OF_HEADS]
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = inspect.Signature([*named, *added, *rest])  # type: ignore[attr-defined]
    return forward


# Not `labels_arcs` and its like: a Trainer takes all names with "label" for labels that every batch has. Theirs it is
# told of by `TrainingArguments(label_names=model.get_label_names())`.
_OF_HEADS = ("labels", "head", "start_positions", "end_positions", "word_starts", "margin", "task_ids", "adapter_names")


def class_names() -> dict[str, str]:
    """The names of all classes with flexible heads, and of the configurations that they are for."""
    known: Mapping[str, str] = cast(Any, configuration_auto).CONFIG_MAPPING_NAMES
    configs = (known.get(model_type) for model_type in MODEL_MAPPING_NAMES)
    return {f"{name.removesuffix('Config')}AdapterModel": name for name in configs if name is not None}


def __getattr__(name: str) -> Any:
    """`BertAdapterModel` and its like, by which they are imported and pickled; and their names of old."""
    if name.endswith("ModelWithHeads"):
        new_name = f"{name.removesuffix('ModelWithHeads')}AdapterModel"
        found = AutoAdapterModel if new_name == "AutoAdapterModel" else __getattr__(new_name)
        warnings.warn(f"{name} is called {new_name} now; the old name will be removed.", FutureWarning, stacklevel=3)
        return found
    if name.endswith("AdapterModel") and name in class_names():
        config_class = getattr(transformers, class_names()[name])
        try:
            return adapter_model_class(config_class)
        except ValueError as error:  # some that transformers lists are no models of its own
            raise AttributeError(str(error)) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *class_names()})
