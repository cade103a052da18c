"""Files of tensors by name, read to the CPU: safetensors, or PyTorch's format without code in it.

Whatever is wrong with a file, `AdapterFileError` is raised. Both formats can hold much less than they say, so that
sizes are looked at before memory is taken.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .errors import AdapterFileError, first_line, raised
from .limits import FREE_BYTES, current_limits

Tensors = dict[str, Tensor]


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a safetensors file. Their memory is that of the file: they are read when they are used.

    Raises:
        AdapterFileError: the file is cut off, too large, or none of safetensors.
    """
    _check_size(path)
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if current_limits().header_bytes < header <= path.stat().st_size:
            raise AdapterFileError(f"{path} has a header of {header} bytes; {raised('header_bytes')}")
        with safe_open(path, "pt") as file:
            names = file.keys()
            _check_number(path, len(names))
            return {name: file.get_tensor(name) for name in names}
    except AdapterFileError:
        raise
    except Exception as error:
        raise AdapterFileError(f"{path} cannot be read ({first_line(error)}); is it cut off?") from None


def read_pytorch(path: Path) -> Tensors:
    """The tensors of a file that `torch.save` wrote. A pickle that holds anything else is refused.

    Raises:
        AdapterFileError: the file is cut off, too large, or holds anything but tensors by name.
    """
    data = load_pytorch(path)
    if not isinstance(data, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in data.items()):
        raise AdapterFileError(f"{path} does not hold tensors by name.")
    _check_number(path, len(data))
    return {name: plain(tensor, path) for name, tensor in data.items()}


def load_pytorch(path: Path) -> object:
    """What `torch.save` wrote, as long as it is made of tensors, numbers, texts and collections of these.

    Raises:
        AdapterFileError: the file is cut off, too large, or holds anything else.
    """
    _check_size(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                _check_bytes(path, sum(info.file_size for info in packed.infolist()))
        return torch.load(path, map_location="cpu", weights_only=True)
    except AdapterFileError:
        raise
    except Exception as error:  # torch.load raises whatever it meets in a broken file
        kind = type(error).__name__
        raise AdapterFileError(f"{path} cannot be read as weights ({kind}: {first_line(error)}).") from None


def plain(tensor: Tensor, path: Path) -> Tensor:
    """The numbers of a tensor that was read by PyTorch.

    Raises:
        AdapterFileError: it is sparse, quantised, or without numbers, or is much larger than what the file holds of it.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise AdapterFileError(f"{path} holds a tensor that is no plain one ({tensor.layout}, {tensor.device}).")
    _check_bytes(path, tensor.numel() * tensor.element_size())
    return tensor.detach()


def _check_size(path: Path) -> None:
    size, limit = path.stat().st_size, current_limits().weight_bytes
    if size > limit:
        raise AdapterFileError(f"{path} has {size} bytes; {raised('weight_bytes')}")


def _check_number(path: Path, number: int) -> None:
    if number > current_limits().tensors:
        raise AdapterFileError(f"{path} holds {number} tensors; {raised('tensors')}")


def _check_bytes(path: Path, size: int) -> None:
    """Raise for tensors that are much larger than their file, as if they were made to fill the memory."""
    if size > max(FREE_BYTES, current_limits().archive_ratio * path.stat().st_size):
        raise AdapterFileError(f"{path} holds {size} bytes of tensors; {raised('archive_ratio')}")
