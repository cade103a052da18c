"""`AutoAdapterModel`, and the one factory of all classes with flexible heads."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)

from .heads.flexible import ModelWithFlexibleHeadsAdaptersMixin

_HUB_ARGUMENTS = (
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
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model; its class is chosen by its configuration.

        Args:
            pretrained_model_name_or_path: A folder or a name on the Hugging Face Hub.
            *model_args: Further arguments of transformers' `from_pretrained`.
            **kwargs: Further arguments of transformers' `from_pretrained`.
        """
        config = kwargs.pop("config", None)
        if config is None:
            found = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **found)
        model_class = adapter_model_class(type(config))
        return cast(Any, model_class).from_pretrained(
            pretrained_model_name_or_path, *model_args, config=config, **kwargs
        )

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """A model with random weights.

        Args:
            config: The configuration of a base model.
            **kwargs: `dtype`, `attn_implementation`.
        """
        return cast(Any, adapter_model_class(type(config)))._from_config(config, **kwargs)


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
    parent = next(c for c in base_class.__mro__[1:] if issubclass(c, PreTrainedModel))
    model_type = config_class.model_type  # type: ignore[attr-defined]
    is_causal = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    name = f"{config_class.__name__.removesuffix('Config')}AdapterModel"
    members = {
        "__module__": __name__,
        "__doc__": f"{base_class.__name__} with adapters and prediction heads.",
        "base_class": base_class,
        "is_causal_model": is_causal,
        "base_model_prefix": base_class.base_model_prefix or "model",
        "config_class": config_class,
        "forward": _forward_with_signature_of(base_class),
    }
    return cast(
        "type[ModelWithFlexibleHeadsAdaptersMixin]", type(name, (ModelWithFlexibleHeadsAdaptersMixin, parent), members)
    )


def _forward_with_signature_of(base_class: type[PreTrainedModel]) -> Any:
    """A `forward` that shows the arguments of the base model: by them the Trainer chooses columns of a data set."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ModelWithFlexibleHeadsAdaptersMixin.forward(self, *args, **kwargs)

    parameters = list(inspect.signature(base_class.forward).parameters.values())
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("labels", "head")]
    named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name not in ("labels", "head")]
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = inspect.Signature([*named, *added, *rest])  # type: ignore[attr-defined]
    return forward


def __getattr__(name: str) -> Any:
    """`BertAdapterModel` and its like, by which they are pickled."""
    if name.endswith("AdapterModel"):
        prefix = name.removesuffix("AdapterModel")
        for config_class in MODEL_MAPPING:
            if config_class.__name__ == f"{prefix}Config":
                return adapter_model_class(config_class)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
