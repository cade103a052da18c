"""The model of a run: loaded, given what is trained, and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer

from ..auto import AutoAdapterModel
from ..composition import AdapterCompositionBlock, Fuse, Stack
from .config import AdapterSection, RunConfig
from .errors import RunError
from .kinds import Kind
from .kinds.images import ImageClassification
from .kinds.words import WordKind
from .splits import kind_of

ADAPTER = "adapter"
MODEL = "model"
"""The folders in the output of a run that hold what was trained."""


def adapter_name(config: RunConfig) -> str:
    """The name of the adapter and of the head of a run."""
    named = config.task.data_dir.name if config.task.data_dir is not None else None
    return config.adapter.name or config.task.name or named or str(config.task.kind)


def load_kind(config: RunConfig) -> Kind:
    """The kind of the task of a run, with the tokenizer of its model.

    Raises:
        RunError: the model has none.
    """
    kind = kind_of(config.task)
    return kind(config.task, load_processor(config.model, kind), config.task.labels or [])


def load_processor(model: str, kind: type[Kind]) -> Any:
    """The tokenizer of a model, or what makes pixels of images.

    Raises:
        RunError: there is none.
    """
    is_image = issubclass(kind, ImageClassification)
    # Byte-level tokenizers take lists of words only if they put a space in front of each.
    options = {"add_prefix_space": True} if issubclass(kind, WordKind) else {}
    try:
        found: Any = (AutoImageProcessor if is_image else AutoTokenizer).from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise RunError(f"{model} has no {'image processor' if is_image else 'tokenizer'}: {_first(error)}") from None
    return found


def load_model(model: str) -> Any:
    """A model with flexible heads.

    Raises:
        RunError: it cannot be loaded.
    """
    try:
        return AutoAdapterModel.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise RunError(f"The model {model} cannot be loaded: {_first(error)}") from None


def prepare(model: Any, config: RunConfig, kind: Kind, name: str) -> None:
    """Add what is trained, activate it, and freeze all else.

    Args:
        model: The model.
        config: The run.
        kind: The kind of its task.
        name: The name of its adapter and head.

    Raises:
        RunError: an adapter cannot be added or loaded.
    """
    section = config.adapter
    try:
        setup = _added(model, section, name)
        kind.add_head(model, name)
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from None
    if setup is None:
        model.freeze_model(not section.train_model)
        model.set_active_adapters(None)
    elif section.fuse:
        model.train_adapter_fusion(setup)
    else:
        model.train_adapter(name)
        model.set_active_adapters(setup)  # what is below is used as it is
    if section.train_model:
        model.freeze_model(False)
    model.active_head = name


def _added(model: Any, section: AdapterSection, name: str) -> AdapterCompositionBlock | None:
    if section.fuse:
        if section.under:
            raise RunError("adapter.fuse and adapter.under exclude each other.")
        setup = Fuse(*(model.load_adapter(path, with_head=False) for path in section.fuse))
        model.add_adapter_fusion(setup)
        return setup
    below = [model.load_adapter(path, with_head=False) for path in section.under]
    if section.config is None:
        if below:
            raise RunError("adapter.under needs an adapter above it: adapter.config is null.")
        return None
    if name in below:
        raise RunError(f"adapter.name is {name!r}, which is the name of an adapter below it; choose another.")
    model.add_adapter(name, config=section.config)
    return Stack(*below, name)


def save(model: Any, config: RunConfig, name: str, folder: Path) -> Path:
    """Write what was trained to the output of a run, and give its folder."""
    section = config.adapter
    if section.train_model:
        model.save_pretrained(folder / MODEL)
        return folder / MODEL
    target = folder / ADAPTER
    if section.fuse or section.under:
        model.save_adapter_setup(target, model.active_adapters, head_setup=name)
    elif section.config is None:
        model.save_head(target, name)
    else:
        model.save_adapter(target, name)
    return target


def load(config: RunConfig, name: str, folder: Path) -> Any:
    """The model of a run with what was trained, in evaluation mode.

    Raises:
        RunError: the folder has no finished run.
    """
    section = config.adapter
    if section.train_model:
        model = load_model(str(folder / MODEL))
        model.set_active_adapters(None if section.config is None else name)
    else:
        model = load_model(config.model)
        target = folder / ADAPTER
        try:
            if section.fuse or section.under:
                model.load_adapter_setup(target, set_active=True)
            elif section.config is None:
                model.load_head(target)
            else:
                model.load_adapter(target, set_active=True)
        except (ValueError, OSError) as error:
            raise RunError(f"{folder} holds no finished run: {error}") from None
    model.active_head = name
    return model.eval()


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
