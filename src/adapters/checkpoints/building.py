"""Modules for the tensors of a file: made without drawing numbers, and only if the file can fill them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import AdapterFileError

_LARGE = 100_000  # a number in a configuration from which on one looks before memory is taken
_MOST_LAYERS = 1_000
_INITIALISERS = {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}
_DRAWS = {Tensor.uniform_, Tensor.normal_, torch.randn}


class WithoutDrawing(TorchFunctionMode):
    """Within a `with` block, new modules keep whatever is in their memory: all of it is read from a file afterwards.

    What is drawn is what takes the time, and it would change what a user draws next. What PyTorch does not let one
    leave out (truncated and orthogonal matrices) is drawn by a generator of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See PyTorch."""
        given = dict(kwargs or {})
        if func in _INITIALISERS:
            return args[0] if args else given["tensor"]
        device = torch.get_default_device() if func is torch.randn else args[0].device if func in _DRAWS else None
        if device is not None and device.type == "cpu" and given.get("generator") is None:
            given["generator"] = self._generator
        return func(*args, **given)


def to_be_filled(wholly: bool) -> contextlib.AbstractContextManager[object]:
    """Around the making of modules: nothing is drawn for those that are filled wholly."""
    return WithoutDrawing() if wholly else contextlib.nullcontext()


def check_size(
    source: object, config: Any, tensors: Mapping[str, Tensor], build: Callable[[], Iterable[nn.Parameter]]
) -> None:
    """Raise if a configuration asks for far more numbers than there are in the file, before memory is taken for them.

    Args:
        source: The file, for the message.
        config: The configuration, as the file holds it.
        tensors: The tensors of the file.
        build: Makes the modules, and gives their parameters.

    Raises:
        AdapterFileError: it asks for too much.
    """
    numbers = [abs(n) for n in _numbers_in(config)]
    if isinstance(config, Mapping) and isinstance(config.get("layers"), int) and config["layers"] > _MOST_LAYERS:
        raise AdapterFileError(f"{source}: there are no heads with {config['layers']} layers.")
    if max(numbers, default=0) < _LARGE:
        return
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in build())
    held = sum(tensor.numel() for tensor in tensors.values())
    if wanted > 16 * held + 10_000_000:
        raise AdapterFileError(f"{source} says that there are {wanted} numbers, and its weights are {held} numbers.")


def _numbers_in(config: Any) -> Iterable[int]:
    if isinstance(config, int):
        yield config
    elif isinstance(config, Mapping):
        for value in config.values():
            yield from _numbers_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from _numbers_in(value)
