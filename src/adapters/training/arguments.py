"""What a training script asks for: `AdapterArguments` on the command line, `setup_adapter_training` in its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.files import read_json
from ..composition import Stack
from ..configuration import AdapterConfig
from ..hub.architectures import loaded
from ..hub.reading import hub_in_use
from ..model import ModelAdaptersMixin
from ..model.base import all_or_none


@dataclass
class AdapterArguments:
    """The arguments of scripts that train adapters, for `transformers.HfArgumentParser`.

    >>> parser = HfArgumentParser((AdapterArguments, TrainingArguments))
    >>> adapter_args, training_args = parser.parse_args_into_dataclasses()
    >>> setup_adapter_training(model, adapter_args, "task")

    Args:
        train_adapter: Whether an adapter is trained, and not the whole model.
        load_adapter: An adapter to begin with: a folder or a name on a hub.
        adapter_config: What to add: a preset such as `"seq_bn[reduction_factor=32]"`, or a JSON file.
        load_lang_adapter: A language adapter to put below it: a folder or a name on a hub.
        lang_adapter_config: The configuration of that one, where a hub has several.
    """

    train_adapter: bool = field(default=False, metadata={"help": "Train an adapter, not the whole model."})
    load_adapter: str | None = field(default="", metadata={"help": "An adapter to begin with: a folder or a name."})
    adapter_config: str | None = field(default="seq_bn", metadata={"help": "What to add: a preset or a JSON file."})
    load_lang_adapter: str | None = field(
        default=None, metadata={"help": "A language adapter to put below it: a folder or a name."}
    )
    lang_adapter_config: str | None = field(
        default=None, metadata={"help": "The configuration of the language adapter, where a hub has several."}
    )


def setup_adapter_training(
    model: Any,
    adapter_args: AdapterArguments,
    adapter_name: str,
    adapter_config_kwargs: Mapping[str, Any] | None = None,
    adapter_load_kwargs: Mapping[str, Any] | None = None,
) -> tuple[str | None, str | None]:
    """Add or load what a script asks for, freeze all else, and activate it: the language adapter below the other.

    >>> setup_adapter_training(model, AdapterArguments(train_adapter=True, adapter_config="lora"), "task", {"r": 16})
    ('task', None)

    Without `train_adapter` nothing happens. An adapter of that name that the model has already is trained as it is.

    Args:
        model: The model.
        adapter_args: What is asked for.
        adapter_name: The name of the adapter.
        adapter_config_kwargs: Fields of its configuration to change.
        adapter_load_kwargs: Further arguments of `load_adapter`.

    Returns:
        The names of the adapter and of the language adapter; None for what there is not.

    Raises:
        ValueError: adapters are to be loaded and not trained, or the model cannot have adapters.
    """
    if not adapter_args.train_adapter:
        if adapter_args.load_adapter or adapter_args.load_lang_adapter:
            raise ValueError("Adapters are loaded only to be trained: give --train_adapter too.")
        return None, None
    if not isinstance(model, ModelAdaptersMixin):
        raise ValueError(f"This {type(model).__name__} has no adapters: call adapters.init(model) first.")
    given, language = dict(adapter_load_kwargs or {}), None
    with all_or_none(model._adapter_registry):
        if adapter_name not in model._adapter_registry.adapters:
            config = _config(adapter_args.adapter_config, adapter_config_kwargs or {})
            if adapter_args.load_adapter:
                wanted = _wanted(adapter_args.load_adapter, config, given)
                model.load_adapter(adapter_args.load_adapter, load_as=adapter_name, **(wanted | given))
            else:
                model.add_adapter(adapter_name, config=config)
        if adapter_args.load_lang_adapter:
            wanted = _wanted(adapter_args.load_lang_adapter, _config(adapter_args.lang_adapter_config, {}), given)
            language = model.load_adapter(adapter_args.load_lang_adapter, **(wanted | given))
    model.train_adapter(adapter_name)
    model.set_active_adapters(Stack(language, adapter_name) if language is not None else adapter_name)
    return adapter_name, language


def _config(text: str | None, fields: Mapping[str, Any]) -> AdapterConfig | None:
    """A configuration by its preset, its name on a hub or its file."""
    if text is None:
        return AdapterConfig.load("seq_bn", **fields) if fields else None
    found = read_json(Path(text)) if Path(text).is_file() else text
    return AdapterConfig.load(loaded(found), **fields)


def _wanted(name: str, config: AdapterConfig | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """By which configuration an adapter is looked up. What is in a folder has its own."""
    is_looked_up = not Path(name).exists() and (given.get("hub") or hub_in_use())
    return {"config": config} if config is not None and is_looked_up else {}
