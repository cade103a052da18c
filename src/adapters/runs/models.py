"""The model of a run: loaded, given what is trained, and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from ..auto import AutoAdapterModel
from ..composition import AdapterCompositionBlock, Fuse, Stack
from ..configuration import AdapterConfig, AdapterConfigError
from ..configuration.base import is_config_file
from .config import AdapterSection, RunConfig, noted
from .errors import RunError
from .folder import ADAPTER, MODEL
from .kinds import Kind
from .kinds.images import ImageClassification
from .kinds.words import WordKind
from .splits import kind_of

TASK = "task"
"""What the files of an adapter call the task that it was trained for."""

_ENDLESS = 1 << 24  # tokens


def with_places(config: RunConfig) -> RunConfig:
    """A configuration that means the same from everywhere: with whole paths of folders, and what its file says.

    Raises:
        RunError: the model is named by a path, and there is no such folder; or the file cannot be read.
    """
    section = config.adapter
    update: dict[str, Any] = {key: [_place(name) for name in getattr(section, key)] for key in ("under", "fuse")}
    if isinstance(section.config, str) and is_config_file(section.config):
        try:
            update["config"] = AdapterConfig.load(section.config).to_dict()
        except AdapterConfigError as error:
            raise RunError(f"adapter.config: {error}") from None
    return config.model_copy(
        update={"model": place_of(config.model), "adapter": section.model_copy(update=update)},
    )


def place_of(model: str) -> str:
    """The whole path of a model in a folder; another name as it is.

    Raises:
        RunError: it is a path, and there is no such folder, or no model in it.
    """
    path = Path(model).expanduser()
    if not path.exists() and (path.is_absolute() or model.startswith((".", "~")) or len(path.parts) > 2):
        raise RunError(f"There is no folder {path} with a model.")
    if path.is_dir() and not (path / "config.json").is_file():
        names = ", ".join(sorted(inner.name for inner in path.iterdir())[:8])
        raise RunError(f"{path} holds no model (no config.json), but {names or 'nothing'}.")
    return _place(model)


def _place(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


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
    if is_image:
        return found
    if len(found) <= len(found.all_special_tokens):  # made of nothing, for a folder without its files
        raise RunError(f"{model} has no tokenizer: there is no word in its vocabulary.")
    if found.pad_token is None:  # of models that write texts; what is filled up is masked
        found.pad_token = found.eos_token or found.unk_token
    if found.model_max_length > _ENDLESS:  # it does not say it
        positions = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None) or _ENDLESS
        found.model_max_length = positions - positions % 8  # RoBERTa and its like have two that are for no token
    return found


def load_model(model: str, dtype: torch.dtype | None = None) -> Any:
    """A model with flexible heads.

    Args:
        model: Its folder or name.
        dtype: The type of its numbers; by default that of the file.

    Raises:
        RunError: it cannot be loaded.
    """
    try:
        return AutoAdapterModel.from_pretrained(model, dtype=dtype or "auto")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"The model {model} cannot be loaded: {_first(error)}") from None


def dtype_of(config: RunConfig) -> torch.dtype:
    """The type of the numbers of the model of a run.

    Half types lose the small steps of a training, so that these are float32, unless bfloat16 is asked for and there.
    """
    is_half = config.training.precision == "bf16" and not config.adapter.train_model
    is_half = is_half and AutoConfig.from_pretrained(config.model).dtype == torch.bfloat16
    return torch.bfloat16 if is_half else torch.float32


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
    trains_head = section.config is None and not section.fuse and not section.train_model
    own = None if trains_head else kind.own_head(model)
    try:
        setup = _added(model, section, name)
        if own is None:
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
    if own is not None and not section.train_model:
        model.heads[own].requires_grad_(False)  # it is part of the pretrained model
    if section.train_model:
        model.freeze_model(False)
    model.active_head = own or name


def _added(model: Any, section: AdapterSection, name: str) -> AdapterCompositionBlock | None:
    if section.fuse:
        setup = Fuse(*(model.load_adapter(path, with_head=False) for path in section.fuse))
        model.add_adapter_fusion(setup)
        return setup
    below = [model.load_adapter(path, with_head=False) for path in section.under]
    if section.config is None:
        return None
    if name in below:
        raise RunError(f"adapter.name is {name!r}, which is the name of an adapter below it; choose another.")
    model.add_adapter(name, config=section.config)
    return Stack(*below, name)


def save(model: Any, config: RunConfig, kind: Kind, name: str, folder: Path) -> Path:
    """Write what was trained to the output of a run, and give its folder."""
    section = config.adapter
    if section.train_model:
        model.save_pretrained(folder / MODEL)
        kind.processor.save_pretrained(folder / MODEL)
        return folder / MODEL
    target = folder / ADAPTER
    if section.fuse or section.under:
        model.save_adapter_setup(target, model.active_adapters, head_setup=name)
    elif section.config is None:
        model.save_head(target, name)
    else:
        model.save_adapter(target, name, meta_dict={TASK: noted(kind.task)})
    return target


def load(config: RunConfig, name: str, folder: Path) -> Any:
    """The model of a run with what was trained, in evaluation mode.

    Raises:
        RunError: the folder has no finished run.
    """
    section = config.adapter
    model = load_model(config.model, dtype_of(config))
    if section.train_model:
        model.set_active_adapters(None if section.config is None else name)
    else:
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
    # Where the model's own head did the task, none was saved.
    model.active_head = name if name in model.heads else kind_of(config.task).own_head(model)
    return in_use(model)


def in_use(model: Any) -> Any:
    """A model in evaluation mode, on the accelerator if there is one."""
    if torch.accelerator.is_available() and model.device.type == "cpu":
        model.to(torch.accelerator.current_accelerator())
    return model.eval()


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__
