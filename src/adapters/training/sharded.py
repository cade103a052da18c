"""Models whose parameters are divided over processes (FSDP)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..model import ModelAdaptersMixin


@contextlib.contextmanager
def gathered(model: nn.Module, keep: bool = False) -> Iterator[None]:
    """Within a `with` block, every process has adapters, fusions, heads and all that is trained as a whole.

    >>> with gathered(model):
    ...     if torch.distributed.get_rank() == 0:
    ...         model.save_adapter("folder", "task")

    All processes have to take part, for they exchange what they have. Models that are not divided stay as they are.

    Args:
        model: The model, with what FSDP has wrapped around it.
        keep: Whether changes are kept, which all processes have to make alike. Otherwise they are lost.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        yield
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    with contextlib.ExitStack() as stack:
        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            stack.enter_context(FullyShardedDataParallel.summon_full_params(model, writeback=keep))
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()  # evaluation may have left it whole, until its `state_dict` is asked for
        for module, name, whole in list(_whole(model)):
            stack.callback(_give_back, module, name, module._parameters[name], whole if keep else None)
            module._parameters[name] = whole
        yield


def _give_back(module: nn.Module, name: str, divided: Any, whole: nn.Parameter | None) -> None:
    """Put a divided parameter where it was, with the numbers of a whole one."""
    if whole is not None:
        from torch.distributed.tensor import distribute_tensor

        with torch.no_grad():
            divided.copy_(distribute_tensor(whole.detach(), divided.device_mesh, divided.placements))
    module._parameters[name] = divided


def _whole(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Where parameters are divided as tensors of their own kind (`fully_shard`): whole ones for them."""
    tensors: Any = sys.modules.get("torch.distributed.tensor")
    if tensors is None:
        return
    wanted = {id(t) for m in model.modules() if isinstance(m, ModelAdaptersMixin) for t in m._owned_tensors()}
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, tensors.DTensor) and (parameter.requires_grad or id(parameter) in wanted):
                if id(parameter) not in made:
                    full = parameter.detach().full_tensor()
                    made[id(parameter)] = nn.Parameter(full, requires_grad=parameter.requires_grad)
                yield module, name, made[id(parameter)]


def complete_state(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters that had no gradient yet, such as those of other heads, the state that they begin with: zeros.

    What has no state would be missing where torch reads the optimizer of a divided model again, which is an error.

    Args:
        optimizer: The optimizer. One whose state is not like its parameters stays as it is.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    first = next((p for p in parameters if optimizer.state.get(p)), None)
    if first is None:
        return
    model = optimizer.state[first]
    if not all(isinstance(value, torch.Tensor) and value.shape in (first.shape, ()) for value in model.values()):
        return
    for p in parameters:
        if not optimizer.state.get(p):
            optimizer.state[p] = {k: torch.zeros_like(p if v.shape == first.shape else v) for k, v in model.items()}
