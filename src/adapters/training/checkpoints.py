"""Checkpoints of a training that hold what is trained, and not the base model.

A folder for each adapter (with the head of its name), fusion and further head, in the layout of AdapterHub, and beside
these `trained_state.safetensors`: whatever is trained, number by number, so that a training goes on as if it had never
stopped. The folders alone would not do. They hold what an adapter computes with, which is not for all methods what is
trained (the rows of LoReFT are orthonormalised), and nothing of the base model.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoints.files import (
    ADAPTER_CONFIG,
    FUSION_CONFIG,
    HEAD_CONFIG,
    AdapterFileError,
    has_weights,
    read_json,
    read_tensors,
)
from ..checkpoints.transactions import located, together, write_folder
from ..heads.flexible import ModelWithFlexibleHeadsAdaptersMixin
from ..model import ModelAdaptersMixin
from ..model.base import all_or_none
from ..model.resuming import STATE, plain_name


def write(model: nn.Module, folder: Path) -> None:
    """Write adapters, fusions, heads and all else that is trained. All files are written, or none.

    Args:
        model: A model with adapters.
        folder: The folder; made if it is not there.
    """
    cast(ModelAdaptersMixin, model)._write_checkpoint(folder)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one that `write`, or the `AdapterTrainer` of 1.3, has written."""
    return has_weights(folder, STATE) or any(_folders(folder, config) for config in _CONFIGS)


def read(model: nn.Module, folder: Path, is_complete: bool = False) -> None:
    """Give a model what a checkpoint holds. What it has already keeps its place, also in optimizers.

    What is active, and which parameters are frozen, stays as it is. Adapters, fusions and heads that the model does not
    have are added to it. Of a checkpoint of 1.3, which holds no state, all are replaced by those in their folders.

    Args:
        model: A model with adapters.
        folder: The folder.
        is_complete: Whether nothing may be added to the model, nor replaced: FSDP knows the parameters that it has.

    Raises:
        AdapterFileError: a file is missing or cut off, or what the model trains is not in the checkpoint. The model has
            the adapters, fusions and heads that it had.
    """
    own = cast(ModelAdaptersMixin, model)
    is_whole = has_weights(folder, STATE)
    if is_complete:
        _fill(model, read_tensors(folder, STATE, safetensors_only=True), folder)
        return
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    known = {name for name, _ in model.named_parameters()}
    registry = own._adapter_registry
    active, skipped = registry.active, registry.skip_layers
    with all_or_none(registry), _heads_or_none(model):
        registry.activate(None)  # until all of its parts are there
        _read_folders(own, folder, only_new=is_whole)
        registry.activate(active, skipped)
        for name, parameter in model.named_parameters():
            if name in known:
                parameter.requires_grad_(name not in frozen)
        if is_whole:
            _fill(model, read_tensors(folder, STATE, safetensors_only=True), folder)


def copy(folder: Path, target: Path) -> None:
    """Copy the adapters, fusions and heads of a checkpoint to another folder; those of the same names are replaced."""
    with together(target):
        for path in dict.fromkeys(path for config in _CONFIGS for path in _folders(folder, config)):
            write_folder(target / path.name, functools.partial(shutil.copytree, path, dirs_exist_ok=True))


_CONFIGS = (ADAPTER_CONFIG, FUSION_CONFIG, HEAD_CONFIG)


@contextlib.contextmanager
def _heads_or_none(model: nn.Module) -> Iterator[None]:
    """Take back the heads that a `with` block has attached, if it fails. The active one stays so in any case."""
    if not isinstance(model, ModelWithFlexibleHeadsAdaptersMixin):
        yield
        return
    heads, active = model.heads.items(), model.active_head
    try:
        yield
    except BaseException:
        for name in list(model.heads):
            model.heads.remove(name)
        for name, head in heads:
            model.heads.attach(name, head)
        model._note_tied()
        raise
    finally:
        model.active_head = active


def _fill(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy tensors into those of a model.

    Raises:
        AdapterFileError: something that the model trains is not there, or something does not fit. Nothing is copied.
    """
    own: dict[str, Tensor] = {plain_name(n): t for n, t in (*model.named_parameters(), *model.named_buffers())}
    missing = [name for name, tensor in own.items() if tensor.requires_grad and name not in tensors]
    unknown = [name for name in tensors if name not in own]
    wrong = [name for name in tensors if name in own and own[name].shape != tensors[name].shape]
    problems = [
        f"{what}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
        for what, names in (
            ("this model trains, and the checkpoint lacks", missing),
            ("the checkpoint holds, and this model lacks", unknown),
            ("of other shapes", wrong),
        )
        if names
    ]
    if problems:
        raise AdapterFileError(
            f"{folder} is a checkpoint of another training. {'; '.join(problems)}. Make the model as it was when "
            "training began: with the same adapters, heads and train_adapter(...)."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _folders(folder: Path, config: str) -> list[Path]:
    """The folders within a folder that have a file of this name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and located(path / config) is not None)


def _name(folder: Path, config: str) -> Any:
    return read_json(folder / config).get("name")


def _read_folders(model: ModelAdaptersMixin, folder: Path, only_new: bool) -> None:
    """Add what is in the folders of a checkpoint."""
    registry = model._adapter_registry
    for path in _folders(folder, ADAPTER_CONFIG):
        name = _name(path, ADAPTER_CONFIG) or path.name  # files of peft hold no names
        if not only_new or name not in (*registry.adapters, *registry.peft.trained):
            with_head = not isinstance(model, ModelWithFlexibleHeadsAdaptersMixin)
            model.load_adapter(path, load_as=name, with_head=with_head)
    for path in _folders(folder, FUSION_CONFIG):
        if not only_new or _name(path, FUSION_CONFIG) not in registry.fusions:
            model.load_adapter_fusion(path, with_head=False)
    if isinstance(model, ModelWithFlexibleHeadsAdaptersMixin):
        for path in _folders(folder, HEAD_CONFIG):
            if not only_new or _name(path, HEAD_CONFIG) not in model.heads:
                model.load_head(path)
