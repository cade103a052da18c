"""Reading and writing the files of an adapter: JSON and tensors, safely and atomically."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import transactions, weights
from .errors import AdapterFileError as AdapterFileError
from .errors import first_line, raised
from .limits import current_limits
from .transactions import located

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
INTERFACE_CONFIG = "adapter_interface.json"
FUSION_CONFIG = "adapter_fusion_config.json"
FUSION_WEIGHTS = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
SETUP_CONFIG = "adapter_setup.json"
HEAD_CONFIG = "head_config.json"
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.bin")


def atomically(path: Path, content: Callable[[Path], object]) -> None:
    """Write a file so that at every moment the old or the new one is there whole, also if the process is killed.

    Args:
        path: The file.
        content: Writes the new content to the path that it is given, in the same folder.
    """
    transactions.write(path, content)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(data, indent=2, sort_keys=True)
    transactions.write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        AdapterFileError: the file is missing, cut off, too large, or no JSON object.
    """
    found, limit = located(path), current_limits().json_bytes
    if found is None:
        raise AdapterFileError(f"There is no {path.name} in {path.parent}{_contents(path.parent)}")
    try:
        with found.open("rb") as file:
            text = file.read(limit + 1)
        if len(text) > limit:
            raise AdapterFileError(f"{path} is larger than {limit} bytes; {raised('json_bytes')}")
        data = json.loads(text.decode("utf-8"))
    except AdapterFileError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise AdapterFileError(f"{path} cannot be read as JSON ({first_line(error)}); is it cut off?") from None
    if not isinstance(data, dict):
        raise AdapterFileError(f"{path} holds {type(data).__name__} instead of a JSON object.")
    return data


def write_tensors(
    folder: Path,
    names: tuple[str, str],
    tensors: Mapping[str, Tensor],
    use_safetensors: bool,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write tensors atomically, and remove the file of the other format, which would be out of date.

    Args:
        folder: The folder.
        names: The file's name in safetensors and in PyTorch's format.
        tensors: The tensors by name. Two names may share one tensor.
        use_safetensors: Which format.
        metadata: What a file of safetensors says besides.
    """
    empty = [key for key, tensor in tensors.items() if tensor.is_meta or tensor.numel() == 0 or _is_divided(tensor)]
    if empty:
        raise AdapterFileError(
            f"Not saved: {', '.join(empty)} hold no numbers here (sharded over processes, or on the meta device). With "
            "FSDP, save within `with adapters.training.gathered(model)`, which all processes enter."
        )
    detached: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        detached[key] = plain.clone() if plain.data_ptr() in seen else plain  # safetensors refuses shared memory
        seen.add(plain.data_ptr())
    safe, unsafe = folder / names[0], folder / names[1]
    with transactions.together(folder):
        if use_safetensors:
            transactions.write(safe, lambda temporary: save_file(detached, temporary, metadata))
        else:
            transactions.write(unsafe, lambda temporary: torch.save(detached, temporary))
        transactions.remove(unsafe if use_safetensors else safe)


def _is_divided(tensor: Tensor) -> bool:
    """Whether a process holds a part of a tensor only."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor.data, tensors.DTensor)


def read_tensors(folder: Path, names: tuple[str, str], safetensors_only: bool = False) -> dict[str, Tensor]:
    """Read tensors to the CPU: safetensors if there are any, else PyTorch's format, weights only.

    Raises:
        AdapterFileError: no file is there, or it is cut off, or too large, or holds anything but tensors.
    """
    safe = located(folder / names[0])
    if safe is not None:
        return weights.read_safetensors(safe)
    unsafe = located(folder / names[1])
    if unsafe is not None and not safetensors_only:
        return weights.read_pytorch(unsafe)
    wanted = names[0] if safetensors_only else f"{names[0]} or {names[1]}"
    raise AdapterFileError(f"There is no {wanted} in {folder}{_contents(folder)}")


def has_weights(folder: Path, names: tuple[str, str]) -> bool:
    """Whether one of the files is there."""
    return any(located(folder / name) is not None for name in names)


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return ", which is no folder." if folder.exists() else ", which does not exist."
    names = sorted(p.name for p in folder.iterdir())
    return f"; it holds {', '.join(names[:12]) or 'nothing'}."
