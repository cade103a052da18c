"""The head of a static class in a checkpoint, read by transformers together with the base model.

While a model with flexible heads is loaded, it has the parts of the class that the checkpoint was saved by, under the
names that they have there. So they are read as transformers reads them: renamed, tied, in pieces, on devices, in the
type that was asked for. What was read becomes the head "default".
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import extract_weight_conversions_for_model
from transformers.core_model_loading import WeightRenaming

from ..checkpoints.files import AdapterFileError
from .base import PredictionHead
from .conversion import from_skeleton
from .own_code import check_base
from .static import Skeleton, StaticHeadError, static_class, task_of

NAME = "default"
_LOGGER = logging.getLogger(__name__)
_IS_LOADING: ContextVar[bool] = ContextVar("is_loading", default=False)


@contextmanager
def loading() -> Iterator[None]:
    """Within it, models that are made are those of checkpoints."""
    token = _IS_LOADING.set(True)
    try:
        yield
    finally:
        _IS_LOADING.reset(token)


@dataclass
class Borrowed:
    """The parts of a static class that a model has while it is loaded.

    Args:
        skeleton: The class.
        names: The names of their tensors.
        missing: Those that the checkpoint did not have.
    """

    skeleton: Skeleton
    names: frozenset[str]
    missing: set[str] = field(default_factory=set)


def skeleton_of(config: Any) -> Skeleton | None:
    """The static class that a checkpoint was saved by, if that has a head."""
    class_name = next(iter(getattr(config, "architectures", None) or ()), None)
    if not _IS_LOADING.get() or getattr(config, "prediction_heads", None) or class_name is None:
        return None
    if task_of(class_name, bool(config.is_encoder_decoder)) is None:
        return None
    try:
        return Skeleton(static_class(class_name, config), config)
    except StaticHeadError as error:
        warn(class_name, error)
        return None


def base_options(base_class: type[nn.Module], config: Any, skeleton: Skeleton | None) -> dict[str, Any]:
    """With what a base model is made, so that heads find the pooler that they read."""
    if "add_pooling_layer" not in inspect.signature(base_class.__init__).parameters:
        return {}
    saved = (getattr(config, "prediction_heads", None) or {}).values()
    is_read = any(isinstance(head, dict) and head.get("use_pooler") for head in saved)
    return {"add_pooling_layer": True} if is_read or (skeleton is not None and skeleton.adds_pooler) else {}


def borrow(model: nn.Module, skeleton: Skeleton) -> Borrowed | None:
    """Give a model that is being loaded the parts of a static class."""
    try:
        check_base(skeleton, model)
        taken = sorted(skeleton.parts.keys() & {*model._modules, *dir(type(model))})
        if taken:
            raise StaticHeadError(f"Its part {taken[0]!r} has the name of something else here.")
    except StaticHeadError as error:
        warn(type(skeleton.model).__name__, error)
        return None
    device = torch.get_default_device()
    for name, part in skeleton.parts.items():
        model.add_module(name, part if device.type == "meta" else part.to_empty(device=device))
    for name, tensor in _own_tensors(skeleton):
        if isinstance(tensor, nn.Parameter):
            model.register_parameter(name, nn.Parameter(torch.zeros_like(tensor, device=device)))
        else:
            model.register_buffer(name, torch.zeros_like(tensor, device=device))
    return Borrowed(skeleton, frozenset(skeleton.tensors))


def _own_tensors(skeleton: Skeleton) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a head that are of no part, such as `final_logits_bias`."""
    code = skeleton.model
    for name, tensor in (*code._parameters.items(), *code._buffers.items()):
        if tensor is not None and name in skeleton.tensors:
            yield name, tensor


def ties_of(borrowed: Borrowed, model: nn.Module, base_path: str) -> dict[str, str]:
    """What of the borrowed parts is tied, and to what it is, by the names in the model."""
    known = dict.fromkeys(name for name, _ in model.named_parameters(remove_duplicate=False))
    found: dict[str, str] = {}
    for one, other in borrowed.skeleton.ties.items():
        target = next((name for name in (other, f"{base_path}.{other}") if name in known), None)
        if one in borrowed.names and target is not None:
            found[one] = target
    return found


def renaming_of(borrowed: Borrowed, own_path: str) -> list[Any]:
    """How names in files of a class are those of a model: its base model is at another path, or has other parts.

    So the base model of `LlamaForQuestionAnswering` is "transformer", and that of `LlamaModel` "model".
    """
    path = borrowed.skeleton.base_path
    known = extract_weight_conversions_for_model(borrowed.skeleton.model) or []
    backwards = [cast(WeightRenaming, each.reverse_transform()) for each in known if isinstance(each, WeightRenaming)]
    in_files = {_renamed(name, backwards[::-1]): name for name in borrowed.names}
    found = [WeightRenaming(f"^{re.escape(old)}$", name) for old, name in in_files.items() if old != name]
    if path and path != own_path:
        found.append(WeightRenaming(source_patterns=rf"^{re.escape(path)}\.", target_patterns=f"{own_path}."))
    return found


def _renamed(name: str, renamings: Iterable[WeightRenaming]) -> str:
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name


def returned(model: nn.Module, borrowed: Borrowed) -> PredictionHead | None:
    """Take the borrowed parts off a model that is loaded; the head that was made of them, if there is one."""
    state = model.state_dict(keep_vars=True)
    tensors = {name: tensor.detach() for name, tensor in state.items() if name in borrowed.names}
    for name in borrowed.skeleton.parts:
        del model._modules[name]
    for name, _ in list(_own_tensors(borrowed.skeleton)):
        model._parameters.pop(name, None)
        model._buffers.pop(name, None)
    class_name = type(borrowed.skeleton.model).__name__
    try:
        if borrowed.missing:
            raise StaticHeadError(f"The checkpoint has no {', '.join(sorted(borrowed.missing))}.")
        return from_skeleton(model, NAME, borrowed.skeleton, tensors)
    except (StaticHeadError, AdapterFileError) as error:
        warn(class_name, error)
        return None


def warn(class_name: str, reason: Exception) -> None:
    """Say that there is no head, and why."""
    _LOGGER.warning(
        "The checkpoint is one of %s, and its head is left out: %s The model has no head; add one, or load the "
        "checkpoint with transformers.%s and call adapters.init(model).",
        class_name,
        reason,
        class_name,
    )
